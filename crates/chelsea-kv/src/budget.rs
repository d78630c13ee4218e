//! How many entries a sequence may keep.
//!
//! Budgets speak of the whole sequence: all layers and KV heads together, sinks and recent window
//! included. How the total is shared among heads is the policy's business.

mod error;
mod length;
mod limits;
mod shares;

pub use error::BudgetError;
pub use length::{Length, ReadPlan};
pub use limits::{Limits, Sliding};
pub use shares::{even_shares, head_floor};

use std::fmt;
use std::str::FromStr;

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
    /// ([`Budget::recent_window`]) is kept at one rate from the start, such that the ratio is met when the expected length is
    /// reached. It never asks for less than sinks, window and one centroid a head. So does a share of the bytes.
    ///
    /// This is what a compaction leaves. One is due only when [`Budget::ceiling`] is passed.
    pub fn allowed(&self, limits: &Limits, at: Length) -> usize {
        let tokens = at.tokens;
        let all = tokens * limits.heads;
        let beyond = at.beyond() * limits.heads;
        let in_proportion = |ratio: f64| {
            let length = at.end() as f64;
            let protected = (limits.sinks + self.recent_window(limits, at)) as f64;
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for limits in [LIMITS, Limits { recent_share: 0.4, ..LIMITS }, Limits { recent_share: 1.0, ..LIMITS }] {
            for (tokens, ratio) in (0..3000).flat_map(|tokens| [(tokens, 0.25), (tokens, 0.5)]) {
                let allowed = Budget::EntryFraction(ratio).allowed(&limits, Length::of(tokens));
                let least = (69 * 6).min(tokens * 6);
                assert!(
                    allowed == least || allowed as f64 <= f64::from(ratio) * (tokens * 6) as f64 + 1e-6,
                    "{tokens}"
                );
            }
        }
        assert_eq!(Budget::EntryFraction(0.25).allowed(&LIMITS, Length::of(1000)), 1500);
        assert_eq!(Budget::EntryFraction(1.0).allowed(&LIMITS, Length::of(1000)), 6000);
        assert_eq!(Budget::EntryFraction(0.25).allowed(&LIMITS, Length::of(10)), 60);
    }

    #[test]
    fn the_recent_window_is_wider_where_much_is_kept() {
        let limits = Limits { recent_share: 0.4, ..LIMITS };
        let window = |budget: Budget, tokens| budget.recent_window(&limits, Length::of(tokens));
        assert_eq!(window(Budget::EntryFraction(0.5), 2000), 240);
        assert_eq!(window(Budget::EntryFraction(0.5), 100_000), limits::WIDEST_WINDOW);
        assert_eq!(window(Budget::EntryFraction(0.2), 100_000), 64);
        assert_eq!(window(Budget::EntryFraction(0.5), 200), 64, "what was asked for at least");
        assert_eq!(window(Budget::Entries(1000), 2000), 240);
        assert_eq!(window(Budget::Entries(1000), 100_000), 64, "of a long text a thousand entries are few");
        assert_eq!(
            Budget::EntryFraction(0.5).recent_window(&LIMITS, Length::of(2000)),
            64,
            "where a policy says nothing"
        );
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
}
