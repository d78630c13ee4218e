//! Copying: a passage of the text begins once more after it, and the model is to go on as the passage did.
//!
//! The document is plain text, without a chat template. Passages lie spread over it; of each, the first tokens are
//! read again after compression and the following ones are scored. Whatever a model finds likely without having
//! seen the passage, its exact words need the cache.

use super::haystack::{Encode, Haystack, HaystackError, random};
use crate::sample::{Continuation, Document, Judge, Probe, Sample};

/// What copying looks like.
#[derive(Debug, Clone, Copy)]
pub struct CopyingOptions {
    /// Tokens of the document.
    pub tokens: usize,
    /// Passages, spread evenly; each is tried on its own.
    pub passages: usize,
    /// Tokens of a passage that are given.
    pub cue: usize,
    /// Tokens of a passage that are scored.
    pub target: usize,
    /// Seed of the place in the haystack.
    pub seed: u64,
}

impl Default for CopyingOptions {
    fn default() -> Self {
        CopyingOptions { tokens: 3000, passages: 4, cue: 16, target: 48, seed: 0 }
    }
}

/// Makes document number `index`.
pub fn sample(
    haystack: &Haystack,
    options: &CopyingOptions,
    index: u64,
    encode: Encode<'_>,
) -> Result<Sample, HaystackError> {
    let &CopyingOptions { tokens, passages, cue, target, seed } = options;
    if passages == 0 || cue == 0 || target == 0 {
        return Err(HaystackError::Setting("copying needs at least one passage, one token given and one to score"));
    }
    if passages.saturating_mul(cue.saturating_add(target)) > tokens {
        return Err(HaystackError::Setting("the passages to copy do not fit into the document: fewer, or more tokens"));
    }
    let mut rng = random(seed, index);
    let document = haystack.token_stretch(&mut rng, tokens)?;
    let gap = encode("\n\n")?;
    let probe = |i: usize| {
        let depth = (i as f64 + 0.5) / passages as f64;
        let at = ((depth * tokens as f64) as usize).min(tokens - cue - target);
        let passage = &document[at..at + cue + target];
        let cue_tokens = [&gap[..], &passage[..cue]].concat();
        let judge = Judge::Target;
        Probe::Continue(Continuation { cue: cue_tokens, target: passage[cue..].to_vec(), judge, depth: Some(depth) })
    };
    Ok(Sample {
        task: "copying".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Tokens(document.to_vec()),
        probes: (0..passages).map(probe).collect(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::{encode, hay};
    use super::*;

    #[test]
    fn passages_stand_in_the_document_as_they_are_asked_for() {
        let options = CopyingOptions { tokens: 400, ..CopyingOptions::default() };
        let s = sample(&hay(), &options, 5, &encode).unwrap();
        let Document::Tokens(document) = &s.document else { panic!("tokens") };
        assert_eq!((document.len(), s.probes.len()), (400, 4));
        for probe in &s.probes {
            let Probe::Continue(c) = probe else { panic!("scored") };
            let passage = [&c.cue[..], &c.target].concat();
            assert!(document.windows(passage.len()).any(|w| w == passage));
            assert_eq!(c.target.len(), 48);
        }
    }

    #[test]
    fn passages_that_do_not_fit_are_refused() {
        let options = CopyingOptions { tokens: 200, ..CopyingOptions::default() };
        assert!(sample(&hay(), &options, 0, &encode).unwrap_err().to_string().contains("do not fit"));
        let absurd = CopyingOptions { passages: 1 << 62, cue: 2, target: 2, ..options };
        assert!(sample(&hay(), &absurd, 0, &encode).unwrap_err().to_string().contains("do not fit"));
        let options = CopyingOptions { cue: 0, ..options };
        assert!(sample(&hay(), &options, 0, &encode).is_err());
    }
}
