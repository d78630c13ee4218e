//! From a sequence to text: sampling in a loop, stop tokens, stop strings, streaming.

use crate::grammar::{Grammar, Path};
use crate::runner::{Pace, Runner};
use crate::sampler::Sampler;
use crate::session::decode_all;
use crate::stop::StopFilter;
use crate::{EngineError, Sampling, Sequence, Session};
use chelsea_model::tokenizer::{TextStream, Tokenizer};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What is to be generated.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most tokens to generate; no bound but the context when none is given.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Go on past end-of-turn tokens (for benchmarks of a fixed length).
    pub ignore_eos: bool,
    /// Tokens that end the answer as one that ends the turn does, whether or not those are ignored.
    pub stop_tokens: Vec<u32>,
    /// Tokens before which the answer is not ended by a token: the ones that would are not sampled until then.
    pub min_tokens: usize,
    /// What the text must keep to. It ends as soon as nothing may follow.
    pub grammar: Option<Grammar>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string was reached.
    StopString,
    /// The text is all that its grammar describes.
    Complete,
    /// The number of tokens asked for was reached.
    MaxTokens,
    /// The context is full.
    Context,
    /// It was cancelled, or ended by the one it was shown to.
    Cancelled,
}

/// Generated text and what it took.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The text, without stop strings and special tokens.
    pub text: String,
    /// Its tokens, the end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// From the call to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Generation {
    /// Tokens a second after the first token; 0 when there was at most one.
    pub fn decode_tokens_per_s(&self) -> f64 {
        let steps = self.tokens.len().saturating_sub(1);
        if steps == 0 { 0.0 } else { steps as f64 / self.decode.as_secs_f64().max(1e-9) }
    }
}

/// Generates from where `session` stands (something must have been read); `show` gets the text as it
/// comes. The last sampled token is not yet part of the cache when generation ends.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    options: &GenerateOptions,
    mut show: impl FnMut(&str),
) -> Result<Generation, EngineError> {
    let mut answer = Answer::new(options)?;
    let mut show = |text: &str| {
        show(text);
        ControlFlow::Continue(())
    };
    while let Some(token) = answer.advance_session(session, tokenizer, &mut show)? {
        session.step(token)?;
    }
    Ok(answer.out)
}

/// Generates for several sessions at once, each from where it stands and as its options say: their rows share each
/// pass over the weights ([`Runner::step`]). `show` gets the number of a session and the text that it adds, and
/// may end that one there. Sessions run on one model.
///
/// # Errors
/// Those of [`generate`] and of [`Runner::step`]: of whichever session it is, all answers end there.
pub fn generate_many(
    sessions: &mut [&mut Session],
    tokenizer: &Tokenizer,
    options: &[GenerateOptions],
    mut show: impl FnMut(usize, &str) -> ControlFlow<()>,
) -> Result<Vec<Generation>, EngineError> {
    if sessions.len() != options.len() {
        return Err(EngineError::BatchLength { sessions: sessions.len(), tokens: options.len() });
    }
    let mut answers = options.iter().map(Answer::new).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = sessions.first() else { return Ok(Vec::new()) };
    let mut runner = Runner::new(first.model().clone(), first.pool().clone()).with_pace(Pace::AllAtOnce);
    let mut going = vec![true; sessions.len()];
    while going.contains(&true) {
        let mut rows = Vec::with_capacity(sessions.len());
        for (i, (session, going)) in sessions.iter_mut().zip(&mut going).enumerate().filter(|(_, (_, going))| **going) {
            match answers[i].advance_session(session, tokenizer, &mut |text| show(i, text))? {
                Some(token) => rows.push((session.parts().0, token)),
                None => *going = false,
            }
        }
        decode_all(rows, &mut runner)?;
    }
    Ok(answers.into_iter().map(|answer| answer.out).collect())
}

/// An answer on its way: what [`generate`] is a loop over, for those who take many sequences further at once.
#[derive(Debug)]
pub struct Answer {
    options: GenerateOptions,
    sampler: Sampler,
    path: Option<Path>,
    stops: StopFilter,
    decoder: TextStream,
    start: Instant,
    out: Generation,
}

impl Answer {
    /// An answer of which nothing was generated yet.
    ///
    /// # Errors
    /// If a sampling setting is out of its range.
    pub fn new(options: &GenerateOptions) -> Result<Self, EngineError> {
        Ok(Answer {
            options: options.clone(),
            sampler: Sampler::new(options.sampling.clone())?,
            path: options.grammar.as_ref().map(Path::new),
            stops: StopFilter::new(options.stop.iter().cloned()),
            decoder: TextStream::new(true),
            start: Instant::now(),
            out: Generation {
                text: String::new(),
                tokens: Vec::new(),
                finish: Finish::MaxTokens,
                first_token: Duration::ZERO,
                decode: Duration::ZERO,
            },
        })
    }

    /// As [`Answer::advance`], unless the session was told to stop.
    fn advance_session(
        &mut self,
        session: &mut Session,
        tokenizer: &Tokenizer,
        show: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<u32>, EngineError> {
        // First: a reading that was cut short leaves no logits.
        if session.cancelled() {
            return Ok(self.end(Finish::Cancelled, show));
        }
        self.advance(session.parts().0, tokenizer, show)
    }

    /// The stop string that ended it, if one did.
    pub fn stop_string(&self) -> Option<&str> {
        self.stops.reached()
    }

    /// What was generated so far, or in all.
    pub fn generation(&self) -> &Generation {
        &self.out
    }

    /// Whether [`Answer::prepare`] has anything to do.
    pub fn is_unprepared(&self) -> bool {
        self.path.as_ref().is_some_and(Path::is_unprepared)
    }

    /// Finds out which tokens may come next, where a grammar says so. That depends on the tokens so far alone, so it can
    /// be done beside the model's work; [`Answer::advance`] does it otherwise.
    pub fn prepare(&mut self) {
        if let Some(path) = &mut self.path {
            path.prepare();
        }
    }

    /// Samples the next token. Gives it when the sequence is to take it in for the answer to go on; nothing when
    /// the answer is complete. `show` gets the text that is sure to belong to the answer, and may end it.
    ///
    /// # Errors
    /// If the sequence has no logits to sample from, and if its grammar cannot be followed any further.
    pub fn advance(
        &mut self,
        sequence: &mut Sequence,
        tokenizer: &Tokenizer,
        show: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Option<u32>, EngineError> {
        if !sequence.has_logits() {
            return Err(EngineError::NothingRead);
        }
        let most = self.options.max_tokens.unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(self.end(Finish::MaxTokens, show));
        }
        let allowed = match &mut self.path {
            None => None,
            Some(path) => match path.allowed()? {
                None => return Ok(self.end(Finish::Complete, show)),
                allowed => allowed,
            },
        };
        let goes_on = self.out.tokens.len() < self.options.min_tokens;
        // Of a model on a device, the likeliest tokens are here already, and the whole row is not.
        let likeliest = sequence.likeliest().filter(|_| allowed.is_none() && !goes_on);
        let vocab = sequence.model().config().vocab;
        let sampled = likeliest.and_then(|likeliest| self.sampler.sample_likeliest(likeliest, vocab));
        let token = match sampled {
            Some(token) => token,
            None => {
                let (logits, history) = sequence.logits_and_history();
                let banned = if goes_on {
                    ban(logits, tokenizer.turn_ends().iter().chain(&self.options.stop_tokens))
                } else {
                    Vec::new()
                };
                let token = self.sampler.sample_among(logits, history, allowed);
                // How likely a token was is told without regard to what was banned.
                banned.into_iter().rev().for_each(|(token, logit)| logits[token] = logit);
                token
            }
        };
        if let Some(path) = &mut self.path {
            path.take(token)?;
        }
        let out = &mut self.out;
        out.tokens.push(token);
        if out.tokens.len() == 1 {
            out.first_token = self.start.elapsed();
        }
        out.decode = self.start.elapsed() - out.first_token;
        let ends_turn = !self.options.ignore_eos && tokenizer.ends_turn(token);
        if ends_turn || self.options.stop_tokens.contains(&token) {
            return Ok(self.end(Finish::EndOfTurn, show));
        }
        let passed = self.stops.push(&self.decoder.push(tokenizer, token));
        let told = emit(&mut self.out, &passed.text, show);
        if passed.stopped || told.is_break() {
            // What is held back after this is no part of the answer.
            self.out.finish = if passed.stopped { Finish::StopString } else { Finish::Cancelled };
            return Ok(None);
        }
        if self.path.as_ref().is_some_and(Path::is_complete) {
            return Ok(self.end(Finish::Complete, show));
        }
        if self.out.tokens.len() == most {
            return Ok(self.end(Finish::MaxTokens, show));
        }
        if sequence.history().len() >= sequence.limit() {
            return Ok(self.end(Finish::Context, show));
        }
        Ok(Some(token))
    }

    /// Ends the answer with the text that was held back.
    fn end(&mut self, finish: Finish, show: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Option<u32> {
        self.out.finish = finish;
        let passed = self.stops.push(&std::mem::replace(&mut self.decoder, TextStream::new(true)).finish());
        for text in [passed.text, self.stops.finish()] {
            // It ends anyway.
            let _told = emit(&mut self.out, &text, show);
        }
        None
    }
}

/// Makes it impossible that one of these tokens is sampled. Returns them with the logits that they had, in the order in
/// which they were banned.
fn ban<'t>(logits: &mut [f32], tokens: impl Iterator<Item = &'t u32>) -> Vec<(usize, f32)> {
    let known = tokens.map(|&token| token as usize).filter(|&token| token < logits.len()).collect::<Vec<_>>();
    known.into_iter().map(|token| (token, std::mem::replace(&mut logits[token], f32::NEG_INFINITY))).collect()
}

fn emit(out: &mut Generation, text: &str, show: &mut dyn FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
    if text.is_empty() {
        return ControlFlow::Continue(());
    }
    out.text.push_str(text);
    show(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionOptions;
    use chelsea_linear::Products;
    use chelsea_model::{LoadOptions, RandomModel};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_question_whose_reading_was_cut_short_is_a_cancelled_answer() {
        let options = LoadOptions { products: Products::Fast };
        let model = Arc::new(RandomModel::named("tiny").unwrap().make(5, &options, &mut |_, _| ()).unwrap());
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
        let words = r#"{ "decoder": { "type": "ByteLevel" }, "model": { "vocab": { "a": 0 }, "merges": [] } }"#;
        let tokenizer = Tokenizer::from_json(words, None, None).unwrap();
        let answer = |cancelled| {
            let cancel = Arc::new(AtomicBool::new(cancelled));
            let mut session = Session::new(model.clone(), pool.clone(), cancel, &SessionOptions::default()).unwrap();
            if cancelled {
                session.read(&[1, 2, 3], |_| ()).unwrap();
            }
            generate(&mut session, &tokenizer, &GenerateOptions::default(), |_| ())
        };
        let cut = answer(true).unwrap();
        assert_eq!((cut.finish, cut.tokens.len()), (Finish::Cancelled, 0));
        assert!(matches!(answer(false), Err(EngineError::NothingRead)), "nothing was asked");
    }
}
