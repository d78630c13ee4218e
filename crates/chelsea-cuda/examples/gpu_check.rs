//! What a GPU reaches, stage by stage: the speed of a plain copy, decode steps of two well-known shapes at several depths, steps
//! of reading, and compactions. Weights and entries are made on the device, by lot. `cargo xtask gpu-check` runs the stages
//! after the tests, each with a limit of time, so that what one of them has printed stays if another fails.
//!
//! ```sh
//! cargo run --release -p chelsea-cuda --example gpu_check -- 0 copy
//! cargo run --release -p chelsea-cuda --example gpu_check -- 0 decode llama-3.1-8b
//! cargo run --release -p chelsea-cuda --example gpu_check -- 0 reading llama-3.1-8b
//! cargo run --release -p chelsea-cuda --example gpu_check -- 0 compaction llama-3.1-8b
//! cargo run --release -p chelsea-cuda --example gpu_check -- emulated decode tiny  # whether this program works
//! ```

use chelsea_cuda::driver::CudaDevice;
use chelsea_cuda::{About, Buffer, CudaBackend, CudaModel, CudaStore, CudaWeights, Device};
use chelsea_emulator::{Emulator, Schedule};
use chelsea_kv::policy::{Chelsea, Full};
use chelsea_kv::{Backend, Budget, CacheConfig, Dtype, Policy, SequenceCache};
use chelsea_model::device::{Accelerator, Pass};
use chelsea_model::{Chunk, Config, RandomModel, Wanted};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is measured.
struct Plan {
    /// Tokens of a text while it is decoded.
    depths: &'static [usize],
    batches: &'static [usize],
    /// Tokens that are read at once, and how many are there before.
    reading: &'static [(usize, usize)],
    /// Tokens of a text that is compacted to a fifth.
    compacted: &'static [usize],
    /// Bytes of a copy.
    copy: usize,
    /// Steps that a number is the median of.
    steps: usize,
}

const FULL: Plan = Plan {
    depths: &[4096, 32_768, 131_072],
    batches: &[1, 8],
    reading: &[(128, 4096), (512, 4096), (1024, 4096), (512, 32_768)],
    compacted: &[4096, 32_768],
    copy: 1 << 30,
    steps: 15,
};

const EMULATED: Plan = Plan {
    depths: &[100],
    batches: &[1, 2],
    reading: &[(20, 40), (300, 0)],
    compacted: &[300],
    copy: 1 << 16,
    steps: 1,
};

/// Share of entries that a clustered cache keeps.
const KEPT: f64 = 0.2;

struct Check {
    device: Arc<dyn Device>,
    /// Bytes of its memory that nobody has taken.
    free: usize,
    /// The library of products that it has, or why it has none.
    library: String,
    plan: Plan,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [which, stage @ ..] = &args[..] else { return Err("which device?".into()) };
    let check = if *which == "emulated" {
        let library = "emulated".to_owned();
        Check { device: Arc::new(Emulator::new(Schedule::InOrder)), free: 256 << 20, library, plan: EMULATED }
    } else {
        let device = CudaDevice::open(which.parse()?)?;
        let free = device.free_memory()?;
        let library = match device.library() {
            Ok(version) => format!("cuBLASLt {version}"),
            Err(why) => format!("none ({why})"),
        };
        Check { device: Arc::new(device), free, library, plan: FULL }
    };
    match stage {
        ["copy"] => check.copy(),
        ["decode", shape] => check.decode(shape),
        ["reading", shape] => check.reading(shape),
        ["compaction", shape] => check.compaction(shape),
        _ => Err("no such stage: copy, decode SHAPE, reading SHAPE or compaction SHAPE".into()),
    }
}

impl Check {
    fn copy(&self) -> Outcome<()> {
        let About { name, capability, memory, processors } = self.device.about();
        println!("device: {name}, compute capability {}.{}, {processors} multiprocessors", capability.0, capability.1);
        println!("memory: {} GiB, {} free", memory >> 30, self.free >> 30);
        println!("library of products: {}", self.library);
        println!("a copy reads and writes {:.0} GB/s together", self.ceiling()? / 1e9);
        Ok(())
    }

    /// Bytes per second that a copy within the device's memory reads and writes.
    fn ceiling(&self) -> Outcome<f64> {
        let (device, bytes) = (&self.device, self.plan.copy);
        let [from, to] = [Buffer::new(device, bytes)?, Buffer::new(device, bytes)?];
        let mut best = Duration::MAX;
        for _ in 0..5 {
            device.synchronize()?;
            let start = Instant::now();
            device.copy(from.at(), to.at(), bytes)?;
            device.synchronize()?;
            best = best.min(start.elapsed());
        }
        Ok(2.0 * bytes as f64 / best.as_secs_f64())
    }

    fn subject(&self, shape: &str) -> Outcome<Subject> {
        let config = RandomModel::named(shape).ok_or("no such shape")?.config().clone();
        let weights = CudaWeights::by_lot(&self.device, &config)?;
        let weight_bytes = weights.bytes();
        let rows = self.plan.reading.iter().map(|&(tokens, _)| tokens).max().unwrap_or(0);
        let room = self.free.saturating_sub(weight_bytes + weights.workspace_bytes(rows, 8) + self.free / 16);
        let backend = CudaBackend::new(self.device.clone(), room)?;
        let limit = backend.pool().and_then(|pool| pool.limit()).unwrap_or(usize::MAX);
        Ok(Subject { model: CudaModel::new(shape.to_owned(), weights, backend), config, weight_bytes, limit })
    }

    fn decode(&self, shape: &str) -> Outcome<()> {
        let ceiling = self.ceiling()?;
        let mut subject = self.subject(shape)?;
        println!("| shape | tokens | kept | type | batch | step, ms | tokens/s | GB/s | of a copy |");
        println!("|---|---|---|---|---|---|---|---|---|");
        for &depth in self.plan.depths {
            for &batch in self.plan.batches {
                for dtype in [Dtype::F16, Dtype::Q8] {
                    for share in [1.0, KEPT] {
                        self.decode_row(&subject, (depth, share), dtype, batch, ceiling, "")?;
                    }
                }
            }
        }
        // What graphs save: where a step is short.
        subject.model = subject.model.without_graphs();
        let depth = self.plan.depths[0];
        self.decode_row(&subject, (depth, KEPT), Dtype::Q8, 1, ceiling, ", without graphs")
    }

    fn decode_row(
        &self,
        subject: &Subject,
        (depth, share): (usize, f64),
        dtype: Dtype,
        batch: usize,
        ceiling: f64,
        note: &str,
    ) -> Outcome<()> {
        let entries = (depth as f64 * share) as usize;
        let bytes = subject.config.cache_shape().bytes(entries, dtype);
        let (name, percent) = (subject.model.name(), share * 100.0);
        let row = format!("| {name} | {depth} | {percent:.0}% | {} | {batch}{note}", dtype.name());
        if bytes / 15 * 16 * batch > subject.limit {
            println!("{row} | no room | | | |");
            return Ok(());
        }
        let step = subject.decode(entries, dtype, share < 1.0, (batch, self.plan.steps))?.as_secs_f64();
        // Weights once, and every cache.
        let read = (subject.weight_bytes + batch * bytes) as f64 / step;
        // A copy's bytes are counted twice, once for each way.
        let share = 100.0 * read / ceiling;
        let (ms, rate) = (step * 1e3, batch as f64 / step);
        println!("{row} | {ms:.2} | {rate:.0} | {:.0} | {share:.0}% |", read / 1e9);
        Ok(())
    }

    fn reading(&self, shape: &str) -> Outcome<()> {
        let mut subject = self.subject(shape)?;
        println!("| shape | tokens before | tokens read at once | products of long steps | step, ms | tokens/s |");
        println!("|---|---|---|---|---|---|");
        self.reading_rows(&subject, &format!("library: {}", self.library))?;
        subject.model = subject.model.without_library();
        self.reading_rows(&subject, "kernels")?;
        subject.model = subject.model.opening_from(usize::MAX);
        self.reading_rows(&subject, "kernels, on bytes")
    }

    fn reading_rows(&self, subject: &Subject, products: &str) -> Outcome<()> {
        for &(tokens, before) in self.plan.reading {
            let step = subject.read(tokens, before)?.as_secs_f64();
            let (name, ms, rate) = (subject.model.name(), step * 1e3, tokens as f64 / step);
            println!("| {name} | {before} | {tokens} | {products} | {ms:.2} | {rate:.0} |");
        }
        Ok(())
    }

    fn compaction(&self, shape: &str) -> Outcome<()> {
        let subject = self.subject(shape)?;
        println!("| shape | entries per head | kept | type | compaction, ms |");
        println!("|---|---|---|---|---|");
        for &entries in self.plan.compacted {
            for dtype in [Dtype::F16, Dtype::Q8] {
                let mut cache = subject.cache(entries, dtype, Arc::new(Chelsea::default()), KEPT as f32)?;
                self.device.synchronize()?;
                let start = Instant::now();
                let report = cache.compact_now(None)?;
                self.device.synchronize()?;
                let ms = start.elapsed().as_secs_f64() * 1e3;
                let kept = 100.0 * report.after as f64 / report.before.max(1) as f64;
                println!("| {shape} | {entries} | {kept:.0}% | {} | {ms:.1} |", dtype.name());
            }
        }
        Ok(())
    }
}

/// A model and its configuration.
struct Subject {
    model: CudaModel,
    config: Config,
    weight_bytes: usize,
    /// Bytes that all caches may take.
    limit: usize,
}

impl Subject {
    /// A cache of so many entries by lot.
    fn cache(&self, entries: usize, dtype: Dtype, policy: Arc<dyn Policy>, keep: f32) -> Outcome<SequenceCache> {
        let backend = self.model.backend();
        let budget = Budget::EntryFraction(keep);
        let pool = backend.pool().unwrap_or_default();
        let config =
            CacheConfig { dtype, policy, budget, pool, backend, ..CacheConfig::new(self.config.cache_shape()) };
        let mut cache = SequenceCache::new(config)?;
        cache.make_room(entries, CudaStore::fill_by_lot)?;
        Ok(cache)
    }

    /// The same as it stands between two compactions. Of a full one nothing is found out about queries.
    fn settled(&self, entries: usize, dtype: Dtype, clusters: bool) -> Outcome<SequenceCache> {
        let policy: Arc<dyn Policy> = if clusters { Arc::new(Chelsea::default()) } else { Arc::new(Full) };
        self.cache(entries, dtype, policy, 1.0)
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
        // As while answers are generated: the likeliest tokens come back.
        let held = vec![true; wanted.len()];
        let ids = vec![0u32; tokens];
        let mut batch: Vec<Chunk<'_>> =
            caches.iter_mut().map(|cache| Chunk { tokens: &ids, cache, logits: Wanted::Held }).collect();
        let rotary = [(&cosines[..], &sines[..])];
        let mut pass = Pass { batch: &mut batch, embedded: &embedded, rotary: &rotary, wanted: &wanted, held: &held };
        let held = self.model.forward(&mut pass, &mut [])?;
        let found = held.iter().all(|held| held.likeliest().iter().all(|(_, logit)| logit.is_finite()));
        if found { Ok(()) } else { Err("logits are not finite".into()) }
    }

    /// The median time of a step in which each of `batch` sequences takes in one token.
    fn decode(
        &self,
        entries: usize,
        dtype: Dtype,
        clusters: bool,
        (batch, steps): (usize, usize),
    ) -> Outcome<Duration> {
        let caches = (0..batch).map(|_| self.settled(entries, dtype, clusters));
        let mut caches = caches.collect::<Outcome<Vec<_>>>()?;
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
        let mut caches = [self.settled(before, Dtype::F16, true)?];
        self.pass(&mut caches, tokens)?;
        let start = Instant::now();
        self.pass(&mut caches, tokens)?;
        Ok(start.elapsed())
    }
}
