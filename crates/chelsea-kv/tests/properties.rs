//! What holds for every cache, whatever goes through it.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_kv::merge::{EVICT, are_roots, merge_head, survivors};
use chelsea_kv::policy::{Chelsea, HeadView, Plan, View};
use chelsea_kv::scratch::ScratchMeter;
use chelsea_kv::{Budget, CacheConfig, Dtype, Head, Policy, Rotary, SequenceCache, attention, budget};
use common::{Uniform, policy, registry};
use proptest::prelude::*;

const SHAPE: Uniform = Uniform { layers: 2, kv_heads: 2, q_heads: 4, head_dim: 8 };
const SINKS: usize = 3;
const WINDOW: usize = 10;

/// Numbers in [-1, 1) that depend on the seed alone.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn row(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn random_head(noise: &mut Noise, len: usize, dim: usize, dtype: Dtype, counted: bool) -> Head {
    let mut head = Head::new(dim, dtype);
    for i in 0..len {
        let count = if counted { 1 + (noise.next().abs() * 5.0) as u32 } else { 1 };
        head.push(&noise.row(dim), &noise.row(dim), count, i as f32);
    }
    head
}

fn config(name: &str, budget: Budget) -> CacheConfig {
    CacheConfig {
        sinks: SINKS,
        window: WINDOW,
        policy: policy(name).expect("registered"),
        budget,
        decode_block: 8,
        ..CacheConfig::new(SHAPE.shape())
    }
}

/// Sends a block of `n` tokens through all layers.
fn feed(cache: &mut SequenceCache, noise: &mut Noise, n: usize) {
    let shape = SHAPE;
    let mut out = vec![0.0; n * shape.q_heads * shape.head_dim];
    for layer in 0..shape.layers {
        let (k, v) = (noise.row(n * shape.kv_heads * shape.head_dim), noise.row(n * shape.kv_heads * shape.head_dim));
        cache.append(layer, &k, &v).expect("in step");
        cache.attend(layer, &noise.row(out.len()), &mut out).unwrap();
        assert!(out.iter().all(|x| x.is_finite()));
    }
}

/// Everything an entry is: key, value, count and position, as bits.
fn entry(head: &Head, i: usize) -> (Vec<u32>, u32, u32) {
    let dim = head.head_dim();
    let mut row = vec![0.0; 2 * dim];
    let (key, value) = row.split_at_mut(dim);
    head.read_key(i, key);
    head.read_value(i, value);
    (row.iter().map(|x| x.to_bits()).collect(), head.count(i), head.position(i).to_bits())
}

fn entries(head: &Head) -> Vec<(Vec<u32>, u32, u32)> {
    (0..head.len()).map(|i| entry(head, i)).collect()
}

fn total_count(head: &Head) -> u64 {
    (0..head.len()).map(|i| u64::from(head.count(i))).sum()
}

fn plan_for(
    policy: &dyn Policy,
    heads: &[Head],
    range: impl Fn(&Head) -> std::ops::Range<usize>,
    target: usize,
) -> Plan {
    let rotary = Rotary::plain(heads[0].head_dim(), 10_000.0);
    let meter = ScratchMeter::default();
    let views = heads.iter().map(|head| HeadView::new(head, range(head), &rotary, Vec::new(), 1.0)).collect();
    policy.plan(&View { heads: views, tokens: 1000, scratch: &meter }, target).unwrap()
}

/// Roots that could come from any policy: a survivor at every third place, the rest joins one or goes.
fn some_roots(len: usize, choices: &[u8]) -> Vec<u32> {
    let alive: Vec<usize> = (0..len).filter(|i| choices[i % choices.len()].is_multiple_of(3)).collect();
    (0..len)
        .map(|i| match choices[i % choices.len()] {
            c if c % 3 == 0 => i as u32,
            c if c % 3 == 1 && !alive.is_empty() => alive[(usize::from(c) * 7 + i) % alive.len()] as u32,
            _ => EVICT,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_conserves_count_position_and_order(
        seed: u64, len in 1usize..200, front in 0usize..5, back in 0usize..80,
        choices in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut head = random_head(&mut Noise(seed), front + len + back, 8, Dtype::F32, true);
        let before = entries(&head);
        let roots: Vec<u32> = some_roots(len, &choices);
        prop_assert!(are_roots(&roots));
        let left = merge_head(&mut head, front..front + len, &roots, &ScratchMeter::default());
        prop_assert_eq!(left, survivors(&roots));
        prop_assert_eq!(head.len(), front + left + back);
        let after = entries(&head);
        prop_assert_eq!(&after[..front], &before[..front]);
        prop_assert_eq!(&after[front + left..], &before[front + len..]);
        let alive = (0..len).filter(|&i| roots[i] as usize == i);
        for (at, root) in alive.enumerate() {
            let members: Vec<usize> = (0..len).filter(|&i| roots[i] as usize == root).collect();
            let made = &after[front + at];
            if members.len() == 1 {
                prop_assert_eq!(made, &before[front + root]);
                continue;
            }
            let count: u32 = members.iter().map(|&i| before[front + i].1).sum();
            prop_assert_eq!(made.1, count);
            let mean = |of: &dyn Fn(usize) -> f32| {
                members.iter().map(|&i| f64::from(before[front + i].1) * f64::from(of(i))).sum::<f64>() / f64::from(count)
            };
            let position = mean(&|i| f32::from_bits(before[front + i].2));
            prop_assert!((f64::from(f32::from_bits(made.2)) - position).abs() < 1e-4);
            for k in 0..16 {
                let wanted = mean(&|i| f32::from_bits(before[front + i].0[k]));
                prop_assert!((f64::from(f32::from_bits(made.0[k])) - wanted).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn merging_along_no_edge_is_the_identity(seed: u64, len in 0usize..150) {
        let mut head = random_head(&mut Noise(seed), len, 8, Dtype::F16, true);
        let before = head.clone();
        let roots: Vec<u32> = (0..len as u32).collect();
        merge_head(&mut head, 0..len, &roots, &ScratchMeter::default());
        prop_assert_eq!(entries(&head), entries(&before));
        let shared = head.pages().iter().zip(before.pages()).all(|(x, y)| x.is_same(y));
        prop_assert!(shared, "nothing is written");
    }

    #[test]
    fn every_policy_meets_ragged_totals_with_valid_roots(
        seed: u64, lens in prop::collection::vec(0usize..300, 1..6), share in 0.05f64..1.0,
    ) {
        let mut noise = Noise(seed);
        let heads: Vec<Head> = lens.iter().map(|&len| random_head(&mut noise, len, 8, Dtype::F16, true)).collect();
        let all: usize = lens.iter().sum();
        let occupied = lens.iter().filter(|&&len| len > 0).count();
        let target = ((all as f64 * share) as usize).max(occupied);
        for info in registry() {
            let policy = policy(info.name).unwrap();
            let plan = plan_for(&*policy, &heads, |head| 0..head.len(), target);
            prop_assert_eq!(plan.heads(), heads.len());
            prop_assert!((0..heads.len()).all(|g| are_roots(plan.roots(g))));
            let left: usize = (0..heads.len()).map(|g| plan.survivors(g, lens[g])).sum();
            if policy.keeps_everything() {
                prop_assert_eq!(left, all);
            } else {
                prop_assert_eq!(left, target.min(all), "{}", info.name);
            }
        }
    }

    #[test]
    fn clustering_conserves_the_total_count_and_keeps_every_floor(
        seed: u64, lens in prop::collection::vec(40usize..200, 2..5), share in 0.1f64..0.9, floor in 0.0f64..1.0,
    ) {
        let mut noise = Noise(seed);
        let mut heads: Vec<Head> = lens.iter().map(|&len| random_head(&mut noise, len, 8, Dtype::F16, false)).collect();
        // One head of nearly equal keys: the pool would take everything from it.
        for i in 0..heads[0].len() {
            let mut same = Head::new(8, Dtype::F16);
            if i == 0 {
                (0..lens[0]).for_each(|p| same.push(&[1e-3; 8], &[1.0; 8], 1, p as f32));
                heads[0] = same;
            }
        }
        let target = ((lens.iter().sum::<usize>() as f64 * share) as usize).max(lens.len());
        let policy = Chelsea { floor, ..Chelsea::default() };
        let plan = plan_for(&policy, &heads, |head| 0..head.len(), target);
        let least = ((floor * target as f64 / lens.len() as f64).ceil() as usize).min(target / lens.len());
        for (g, head) in heads.iter_mut().enumerate() {
            let count = total_count(head);
            if !plan.roots(g).is_empty() {
                merge_head(head, 0..lens[g], plan.roots(g), &ScratchMeter::default());
            }
            prop_assert_eq!(total_count(head), count);
            prop_assert!(head.len() >= least.min(lens[g]), "{} of {}, floor {}", head.len(), lens[g], least);
        }
        let left: usize = heads.iter().map(Head::len).sum();
        prop_assert!(left <= target, "{left} of {target}, floor {floor}");
    }

    #[test]
    fn merging_equal_entries_changes_no_output(seed: u64, distinct in 1usize..40, copies in 2usize..6) {
        let mut noise = Noise(seed);
        let rows: Vec<(Vec<f32>, Vec<f32>)> = (0..distinct).map(|_| (noise.row(8), noise.row(8))).collect();
        let mut head = Head::new(8, Dtype::F32);
        for i in 0..distinct * copies {
            let (key, value) = &rows[i % distinct];
            head.push(key, value, 1, i as f32);
        }
        let q = noise.row(8 * 4);
        let attend = |head: &Head| {
            let mut out = vec![0.0; q.len()];
            let request = attention::Request { heads: std::slice::from_ref(head), q: &q, n: 1, out: &mut out };
            attention::attend_batch(&mut [request], &attention::Attention::full(4, 1.0));
            out
        };
        let before = attend(&head);
        let roots: Vec<u32> = (0..distinct * copies).map(|i| (i % distinct) as u32).collect();
        merge_head(&mut head, 0..distinct * copies, &roots, &ScratchMeter::default());
        prop_assert_eq!(head.len(), distinct);
        for (x, y) in before.iter().zip(attend(&head)) {
            prop_assert!((x - y).abs() < 1e-5);
        }
    }

    #[test]
    fn budgets_hold_through_any_run(
        seed: u64, blocks in prop::collection::vec(1usize..90, 1..14), which in 0usize..6, name: prop::sample::Index,
        expect: bool, recent in 0usize..60,
    ) {
        let online = registry().into_iter().filter(|info| info.name != "full" && !info.one_shot_only);
        let names: Vec<&str> = online.map(|info| info.name).collect();
        let name = name.index(names.len());
        let keeps = [Budget::EntryFraction(0.2), Budget::EntryFraction(0.5), Budget::EntryFraction(1.0)];
        let budget = [&keeps[..], &[Budget::Entries(80), Budget::Bytes(150_000), Budget::ByteFraction(0.3)]].concat()[which];
        let config = config(names[name], budget);
        let mut cache = SequenceCache::new(config).unwrap();
        let mut noise = Noise(seed);
        if expect {
            cache.expect_tokens(blocks.iter().sum(), recent);
        }
        let heads = SHAPE.heads();
        for &n in &blocks {
            let tail: Vec<_> = cache.heads().iter().map(|head| entries(head).split_off(head.len().saturating_sub(WINDOW - 1))).collect();
            let sinks: Vec<_> = cache.heads().iter().map(|head| entries(head).into_iter().take(SINKS).collect::<Vec<_>>()).collect();
            let fits = n <= cache.tokens_until_due();
            feed(&mut cache, &mut noise, n);
            let arrived: Vec<_> = cache.heads().iter().map(entries).collect();
            let report = cache.compact().unwrap();
            let more_to_come = expect && cache.tokens() < blocks.iter().sum();
            prop_assert!(!(fits && report.compacted && (more_to_come || recent == 0)), "{n} tokens had room");
            prop_assert_eq!(report.after, cache.entries());
            let length = cache.tokens().max(if expect { blocks.iter().sum() } else { 0 });
            let allowed = match budget {
                Budget::EntryFraction(ratio) => (f64::from(ratio) * (length * heads) as f64 + 1e-3).max(((SINKS + WINDOW + 1) * heads) as f64),
                Budget::Entries(n) => (n * heads) as f64,
                Budget::Bytes(_) | Budget::ByteFraction(_) => f64::INFINITY,
            };
            // As many as decode_block entries a head may pile up beyond what was left for text to come before a compaction is
            // due.
            let reading = expect && cache.tokens() < blocks.iter().sum();
            let beyond = if reading { recent * heads } else { 0 };
            let piled_up = beyond + if report.compacted { 0 } else { 8 * heads };
            prop_assert!(cache.entries() as f64 <= allowed + piled_up as f64, "{} > {allowed}", cache.entries());
            if let Budget::Bytes(bytes) = budget
                && report.compacted && !reading {
                    prop_assert!(cache.memory().total() <= bytes);
                }
            if let Budget::ByteFraction(share) = budget
                && report.compacted && !reading && cache.entries() > (SINKS + WINDOW + 1) * heads {
                    let bytes = f64::from(share) * SHAPE.shape().full_bytes(length.max(budget::LEAST_TOKENS)) as f64;
                    prop_assert!(cache.memory().total() as f64 <= bytes, "{} > {bytes}", cache.memory().total());
                }
            for (g, head) in cache.heads().iter().enumerate() {
                let now = entries(head);
                prop_assert_eq!(&now[..sinks[g].len().min(SINKS)], &sinks[g][..]);
                let window = WINDOW.min(arrived[g].len());
                prop_assert_eq!(&now[now.len() - window..], &arrived[g][arrived[g].len() - window..]);
                if names[name].starts_with("chelsea") || names[name] == "pool" {
                    prop_assert_eq!(total_count(head), cache.tokens() as u64);
                }
                if n == 1 && !report.compacted {
                    prop_assert_eq!(&now[now.len() - 1 - tail[g].len()..now.len() - 1], &tail[g][..]);
                }
            }
            prop_assert_eq!(cache.peak() >= cache.memory().total(), true);
        }
        cache.compact_now(None).unwrap();
        let allowed = match budget {
            Budget::EntryFraction(ratio) => ((f64::from(ratio) * (cache.tokens() * heads) as f64) as usize).max((SINKS + WINDOW + 1) * heads),
            Budget::Entries(n) => n * heads,
            Budget::Bytes(_) | Budget::ByteFraction(_) => usize::MAX,
        };
        prop_assert!(cache.entries() <= allowed.max(cache.tokens().min(SINKS + WINDOW + 1) * heads));
    }

    #[test]
    fn forks_go_their_own_ways(seed: u64, first in 1usize..200, left in 1usize..150, right in 1usize..150) {
        let mut noise = Noise(seed);
        let mut origin = SequenceCache::new(config("chelsea", Budget::EntryFraction(0.3))).unwrap();
        feed(&mut origin, &mut noise, first);
        origin.compact().unwrap();
        let mut fork = origin.fork().unwrap();
        prop_assert_eq!(fork.memory().shared, fork.memory().total() - fork.memory().fixed);
        let frozen: Vec<_> = origin.heads().iter().map(entries).collect();
        let mut twin = SequenceCache::new(origin.config().clone()).unwrap();
        feed(&mut twin, &mut Noise(seed), first);
        twin.compact().unwrap();
        feed(&mut fork, &mut noise, left);
        fork.compact().unwrap();
        prop_assert_eq!(&origin.heads().iter().map(entries).collect::<Vec<_>>(), &frozen);
        let forked: Vec<_> = fork.heads().iter().map(entries).collect();
        feed(&mut origin, &mut Noise(seed ^ 1), right);
        origin.compact().unwrap();
        prop_assert_eq!(&fork.heads().iter().map(entries).collect::<Vec<_>>(), &forked);
        feed(&mut twin, &mut Noise(seed ^ 1), right);
        twin.compact().unwrap();
        prop_assert_eq!(
            twin.heads().iter().map(entries).collect::<Vec<_>>(),
            origin.heads().iter().map(entries).collect::<Vec<_>>(),
            "a cache that was forked behaves as one that was not"
        );
    }
}
