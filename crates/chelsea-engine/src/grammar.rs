//! Answers that keep to a grammar: JSON of a schema, a call of a tool, a regular expression.
//!
//! The library `llguidance` follows the text byte by byte and says, before every token, which tokens may come next; a
//! [`Sampler`](crate::sampler::Sampler) then chooses among those alone. [`Grammars`] holds what follows from the
//! vocabulary and is made once for a model; a [`Grammar`] is compiled for a request, and may serve several answers, each
//! of which goes its own way through it.
//!
//! Which tokens may come next depends on those before it alone. So the set can be found while the model computes
//! ([`Answer::prepare`](crate::Answer::prepare)), and an answer that begins again goes through the same states.

use chelsea_model::tokenizer::Tokenizer;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// Why a grammar cannot be used, or could not be followed any further.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct GrammarError(String);

impl GrammarError {
    /// The library's own words, without what it says for those who look for mistakes in the library.
    fn of(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        let said = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"];
        let end = said.iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
        GrammarError(text[..end].trim().to_owned())
    }
}

/// Tokens longer than this are never part of an answer that keeps to a grammar: the library cannot hold them.
const LONGEST_TOKEN: usize = 512;
/// Bytes of all tokens that the library can hold.
const MOST_BYTES: usize = 1 << 22;
/// States of the lexer of one answer, of one to two kilobytes each.
const LEXER_STATES: usize = 30_000;

/// What all grammars of a model share: its vocabulary as a tree of bytes.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Puts a vocabulary in order, which takes a fraction of a second.
    ///
    /// # Errors
    /// If the vocabulary is larger than the library can hold.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars, GrammarError> {
        let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32).map(|id| word(tokenizer, id)).collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes >= MOST_BYTES {
            let text = format!("the tokens of this model have {bytes} bytes, too many for grammars ({MOST_BYTES})");
            return Err(GrammarError(text));
        }
        let ends = tokenizer.turn_ends();
        let first = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(ends);
        }
        // How a text is cut into tokens is left to the model: every way to spell it is allowed.
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(GrammarError::of)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = LEXER_STATES;
        Ok(Grammars { factory })
    }

    /// Compiles a grammar: rules in llguidance's dialect of Lark, which may refer to parts by name (`@name`).
    ///
    /// # Errors
    /// What the library says of rules or parts that it cannot follow.
    pub fn compile(&self, rules: &str, parts: Vec<(String, Part)>) -> Result<Grammar, GrammarError> {
        let named = |(name, part)| {
            let grammar = match part {
                Part::Schema(schema) => GrammarWithLexer::from_json_schema(schema),
                Part::Pattern(pattern) => GrammarWithLexer::from_regex(&pattern),
            };
            GrammarWithLexer { name: Some(name), ..grammar }
        };
        let mut grammars = vec![GrammarWithLexer::from_lark(rules.to_owned())];
        grammars.extend(parts.into_iter().map(named));
        let parser = self.factory.create_parser(TopLevelGrammar { grammars, max_tokens: None });
        let parser = parser.map_err(|error| GrammarError::of(format!("{error:#}")))?;
        Ok(Grammar(Arc::new(Mutex::new(Matcher::new(Ok(parser))))))
    }
}

/// A part of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// JSON that a schema describes.
    Schema(Value),
    /// A text that a regular expression matches as a whole.
    Pattern(String),
}

/// The bytes of a token as the library wants them: control tokens marked, so that no text is taken for one, and nothing
/// for what cannot be part of any text.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) {
        bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    } else if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        bytes.clear();
    }
    if bytes.len() > LONGEST_TOKEN { Vec::new() } else { bytes }
}

/// A compiled grammar, of which no answer was begun.
#[derive(Clone)]
pub struct Grammar(Arc<Mutex<Matcher>>);

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

/// The tokens that may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(SimpleVob);

impl Allowed {
    /// These tokens and no others.
    pub fn only(tokens: &[u32]) -> Self {
        let most = tokens.iter().max().map_or(0, |&most| most as usize + 1);
        let mut set = SimpleVob::alloc(most);
        tokens.iter().for_each(|&token| set.allow_token(token));
        Allowed(set)
    }

    /// Their ids, in order.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }
}

/// An answer's way through its grammar.
pub(crate) struct Path {
    matcher: Matcher,
    /// Whether no token of the vocabulary ends a turn.
    endless: bool,
    /// What may come next, once somebody asked; nothing where the grammar is at its end.
    next: Option<Result<Option<Allowed>, GrammarError>>,
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Path {
    /// From the beginning.
    pub(crate) fn new(grammar: &Grammar) -> Self {
        let matcher = grammar.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        let ends = |environment: TokEnv| environment.tok_trie().eos_tokens().iter().any(|&end| end != INVALID_TOKEN);
        let endless = !matcher.tok_env().is_ok_and(ends);
        Path { matcher, endless, next: None }
    }

    /// Whether nobody has found out yet which tokens may come next.
    pub(crate) fn is_unprepared(&self) -> bool {
        self.next.is_none()
    }

    /// Finds out which tokens may come next, unless that was done.
    pub(crate) fn prepare(&mut self) {
        if self.next.is_none() {
            self.next = Some(self.compute());
        }
    }

    fn compute(&mut self) -> Result<Option<Allowed>, GrammarError> {
        if self.is_complete() {
            return Ok(None);
        }
        // Asked first: without a token that ends a turn, the library has no way to say that the text ends here.
        let may_end = self.endless && self.matcher.is_accepting().map_err(GrammarError::of)?;
        match self.matcher.compute_mask() {
            Ok(mask) => Ok(Some(Allowed(mask))),
            Err(_) if may_end => Ok(None),
            Err(error) => Err(GrammarError::of(error)),
        }
    }

    /// The tokens that may come next; nothing where the text is complete.
    ///
    /// # Errors
    /// If the grammar grew more complicated than its limits allow, or leads nowhere with this vocabulary.
    pub(crate) fn allowed(&mut self) -> Result<Option<&Allowed>, GrammarError> {
        self.prepare();
        match &self.next {
            Some(Ok(allowed)) => Ok(allowed.as_ref()),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(None),
        }
    }

    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// If it was not among those allowed.
    pub(crate) fn take(&mut self, token: u32) -> Result<(), GrammarError> {
        self.next = None;
        self.matcher.consume_token(token).map_err(GrammarError::of)?;
        if self.endless {
            self.prepare();
        }
        Ok(())
    }

    /// Whether nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.next, Some(Ok(None))) || self.matcher.is_stopped() && !self.matcher.is_error()
    }
}
