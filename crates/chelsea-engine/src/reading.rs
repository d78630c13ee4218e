//! A text on its way into a sequence, chunk by chunk.
//!
//! Reading is a step that can be taken up again: between two chunks other sequences may have their turn, or reading may
//! end for good. How long chunks are depends on the text and on the sequence's own cache alone, never on who else is
//! served: the same text always meets the same compactions.

use chelsea_kv::ReadPlan;
use std::sync::Arc;

/// What is left of a text.
#[derive(Debug, Clone)]
pub struct Reading {
    tokens: Arc<[u32]>,
    done: usize,
    scored: bool,
}

impl Reading {
    /// All of `tokens` is still to be read.
    pub fn new(tokens: impl Into<Arc<[u32]>>) -> Self {
        Reading { tokens: tokens.into(), done: 0, scored: false }
    }

    /// The same with logits after every token: [`Runner::logits`](crate::Runner::logits) has those of a chunk once it was
    /// read. How the text is cut into chunks, and so what becomes of the cache, is the same. The logits after its last token
    /// come with the others of their chunk, so they may differ from those of a text that is only read by as much as
    /// products of several rows at once differ from those of one.
    pub fn scored(self) -> Self {
        Reading { scored: true, ..self }
    }

    /// Whether logits after every token are wanted.
    pub fn is_scored(&self) -> bool {
        self.scored
    }

    /// Tokens read so far.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Tokens of the whole text.
    pub fn total(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens that are still to be read.
    pub fn left(&self) -> &[u32] {
        &self.tokens[self.done..]
    }

    /// Whether all was read.
    pub fn is_done(&self) -> bool {
        self.left().is_empty()
    }

    /// The next chunk: a step of the plan, or the longest one where the cache can take in so many (`until_due`) before a
    /// compaction can fall due. Empty when all was read.
    pub fn next(&self, plan: &ReadPlan, until_due: usize) -> &[u32] {
        let left = self.left();
        let (step, longest) = (plan.step.min(left.len()), plan.longest.min(left.len()));
        &left[..if until_due >= longest { longest } else { step }]
    }

    /// Takes note that the next `tokens` were read.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.done += tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_kv::PAGE;

    #[test]
    fn chunks_are_steps_and_twice_as_long_where_nothing_falls_due() {
        let plan = ReadPlan::of_block(64, PAGE);
        let mut reading = Reading::new([0; 30].as_slice());
        let mut lengths = Vec::new();
        for until_due in [16, 13, 0, 1] {
            let n = reading.next(&plan, until_due).len();
            lengths.push(n);
            reading.advance(n);
        }
        // After the last chunk nothing is left.
        assert_eq!(lengths, [16, 8, 6, 0]);
        assert!(reading.is_done());
        assert_eq!((reading.done(), reading.total()), (30, 30));
    }
}
