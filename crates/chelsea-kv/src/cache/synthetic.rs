//! Caches filled with random entries: for timing long contexts without reading them.

use super::{CacheConfig, CacheError, MAX_TOKENS, SequenceCache, Statistics};
use crate::budget::Length;
use crate::{Head, LayerSpec, PAGE, Page};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

impl CacheConfig {
    /// Entries over all heads that the budget allows a sequence of `tokens` tokens.
    pub fn allowed(&self, tokens: usize) -> usize {
        self.budget.allowed(&self.limits(), Length::of(tokens))
    }
}

impl SequenceCache {
    /// A cache as a sequence of `tokens` tokens might leave it: every head holds `entries` random
    /// entries whose counts add up to `tokens`, all but the recent ones clustered. Speed and memory are those of a real
    /// one; what attention finds in it means nothing.
    ///
    /// # Errors
    /// If `config` makes no cache, or `entries` tokens do not fit into `tokens`, or those into a sequence, or the pool has
    /// no room.
    pub fn synthetic(config: CacheConfig, tokens: usize, entries: usize, seed: u64) -> Result<Self, CacheError> {
        config.validate()?;
        if tokens > MAX_TOKENS {
            return Err(CacheError::TooLong(MAX_TOKENS));
        }
        if entries > tokens || (entries == 0 && tokens > 0) {
            return Err(CacheError::Synthetic { entries, tokens });
        }
        let (shape, dtype) = (config.shape.clone(), config.dtype);
        let head = |(_, layer): (usize, &LayerSpec)| Head::new(layer.dims(), dtype);
        let mut heads: Vec<Head> = shape.layer_of_heads().map(head).collect();
        // Sinks and window stand for one token each; what is over lies between them.
        let layers: Vec<&LayerSpec> = shape.layer_of_heads().map(|(_, layer)| layer).collect();
        let (sinks, window) = (config.sinks.min(entries), config.window.min(entries));
        let middle = sinks..entries.saturating_sub(window).max(sinks);
        let spread = middle.len();
        let held = |layer: &&LayerSpec| layer.window.map_or(entries, |window| (window - 1).min(tokens));
        let pages = layers.iter().map(|layer| held(layer).div_ceil(PAGE) * Page::bytes(layer.dims(), dtype));
        let reserved = config.pool.reserve(pages.sum())?;
        heads.par_iter_mut().enumerate().for_each(|(g, head)| {
            let mut rng = SmallRng::seed_from_u64(seed ^ (g as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut numbers = vec![0.0f32; layers[g].key_dim + layers[g].value_dim];
            let mut position = 0;
            if let Some(window) = layers[g].window {
                for position in tokens.saturating_sub(window - 1)..tokens {
                    numbers.iter_mut().for_each(|x| *x = rng.random_range(-1.0..1.0));
                    let (key, value) = numbers.split_at(layers[g].key_dim);
                    head.push_from(key, value, 1, position as f32, &reserved);
                }
                return;
            }
            for i in 0..entries {
                numbers.iter_mut().for_each(|x| *x = rng.random_range(-1.0..1.0));
                let extra = tokens - entries;
                let count = if middle.contains(&i) {
                    let j = i - middle.start;
                    1 + (extra * (j + 1) / spread - extra * j / spread)
                } else if spread == 0 && i == 0 {
                    1 + extra
                } else {
                    1
                };
                let (key, value) = numbers.split_at(layers[g].key_dim);
                head.push_from(key, value, count as u32, position as f32 + (count - 1) as f32 / 2.0, &reserved);
                position += count;
            }
        });
        drop(reserved);
        let mut cache = Self::from_heads(config, heads, tokens, Statistics::default())?;
        cache.compacted_at = tokens;
        if entries < tokens {
            let grown: Vec<usize> = cache.growing().collect();
            grown.into_iter().for_each(|g| cache.frozen[g] = middle.end);
        }
        Ok(cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, CacheShape, Rotary};

    fn config() -> CacheConfig {
        let rotary = Rotary { inv_freq: vec![1.0, 0.1, 0.01, 0.001], scale: 1.0 };
        CacheConfig::new(CacheShape::uniform(2, 4, 2, 8, rotary).unwrap())
    }

    #[test]
    fn counts_add_up_to_the_tokens_and_sinks_and_window_are_single() {
        for (tokens, entries) in [(1000, 300), (1000, 1000), (70, 3), (0, 0), (500, 69)] {
            let cache = SequenceCache::synthetic(config(), tokens, entries, 3).unwrap();
            for head in cache.heads().iter() {
                let counts: Vec<u32> = (0..head.len()).map(|i| head.count(i)).collect();
                assert_eq!(counts.iter().sum::<u32>() as usize, tokens);
                assert_eq!(counts.len(), entries);
                if entries > 68 {
                    assert!(counts[..4].iter().chain(&counts[entries - 64..]).all(|&n| n == 1));
                }
            }
            assert_eq!(cache.tokens(), tokens);
        }
    }

    #[test]
    fn the_next_compaction_clusters_what_is_new() {
        let config = CacheConfig { budget: Budget::EntryFraction(0.3), ..config() };
        let mut cache = SequenceCache::synthetic(config.clone(), 1000, 300, 3).unwrap();
        let clustered = |cache: &SequenceCache| -> Vec<u32> {
            cache.heads().iter().flat_map(|head| (0..300 - config.window).map(|i| head.count(i))).collect()
        };
        let before = clustered(&cache);
        let rows: Vec<f32> = (0..64 * 2 * 8).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        for layer in 0..2 {
            cache.append(layer, &rows, &rows).unwrap();
        }
        assert!(cache.compact().unwrap().compacted);
        assert!(cache.entries() < 4 * 364);
        assert_eq!(clustered(&cache), before);
    }

    #[test]
    fn more_entries_than_tokens_are_refused() {
        assert!(matches!(
            SequenceCache::synthetic(config(), 10, 11, 0),
            Err(CacheError::Synthetic { entries: 11, tokens: 10 })
        ));
    }

    #[test]
    fn a_new_budget_and_policy_act_at_the_next_compaction() {
        let mut cache = SequenceCache::synthetic(config(), 1000, 1000, 3).unwrap();
        cache.reconfigure(crate::policy("streaming").unwrap(), Budget::EntryFraction(0.2)).unwrap();
        cache.compact_now(None).unwrap();
        assert_eq!(cache.entries(), 800);
        assert!(cache.reconfigure(crate::policy("full").unwrap(), Budget::EntryFraction(0.2)).is_err());
    }
}
