//! How far a text has come, and how it is read.

/// How far a sequence has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Length {
    /// Tokens seen.
    pub tokens: usize,
    /// Tokens that the sequence is going to have, as far as known; 0 when it is not.
    pub expected: usize,
    /// Entries of each head that may stay as they are beyond the budget until then.
    pub recent: usize,
}

impl Length {
    /// Of a sequence of which nothing more is known.
    pub fn of(tokens: usize) -> Self {
        Length { tokens, ..Length::default() }
    }

    /// Tokens that the sequence is going to have, those seen at least.
    pub fn end(&self) -> usize {
        self.tokens.max(self.expected)
    }

    /// Tokens that are still to come, as far as known.
    pub fn to_come(self) -> usize {
        self.end() - self.tokens
    }

    /// Entries of each head that may stay beyond the budget now.
    pub fn beyond(&self) -> usize {
        if self.to_come() > 0 { self.recent } else { 0 }
    }
}

/// How a text is read under a budget: all that is derived from how many entries of each head reading may hold beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPlan {
    /// Tokens that pass through the model at once while the text is compressed.
    pub step: usize,
    /// Tokens that pass through the model at once where nothing has to be clustered for them, so that weights are opened
    /// less often.
    pub longest: usize,
    /// Latest tokens of the text that are left alone while the rest of it is still to be read.
    pub recent: usize,
    /// Entries of each head that are left of the block: for the page that each head may leave half empty, for what entries
    /// cost beside keys and values, and for what clustering takes for a while.
    pub slack: usize,
}

impl ReadPlan {
    /// Of a block of so many entries of each head: an eighth of them passes through the model at once, five eighths are
    /// the latest text, which the next tokens see best as it is. A page stays free where the block is short.
    pub fn of_block(block: usize, page: usize) -> Self {
        let step = block.div_ceil(8);
        let recent = (block * 5 / 8).min((block - step).saturating_sub(page));
        ReadPlan { step, longest: 2 * step, recent, slack: block - step - recent }
    }

    /// The same in steps of at most `tokens`, which may be shorter, so that others need not wait long for one to end.
    pub fn in_steps_of(self, tokens: usize) -> Self {
        let step = self.step.min(tokens.max(1));
        ReadPlan { step, longest: step, slack: self.slack + self.step - step, ..self }
    }

    /// Entries of each head that reading holds beyond the budget at most.
    pub fn block(&self) -> usize {
        self.step + self.recent + self.slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_step_the_latest_text_and_slack() {
        for block in [1, 7, 64, 100, 512, 1024, 4096] {
            let plan = ReadPlan::of_block(block, 64);
            assert_eq!(plan.block(), block);
            assert!(plan.step > 0 && (plan.slack >= 64.min(block - plan.step)), "{plan:?}");
        }
        assert_eq!(ReadPlan::of_block(1024, 64), ReadPlan { step: 128, longest: 256, recent: 640, slack: 256 });
    }
}
