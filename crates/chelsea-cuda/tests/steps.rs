//! Decode steps as graphs, and what of their logits comes back.

#![allow(clippy::unwrap_used)]

mod common;

use chelsea_cuda::{
    About, Address, CudaModel, Device, DeviceError, HalvesProduct, Launcher, Launches, Prepared, Shape,
};
use chelsea_emulator::Schedule;
use chelsea_kv::{Dtype, SequenceCache};
use chelsea_model::{Chunk, Model, Wanted, Workspace};
use common::{on, token};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A device that counts what it is asked to enqueue.
#[derive(Debug)]
struct Counting {
    device: Arc<dyn Device>,
    launched: AtomicUsize,
    prepared: AtomicUsize,
    replayed: AtomicUsize,
    read: AtomicUsize,
}

impl Counting {
    fn new() -> Arc<Self> {
        let [launched, prepared, replayed, read] = [0; 4].map(AtomicUsize::new);
        Arc::new(Counting { device: common::device(Schedule::InOrder), launched, prepared, replayed, read })
    }

    /// What was counted since this was asked last: launches, graphs that were made, and graphs that were replayed.
    fn counted(&self) -> [usize; 3] {
        [&self.launched, &self.prepared, &self.replayed].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

impl Launcher for Counting {
    fn launch(&self, kernel: &'static str, shape: Shape, arguments: &[u8]) -> Result<(), DeviceError> {
        self.launched.fetch_add(1, Ordering::Relaxed);
        self.device.launch(kernel, shape, arguments)
    }
}

impl Device for Counting {
    fn about(&self) -> &About {
        self.device.about()
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        self.device.allocate(bytes)
    }

    fn free(&self, at: Address, bytes: usize) {
        self.device.free(at, bytes);
    }

    fn write(&self, at: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(at, bytes)
    }

    fn read(&self, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        self.device.read(at, bytes)
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.device.copy(from, to, bytes)
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.device.zero(at, bytes)
    }

    fn prepare(&self, launches: &Launches) -> Result<Prepared, DeviceError> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        self.device.prepare(launches)
    }

    fn replay(&self, prepared: Prepared) -> Result<(), DeviceError> {
        self.replayed.fetch_add(1, Ordering::Relaxed);
        self.device.replay(prepared)
    }

    fn forget(&self, prepared: Prepared) {
        self.device.forget(prepared);
    }

    fn multiply(&self, product: &HalvesProduct) -> Result<bool, DeviceError> {
        self.device.multiply(product)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.device.synchronize()
    }
}

/// The same random model, with graphs and without.
fn models(name: &str) -> (Model, Model, Arc<Counting>) {
    let counting = Counting::new();
    let with = on(counting.clone(), name, |model| model);
    (with, on(common::device(Schedule::InOrder), name, CudaModel::without_graphs), counting)
}

/// Statistics of queries are made for the one, and not for the other.
fn cache(model: &Model, dtype: Dtype, keep: f32) -> SequenceCache {
    common::cache(model, dtype, if keep < 1.0 { "chelsea" } else { "full" }, keep)
}

#[test]
fn replayed_steps_have_the_bits_of_launched_ones_across_pages_and_compactions() {
    for (name, dtype, keep) in
        [("tiny", Dtype::F16, 1.0), ("tiny-qwen3", Dtype::Q8, 0.5), ("tiny-qwen2", Dtype::K8V4, 0.5)]
    {
        let (graphs, launches, counting) = models(name);
        let mut ws = [Workspace::new(), Workspace::new()];
        let models = [&graphs, &launches];
        let mut caches = models.map(|model| [0; 2].map(|_| cache(model, dtype, keep)));
        // Rows of both texts, then of the first alone, then of both again.
        let mut step = |tokens: [usize; 2], compacts: bool| {
            let mut found = Vec::new();
            for ((model, ws), caches) in models.iter().zip(&mut ws).zip(&mut caches) {
                let texts: Vec<Vec<u32>> = caches
                    .iter()
                    .zip(tokens)
                    .enumerate()
                    .map(|(i, (cache, n))| (0..n).map(|t| token(cache.tokens() + t + i)).collect())
                    .collect();
                let given = caches.iter_mut().zip(&texts).filter(|(_, tokens)| !tokens.is_empty());
                let mut batch: Vec<Chunk<'_>> =
                    given.map(|(cache, tokens)| Chunk { tokens, cache, logits: Wanted::Last }).collect();
                model.forward(&mut batch, ws).unwrap();
                found.push(ws.logits().to_vec());
                if compacts {
                    for cache in caches.iter_mut() {
                        cache.compact().unwrap();
                    }
                }
            }
            assert!(found[0] == found[1], "{}: {tokens:?}", dtype.name());
        };
        step([90, 54], true);
        counting.counted();
        let mut replayed = 0;
        let mut one_by_one = 0;
        for i in 0..48 {
            step(if (20..24).contains(&i) { [1, 0] } else { [1, 1] }, i % 8 == 7);
            let [launched, prepared, graphs] = counting.counted();
            assert!(prepared <= 1 && graphs <= 1);
            replayed += graphs;
            one_by_one += usize::from(graphs == 0);
            // What a graph does not do: a page that is new is told that it is empty; and a compaction.
            assert!(graphs == 0 || i % 8 == 7 || launched <= 1, "step {i}: {launched} launches beside a graph");
        }
        assert!(replayed >= 36 && one_by_one >= 2, "{name}: {replayed} of 48 steps were replayed");
    }
}

#[test]
fn a_step_starts_ten_kernels_a_layer_and_three_in_the_end() {
    // Heads that are no whole blocks are rounded by a kernel of their own, and norms of heads are two.
    for (name, of_layer) in [("tiny-qwen2", 10), ("tiny", 11), ("tiny-qwen3", 12)] {
        let (model, _, counting) = models(name);
        let mut ws = Workspace::new();
        let mut cache = cache(&model, Dtype::F16, 1.0);
        let layers = model.config().layers.len();
        model.forward(&mut [Chunk { tokens: &[1, 2, 3], cache: &mut cache, logits: Wanted::None }], &mut ws).unwrap();
        counting.counted();
        let mut step = |token: u32| {
            let mut batch = [Chunk { tokens: &[token], cache: &mut cache, logits: Wanted::Held }];
            model.forward(&mut batch, &mut ws).unwrap();
            counting.counted()
        };
        // The last norm and product, and the likeliest tokens.
        assert_eq!(step(4), [of_layer * layers + 3, 0, 0], "{name}");
        assert_eq!(step(5), [0, 1, 1]);
        assert_eq!(step(6), [0, 0, 1]);
    }
}

#[test]
fn logits_that_stay_are_those_that_come_and_few_bytes_are_read() {
    let (model, _, counting) = models("tiny");
    let mut ws = Workspace::new();
    let mut caches = [0; 3].map(|_| cache(&model, Dtype::F16, 1.0));
    let tokens = [5u32, 6, 7];
    let mut run = |caches: &mut [SequenceCache; 3], wanted: [Wanted; 3]| {
        let chunks = caches.iter_mut().zip(&tokens).zip(wanted);
        let mut batch: Vec<Chunk<'_>> = chunks
            .map(|((cache, token), logits)| Chunk { tokens: std::slice::from_ref(token), cache, logits })
            .collect();
        model.forward(&mut batch, &mut ws).unwrap();
        (ws.logits().to_vec(), ws.held().to_vec())
    };
    let mut forks = caches.each_ref().map(|cache| cache.fork().unwrap());
    let (all, none) = run(&mut forks, [Wanted::Last; 3]);
    assert!(none.is_empty() && all.len() == 3 * 320);
    counting.read.store(0, Ordering::Relaxed);
    let (come, held) = run(&mut caches, [Wanted::Held, Wanted::Last, Wanted::Held]);
    let read = counting.read.load(Ordering::Relaxed);
    assert_eq!(read, 320 * 4 + 3 * 256 * 8, "the row that was to come, and the likeliest of each");
    let rows: Vec<&[f32]> = all.chunks(320).collect();
    assert_eq!(come, rows[1]);
    assert_eq!(held.len(), 2);
    for (held, row) in held.iter().zip([rows[0], rows[2]]) {
        let mut sorted: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        assert_eq!(held.likeliest(), &sorted[..256]);
    }
    // Another pass does not touch what is held.
    run(&mut caches, [Wanted::Held; 3]);
    assert_eq!([held[0].all(), held[1].all()], [rows[0], rows[2]]);
}
