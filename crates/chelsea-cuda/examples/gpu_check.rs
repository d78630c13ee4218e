//! What a GPU reaches: the speed of a plain copy, decode steps of two well-known shapes at several depths, and a step of
//! reading. Weights and entries are made on the device, by lot. `cargo xtask gpu-check` runs this after the tests.
//!
//! ```sh
//! cargo run --release -p chelsea-cuda --example gpu_check            # GPU 0
//! cargo run --release -p chelsea-cuda --example gpu_check -- 1       # GPU 1
//! cargo run --release -p chelsea-cuda --example gpu_check -- emulated  # a tiny shape, to see that this program works
//! ```

use chelsea_cuda::driver::CudaDevice;
use chelsea_cuda::{About, Buffer, CudaBackend, CudaModel, CudaStore, CudaWeights, Device};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_kv::{Backend, Budget, CacheConfig, Dtype, Policy, SequenceCache};
use chelsea_model::device::{Accelerator, Pass};
use chelsea_model::{Chunk, Config, RandomModel, Wanted};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is measured.
struct Plan {
    shapes: &'static [&'static str],
    /// Tokens of a text.
    depths: &'static [usize],
    batches: &'static [usize],
    /// Tokens that are read at once, and how many are there before.
    reading: (usize, usize),
    /// Bytes of a copy.
    copy: usize,
    /// Steps that a number is the median of.
    steps: usize,
}

const FULL: Plan = Plan {
    shapes: &["qwen2.5-1.5b", "llama-3.1-8b"],
    depths: &[4096, 32_768, 131_072],
    batches: &[1, 8],
    reading: (512, 4096),
    copy: 1 << 30,
    steps: 15,
};

const EMULATED: Plan =
    Plan { shapes: &["tiny"], depths: &[100], batches: &[1, 2], reading: (20, 40), copy: 1 << 16, steps: 1 };

fn main() -> Outcome<()> {
    let which = std::env::args().nth(1).unwrap_or_else(|| "0".into());
    let (device, free, plan): (Arc<dyn Device>, usize, Plan) = if which == "emulated" {
        (Arc::new(Emulator::new(Schedule::InOrder)), 256 << 20, EMULATED)
    } else {
        let device = CudaDevice::open(which.parse()?)?;
        let free = device.free_memory()?;
        (Arc::new(device), free, FULL)
    };
    let About { name, capability, memory, processors } = device.about();
    println!("device: {name}, compute capability {}.{}, {processors} multiprocessors", capability.0, capability.1);
    println!("memory: {} GiB, {} free\n", memory >> 30, free >> 30);
    let ceiling = copy_ceiling(&device, &plan)?;
    println!("a copy reads and writes {:.0} GB/s together\n", ceiling / 1e9);
    println!("| shape | tokens | kept | type | batch | step, ms | tokens/s | GB/s | of a copy |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for shape in plan.shapes {
        let random = RandomModel::named(shape).ok_or("no such shape")?;
        measure(&device, free, &plan, shape, random.config(), ceiling)?;
    }
    Ok(())
}

/// Bytes per second that a copy within the device's memory reads and writes.
fn copy_ceiling(device: &Arc<dyn Device>, plan: &Plan) -> Outcome<f64> {
    let [from, to] = [Buffer::new(device, plan.copy)?, Buffer::new(device, plan.copy)?];
    let mut best = Duration::MAX;
    for _ in 0..5 {
        device.synchronize()?;
        let start = Instant::now();
        device.copy(from.at(), to.at(), plan.copy)?;
        device.synchronize()?;
        best = best.min(start.elapsed());
    }
    Ok(2.0 * plan.copy as f64 / best.as_secs_f64())
}

/// Rows of the table for one shape.
fn measure(
    device: &Arc<dyn Device>,
    free: usize,
    plan: &Plan,
    name: &str,
    config: &Config,
    ceiling: f64,
) -> Outcome<()> {
    let weights = CudaWeights::by_lot(device, config)?;
    let weight_bytes = weights.bytes();
    let room = free.saturating_sub(weight_bytes + weights.workspace_bytes(plan.reading.0, 8) + free / 16);
    let backend = CudaBackend::new(device.clone(), room)?;
    let limit = backend.pool().and_then(|pool| pool.limit()).unwrap_or(usize::MAX);
    let model = CudaModel::new(name.to_owned(), weights, backend);
    let subject = Subject { model, config };
    for &depth in plan.depths {
        for &batch in plan.batches {
            for dtype in [Dtype::F16, Dtype::Q8] {
                for share in [1.0, 0.2] {
                    let entries = (depth as f64 * share) as usize;
                    let bytes = config.cache_shape().bytes(entries, dtype);
                    if bytes / 15 * 16 * batch > limit {
                        println!(
                            "| {name} | {depth} | {:.0}% | {} | {batch} | no room | | | |",
                            share * 100.0,
                            dtype.name()
                        );
                        continue;
                    }
                    let step = subject.decode(entries, dtype, batch, plan.steps)?;
                    let seconds = step.as_secs_f64();
                    // Weights once, and every cache.
                    let read = (weight_bytes + batch * bytes) as f64 / seconds;
                    println!(
                        "| {name} | {depth} | {:.0}% | {} | {batch} | {:.2} | {:.0} | {:.0} | {:.0}% |",
                        share * 100.0,
                        dtype.name(),
                        seconds * 1e3,
                        batch as f64 / seconds,
                        read / 1e9,
                        // A copy's bytes are counted twice, once for each way.
                        100.0 * read / ceiling
                    );
                }
            }
        }
    }
    let (tokens, before) = plan.reading;
    let step = subject.read(tokens, before)?.as_secs_f64();
    println!(
        "| {name} | {before} | reading {tokens} | f16 | 1 | {:.2} | {:.0} | | |",
        step * 1e3,
        tokens as f64 / step
    );
    Ok(())
}

/// A model and its configuration.
struct Subject<'a> {
    model: CudaModel,
    config: &'a Config,
}

impl Subject<'_> {
    /// A cache of so many entries by lot.
    fn cache(&self, entries: usize, dtype: Dtype) -> Outcome<SequenceCache> {
        // Nothing is found out about queries.
        let policy: Arc<dyn Policy> = Arc::new(chelsea_kv::policy::Full);
        let backend = self.model.backend();
        let budget = Budget::EntryFraction(1.0);
        let pool = backend.pool().unwrap_or_default();
        let config =
            CacheConfig { dtype, policy, budget, pool, backend, ..CacheConfig::new(self.config.cache_shape()) };
        let mut cache = SequenceCache::new(config)?;
        cache.make_room(entries, CudaStore::fill_by_lot)?;
        Ok(cache)
    }

    /// One pass: each cache takes in so many tokens.
    fn pass(&self, caches: &mut [SequenceCache], tokens: usize) -> Outcome<()> {
        let (rows, hidden) = (caches.len() * tokens, self.config.hidden);
        let embedded: Vec<f32> = (0..rows * hidden).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let shape = self.config.cache_shape();
        let pairs = shape.layer(0).rotary.inv_freq.len();
        // A turn by some angle: which one makes no difference to the time.
        let (cosines, sines) = (vec![0.6f32; rows * pairs], vec![0.8f32; rows * pairs]);
        let wanted: Vec<usize> = (1..=caches.len()).map(|i| i * tokens - 1).collect();
        let ids = vec![0u32; tokens];
        let mut batch: Vec<Chunk<'_>> =
            caches.iter_mut().map(|cache| Chunk { tokens: &ids, cache, logits: Wanted::Last }).collect();
        let rotary = [(&cosines[..], &sines[..])];
        // As while answers are generated: the likeliest tokens come back.
        let held = vec![true; wanted.len()];
        let mut pass = Pass { batch: &mut batch, embedded: &embedded, rotary: &rotary, wanted: &wanted, held: &held };
        let held = self.model.forward(&mut pass, &mut [])?;
        let found = held.iter().all(|held| held.likeliest().iter().all(|(_, logit)| logit.is_finite()));
        if found { Ok(()) } else { Err("logits are not finite".into()) }
    }

    /// The median time of a step in which each of `batch` sequences takes in one token.
    fn decode(&self, entries: usize, dtype: Dtype, batch: usize, steps: usize) -> Outcome<Duration> {
        let mut caches = (0..batch).map(|_| self.cache(entries, dtype)).collect::<Outcome<Vec<_>>>()?;
        // One step is launched, and the next becomes a graph.
        self.pass(&mut caches, 1)?;
        self.pass(&mut caches, 1)?;
        let mut times = Vec::with_capacity(steps);
        for _ in 0..steps {
            let start = Instant::now();
            self.pass(&mut caches, 1)?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[steps / 2])
    }

    /// The time in which one sequence reads `tokens` tokens behind `before` others.
    fn read(&self, tokens: usize, before: usize) -> Outcome<Duration> {
        let mut caches = [self.cache(before, Dtype::F16)?];
        self.pass(&mut caches, tokens)?;
        let start = Instant::now();
        self.pass(&mut caches, tokens)?;
        Ok(start.elapsed())
    }
}
