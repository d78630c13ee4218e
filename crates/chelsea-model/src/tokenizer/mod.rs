//! Text to token ids and back.
//!
//! A [`Tokenizer`] is built from a GGUF's metadata ([`Tokenizer::from_gguf`]) or from a `tokenizer.json`
//! ([`Tokenizer::from_json`], [`Tokenizer::from_folder`]). Cutting and merging are done by the `tokenizers`
//! crate, on parts put together here; ids agree with `transformers` token for token. Supported are byte-level
//! BPE (GPT-2, SmolLM, Qwen 2 and 3, Llama 3, Tekken) and SentencePiece BPE (Llama 2, Mistral).
//!
//! Invariants:
//! - Text is data. Unless the caller asks for it, no text encodes to a control token: `<|im_end|>` in a user's
//!   words is spelled out in ordinary tokens. [`Tokenizer::encode_marked`] lets a chat template's own control
//!   tokens through and not those in the messages.
//! - Foreign numbers are checked when the tokenizer is built: after that, encoding and decoding cannot panic.
//! - Ids the vocabulary does not have decode to nothing.

mod error;
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
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper,
};

pub use error::TokenizerError;
pub use stream::TextStream;
use table::{Kind, Table};

use crate::file::ModelFile;

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
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Added tokens with the control tokens left as text.
    literal: AddedVocabulary,
    /// Added tokens, control tokens included.
    parsing: AddedVocabulary,
    table: Table,
    bos: Option<u32>,
    eos: Option<u32>,
    turn_ends: Vec<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Spellings of the control tokens, for [`Tokenizer::mark`].
    special: Vec<String>,
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
    suffix: Vec<u32>,
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

        let special: Vec<String> = parts.added.iter().filter(|t| t.special).map(|t| t.content.clone()).collect();
        let mut parsing = AddedVocabulary::new();
        parsing.add_tokens(parts.added, &model, parts.normalizer.as_ref()).map_err(fail)?;
        let mut literal = parsing.clone();
        literal.set_encode_special_tokens(true);

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
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            literal,
            parsing,
            table,
            bos: parts.bos,
            eos: parts.eos,
            turn_ends,
            prefix: parts.prefix,
            suffix: parts.suffix,
            special,
        })
    }

    /// The ids of a text alone, without BOS or EOS.
    ///
    /// With `parse_special` false every character is text, control tokens' spellings included; with true those
    /// spellings become the control tokens. Pass true only for text the program wrote itself.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`], for a text the vocabulary cannot express.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let added = if parse_special { &self.parsing } else { &self.literal };
        self.encode_with(text, added, None)
    }

    /// [`encode`](Self::encode) between what the model expects around a text: BOS before it, EOS after it,
    /// where the metadata asks for them.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_sequence(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.prefix.clone();
        ids.append(&mut self.encode(text, parse_special)?);
        ids.extend_from_slice(&self.suffix);
        Ok(ids)
    }

    /// Breaks every spelling of a control token in `text` by putting `mark` after its first character, so that
    /// [`encode_marked`](Self::encode_marked) will not take it for one. `mark` must not occur in the text.
    pub fn mark(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            out.push(c);
            let rest = &text[at..];
            // A spelling cut off by the end of the text counts too: what follows it might complete it.
            if self.special.iter().any(|s| rest.starts_with(s.as_str()) || (s.starts_with(rest) && *s != rest)) {
                out.push(mark);
            }
        }
        out
    }

    /// Encodes text in which control tokens are parsed, except those broken by [`mark`](Self::mark); the marks
    /// themselves are left out.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_marked(&self, text: &str, mark: char) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, &self.parsing, Some(mark))
    }

    fn encode_with(&self, text: &str, added: &AddedVocabulary, mark: Option<char>) -> Result<Vec<u32>, TokenizerError> {
        let fail = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
        let mut pieces: PreTokenizedString = added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(mark) = mark {
            pieces
                .normalize(|piece| {
                    piece.filter(|c| c != mark);
                    Ok(())
                })
                .map_err(fail)?;
        }
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(fail)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get())).map_err(fail)?;
        let mut ids = Vec::new();
        for (_, _, tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(ids)
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
            serde_json::json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]})
        } else {
            serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
        };
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": part(serde_json::to_value(&self.parsing))?,
            "normalizer": part(serde_json::to_value(&self.normalizer))?,
            "pre_tokenizer": part(serde_json::to_value(&self.pre_tokenizer))?,
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

    /// A token as the vocabulary spells it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.table.text(id)
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

    /// What the model was trained to see after a text: mostly nothing.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
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
            .field("suffix", &self.suffix)
            .finish_non_exhaustive()
    }
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
