//! Continuation: held-out text after a document, and how far the compressed cache's predictions stray from the full
//! one's.
//!
//! The document is plain text, without a chat template. The tokens that follow it in the haystack are given one after
//! the other; at each the distributions of both caches are compared.

use super::haystack::{Haystack, HaystackError, random};
use crate::sample::{Continuation, Document, Judge, Probe, Sample};

/// What a continuation looks like.
#[derive(Debug, Clone, Copy)]
pub struct ContinuationOptions {
    /// Tokens of the document.
    pub tokens: usize,
    /// Tokens that are scored.
    pub target: usize,
    /// Seed of the place in the haystack.
    pub seed: u64,
}

impl Default for ContinuationOptions {
    fn default() -> Self {
        ContinuationOptions { tokens: 3000, target: 64, seed: 0 }
    }
}

/// Makes document number `index`.
pub fn sample(haystack: &Haystack, options: &ContinuationOptions, index: u64) -> Result<Sample, HaystackError> {
    let &ContinuationOptions { tokens, target, seed } = options;
    if target == 0 || tokens == 0 {
        return Err(HaystackError::Setting("a continuation needs at least one token to read and one to score"));
    }
    // One token is read after compression and not scored: what follows the document directly was predicted before.
    let all = haystack.token_stretch(&mut random(seed, index), tokens.saturating_add(target).saturating_add(1))?;
    let probe = Continuation {
        cue: all[tokens..=tokens].to_vec(),
        target: all[tokens + 1..].to_vec(),
        judge: Judge::Full,
        depth: None,
    };
    Ok(Sample {
        task: "continuation".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Tokens(all[..tokens].to_vec()),
        probes: vec![Probe::Continue(probe)],
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::hay;
    use super::*;

    #[test]
    fn the_target_follows_the_document() {
        let options = ContinuationOptions { tokens: 200, target: 64, seed: 9 };
        let hay = hay();
        let s = sample(&hay, &options, 0).unwrap();
        let (Document::Tokens(document), Probe::Continue(c)) = (&s.document, &s.probes[0]) else { panic!("tokens") };
        assert_eq!((document.len(), c.cue.len(), c.target.len()), (200, 1, 64));
        assert_eq!(s, sample(&hay, &options, 0).unwrap());
        assert_ne!(s.document, sample(&hay, &options, 1).unwrap().document);
    }

    #[test]
    fn nothing_to_score_is_refused() {
        let options = ContinuationOptions { target: 0, ..ContinuationOptions::default() };
        assert!(sample(&hay(), &options, 0).is_err());
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for (tokens, target) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
            let error = sample(&hay(), &ContinuationOptions { tokens, target, seed: 0 }, 0).unwrap_err();
            assert!(error.to_string().contains("fewer tokens"), "{error}");
        }
    }
}
