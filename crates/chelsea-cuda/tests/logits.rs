//! A device's logits against exact ones, through reading, clustering, decoding and batches: those of the CPU's products in f32, of
//! the same random weights, which are quantised.
//!
//! The device opens weights to 16 bits for all chunks here ([`CudaModel::opening_from`]). Of a cache in 16 bits no logit is then
//! further off than a hundredth of the logits' spread. Caches in 8 and in 4 bits round entries: a number that is a little
//! different may be rounded the other way, by a whole step. So does the default for short chunks and single tokens, whose
//! activations are rounded to bytes: `model.rs` holds it against the CPU's bytes.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_cuda::{CudaModel, CudaStore};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_kv::backend::{Candidates, Clustering};
use chelsea_kv::policy::{Chelsea, Needs, Plan, View};
use chelsea_kv::{Dtype, Policy, PoolFull, SequenceCache};
use chelsea_linear::Products;
use chelsea_model::{Model, Wanted, Workspace};
use common::{VOCAB, apart, cache, cache_with, on, random, run, token};
use std::sync::{Arc, Mutex};

/// The CPU's exact products, and a device that opens weights for chunks of so many tokens.
fn models(name: &str, opens_from: usize) -> [Model; 2] {
    let device = common::device(Schedule::InOrder);
    [random(name, Products::F32), on(device, name, |model: CudaModel| model.opening_from(opens_from))]
}

/// A plan for two caches of the same text, one on a device and one on the CPU: made by the device's kernels, carried out by both.
///
/// Plans of the two differ where merges cost all but the same, and what is merged then moves logits by more than what is rounded.
#[derive(Debug, Default)]
struct Shared {
    recipe: Chelsea,
    /// A fork of the cache on the device, as it is before its compaction.
    before: Mutex<Option<SequenceCache>>,
    /// What was made of it, for the other.
    made: Mutex<Option<Plan>>,
}

impl Policy for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn needs(&self) -> Needs {
        self.recipe.needs()
    }

    fn recent_share(&self) -> f64 {
        self.recipe.recent_share()
    }

    fn plan(&self, view: &View<'_>, target: usize) -> Result<Plan, PoolFull> {
        let before = self.before.lock().unwrap().take();
        let Some(before) = before else { return Ok(self.made.lock().unwrap().take().unwrap()) };
        let heads = view.heads.iter().enumerate();
        let candidates = heads.map(|(head, of)| Candidates {
            head,
            range: of.first()..of.first() + of.len(),
            rotary: of.rotary(),
            query_power: of.query_power().to_vec(),
            value_scale: Some(of.value_scale()),
        });
        let clustering = Clustering { recipe: &self.recipe, heads: candidates.collect(), target };
        let store = before.store().as_any().downcast_ref::<CudaStore>().unwrap();
        let mut roots = vec![Vec::new(); view.heads.len()];
        for (head, clusters) in store.clusters(&clustering).unwrap() {
            let range = clustering.heads[head].range.clone();
            let mut own: Vec<u32> = (0..range.len() as u32).collect();
            // Survivors lie in the order of their clusters.
            let mut least = range.start as u32;
            for members in clusters.iter().filter(|members| range.contains(&(members[0] as usize))) {
                let root = *members.iter().find(|&&member| member >= least).unwrap();
                least = root + 1;
                members.iter().for_each(|&i| own[i as usize - range.start] = root - range.start as u32);
            }
            roots[head] = own;
        }
        let plan = Plan::new(roots);
        *self.made.lock().unwrap() = Some(plan.clone());
        Ok(plan)
    }
}

/// Tokens of a step of each of two texts: both are read, the second in longer chunks; then both are answered, one goes on
/// reading, and both are answered again.
const STEPS: [[usize; 2]; 16] = [
    [40, 70],
    [30, 0],
    [1, 41],
    [33, 33],
    [1, 1],
    [1, 1],
    [0, 1],
    [50, 1],
    [1, 1],
    [1, 1],
    [1, 1],
    [1, 1],
    [1, 1],
    [1, 1],
    [1, 1],
    [1, 1],
];

/// The logits of all rows of all steps, and how often caches were compacted. `before` is called before each compaction with the number of its
/// text.
fn answered(
    model: &Model,
    caches: &mut [SequenceCache; 2],
    mut before: impl FnMut(usize, &SequenceCache),
) -> (Vec<f32>, usize) {
    let (mut ws, mut logits, mut compactions) = (Workspace::new(), Vec::new(), 0);
    for tokens in STEPS {
        let given = caches.iter_mut().zip(tokens).enumerate().filter(|(_, (_, n))| *n > 0);
        let mut chunks: Vec<_> = given
            .map(|(text, (cache, n))| {
                let tokens = (0..n).map(|i| token(cache.tokens() + i + 5 * text)).collect();
                (cache, tokens, Wanted::All)
            })
            .collect();
        logits.extend(run(model, &mut ws, &mut chunks));
        for (text, cache) in caches.iter_mut().enumerate() {
            if cache.compaction_is_due() {
                before(text, cache);
                assert!(cache.compact().unwrap().compacted);
                compactions += 1;
            }
        }
    }
    (logits, compactions)
}

/// Root mean square and largest difference of two sets of rows, the largest of all rows, each in units of its row's spread.
fn furthest(x: &[f32], y: &[f32]) -> (f32, f32) {
    let rows = x.chunks(VOCAB).zip(y.chunks(VOCAB)).map(|(x, y)| apart(x, y));
    rows.fold((0.0, 0.0), |all: (f32, f32), row| (all.0.max(row.0), all.1.max(row.1)))
}

/// Logits of a device that plans by itself, of the CPU that carries out the same plans, and how many those were.
fn both(name: &str, dtype: Dtype, opens_from: usize, keep: f32) -> (Vec<f32>, Vec<f32>, usize) {
    let [cpu, cuda] = models(name, opens_from);
    let shared = [0; 2].map(|_| Arc::new(Shared::default()));
    let mut plans: [Vec<Plan>; 2] = Default::default();
    let caches = |model: &Model| [0, 1].map(|text| cache_with(model, dtype, shared[text].clone(), keep));
    let take = |text: usize| shared[text].made.lock().unwrap().take();
    let (of_device, compactions) = answered(&cuda, &mut caches(&cuda), |text, cache| {
        plans[text].extend(take(text));
        *shared[text].before.lock().unwrap() = Some(cache.fork().unwrap());
    });
    plans.iter_mut().enumerate().for_each(|(text, plans)| plans.extend(take(text)));
    let mut plans = plans.map(Vec::into_iter);
    let (of_cpu, of_plans) = answered(&cpu, &mut caches(&cpu), |text, _| {
        *shared[text].made.lock().unwrap() = plans[text].next();
    });
    assert_eq!((of_plans, plans.each_ref().map(|left| left.len())), (compactions, [0, 0]));
    // Nothing of that is another than what the device does where nobody looks.
    let mut caches = [0; 2].map(|_| cache(&cuda, dtype, "chelsea", keep));
    let (by_itself, _) = answered(&cuda, &mut caches, |_, _| ());
    assert!(by_itself == of_device, "{name}: the device makes other plans by itself");
    (of_cpu, by_itself, compactions)
}

#[test]
fn reading_clustering_decoding_and_batches_give_the_cpus_logits_within_a_hundredth_of_their_spread() {
    for name in ["tiny", "tiny-qwen2", "tiny-qwen3"] {
        let (of_cpu, of_device, compactions) = both(name, Dtype::F16, 1, 0.5);
        assert!(compactions >= 6, "{compactions} compactions");
        let (off, most) = furthest(&of_cpu, &of_device);
        println!("{name}: {off} and {most} of their spread apart");
        assert!(most <= 1e-2, "{name}: {most} of their spread apart");
    }
}

#[test]
fn what_is_rounded_to_bytes_moves_logits_by_hundredths_of_their_spread() {
    // Entries of caches; activations of single tokens; those of all. Of every row's root mean square, the largest.
    for (dtype, opens_from, bound) in
        [(Dtype::Q8, 1, 0.02), (Dtype::K8V4, 1, 0.06), (Dtype::F16, 9, 0.05), (Dtype::F16, usize::MAX, 0.05)]
    {
        let (of_cpu, of_device, _) = both("tiny", dtype, opens_from, 0.5);
        let (off, most) = furthest(&of_cpu, &of_device);
        println!("{}, opened from {opens_from}: {off} and {most} of their spread apart", dtype.name());
        assert!(off <= bound, "{}, opened from {opens_from}: {off} of their spread apart", dtype.name());
    }
}

/// Logits behind a text that is read in steps of so many tokens, and of a token that is decoded then.
fn read(model: &Model, steps: &[usize]) -> [Vec<f32>; 2] {
    let (mut ws, mut cache) = (Workspace::new(), cache(model, Dtype::F16, "full", 1.0));
    for &step in steps {
        let tokens = (0..step).map(|t| token(cache.tokens() + t)).collect();
        run(model, &mut ws, &mut [(&mut cache, tokens, Wanted::Last)]);
    }
    let last = ws.logits().to_vec();
    [last, run(model, &mut ws, &mut [(&mut cache, vec![7], Wanted::Last)])]
}

#[test]
fn long_chunks_are_multiplied_by_opened_weights_with_a_library_and_without() {
    // By itself a device opens weights from 256 tokens on. What is not long (the last of a text, a decoded token) is rounded to
    // bytes.
    let exact = random("tiny", Products::F32);
    let with = on(common::device(Schedule::InOrder), "tiny", |model| model);
    let without = on(Arc::new(Emulator::new(Schedule::InOrder).without_library()), "tiny", |model| model);
    let bytes = on(common::device(Schedule::InOrder), "tiny", |model| model.opening_from(usize::MAX));
    let steps = [300, 256];
    let wanted = read(&exact, &steps);
    let [with, without, bytes] = [&with, &without, &bytes].map(|model| read(model, &steps));
    for i in 0..2 {
        let off = |logits: &[Vec<f32>; 2]| apart(&wanted[i], &logits[i]).0;
        println!("{} with a library, {} without, {} by bytes", off(&with), off(&without), off(&bytes));
        assert!(off(&with) <= 2e-2 && off(&without) <= 2e-2, "{}, {}", off(&with), off(&without));
        assert!(apart(&with[i], &without[i]).0 <= 1e-2);
    }
    assert!(with != bytes, "weights are opened for long chunks");
}

#[test]
fn a_long_chunk_has_the_same_bits_beside_others() {
    for library in [true, false] {
        let emulator = Emulator::new(Schedule::Reversed);
        let device = Arc::new(if library { emulator } else { emulator.without_library() });
        let cuda = on(device, "tiny-qwen2", |model| model.opening_from(20));
        let mut ws = Workspace::new();
        let texts: Vec<Vec<u32>> = [1, 33, 9, 20, 1, 40, 12].map(|n| (0..n).map(|i| token(i + n)).collect()).into();
        let new = || cache(&cuda, Dtype::F16, "chelsea", 1.0);
        let alone: Vec<f32> =
            texts.iter().flat_map(|text| run(&cuda, &mut ws, &mut [(&mut new(), text.clone(), Wanted::All)])).collect();
        let mut caches: Vec<SequenceCache> = texts.iter().map(|_| new()).collect();
        let mut chunks: Vec<_> =
            caches.iter_mut().zip(&texts).map(|(cache, text)| (cache, text.clone(), Wanted::All)).collect();
        assert!(run(&cuda, &mut ws, &mut chunks) == alone, "library: {library}");
    }
}
