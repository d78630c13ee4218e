//! Encoding: a prompt out of parts, some of them the program's own words and some anybody's.
//!
//! The ids are those of `transformers` for the whole text. Control tokens cut it into stretches; a stretch is
//! normalised, cut and merged as one, whatever parts it is made of. A *prefix step* (SentencePiece puts a space before a
//! text) belongs to the beginning of a stretch: of every one where it is a `Prepend` normalizer or a pre-tokenizer that
//! always prepends, as in Llama 2's and Mistral's files and in llama.cpp (`<s>[INST]` is `<s>`, `▁[`, ..), and of the
//! first one of a text where it is a `Metaspace` of the kind `first`. Text that goes on with a stretch has none.

use tokenizers::normalizers::Sequence as Normalizers;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{
    Model, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::extent::PIECE;
use super::{Tokenizer, TokenizerError};

/// A part of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Words of the program or of a chat template: spellings of control tokens become control tokens.
    Own(&'a str),
    /// Anybody's words: every character is text.
    Foreign(&'a str),
}

/// What stands before the text that is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it is the beginning.
    Nothing,
    /// Text, with which it goes on.
    Text,
    /// A control token, or another that is matched before text is cut.
    Token,
}

/// A step of the pipeline in its two forms.
pub(super) struct Step<T> {
    pub(super) start: Option<T>,
    /// Without its prefix step, where it has one.
    more: Option<Option<T>>,
}

impl<T> Step<T> {
    fn get(&self, with_prefix: bool) -> Option<&T> {
        match &self.more {
            Some(more) if !with_prefix => more.as_ref(),
            _ => self.start.as_ref(),
        }
    }
}

impl Step<NormalizerWrapper> {
    pub(super) fn normalizer(start: Option<NormalizerWrapper>) -> Self {
        let more = start.as_ref().filter(|step| prepends(step)).map(without_prepend);
        Self { start, more }
    }
}

impl Step<PreTokenizerWrapper> {
    /// Only a first step sees where a stretch begins.
    pub(super) fn pre_tokenizer(start: Option<PreTokenizerWrapper>) -> Self {
        let more = match &start {
            Some(PreTokenizerWrapper::Sequence(steps)) => {
                let mut steps = steps.as_ref().to_vec();
                let first = steps.first_mut().and_then(|first| Some((bare(first)?, first)));
                first.map(|(bare, first)| *first = bare).map(|()| Some(PreTokenizers::new(steps).into()))
            }
            Some(step) => bare(step).map(Some),
            None => None,
        };
        Self { start, more }
    }

    /// Whether the prefix is for the beginning of the whole text alone.
    fn is_for_the_first(&self) -> bool {
        let first = match &self.start {
            Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref().first(),
            step => step.as_ref(),
        };
        matches!(first, Some(PreTokenizerWrapper::Metaspace(m)) if m.prepend_scheme == PrependScheme::First)
    }
}

fn prepends(step: &NormalizerWrapper) -> bool {
    match step {
        NormalizerWrapper::Prepend(_) => true,
        NormalizerWrapper::Sequence(steps) => steps.as_ref().iter().any(prepends),
        _ => false,
    }
}

fn without_prepend(step: &NormalizerWrapper) -> Option<NormalizerWrapper> {
    match step {
        NormalizerWrapper::Prepend(_) => None,
        NormalizerWrapper::Sequence(steps) => {
            Some(Normalizers::new(steps.as_ref().iter().filter_map(without_prepend).collect()).into())
        }
        other => Some(other.clone()),
    }
}

/// The step without its prefix, if it has one.
fn bare(step: &PreTokenizerWrapper) -> Option<PreTokenizerWrapper> {
    match step {
        PreTokenizerWrapper::Metaspace(step) if step.prepend_scheme != PrependScheme::Never => {
            let mut bare = step.clone();
            bare.prepend_scheme = PrependScheme::Never;
            Some(bare.into())
        }
        PreTokenizerWrapper::ByteLevel(step) if step.add_prefix_space => {
            let mut bare = *step;
            bare.add_prefix_space = false;
            Some(bare.into())
        }
        _ => None,
    }
}

impl Tokenizer {
    /// The ids of a text alone, without BOS or EOS.
    ///
    /// With `parse_special` false every character is text, control tokens' spellings included; with true those
    /// spellings become the control tokens. Pass true only for text the program wrote itself.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`], for a text the vocabulary cannot express.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let part = if parse_special { Part::Own(text) } else { Part::Foreign(text) };
        self.encode_parts(Before::Nothing, &[part])
    }

    /// The ids of all parts together, as of one text that goes on from `before`; without BOS or EOS. No control token
    /// comes out of a foreign part, or out of the seam between two parts. Long texts are encoded piece by piece, with the
    /// same ids: memory beside them stays small.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_parts(&self, before: Before, parts: &[Part<'_>]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_in_pieces(before, parts, PIECE)
    }

    /// As [`encode_parts`](Self::encode_parts), with pieces of about `piece` bytes.
    fn encode_in_pieces(
        &self,
        mut before: Before,
        parts: &[Part<'_>],
        piece: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        let (mut ids, mut stretch) = (Vec::new(), String::new());
        for part in parts {
            let (added, text) = match *part {
                Part::Own(text) => (&self.parsing, text),
                Part::Foreign(text) => (&self.literal, text),
            };
            for (i, text) in self.extent.pieces(text, piece).enumerate() {
                // Between two pieces, not between two parts: what was cut there may belong together.
                if i > 0 && !stretch.is_empty() {
                    self.encode_stretch(before, &stretch, &mut ids)?;
                    stretch.clear();
                    before = Before::Text;
                }
                let cut = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
                for (text, _, tokens) in cut.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                    match tokens {
                        None => stretch.push_str(text),
                        Some(tokens) => {
                            self.encode_stretch(before, &stretch, &mut ids)?;
                            stretch.clear();
                            ids.extend(tokens.iter().map(|token| token.id));
                            before = Before::Token;
                        }
                    }
                }
            }
        }
        self.encode_stretch(before, &stretch, &mut ids)?;
        Ok(ids)
    }

    /// What text that follows these tokens has before it.
    pub fn before(&self, ids: &[u32]) -> Before {
        match ids.last() {
            None => Before::Nothing,
            Some(&id) if self.table.kind(id).is_some_and(|kind| kind.is_added()) => Before::Token,
            Some(_) => Before::Text,
        }
    }

    /// Appends the ids of text in which no control token is left.
    fn encode_stretch(&self, before: Before, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        let fail = |e: tokenizers::Error| TokenizerError::Encode(e.to_string());
        let normalizer = self.normalizer.get(before != Before::Text);
        let with_prefix = match before {
            Before::Nothing => true,
            Before::Token => !self.pre_tokenizer.is_for_the_first(),
            Before::Text => false,
        };
        let mut pieces: PreTokenizedString = self.normalised.extract_and_normalize(normalizer, text);
        if let Some(pre_tokenizer) = self.pre_tokenizer.get(with_prefix) {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(fail)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get())).map_err(fail)?;
        for (_, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn tiny(name: &str) -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tokenizer-tiny.json");
        let all: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("committed")).expect("JSON");
        Tokenizer::from_json(&all[name]["tokenizer"].to_string(), None, None).expect("a tokenizer")
    }

    proptest! {
        #[test]
        fn a_text_in_pieces_has_the_ids_of_the_whole(
            words in prop::collection::vec(
                prop_oneof![
                    Just("the"), Just("don't"), Just("Maß"), Just("猫犬"), Just("привет"), Just("12345"), Just("a\u{301}"),
                    Just("x.y,"), Just("<|eot_id|>"), Just("</s>"), Just(""), Just("<s>"), Just("한국"), Just("\u{1f642}"),
                ],
                0..40,
            ),
            seams in prop::collection::vec(
                prop_oneof![
                    4 => Just(" "), 2 => Just("\n"), 1 => Just("  "), 1 => Just("\n\n"), 1 => Just("\r\n"), 1 => Just(" \n"),
                    1 => Just(""),
                ],
                40,
            ),
            piece in 0..30usize,
        ) {
            let text: String = words.iter().zip(&seams).flat_map(|(word, seam)| [*word, *seam]).collect();
            for name in ["llama2", "llama3"] {
                let tokenizer = tiny(name);
                for part in [Part::Own(&text), Part::Foreign(&text)] {
                    let parts = [Part::Own("<s>A"), part, Part::Foreign("end")];
                    let whole = tokenizer.encode_in_pieces(Before::Nothing, &parts, usize::MAX).expect("ids");
                    let pieces = tokenizer.encode_in_pieces(Before::Nothing, &parts, piece).expect("ids");
                    prop_assert_eq!(&pieces, &whole, "{}: {:?}", name, &text);
                    prop_assert!(tokenizer.fewest_tokens(text.len()) <= whole.len());
                }
            }
        }
    }

    #[test]
    fn the_tiny_vocabularies_are_cut() {
        for name in ["llama2", "llama3"] {
            assert!(tiny(name).extent.pieces("a cat sat", 0).count() > 1, "{name}");
        }
    }
}
