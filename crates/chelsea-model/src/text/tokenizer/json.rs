//! A tokenizer from `tokenizer.json`, the file that comes with safetensors models.
//!
//! The parts (normalizer, pre-tokenizer, BPE model, added tokens) are taken as the file has them; the decoder and
//! the post-processor are read for what they say about the alphabet and about BOS. EOS and the other
//! tokens that end a turn come from `generation_config.json` and `tokenizer_config.json` beside it.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::AddedToken;

use super::table::{Alphabet, Kind, Table, byte_token};
use super::{MAX_TOKENS, Parts, Tokenizer, TokenizerError, check_count, check_token};

impl Tokenizer {
    /// The tokenizer of a model folder: `tokenizer.json`, and its companions where there are any.
    ///
    /// # Errors
    /// [`TokenizerError`]: a file cannot be read or is damaged, or the kind is not supported.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let tokenizer = read(&folder.join("tokenizer.json"))?;
        let optional = |name: &str| {
            let path = folder.join(name);
            if path.exists() { read(&path).map(Some) } else { Ok(None) }
        };
        let config = optional("tokenizer_config.json")?;
        let generation = optional("generation_config.json")?;
        Self::from_json(&tokenizer, config.as_deref(), generation.as_deref())
    }

    /// The tokenizer of a `tokenizer.json` with, where known, its `tokenizer_config.json` (names of BOS and EOS)
    /// and `generation_config.json` (ids at which generation stops).
    ///
    /// # Errors
    /// [`TokenizerError`]: a text is not JSON or lacks a part, or the kind is not supported.
    pub fn from_json(tokenizer: &str, config: Option<&str>, generation: Option<&str>) -> Result<Self, TokenizerError> {
        let json: Value = parse(tokenizer)?;
        let config: Value = config.map_or(Ok(Value::Null), parse)?;
        let generation: Value = generation.map_or(Ok(Value::Null), parse)?;

        let model = &json["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        let unsupported = |what, found: &str, supported: &str| TokenizerError::Unsupported {
            what,
            found: found.to_owned(),
            supported: supported.to_owned(),
        };
        if kind != "BPE" {
            return Err(unsupported("the tokenizer model", kind, "BPE"));
        }
        for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model[affix].as_str().is_some_and(|affix| !affix.is_empty()) {
                return Err(unsupported("the BPE option", affix, "none of that kind"));
            }
        }

        check_steps(&json)?;
        let added = added_tokens(&json["added_tokens"])?;
        let mut vocab = vocabulary(&model["vocab"])?;
        for (id, token) in &added {
            // Two ids for one text would encode to one and decode to the other.
            if vocab.insert(token.content.clone(), *id).is_some_and(|other| other != *id) {
                return Err(TokenizerError::Json(format!("the token `{}` has two ids", token.content)));
            }
        }
        let merges = merges(&model["merges"])?;
        let table = table(&vocab, &added, alphabet(&json)?)?;

        let by_name = |name: &Value| {
            let name = name.as_str().or_else(|| name["content"].as_str())?;
            added.iter().find(|(_, token)| token.content == name).map(|(id, _)| *id)
        };
        let prefix = template(&json["post_processor"])?;
        let stops = match &generation["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<u64>>(),
        };
        let mut turn_ends = Vec::new();
        for id in stops {
            match u32::try_from(id).ok().filter(|&id| (id as usize) < table.len()) {
                Some(id) => turn_ends.push(id),
                None => tracing::warn!(
                    "`eos_token_id` of generation_config.json is {id}, but the vocabulary has {} tokens: it is left out",
                    table.len()
                ),
            }
        }
        for id in &prefix {
            if *id as usize >= table.len() {
                let key = "post_processor of tokenizer.json".to_owned();
                return Err(TokenizerError::IdOutOfRange { key, id: (*id).into(), tokens: table.len() });
            }
        }

        Tokenizer::from_parts(Parts {
            merges,
            normalizer: part(&json["normalizer"], "normalizer")?,
            pre_tokenizer: part(&json["pre_tokenizer"], "pre_tokenizer")?,
            ignore_merges: model["ignore_merges"].as_bool().unwrap_or(false),
            byte_fallback: model["byte_fallback"].as_bool().unwrap_or(false),
            fuse_unknown: model["fuse_unk"].as_bool().unwrap_or(false),
            unknown: model["unk_token"].as_str().filter(|token| vocab.contains_key(*token)).map(str::to_owned),
            bos: by_name(&config["bos_token"]).or(prefix.first().copied()),
            eos: by_name(&config["eos_token"]).or(turn_ends.first().copied()),
            added: added.into_iter().map(|(_, token)| token).collect(),
            vocab,
            table,
            turn_ends,
            prefix,
        })
    }
}

pub(crate) fn read(path: &Path) -> Result<String, TokenizerError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TokenizerError::Read { path: path.display().to_string(), source })?;
    // Some editors begin files with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

fn parse(text: &str) -> Result<Value, TokenizerError> {
    serde_json::from_str(text).map_err(|e| TokenizerError::Json(e.to_string()))
}

/// A part of the pipeline, in the `tokenizers` crate's own form.
fn part<T: DeserializeOwned>(value: &Value, name: &str) -> Result<Option<T>, TokenizerError> {
    if value.is_null() {
        return Ok(None);
    }
    T::deserialize(value).map(Some).map_err(|e| TokenizerError::Json(format!("{name}: {e}")))
}

/// The parts of the pipeline: name, list of a sequence's steps, what it is, and the kinds that are built.
type PipelinePart = (&'static str, &'static str, &'static str, &'static [&'static str]);
/// Only kinds that the supported families use: others are untried here, and the `tokenizers` crate panics on some that
/// are damaged (`Precompiled`, `FixedLength`).
const PIPELINE: &[PipelinePart] = &[
    ("normalizer", "normalizers", "the normalizer", &["Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD"]),
    ("pre_tokenizer", "pretokenizers", "the pre-tokenizer", &["ByteLevel", "Digits", "Metaspace", "Split"]),
    ("decoder", "decoders", "the decoder", &["ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"]),
];

/// Every step must be of a kind that is built, steps inside of sequences too.
fn check_steps(json: &Value) -> Result<(), TokenizerError> {
    fn check(value: &Value, part: &PipelinePart) -> Result<(), TokenizerError> {
        let (_, list, what, kinds) = *part;
        if value.is_null() {
            return Ok(());
        }
        match value["type"].as_str().unwrap_or("none") {
            "Sequence" => value[list].as_array().into_iter().flatten().try_for_each(|step| check(step, part)),
            kind if kinds.contains(&kind) => Ok(()),
            other => Err(TokenizerError::Unsupported { what, found: other.to_owned(), supported: kinds.join(", ") }),
        }
    }
    PIPELINE.iter().try_for_each(|part| check(&json[part.0], part))
}

fn id(value: &Value, what: &str) -> Result<u32, TokenizerError> {
    let id = value.as_u64().ok_or_else(|| TokenizerError::Json(format!("the id of {what} is not a number")))?;
    if id >= MAX_TOKENS as u64 {
        return Err(TokenizerError::TooLarge { what: "a token id", found: id, limit: MAX_TOKENS as u64 });
    }
    Ok(id as u32)
}

fn added_tokens(value: &Value) -> Result<Vec<(u32, AddedToken)>, TokenizerError> {
    let mut tokens = Vec::new();
    for entry in value.as_array().into_iter().flatten() {
        let mut token: AddedToken =
            part(entry, "added_tokens")?.ok_or_else(|| TokenizerError::Json("an added token is null".into()))?;
        check_token(&token.content)?;
        token.special |= marks_turns(&token.content);
        tokens.push((id(&entry["id"], &token.content)?, token));
    }
    Ok(tokens)
}

/// Whether a token is written as those are that mark turns and documents: some files do not call them special, and the
/// text of a document must not become one. Conversions to GGUF tell them by their spelling, too.
fn marks_turns(token: &str) -> bool {
    let between = |left, right| token.starts_with(left) && token.ends_with(right);
    between("<|", "|>") || between("<｜", "｜>")
}

fn vocabulary(value: &Value) -> Result<HashMap<String, u32>, TokenizerError> {
    let entries = value.as_object().ok_or_else(|| TokenizerError::Json("model.vocab is not an object".into()))?;
    check_count(entries.len())?;
    let mut vocab = HashMap::with_capacity(entries.len());
    for (token, value) in entries {
        check_token(token)?;
        vocab.insert(token.clone(), id(value, token)?);
    }
    Ok(vocab)
}

/// Merges come as `"a b"` or as `["a", "b"]`.
fn merges(value: &Value) -> Result<Vec<(String, String)>, TokenizerError> {
    let entries = value.as_array().ok_or_else(|| TokenizerError::Json("model.merges is not an array".into()))?;
    let mut merges = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let halves = match entry {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (left, right) = halves
            .ok_or_else(|| TokenizerError::Merge { index, merge: entry.to_string().chars().take(80).collect() })?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

/// Every token by id; ids nobody uses are empty. `vocab` has the added tokens too.
fn table(
    vocab: &HashMap<String, u32>,
    added: &[(u32, AddedToken)],
    alphabet: Alphabet,
) -> Result<Table, TokenizerError> {
    let last = vocab.values().copied().max().unwrap_or(0);
    let mut tokens: Vec<(&str, Kind)> = vec![("", Kind::Normal); last as usize + 1];
    for (token, &id) in vocab {
        let kind = match (alphabet, byte_token(token)) {
            (Alphabet::SentencePiece { .. }, Some(byte)) => Kind::Byte(byte),
            _ => Kind::Normal,
        };
        let slot = &mut tokens[id as usize];
        if !slot.0.is_empty() {
            return Err(TokenizerError::Json(format!("the tokens `{}` and `{token}` have one id, {id}", slot.0)));
        }
        *slot = (token, kind);
    }
    for (id, token) in added {
        tokens[*id as usize].1 = if token.special { Kind::Special } else { Kind::Added };
    }
    let mut table = Table::new(alphabet);
    for (token, kind) in tokens {
        table.push(token, kind);
    }
    Ok(table)
}

/// Which alphabet the decoder undoes.
fn alphabet(json: &Value) -> Result<Alphabet, TokenizerError> {
    let steps = flatten(&json["decoder"], "decoders");
    let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
    if has("ByteLevel") {
        return Ok(Alphabet::ByteLevel);
    }
    if has("ByteFallback") || has("Metaspace") {
        // Llama 2's decoder ends in a step that strips one space; a Metaspace drops what it put there.
        let metaspace = steps.iter().find(|step| step["type"] == "Metaspace");
        let drops =
            metaspace.is_some_and(|step| step["prepend_scheme"] != "never" && step["add_prefix_space"] != false);
        return Ok(Alphabet::SentencePiece { drop_first_space: drops || has("Strip") });
    }
    let found = json["decoder"]["type"].as_str().unwrap_or("none").to_owned();
    Err(TokenizerError::Unsupported { what: "the decoder", found, supported: "ByteLevel, ByteFallback".into() })
}

/// The steps of a part that may be a `Sequence`.
fn flatten<'a>(value: &'a Value, list: &str) -> Vec<&'a Value> {
    if value["type"] == "Sequence" {
        value[list].as_array().into_iter().flatten().collect()
    } else if value.is_null() {
        Vec::new()
    } else {
        vec![value]
    }
}

/// The ids the post-processor puts before a single text.
fn template(value: &Value) -> Result<Vec<u32>, TokenizerError> {
    let mut before = Vec::new();
    for step in flatten(value, "processors") {
        match step["type"].as_str().unwrap_or("none") {
            // Works on offsets only.
            "ByteLevel" => {}
            "TemplateProcessing" => {
                for piece in step["single"].as_array().into_iter().flatten() {
                    // What follows is the text.
                    let Some(name) = piece["SpecialToken"]["id"].as_str() else { break };
                    let ids = step["special_tokens"][name]["ids"].as_array();
                    let ids = ids.ok_or_else(|| TokenizerError::Json(format!("no ids for the token {name}")))?;
                    for value in ids {
                        before.push(id(value, name)?);
                    }
                }
            }
            other => {
                return Err(TokenizerError::Unsupported {
                    what: "the post-processor",
                    found: other.to_owned(),
                    supported: "ByteLevel, TemplateProcessing".into(),
                });
            }
        }
    }
    Ok(before)
}
