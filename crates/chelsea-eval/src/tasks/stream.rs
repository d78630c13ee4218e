//! A stream: text that goes on and on while the cache stays as large as it is, as in a chat that is never closed.
//!
//! The text is plain, without a chat template, and every token of it is scored as it is read: how well the model predicts
//! it from what its cache holds by then. The text is scored piece by piece, so that a table can say whether predictions
//! become worse as it goes on.

use super::haystack::{Haystack, HaystackError, random};
use crate::sample::{Continuation, Document, Judge, Probe, Sample};

/// What a stream looks like.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Tokens of the text.
    pub tokens: usize,
    /// Pieces that are scored, each by itself.
    pub pieces: usize,
    /// Seed of the place in the haystack.
    pub seed: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions { tokens: 3000, pieces: 8, seed: 0 }
    }
}

/// Makes text number `index`. Of each piece all tokens but the first are scored.
pub fn sample(haystack: &Haystack, options: &StreamOptions, index: u64) -> Result<Sample, HaystackError> {
    let &StreamOptions { tokens, pieces, seed } = options;
    // The document is one token, and of each piece one is read and one scored at least.
    if pieces == 0 || tokens.saturating_sub(1) / 2 < pieces {
        return Err(HaystackError::Setting("a stream needs at least one piece, and more than two tokens for each"));
    }
    let all = haystack.token_stretch(&mut random(seed, index), tokens)?;
    let (document, rest) = all.split_at(1);
    let probe = |i: usize| {
        let piece = &rest[i * rest.len() / pieces..(i + 1) * rest.len() / pieces];
        let (cue, target) = piece.split_at(1);
        let depth = Some((i + 1) as f64 / pieces as f64);
        Probe::Continue(Continuation { cue: cue.to_vec(), target: target.to_vec(), judge: Judge::Target, depth })
    };
    Ok(Sample {
        task: "stream".into(),
        id: index.to_string(),
        length: tokens,
        system: None,
        document: Document::Tokens(document.to_vec()),
        probes: (0..pieces).map(probe).collect(),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::haystack::tests::hay;
    use super::*;

    #[test]
    fn every_token_is_read_once_and_in_order() {
        let hay = hay();
        for (tokens, pieces) in [(200, 8), (17, 8), (100, 1), (101, 3)] {
            let s = sample(&hay, &StreamOptions { tokens, pieces, seed: 9 }, 0).unwrap();
            let Document::Tokens(document) = &s.document else { panic!("tokens") };
            let mut read = document.clone();
            for probe in &s.probes {
                let Probe::Continue(c) = probe else { panic!("it is text") };
                assert!(!c.target.is_empty());
                read.extend(c.cue.iter().chain(&c.target));
            }
            assert_eq!(read, hay.token_stretch(&mut random(9, 0), tokens).unwrap());
            assert_eq!(s.probes.len(), pieces);
        }
    }

    #[test]
    fn pieces_without_anything_to_score_are_refused() {
        for (tokens, pieces) in [(16, 8), (0, 1), (2, 1), (100, 0)] {
            assert!(sample(&hay(), &StreamOptions { tokens, pieces, seed: 0 }, 0).is_err(), "{tokens}, {pieces}");
        }
    }
}
