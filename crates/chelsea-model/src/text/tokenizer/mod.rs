//! Text to token ids and back.
//!
//! A [`Tokenizer`] is built from a GGUF's metadata ([`Tokenizer::from_gguf`]) or from a `tokenizer.json`
//! ([`Tokenizer::from_json`], [`Tokenizer::from_folder`]). Cutting and merging are done by the `tokenizers`
//! crate, on parts put together here; ids agree with `transformers` token for token. Supported are byte-level
//! BPE (GPT-2, SmolLM, Qwen 2 and 3, Llama 3, Tekken) and SentencePiece BPE (Llama 2, Mistral).
//!
//! Invariants:
//! - Text is data. Unless the caller asks for it, no text encodes to a control token: `<|im_end|>` in a user's
//!   words is spelled out in ordinary tokens. [`Tokenizer::encode_parts`] lets a chat template's own control
//!   tokens through and not those in the messages.
//! - Foreign numbers are checked when the tokenizer is built: after that, encoding and decoding cannot panic.
//! - Ids the vocabulary does not have decode to nothing.

mod encode;
mod error;
mod extent;
mod gguf;
mod json;
mod pre;
mod sentencepiece;
mod stream;
mod table;

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizerWrapper,
};
use xxhash_rust::xxh3::Xxh3;

use encode::Step;
pub use encode::{Before, Part};
pub use error::TokenizerError;
use extent::Extent;
pub use stream::TextStream;
use table::{Kind, Table};

use crate::checkpoint::ModelFile;

/// More than any vocabulary has; a bound on what a damaged file can make us allocate.
const MAX_TOKENS: usize = 1 << 22;
/// Longest token accepted, in bytes. The longest in use are runs of 128 or 256 spaces.
const MAX_TOKEN_BYTES: usize = 4096;

/// Names of tokens that end a turn or a document, whatever the metadata calls them. They count only where the
/// vocabulary holds them as control tokens.
const TURN_ENDS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eot|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
];

/// A tokenizer. Cheap to share by reference; every method takes `&self`.
pub struct Tokenizer {
    model: BPE,
    normalizer: Step<NormalizerWrapper>,
    pre_tokenizer: Step<PreTokenizerWrapper>,
    /// Tokens matched in text as it stands, with the control tokens left as text.
    literal: AddedVocabulary,
    /// Tokens matched in text as it stands, control tokens included.
    parsing: AddedVocabulary,
    /// Tokens matched in text once it is normalised; none is a control token.
    normalised: AddedVocabulary,
    table: Table,
    extent: Extent,
    fingerprint: [u8; 16],
    bos: Option<u32>,
    eos: Option<u32>,
    turn_ends: Vec<u32>,
    prefix: Vec<u32>,
}

/// What the two readers hand over.
struct Parts {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    table: Table,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    added: Vec<AddedToken>,
    ignore_merges: bool,
    byte_fallback: bool,
    fuse_unknown: bool,
    unknown: Option<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    turn_ends: Vec<u32>,
    prefix: Vec<u32>,
}

impl Tokenizer {
    /// The tokenizer of a model file or folder.
    ///
    /// # Errors
    /// [`TokenizerError`]: the model has none, or one that cannot be used.
    pub fn open(file: &ModelFile) -> Result<Self, TokenizerError> {
        match file.gguf() {
            Some(gguf) => Self::from_gguf(gguf),
            None => Self::from_folder(file.folder().unwrap_or(Path::new("."))),
        }
    }

    fn from_parts(parts: Parts) -> Result<Self, TokenizerError> {
        let fail = |e: tokenizers::Error| TokenizerError::Json(e.to_string());
        check_merges(&parts.vocab, &parts.merges)?;
        check_added(&parts.added, parts.normalizer.as_ref())?;
        let extent = Extent::of(&parts.table, &parts.added, parts.normalizer.as_ref());
        let fingerprint = fingerprint(&parts);
        let vocab: Vocab = parts.vocab.into_iter().collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, parts.merges)
            .ignore_merges(parts.ignore_merges)
            .byte_fallback(parts.byte_fallback)
            .fuse_unk(parts.fuse_unknown);
        if let Some(unknown) = parts.unknown {
            builder = builder.unk_token(unknown);
        }
        let model = builder.build().map_err(fail)?;

        // Control tokens are matched as they are spelled, whatever the file says of normalising them.
        let (plain, normalised): (Vec<AddedToken>, Vec<AddedToken>) =
            parts.added.into_iter().partition(|token| token.special || !token.normalized);
        let mut parsing = AddedVocabulary::new();
        let plain = plain.into_iter().map(|token| token.normalized(false));
        parsing.add_tokens(plain, &model, parts.normalizer.as_ref()).map_err(fail)?;
        let mut literal = parsing.clone();
        literal.set_encode_special_tokens(true);
        let mut later = AddedVocabulary::new();
        later.add_tokens(normalised, &model, parts.normalizer.as_ref()).map_err(fail)?;

        let table = parts.table;
        let mut turn_ends = parts.turn_ends;
        turn_ends.extend(parts.eos);
        turn_ends.extend(TURN_ENDS.iter().filter_map(|name| {
            let id = model.token_to_id(name)?;
            matches!(table.kind(id), Some(Kind::Special | Kind::Added)).then_some(id)
        }));
        turn_ends.sort_unstable();
        turn_ends.dedup();

        Ok(Self {
            model,
            normalizer: Step::normalizer(parts.normalizer),
            pre_tokenizer: Step::pre_tokenizer(parts.pre_tokenizer),
            literal,
            parsing,
            normalised: later,
            table,
            extent,
            fingerprint,
            bos: parts.bos,
            eos: parts.eos,
            turn_ends,
            prefix: parts.prefix,
        })
    }

    /// The tokenizer in the format of `tokenizer.json`, for programs that count tokens as the model does. It encodes
    /// as [`encode`](Self::encode) with `parse_special`, and adds neither BOS nor EOS.
    ///
    /// # Errors
    /// [`TokenizerError::Json`], if a part cannot be written down.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let part = |value: Result<serde_json::Value, serde_json::Error>| {
            value.map_err(|e| TokenizerError::Json(e.to_string()))
        };
        let decoder = if self.model.byte_fallback {
            let mut steps = vec![
                serde_json::json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                serde_json::json!({"type": "ByteFallback"}),
                serde_json::json!({"type": "Fuse"}),
            ];
            if matches!(self.table.alphabet, table::Alphabet::SentencePiece { drop_first_space: true }) {
                steps.push(serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            serde_json::json!({"type": "Sequence", "decoders": steps})
        } else {
            serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
        };
        let mut added = Vec::new();
        for tokens in [&self.parsing, &self.normalised] {
            if let serde_json::Value::Array(tokens) = part(serde_json::to_value(tokens))? {
                added.extend(tokens);
            }
        }
        added.sort_by_key(|token| token["id"].as_u64());
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": part(serde_json::to_value(&self.normalizer.start))?,
            "pre_tokenizer": part(serde_json::to_value(&self.pre_tokenizer.start))?,
            "post_processor": null,
            "decoder": decoder,
            "model": part(serde_json::to_value(&self.model))?,
        });
        Ok(json.to_string())
    }

    /// The text of `ids`; bytes that form no character become U+FFFD. `skip_special` leaves control tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = TextStream::new(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self, id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// Number of tokens; ids are below it. The model's last matrix may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The least number of tokens that a text of `bytes` can be: to be asked before a long text is encoded.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        self.extent.fewest(bytes)
    }

    /// Names the vocabulary: all tokens with their kinds, the merges, what begins a text and what ends a turn. Ids mean
    /// the same to tokenizers of one fingerprint.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// A token as the vocabulary spells it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.table.text(id)
    }

    /// The bytes that a token stands for in a text, a control token its name; none for an id that there is not. The first
    /// space of a text that the encoder put there is among them.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.table.append_bytes(id, &mut bytes);
        bytes
    }

    /// The id of a token spelled as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token, &self.model)
    }

    /// Whether `id` is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.kind(id) == Some(Kind::Special)
    }

    /// The token that begins a sequence, if the model has one. [`prefix`](Self::prefix) says whether it is used.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token after which generation stops, in order of ids: EOS, and whatever else ends a turn.
    pub fn turn_ends(&self) -> &[u32] {
        &self.turn_ends
    }

    /// Whether generation stops after `id`.
    pub fn ends_turn(&self, id: u32) -> bool {
        self.turn_ends.binary_search(&id).is_ok()
    }

    /// What the model expects before a text: BOS, or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("turn_ends", &self.turn_ends)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// See [`Tokenizer::fingerprint`].
fn fingerprint(parts: &Parts) -> [u8; 16] {
    let mut hash = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for id in 0..parts.table.len() as u32 {
        add(parts.table.text(id).unwrap_or_default().as_bytes());
        add(format!("{:?}", parts.table.kind(id)).as_bytes());
    }
    for (left, right) in &parts.merges {
        add(left.as_bytes());
        add(right.as_bytes());
    }
    for ids in [&parts.prefix, &parts.turn_ends] {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        add(&bytes);
    }
    add(format!("{:?}", (parts.bos, parts.eos)).as_bytes());
    hash.digest128().to_le_bytes()
}

/// Both halves of every merge, and what they make, must be tokens.
fn check_merges(vocab: &HashMap<String, u32>, merges: &[(String, String)]) -> Result<(), TokenizerError> {
    let mut joined = String::new();
    for (index, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if [left, right, &joined].into_iter().any(|token| !vocab.contains_key(token)) {
            return Err(TokenizerError::Merge { index, merge: format!("{left} {right}") });
        }
    }
    Ok(())
}

/// Added tokens of white space alone must not take in the white space beside them: where one stands in what another took
/// in, the `tokenizers` crate panics.
fn check_added(added: &[AddedToken], normalizer: Option<&NormalizerWrapper>) -> Result<(), TokenizerError> {
    for token in added.iter().filter(|token| token.lstrip || token.rstrip) {
        let mut content = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = normalizer {
            normalizer.normalize(&mut content).map_err(|e| TokenizerError::Json(e.to_string()))?;
        }
        if [token.content.as_str(), content.get()].iter().any(|text| text.chars().all(char::is_whitespace)) {
            let found = format!("{:?}", token.content);
            let supported = "tokens with a character that is seen".into();
            return Err(TokenizerError::Unsupported { what: "lstrip or rstrip of the added token", found, supported });
        }
    }
    Ok(())
}

/// Checks a token's length.
fn check_token(token: &str) -> Result<(), TokenizerError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenizerError::TooLarge {
            what: "the length of a token",
            found: token.len() as u64,
            limit: MAX_TOKEN_BYTES as u64,
        });
    }
    Ok(())
}

/// Checks the number of tokens.
fn check_count(tokens: usize) -> Result<(), TokenizerError> {
    match tokens {
        0 => Err(TokenizerError::Empty),
        n if n > MAX_TOKENS => {
            Err(TokenizerError::TooLarge { what: "the number of tokens", found: n as u64, limit: MAX_TOKENS as u64 })
        }
        _ => Ok(()),
    }
}
