//! A text on its way into a sequence, chunk by chunk.
//!
//! Reading is a step that can be taken up again: between two chunks other sequences may have their turn, or reading may
//! end for good. How long chunks are depends on the text and on the sequence's own cache alone, never on who else is
//! served: the same text always meets the same compactions.

use chelsea_kv::PAGE;
use std::sync::Arc;

/// How a block, the entries of each head that reading may hold beyond the budget, is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPlan {
    /// Tokens that pass through the model at once: an eighth of the block. Twice as many do where no compaction can
    /// fall due on the way, so that weights are opened half as often.
    pub step: usize,
    /// Latest tokens of the text that are left alone while the rest of it is still to be read: five eighths of the
    /// block, less where a small block leaves no room for a step and a page.
    pub recent: usize,
    /// What is left of the block for what entries cost beside keys and values, for the page that each head may leave
    /// half empty, and for what clustering takes for a while.
    pub slack: usize,
}

impl ReadPlan {
    /// The plan of a block of so many entries.
    pub fn of_block(block: usize) -> Self {
        let step = block.div_ceil(8);
        let recent = (block * 5 / 8).min((block - step).saturating_sub(PAGE));
        ReadPlan { step, recent, slack: block - step - recent }
    }
}

/// What is left of a text.
#[derive(Debug, Clone)]
pub struct Reading {
    tokens: Arc<[u32]>,
    done: usize,
}

impl Reading {
    /// All of `tokens` is still to be read.
    pub fn new(tokens: impl Into<Arc<[u32]>>) -> Self {
        Reading { tokens: tokens.into(), done: 0 }
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

    /// The next chunk: a step of the plan, or two where the cache can take in so many (`until_due`) before a
    /// compaction can fall due. Empty when all was read.
    pub fn next(&self, plan: &ReadPlan, until_due: usize) -> &[u32] {
        let left = self.left();
        let (step, twice) = (plan.step.min(left.len()), (2 * plan.step).min(left.len()));
        &left[..if until_due >= twice { twice } else { step }]
    }

    /// Takes note that the next `tokens` were read.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.done += tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_recent_text_and_slack_make_up_the_block() {
        for block in 1..5000 {
            let plan = ReadPlan::of_block(block);
            assert_eq!(plan.step + plan.recent + plan.slack, block);
            assert!(plan.step >= 1);
            assert!(plan.recent == 0 || plan.slack >= PAGE, "{block}: {plan:?}");
        }
        assert_eq!(ReadPlan::of_block(1024), ReadPlan { step: 128, recent: 640, slack: 256 });
    }

    #[test]
    fn chunks_are_steps_and_twice_as_long_where_nothing_falls_due() {
        let plan = ReadPlan::of_block(64);
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
