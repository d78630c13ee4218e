//! How many entries a sequence may keep.
//!
//! Budgets speak of the whole sequence: all layers and KV heads together, sinks and recent window
//! included. How the total is shared among heads is the policy's business.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// How much of the cache is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// A share of all entries, in (0, 1]; 1 keeps everything.
    EntryFraction(f32),
    /// A share, in (0, 1], of the bytes that a full cache of 16-bit numbers takes, everything counted: the fewer bits
    /// this cache has for a number, the more entries it keeps. Texts below [`LEAST_TOKENS`] count as that long.
    ByteFraction(f32),
    /// This many entries per head on average; the context may grow without bound.
    Entries(usize),
    /// This many bytes for the whole sequence, everything counted; the context may grow without bound.
    Bytes(usize),
}

/// Tokens that a share of the bytes is of at least: to cluster a few hundred saves nothing worth it. A quarter of so many is
/// room for 512 tokens and an answer in 8 bits, none of which is then clustered.
pub const LEAST_TOKENS: usize = 1536;

/// A budget that cannot be held.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BudgetError {
    /// A keep ratio outside (0, 1].
    #[error("keep ratio {0} is out of range: it must be above 0 and at most 1")]
    Ratio(f32),
    /// A share of the bytes outside (0, 1].
    #[error("a budget of {}% is out of range: it must be above 0% and at most 100%", .0 * 100.0)]
    ByteFraction(f32),
    /// Sinks, window and one page do not fit.
    #[error(
        "a budget of {entries} entries per head is too small: {sinks} sinks, a recent window of {window} and one page \
         of {page} entries need {needed}"
    )]
    Entries {
        /// What was asked for.
        entries: usize,
        /// Attention sinks of a head.
        sinks: usize,
        /// Recent window of a head.
        window: usize,
        /// Entries of a page.
        page: usize,
        /// The least that works.
        needed: usize,
    },
    /// Sinks, window and one page do not fit.
    #[error(
        "a budget of {bytes} bytes is too small: {sinks} sinks, a recent window of {window} and one page of entries \
         over {heads} KV heads need {needed} bytes"
    )]
    Bytes {
        /// What was asked for.
        bytes: usize,
        /// Attention sinks of a head.
        sinks: usize,
        /// Recent window of a head.
        window: usize,
        /// KV heads over all layers.
        heads: usize,
        /// The least that works.
        needed: usize,
    },
    /// The layers with a sliding window alone take more.
    #[error(
        "a budget of {bytes} bytes is too small: the layers with a sliding window take {needed} bytes, and no policy can \
         make them smaller"
    )]
    Sliding {
        /// What was asked for.
        bytes: usize,
        /// What those layers take.
        needed: usize,
    },
    /// Text that is no budget.
    #[error("`{0}` is not a budget: write a share like 25%, entries per head like 20000, or bytes like 512MiB")]
    Unreadable(String),
}

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

/// What a budget must know of the cache it is for. Only heads of layers that grow with the text can give entries up; a
/// layer with a sliding window takes its bytes off the budget, whatever it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// KV heads over all layers that grow.
    pub heads: usize,
    /// Attention sinks of a head.
    pub sinks: usize,
    /// Recent window of a head, at least.
    pub window: usize,
    /// Of what is kept of a head beyond [`SPARSE`], the share that its recent window is at least, up to [`WIDEST_WINDOW`].
    pub recent_share: f64,
    /// Entries of a page.
    pub page: usize,
    /// Bytes of a page of a layer that grows, everything counted.
    pub page_bytes: usize,
    /// Bytes that do not depend on the number of entries.
    pub fixed_bytes: usize,
    /// Bytes of a token over all heads that grow in a full cache of 16-bit numbers.
    pub full_token_bytes: usize,
    /// The layers with a sliding window.
    pub sliding: Vec<Sliding>,
}

/// A layer with a sliding window, as far as a budget is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sliding {
    /// Tokens that it sees.
    pub window: usize,
    /// Bytes of one page for each of its heads, everything counted.
    pub page_bytes: usize,
    /// Bytes of a token over its heads in a full cache of 16-bit numbers.
    pub full_token_bytes: usize,
}

/// Where no more than this share of a text is kept, what lies further back needs every entry: no policy widens the recent
/// window there.
pub const SPARSE: f64 = 0.2;

/// A policy widens the recent window to so many entries at most: how much the next tokens look back falls with distance,
/// however long the text is.
pub const WIDEST_WINDOW: usize = 512;

impl Limits {
    /// Entries of a head that are never touched, at least.
    pub fn protected(&self) -> usize {
        self.sinks + self.window
    }

    /// Last entries of a head that are not touched where `kept` of `tokens` stay.
    pub fn recent_window(&self, kept: f64, tokens: usize) -> usize {
        let dense = (kept - SPARSE * tokens as f64).max(0.0);
        ((self.recent_share * dense) as usize).min(WIDEST_WINDOW).max(self.window)
    }

    /// Bytes that the layers with a sliding window hold of a text of `tokens`, between two steps. Their entries begin and
    /// end anywhere in a page.
    pub fn sliding_bytes(&self, tokens: usize) -> usize {
        let held = |layer: &Sliding| (layer.window.min(tokens).div_ceil(self.page) + 1) * layer.page_bytes;
        self.sliding.iter().map(held).sum()
    }

    /// Bytes of a full cache of 16-bit numbers, of `tokens` tokens.
    fn full_bytes(&self, tokens: usize) -> usize {
        let sliding = self.sliding.iter().map(|layer| layer.window.min(tokens) * layer.full_token_bytes);
        tokens * self.full_token_bytes + sliding.sum::<usize>()
    }

    /// Entries over all heads that are sure to fit in `bytes`, of a text of `tokens`: each head may waste up to a page
    /// less one entry.
    fn entries_in(&self, bytes: usize, tokens: usize) -> usize {
        let left = bytes.saturating_sub(self.fixed_bytes + self.sliding_bytes(tokens));
        let pages = left.checked_div(self.page_bytes).unwrap_or(0);
        (pages * self.page).saturating_sub(self.heads * (self.page - 1))
    }

    /// Share of the entries of `tokens` tokens that are sure to fit in `share` of the bytes of a full 16-bit cache.
    fn ratio_in(&self, share: f32, tokens: usize) -> f64 {
        let bytes = f64::from(share) * self.full_bytes(tokens.max(LEAST_TOKENS)) as f64;
        let all = (tokens as f64 / self.page as f64).ceil() * (self.heads * self.page_bytes) as f64;
        if all + (self.fixed_bytes + self.sliding_bytes(tokens)) as f64 <= bytes {
            return 1.0;
        }
        (self.entries_in(bytes as usize, tokens) as f64 / (tokens as f64 * self.heads as f64)).min(1.0)
    }

    /// The least bytes in which `entries` a head are sure to fit.
    fn bytes_for(&self, entries: usize) -> usize {
        let slots = self.heads * (entries + self.page - 1);
        slots.div_ceil(self.page) * self.page_bytes + self.fixed_bytes + self.sliding_bytes(usize::MAX)
    }
}

impl Budget {
    /// Checks that the budget can be held.
    pub fn validate(&self, limits: &Limits) -> Result<(), BudgetError> {
        let needed = limits.protected() + limits.page;
        let (sinks, window) = (limits.sinks, limits.window);
        match *self {
            Budget::EntryFraction(ratio) if !(ratio > 0.0 && ratio <= 1.0) => Err(BudgetError::Ratio(ratio)),
            Budget::ByteFraction(share) if !(share > 0.0 && share <= 1.0) => Err(BudgetError::ByteFraction(share)),
            Budget::Entries(entries) if entries < needed => {
                Err(BudgetError::Entries { entries, sinks, window, page: limits.page, needed })
            }
            Budget::Bytes(bytes) if bytes < limits.sliding_bytes(usize::MAX) => {
                Err(BudgetError::Sliding { bytes, needed: limits.sliding_bytes(usize::MAX) })
            }
            Budget::Bytes(bytes) if bytes < limits.bytes_for(needed) => {
                let needed = limits.bytes_for(needed);
                Err(BudgetError::Bytes { bytes, sinks, window, heads: limits.heads, needed })
            }
            _ => Ok(()),
        }
    }

    /// Whether the budget of a text of `tokens` does not grow with it.
    pub fn is_absolute(&self, tokens: usize) -> bool {
        match self {
            Budget::EntryFraction(_) => false,
            Budget::ByteFraction(_) => tokens < LEAST_TOKENS,
            Budget::Entries(_) | Budget::Bytes(_) => true,
        }
    }

    /// Entries over all heads that a sequence may hold, never more than it has.
    ///
    /// A keep ratio holds for `max(tokens, expected)` tokens: what lies between sinks and recent window
    /// ([`Budget::recent_window`]) is kept at one rate from the start, such that the ratio is met when the expected length is reached.
    /// It never asks for less than sinks, window and one centroid a head. So does a share of the bytes.
    ///
    /// This is what a compaction leaves. One is due only when [`Budget::ceiling`] is passed.
    pub fn allowed(&self, limits: &Limits, at: Length) -> usize {
        let tokens = at.tokens;
        let all = tokens * limits.heads;
        let beyond = at.beyond() * limits.heads;
        let in_proportion = |ratio: f64| {
            let length = at.end() as f64;
            let protected = (limits.sinks + limits.recent_window(ratio * length, at.end())) as f64;
            let middle = (tokens as f64 - protected - at.beyond() as f64).max(0.0);
            let rate = if length > protected {
                ((ratio * length - protected) / (length - protected)).clamp(0.0, 1.0)
            } else {
                1.0
            };
            let total = ((protected + rate * middle) * limits.heads as f64 + 1e-6).floor() as usize;
            total.max((limits.protected() + 1) * limits.heads)
        };
        let allowed = match *self {
            Budget::EntryFraction(ratio) => in_proportion(f64::from(ratio)),
            Budget::ByteFraction(share) => in_proportion(limits.ratio_in(share, at.end())),
            Budget::Entries(entries) => entries.saturating_mul(limits.heads),
            Budget::Bytes(bytes) => limits.entries_in(bytes, at.end()),
        };
        allowed.saturating_add(beyond).min(all)
    }

    /// Last entries of each head that are not touched, of a text that has come so far.
    pub fn recent_window(&self, limits: &Limits, at: Length) -> usize {
        let kept = match *self {
            Budget::EntryFraction(ratio) => f64::from(ratio) * at.end() as f64,
            Budget::ByteFraction(share) => limits.ratio_in(share, at.end()) * at.end() as f64,
            Budget::Entries(entries) => entries as f64,
            Budget::Bytes(bytes) => limits.entries_in(bytes, at.end()) as f64 / limits.heads.max(1) as f64,
        };
        limits.recent_window(kept, at.end())
    }

    /// Entries over all heads that a sequence may grow to before it has to give any up.
    ///
    /// A share is meant of the whole expected text. Until the cache holds as many entries as that share of the whole
    /// comes to, all may stay as they are. So the next blocks are read over a fuller cache, and what is clustered at once
    /// is a longer piece of the text, over which entries can be shared out better.
    pub fn ceiling(&self, limits: &Limits, at: Length) -> usize {
        let end = Length::of(at.end());
        self.allowed(limits, end).saturating_add(at.beyond() * limits.heads)
    }
}

impl fmt::Display for Budget {
    /// What [`Budget::from_str`] reads; a share of the entries says that it is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f32| (f64::from(share) * 1e4).round() / 100.0;
        match *self {
            Budget::EntryFraction(1.0) => f.write_str("100%"),
            Budget::EntryFraction(ratio) => write!(f, "{}% of the entries", percent(ratio)),
            Budget::ByteFraction(share) => write!(f, "{}%", percent(share)),
            Budget::Entries(entries) => write!(f, "{entries}"),
            Budget::Bytes(bytes) => write!(f, "{bytes}B"),
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    /// Reads `25%` (a share of the bytes; `100%` is the full cache), `20000` (entries per head) or `512MiB` (bytes; B, KB,
    /// MB, GB, KiB, MiB, GiB).
    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let unreadable = || BudgetError::Unreadable(text.to_owned());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        if unit.is_empty() {
            return number.parse().map(Budget::Entries).map_err(|_| unreadable());
        }
        let number: f64 = number.parse().map_err(|_| unreadable())?;
        let factor = match unit.as_str() {
            "%" if number == 100.0 => return Ok(Budget::EntryFraction(1.0)),
            "%" if number > 0.0 && number < 100.0 => return Ok(Budget::ByteFraction((number / 100.0) as f32)),
            "%" => return Err(BudgetError::ByteFraction(number as f32 / 100.0)),
            "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(unreadable()),
        };
        Ok(Budget::Bytes((number * factor) as usize))
    }
}

/// Shares `total` entries among heads that have `lens`, as evenly as their lengths allow.
pub fn even_shares(lens: &[usize], total: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|&g| (lens[g], std::cmp::Reverse(g)));
    let mut shares = vec![0; lens.len()];
    let mut left = total;
    for (i, &g) in order.iter().enumerate() {
        // Rounded down for the shortest heads, so that of equal heads the first get what is left over.
        shares[g] = lens[g].min(left / (order.len() - i));
        left -= shares[g];
    }
    shares
}

/// The least a head keeps when the average is `total / heads` and every head is promised `floor` of it; rounded up where
/// all together stay within the total.
pub fn head_floor(floor: f64, total: usize, heads: usize) -> usize {
    let least = (floor * total as f64 / heads as f64).ceil() as usize;
    least.min(total / heads)
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

    #[test]
    fn floors_of_all_heads_together_are_within_the_total() {
        for (floor, total, heads) in [(1.0, 101, 2), (0.9, 3, 2), (0.05, 7, 90), (0.5, 1000, 3), (0.0, 10, 2)] {
            let least = head_floor(floor, total, heads);
            assert!(least * heads <= total && least as f64 + 1.0 > floor * total as f64 / heads as f64);
        }
        assert_eq!(head_floor(0.05, 100, 2), 3);
    }

    /// Of 6 heads of 32 dimensions: 128 bytes per entry in a full cache, somewhat more here.
    const LIMITS: Limits = Limits {
        heads: 6,
        sinks: 4,
        window: 64,
        recent_share: 0.0,
        page: 64,
        page_bytes: 10_000,
        fixed_bytes: 500,
        full_token_bytes: 768,
        sliding: Vec::new(),
    };

    fn reading(tokens: usize, expected: usize) -> Length {
        Length { tokens, expected, recent: 0 }
    }

    #[test]
    fn a_keep_ratio_is_met_and_never_exceeded() {
        for tokens in 0..3000 {
            let allowed = Budget::EntryFraction(0.25).allowed(&LIMITS, Length::of(tokens));
            let least = (69 * 6).min(tokens * 6);
            assert!(allowed == least || allowed as f64 <= 0.25 * (tokens * 6) as f64 + 1e-6, "{tokens}");
        }
        assert_eq!(Budget::EntryFraction(0.25).allowed(&LIMITS, Length::of(1000)), 1500);
        assert_eq!(Budget::EntryFraction(1.0).allowed(&LIMITS, Length::of(1000)), 6000);
        assert_eq!(Budget::EntryFraction(0.25).allowed(&LIMITS, Length::of(10)), 60);
    }

    #[test]
    fn an_expected_length_keeps_more_at_the_start_and_the_ratio_at_the_end() {
        let budget = Budget::EntryFraction(0.2);
        assert!(budget.allowed(&LIMITS, reading(512, 8000)) > budget.allowed(&LIMITS, Length::of(512)));
        assert_eq!(budget.allowed(&LIMITS, reading(8000, 8000)), 9600);
        assert!((0..8000).all(|t| budget.allowed(&LIMITS, reading(t, 8000)) <= 9600));
    }

    #[test]
    fn the_ceiling_is_what_the_expected_length_may_keep() {
        let (budget, absolute) = (Budget::EntryFraction(0.2), Budget::Entries(1000));
        for tokens in (0..10_000).step_by(100) {
            let (ceiling, allowed) =
                (budget.ceiling(&LIMITS, reading(tokens, 8000)), budget.allowed(&LIMITS, reading(tokens, 8000)));
            assert!(ceiling >= allowed && ceiling as f64 <= 0.2 * (tokens.max(8000) * 6) as f64 + 1e-6, "{tokens}");
            assert!(tokens < 8000 || ceiling == allowed, "{tokens}");
            assert_eq!(absolute.ceiling(&LIMITS, reading(tokens, 8000)), 6000);
        }
    }

    #[test]
    fn what_is_recent_may_stay_beyond_the_budget_until_all_is_read() {
        for budget in
            [Budget::EntryFraction(0.2), Budget::ByteFraction(0.3), Budget::Entries(1600), Budget::Bytes(2_000_000)]
        {
            for tokens in (0..=8000).step_by(100) {
                let (plain, more) = (reading(tokens, 8000), Length { recent: 300, ..reading(tokens, 8000) });
                let (ceiling, allowed) = (budget.ceiling(&LIMITS, plain), budget.allowed(&LIMITS, plain));
                let beyond = if tokens < 8000 { 300 * 6 } else { 0 };
                assert_eq!(budget.ceiling(&LIMITS, more), ceiling + beyond);
                let more = budget.allowed(&LIMITS, more);
                assert!((allowed..=allowed + beyond).contains(&more), "{tokens}: {allowed} and {more}");
            }
        }
    }

    #[test]
    fn a_share_of_the_bytes_holds_with_the_worst_slack_and_is_no_waste_in_long_texts() {
        let (whole, half) = (LIMITS, Limits { page_bytes: 5_000, ..LIMITS });
        for share in [0.1, 0.25, 0.5, 1.0] {
            let bytes = |tokens: usize| f64::from(share) * (tokens * 768) as f64;
            for tokens in (4_000..200_000).step_by(997) {
                for limits in [LIMITS, half.clone()] {
                    let entries = Budget::ByteFraction(share).allowed(&limits, reading(tokens, tokens));
                    let most = (entries + 6 * 63) / 64 * limits.page_bytes + 500;
                    assert!(most as f64 <= bytes(tokens) || entries == tokens * 6, "{share} of {tokens}: {most}");
                }
            }
            let entries = |limits| Budget::ByteFraction(share).allowed(limits, Length::of(200_000));
            assert!(entries(&whole) * 10_000 / 64 > (0.98 * bytes(200_000)) as usize);
            assert!(entries(&half) == 1_200_000 || entries(&half) > entries(&whole) * 199 / 100);
        }
    }

    #[test]
    fn a_share_leaves_short_texts_alone_that_fit_into_that_of_longer_ones() {
        let allowed = |tokens| Budget::ByteFraction(0.25).allowed(&LIMITS, Length::of(tokens));
        // A quarter of so many tokens is room for some whole pages of 64 entries per head.
        let whole = (LEAST_TOKENS * LIMITS.full_token_bytes / 4 - LIMITS.fixed_bytes) / (6 * LIMITS.page_bytes) * 64;
        assert!(whole > 192);
        for tokens in 0..=whole {
            assert_eq!(allowed(tokens), tokens * 6);
        }
        assert!(((whole - 64) * 6..whole * 6).contains(&allowed(whole + 1)));
        for tokens in whole + 1..LEAST_TOKENS {
            assert!(allowed(tokens).abs_diff(allowed(whole + 1)) <= 1, "{tokens}");
            assert!(Budget::ByteFraction(0.25).is_absolute(tokens));
        }
        assert!(!Budget::ByteFraction(0.25).is_absolute(LEAST_TOKENS));
        assert!(allowed(2 * LEAST_TOKENS) > 2 * allowed(whole + 1));
    }

    #[test]
    fn a_byte_budget_holds_with_the_worst_slack() {
        let budget = Budget::Bytes(500 + 10_000 * 100);
        let entries = budget.allowed(&LIMITS, Length::of(1_000_000));
        let worst_pages = (entries + 6 * 63) / 64;
        assert!(worst_pages * 10_000 + 500 <= 500 + 10_000 * 100);
        assert!(entries > 90 * 64);
    }

    #[test]
    fn impossible_budgets_say_what_is_needed() {
        for ratio in [0.0, -1.0, 1.5, f32::NAN] {
            assert!(matches!(Budget::EntryFraction(ratio).validate(&LIMITS), Err(BudgetError::Ratio(_))));
            assert!(matches!(Budget::ByteFraction(ratio).validate(&LIMITS), Err(BudgetError::ByteFraction(_))));
        }
        let error = Budget::Entries(100).validate(&LIMITS).unwrap_err();
        assert!(error.to_string().contains("need 132"), "{error}");
        let Err(BudgetError::Bytes { needed, .. }) = Budget::Bytes(1000).validate(&LIMITS) else {
            panic!("a thousand bytes hold nothing")
        };
        assert!(Budget::Bytes(needed).validate(&LIMITS).is_ok());
        assert!(Budget::Bytes(needed - 1).validate(&LIMITS).is_err());
        assert!(Budget::Bytes(needed).allowed(&LIMITS, Length::of(1_000_000)) >= 132 * 6);
    }

    #[test]
    fn budgets_are_read_from_text() {
        assert_eq!("25%".parse(), Ok(Budget::ByteFraction(0.25)));
        assert_eq!("100%".parse(), Ok(Budget::EntryFraction(1.0)));
        for text in ["25%", "12.5%", "100%", "20000", "536870912B"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        for share in ["0%", "101%"] {
            assert!(share.parse::<Budget>().unwrap_err().to_string().contains(share), "{share}");
        }
        assert_eq!("20000".parse(), Ok(Budget::Entries(20_000)));
        assert_eq!("512MiB".parse(), Ok(Budget::Bytes(512 << 20)));
        assert_eq!("1.5 gb".parse(), Ok(Budget::Bytes(1_500_000_000)));
        for text in ["", "-1", "1.5", "12 apples", "MiB", "nan"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_even_where_lengths_allow() {
        assert_eq!(even_shares(&[10, 10, 10], 10), [4, 3, 3]);
        assert_eq!(even_shares(&[1, 10, 10], 11), [1, 5, 5]);
        assert_eq!(even_shares(&[0, 2], 10), [0, 2]);
    }
}
