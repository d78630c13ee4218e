//! A tokenizer from a GGUF's metadata: `tokenizer.ggml.*`.
//!
//! Where the metadata does not say whether a BOS is added, the default is that of the model kind: a BOS for
//! SentencePiece, Llama 3 and Tekken, none for other byte-level BPE. An EOS after a text is nothing a prompt wants.

use std::collections::HashMap;

use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::table::{Alphabet, Kind, Table, byte_token};
use super::{Parts, Tokenizer, TokenizerError, check_count, check_token, pre, sentencepiece};
use crate::files::gguf::{Gguf, GgufError, Metadata};

const BOS: &str = "tokenizer.ggml.bos_token_id";
/// Keys of tokens that end a turn or a document beside `eos_token_id`.
const TURN_END_KEYS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError`]: a key is missing or of the wrong type, the kind is not supported, numbers contradict
    /// each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let metadata = &gguf.metadata;
        match metadata.need("tokenizer.ggml.model", Metadata::str)? {
            "gpt2" => byte_level(metadata),
            "llama" => sentence_piece(metadata),
            other => Err(TokenizerError::Unsupported {
                what: "the tokenizer model",
                found: other.to_owned(),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE)".into(),
            }),
        }
    }
}

fn byte_level(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let tokens = Tokens::read(metadata, Alphabet::ByteLevel)?;
    let pre = match metadata.str("tokenizer.ggml.pre")?.filter(|name| !name.is_empty()) {
        Some(name) => pre::by_name(name)?,
        None => {
            let family = metadata.str("general.architecture")?.unwrap_or_default();
            let name = pre::likely(family, &|token| tokens.vocab.contains_key(token));
            tracing::warn!(
                "the file does not say how its tokenizer cuts text (`tokenizer.ggml.pre`): as {name} does, by the look of it; \
                 answers may suffer if that is wrong"
            );
            pre::by_name(name)?
        }
    };
    let list = metadata.need("tokenizer.ggml.merges", Metadata::strings)?;
    let mut merges = Vec::with_capacity(list.len());
    for (index, merge) in list.iter().enumerate() {
        // The first character may itself be a space.
        let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let Some((at, _)) = cut else {
            return Err(TokenizerError::Merge { index, merge: merge.chars().take(80).collect() });
        };
        merges.push((merge[..at].to_owned(), merge[at + 1..].to_owned()));
    }
    let ends = Ends::read(metadata, tokens.table.len(), Ends { bos: None, eos: None }, pre.add_bos)?;
    Tokenizer::from_parts(Parts {
        vocab: tokens.vocab,
        merges,
        normalizer: pre.normalizer,
        pre_tokenizer: Some(pre.pre_tokenizer),
        added: tokens.added,
        ignore_merges: pre.ignore_merges,
        byte_fallback: false,
        fuse_unknown: false,
        unknown: None,
        table: tokens.table,
        bos: ends.0.bos,
        eos: ends.0.eos,
        turn_ends: turn_ends(metadata)?,
        prefix: ends.1,
    })
}

fn sentence_piece(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let tokens = Tokens::read(metadata, Alphabet::SentencePiece { drop_first_space: space_prefix })?;
    let scores = metadata.need("tokenizer.ggml.scores", Metadata::floats)?;
    let count = tokens.table.len();
    if scores.len() != count {
        return Err(TokenizerError::Length { key: "tokenizer.ggml.scores", found: scores.len(), tokens: count });
    }
    let normal: Vec<(&str, f32)> = (0..count as u32)
        .filter(|&id| tokens.table.kind(id) == Some(Kind::Normal))
        .filter_map(|id| Some((tokens.table.text(id)?, scores[id as usize])))
        .collect();
    let merges = sentencepiece::merges(&normal)?;

    let underscore = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if space_prefix {
        steps.push(Prepend::new("▁".into()).into());
    }
    steps.push(Replace::new(" ", "▁").map_err(underscore)?.into());

    let defaults = Ends { bos: Some(1), eos: Some(2) };
    let ends = Ends::read(metadata, count, defaults, true)?;
    let unknown = id(metadata, "tokenizer.ggml.unknown_token_id", count)?.or(Some(0).filter(|_| count > 0));
    let unknown = unknown.and_then(|id| tokens.table.text(id)).map(str::to_owned);
    Tokenizer::from_parts(Parts {
        vocab: tokens.vocab,
        merges,
        normalizer: Some(Sequence::new(steps).into()),
        pre_tokenizer: None,
        added: tokens.added,
        ignore_merges: false,
        byte_fallback: true,
        fuse_unknown: true,
        unknown,
        table: tokens.table,
        bos: ends.0.bos,
        eos: ends.0.eos,
        turn_ends: turn_ends(metadata)?,
        prefix: ends.1,
    })
}

/// The vocabulary in the two forms that are needed.
struct Tokens {
    vocab: HashMap<String, u32>,
    table: Table,
    added: Vec<AddedToken>,
}

impl Tokens {
    fn read(metadata: &Metadata, alphabet: Alphabet) -> Result<Self, TokenizerError> {
        let list = metadata.need("tokenizer.ggml.tokens", Metadata::strings)?;
        check_count(list.len())?;
        let types = metadata.ints("tokenizer.ggml.token_type")?;
        if let Some(types) = &types
            && types.len() != list.len()
        {
            return Err(TokenizerError::Length {
                key: "tokenizer.ggml.token_type",
                found: types.len(),
                tokens: list.len(),
            });
        }
        let spaces_replaced = matches!(alphabet, Alphabet::SentencePiece { drop_first_space: false });
        let mut tokens = Self { vocab: HashMap::with_capacity(list.len()), table: Table::new(alphabet), added: vec![] };
        for (id, token) in list.iter().enumerate() {
            check_token(token)?;
            // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
            let kind = match types.as_ref().map_or(1, |types| types[id]) {
                0 | 1 | 5 => Kind::Normal,
                2 | 3 => Kind::Special,
                4 => Kind::Added,
                6 => byte_token(token).map_or(Kind::Normal, Kind::Byte),
                ty => return Err(TokenizerError::TokenType { id, ty }),
            };
            if matches!(kind, Kind::Special | Kind::Added) {
                // Where spaces are replaced and nothing is prepended, added tokens are found in the replaced text: a run of
                // spaces is one token whether it was written with spaces or with the sign that stands for them.
                let normalized = kind == Kind::Added && spaces_replaced;
                tokens.added.push(AddedToken::from(token, kind == Kind::Special).normalized(normalized));
            }
            tokens.table.push(token, kind);
            tokens.vocab.insert(token.to_owned(), id as u32);
        }
        Ok(tokens)
    }
}

/// The tokens at the two ends of a sequence.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Ends {
    /// The ids, and what is put before a text.
    fn read(
        metadata: &Metadata,
        tokens: usize,
        defaults: Ends,
        add_bos: bool,
    ) -> Result<(Self, Vec<u32>), TokenizerError> {
        let known = |id: &u32| (*id as usize) < tokens;
        let bos = id(metadata, BOS, tokens)?.or(defaults.bos.filter(known));
        let eos = id(metadata, "tokenizer.ggml.eos_token_id", tokens)?.or(defaults.eos.filter(known));
        let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let prefix = match (add_bos, bos) {
            (false, _) => Vec::new(),
            (true, Some(id)) => vec![id],
            (true, None) if metadata.get(BOS).is_some() => Vec::new(),
            (true, None) => return Err(GgufError::MissingKey(BOS.into()).into()),
        };
        Ok((Self { bos, eos }, prefix))
    }
}

/// A token id under `key`. One outside the vocabulary names no token: it is left out, with a warning.
fn id(metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    match metadata.u32(key)? {
        Some(id) if id as usize >= tokens => {
            // -1 in 32 bits is how some converters write that there is none.
            if id != u32::MAX {
                tracing::warn!("`{key}` is {id}, but the vocabulary has {tokens} tokens: it is left out");
            }
            Ok(None)
        }
        id => Ok(id),
    }
}

fn turn_ends(metadata: &Metadata) -> Result<Vec<u32>, TokenizerError> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, |list| list.len());
    let mut ids = Vec::new();
    for key in TURN_END_KEYS {
        ids.extend(id(metadata, key, tokens)?);
    }
    Ok(ids)
}
