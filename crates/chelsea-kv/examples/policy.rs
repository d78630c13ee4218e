//! A policy of one's own: entries whose values are long are kept. `cargo run -p chelsea-kv --example policy`

use chelsea_kv::policy::{Evict, FLOOR, HEADS_EVEN, Heads, PolicyInfo, Scorer, View, register};
use chelsea_kv::{Budget, CacheConfig, CacheShape, PoolFull, Rotary, SequenceCache, policy};
use std::sync::Arc;

/// Scores an entry by the length of its value. A method that drops entries is its score and nothing else.
#[derive(Debug)]
struct LongValues;

impl Scorer for LongValues {
    fn name(&self) -> &'static str {
        "long-values"
    }

    fn scores(&self, view: &View<'_>, _target: usize, _heads: Heads) -> Result<Vec<Vec<f32>>, PoolFull> {
        view.map_heads(|head| {
            let mut value = vec![0.0; head.dims().value];
            let mut length = |i: usize| {
                head.read_value(i, &mut value);
                value.iter().map(|x| x * x).sum::<f32>().sqrt()
            };
            Ok((0..head.len()).map(&mut length).collect())
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    register(&[PolicyInfo {
        name: "long-values",
        about: "keep the entries with the longest values",
        source: "an example",
        one_shot_only: false,
        settings: &[HEADS_EVEN, FLOOR],
        make: |settings| Ok(Arc::new(Evict::make(LongValues, settings, Heads::Even, 0.2)?)),
    }]);

    let (tokens, head_dim) = (400, 8);
    let shape = CacheShape::uniform(1, 1, 1, head_dim, Rotary::plain(head_dim, 10_000.0))?;
    let policy = policy("long-values")?;
    let config = CacheConfig { policy, budget: Budget::EntryFraction(0.25), ..CacheConfig::new(shape) };
    let mut cache = SequenceCache::new(config)?;
    // Every tenth value is long.
    let value = |i: usize| if (i / head_dim).is_multiple_of(10) { 5.0 } else { 0.1 };
    let values: Vec<f32> = (0..tokens * head_dim).map(value).collect();
    cache.append(0, &vec![0.5; tokens * head_dim], &values)?;
    cache.compact()?;

    let heads = cache.heads();
    let kept: Vec<f32> = (0..heads[0].len()).map(|i| heads[0].position(i)).collect();
    println!("{} of {tokens} entries are kept: {kept:?}", cache.entries());
    assert!((0..tokens).step_by(10).all(|p| kept.contains(&(p as f32))), "long values are there");
    Ok(())
}
