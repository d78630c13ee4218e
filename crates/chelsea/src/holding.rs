//! What a budget asked for and what a cache holds: they differ where sinks, recent window and statistics alone take more,
//! and where a cache was made smaller before.

use crate::output;
use chelsea_engine::Session;
use chelsea_kv::LEAST_TOKENS;
use chelsea_kv::{Budget, PAGE, SequenceCache};
use serde::Serialize;

/// In what a budget is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes of the whole cache, everything counted.
    Bytes,
    /// Entries over all heads.
    Entries,
}

/// What was asked for and what is held, once a text was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holding {
    /// The budget, as it was asked for.
    pub budget: String,
    /// In what `asked` and `held` are counted.
    pub unit: Unit,
    /// The most that was asked for.
    pub asked: usize,
    /// What the cache holds.
    pub held: usize,
    /// The same as shares of the full cache.
    pub asked_share: f64,
    pub held_share: f64,
    /// Bytes of what the policy finds out about queries and attention.
    pub statistics_bytes: usize,
    /// Whether more is held than was asked for.
    pub exceeded: bool,
    #[serde(skip)]
    policy: &'static str,
    #[serde(skip)]
    least_entries: usize,
    #[serde(skip)]
    tokens: usize,
}

impl Holding {
    /// Of a session that has read a text and has answered nothing yet: what an answer piles up is clustered later.
    pub fn of(session: &Session) -> Holding {
        Holding::of_cache(session.cache())
    }

    fn of_cache(cache: &SequenceCache) -> Holding {
        let config = cache.config();
        let (tokens, heads) = (cache.tokens(), config.shape.growing_heads());
        let (unit, asked) = match config.budget {
            Budget::EntryFraction(share) => (Unit::Entries, (f64::from(share) * (tokens * heads) as f64) as usize),
            Budget::ByteFraction(share) => {
                (Unit::Bytes, (f64::from(share) * config.shape.full_bytes(tokens.max(LEAST_TOKENS)) as f64) as usize)
            }
            Budget::Entries(entries) => (Unit::Entries, entries.saturating_mul(heads)),
            Budget::Bytes(bytes) => (Unit::Bytes, bytes),
        };
        let (held, full) = match unit {
            Unit::Entries => (cache.entries(), tokens * heads),
            Unit::Bytes => (cache.memory().total(), cache.full_bytes()),
        };
        let share = |n: usize| if full == 0 { 0.0 } else { n as f64 / full as f64 };
        Holding {
            budget: config.budget.to_string(),
            unit,
            asked,
            held,
            asked_share: match config.budget {
                Budget::EntryFraction(asked) | Budget::ByteFraction(asked) => f64::from(asked),
                Budget::Entries(_) | Budget::Bytes(_) => share(asked),
            },
            held_share: share(held),
            statistics_bytes: cache.statistics_bytes(),
            // A share of a few dozen entries asks for nothing that a cache could give up.
            exceeded: held > asked && (tokens >= LEAST_TOKENS || !matches!(config.budget, Budget::EntryFraction(_))),
            policy: config.policy.name(),
            least_entries: config.sinks + config.window + 1,
            tokens,
        }
    }

    /// `held 20.8% of 10% asked`.
    pub fn text(&self) -> String {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let asked = percent(self.asked_share);
        format!(
            "held {} of {} asked",
            percent(self.held_share),
            asked.strip_suffix(".0%").map_or(asked.clone(), |n| format!("{n}%"))
        )
    }

    /// Whether the two can be compared: shares are of texts of [`LEAST_TOKENS`] at least.
    pub fn is_telling(&self) -> bool {
        self.asked_share < 1.0 && (self.tokens >= LEAST_TOKENS || self.exceeded)
    }

    /// What to say when the budget is exceeded; nothing when it is not.
    pub fn warning(&self) -> Option<String> {
        if !self.exceeded {
            return None;
        }
        let statistics = match self.statistics_bytes {
            0 => String::new(),
            bytes => format!(", and policy `{}` keeps statistics of {}", self.policy, output::bytes(bytes)),
        };
        Some(format!(
            "the cache {}: of {} tokens, {} entries per head are never given up (sinks, recent window), in pages of {PAGE}\
             {statistics}",
            self.text(),
            self.tokens,
            self.least_entries
        ))
    }

    /// What to say when a loaded cache was given a larger budget than it was made with: what is gone does not come back.
    pub fn loaded_warning(&self, saved: Budget) -> Option<String> {
        (self.held as f64 * 1.1 < self.asked as f64 && saved.to_string() != self.budget).then(|| {
            format!(
                "the cache {}: it was saved with a budget of {saved}, and what was merged then does not come back",
                self.text()
            )
        })
    }
}

/// The least that a cache can be made to hold of a long text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Least {
    /// Entries per head that are never given up, and one centroid.
    pub entries_per_head: usize,
    /// Bytes of them, everything counted.
    pub bytes: usize,
    /// Bytes of statistics among them.
    pub statistics_bytes: usize,
}

impl Least {
    /// Of a cache with these settings.
    ///
    /// # Errors
    /// If they make no cache.
    pub fn of(config: &chelsea_kv::CacheConfig) -> Result<Least, chelsea_kv::CacheError> {
        let entries = config.sinks + config.window + 1;
        let cache = SequenceCache::synthetic(config.clone(), entries + 1, entries, 0)?;
        Ok(Least {
            entries_per_head: entries,
            bytes: cache.memory().total(),
            statistics_bytes: cache.statistics_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chelsea_kv::{CacheConfig, CacheShape, Rotary};

    fn shape() -> CacheShape {
        CacheShape::uniform(2, 2, 2, 32, Rotary::plain(32, 1e4)).expect("a shape")
    }

    fn cache(budget: Budget, tokens: usize, entries: usize) -> SequenceCache {
        let config = CacheConfig { budget, ..CacheConfig::new(shape()) };
        SequenceCache::synthetic(config, tokens, entries, 1).expect("a cache")
    }

    #[test]
    fn what_is_held_is_compared_with_what_was_asked() {
        let within = Holding::of_cache(&cache(Budget::EntryFraction(0.25), 4000, 1000));
        assert_eq!((within.asked, within.held, within.exceeded), (4000, 4000, false));
        assert_eq!(within.text(), "held 25.0% of 25% asked");
        let beyond = Holding::of_cache(&cache(Budget::EntryFraction(0.1), 4000, 1000));
        assert!(beyond.exceeded);
        let said = beyond.warning().expect("a warning");
        assert!(said.contains("held 25.0% of 10% asked") && said.contains("69 entries per head"), "{said}");
        let bytes = Holding::of_cache(&cache(Budget::ByteFraction(0.05), 4000, 1000));
        assert!(bytes.exceeded && bytes.unit == Unit::Bytes && bytes.held_share > 0.25, "{bytes:?}");
        assert!(!Holding::of_cache(&cache(Budget::Entries(1000), 4000, 1000)).exceeded);
        assert!(
            !Holding::of_cache(&cache(Budget::EntryFraction(0.1), 60, 60)).exceeded,
            "sixty tokens are not worth a word"
        );
    }

    #[test]
    fn a_cache_that_was_smaller_says_so() {
        let loaded = Holding::of_cache(&cache(Budget::EntryFraction(0.5), 4000, 400));
        let said = loaded.loaded_warning(Budget::EntryFraction(0.1)).expect("a warning");
        assert!(said.contains("held 10.0% of 50% asked") && said.contains("10% of the entries"), "{said}");
        assert_eq!(loaded.loaded_warning(Budget::EntryFraction(0.5)), None);
        assert_eq!(
            Holding::of_cache(&cache(Budget::EntryFraction(0.1), 4000, 400)).loaded_warning(Budget::EntryFraction(0.5)),
            None
        );
    }

    #[test]
    fn the_least_is_more_with_statistics() {
        chelsea_baselines::register();
        let least = |policy: &str| {
            let policy = chelsea_kv::policy(policy).expect("known");
            let config = CacheConfig { policy, budget: Budget::ByteFraction(0.1), ..CacheConfig::new(shape()) };
            Least::of(&config).expect("a cache")
        };
        let (plain, h2o) = (least("streaming"), least("h2o"));
        assert_eq!((plain.entries_per_head, plain.statistics_bytes), (69, 0));
        assert!(h2o.statistics_bytes > 0 && h2o.bytes >= plain.bytes + h2o.statistics_bytes, "{h2o:?} {plain:?}");
    }
}
