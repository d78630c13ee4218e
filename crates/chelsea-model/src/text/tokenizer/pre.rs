//! Pre-tokenizers: how a byte-level BPE model cuts text before merging, by the name GGUF files give it.
//!
//! A name stands for a regular expression, sometimes a step that cuts digits apart, and a normal form,
//! as the published tokenizer of that model family has them. A name that is not in the table is an error:
//! guessing would yield almost the right tokens, which is worse than none.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// Contractions, one leading sign before letters, `{1,3}` or single figures, signs with their line ends.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words also break where lower case meets upper case.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with contractions kept to their words and figures by threes.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a pre-tokenizer's name implies.
pub(super) struct Pre {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    /// A piece that is a token as it stands is not merged from its characters.
    pub(super) ignore_merges: bool,
    /// Whether a BOS is added where the metadata does not say.
    pub(super) add_bos: bool,
}

/// The name that a file which gives none should have had, as far as its architecture and its tokens tell; else GPT-2's,
/// with which byte-level BPE began. Files of before the key existed have none.
pub(super) fn likely(architecture: &str, has: &dyn Fn(&str) -> bool) -> &'static str {
    match architecture {
        "qwen2" | "qwen3" | "qwen2moe" | "qwen3moe" => "qwen2",
        _ if has("<|begin_of_text|>") && has("<|eot_id|>") => "llama-bpe",
        _ if has("<repo_name>") && has("<|im_start|>") => "smollm",
        _ => "gpt-2",
    }
}

/// The names in the table, for error messages.
const NAMES: &str = "gpt-2, smollm, starcoder, refact, command-r, qwen2, deepseek-r1-qwen, \
                     llama-bpe, llama3, llama-v3, smaug-bpe, dbrx, tekken, gpt-4o";

/// The pre-tokenizer of this name (`tokenizer.ggml.pre`).
pub(super) fn by_name(name: &str) -> Result<Pre, TokenizerError> {
    let byte_level = |use_regex| ByteLevel::new(false, true, use_regex).into();
    let split = |pattern: &str| -> Result<PreTokenizerWrapper, TokenizerError> {
        let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
            .map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(Sequence::new(vec![split.into(), byte_level(false)]).into())
    };
    let pre = |pre_tokenizer| Pre { normalizer: None, pre_tokenizer, ignore_merges: false, add_bos: false };
    Ok(match name {
        "gpt-2" | "gpt2" => pre(byte_level(true)),
        "smollm" | "starcoder" | "refact" | "command-r" => {
            pre(Sequence::new(vec![Digits::new(true).into(), byte_level(true)]).into())
        }
        "qwen2" | "deepseek-r1-qwen" => {
            Pre { normalizer: Some(tokenizers::normalizers::NFC.into()), ..pre(split(QWEN2)?) }
        }
        "llama-bpe" | "llama3" | "llama-v3" => Pre { ignore_merges: true, add_bos: true, ..pre(split(LLAMA3)?) },
        "smaug-bpe" | "dbrx" => pre(split(LLAMA3)?),
        "tekken" => Pre { ignore_merges: true, add_bos: true, ..pre(split(TEKKEN)?) },
        "gpt-4o" => pre(split(O200K)?),
        _ => {
            return Err(TokenizerError::Unsupported {
                what: "the pre-tokenizer",
                found: name.to_owned(),
                supported: NAMES.to_owned(),
            });
        }
    })
}
