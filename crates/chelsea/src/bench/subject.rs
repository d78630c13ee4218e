//! What is measured: a model from a file or of random weights, and caches at a depth.
//!
//! Whether everything fits into memory is worked out from the model's configuration alone, before weights are
//! loaded or a cache is filled.

use crate::cli::{BenchArgs, DtypeArg, What};
use crate::{documents, output, setup};
use anyhow::{Context as _, Result, bail, ensure};
use chelsea_engine::{EngineError, Session, SessionOptions, cache_config, dtype_for};
use chelsea_kv::{Budget, CacheConfig, Dtype, MAX_TOKENS, Page, SequenceCache};
use chelsea_model::{Config, Model, ModelFile, RandomModel};
use rayon::ThreadPool;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Seed of weights, tokens and entries: the same command measures the same work.
const SEED: u64 = 1;

/// A model whose configuration is known and whose weights are not in memory yet.
pub struct Unloaded {
    source: Source,
    pool: Arc<ThreadPool>,
    text: Option<Vec<u32>>,
}

enum Source {
    File(Box<ModelFile>),
    Random(Box<RandomModel>),
}

impl Source {
    /// The tokens of a file, the first `wanted` where so many are.
    fn read(&self, path: &Path, wanted: Option<usize>) -> Result<Vec<u32>> {
        let Source::File(file) = self else { bail!("a model of random weights reads no text: leave --file out") };
        let (tokenizer, _) = setup::words(file)?;
        let text = documents::read_whole(path)?;
        let mut tokens = tokenizer.encode(&text, false)?;
        if let Some(wanted) = wanted {
            let has = tokens.len();
            ensure!(has >= wanted, "{} has {has} tokens, fewer than the {wanted} of --prompt", path.display());
            tokens.truncate(wanted);
        }
        ensure!(!tokens.is_empty(), "{} is empty", path.display());
        Ok(tokens)
    }
}

impl Unloaded {
    /// Finds the model and starts the threads.
    pub fn open(args: &BenchArgs, quiet: bool) -> Result<Self> {
        let pool = setup::pool(args.model.threads)?;
        let source = match args.model.name().strip_prefix("random:") {
            Some(name) => Source::Random(Box::new(RandomModel::named(name).with_context(|| {
                let names: Vec<&str> = RandomModel::names().collect();
                format!("there is no random model `{name}`; there are {}", names.join(", "))
            })?)),
            None => Source::File(Box::new(ModelFile::open(&setup::resolve(&args.model.model, quiet)?)?)),
        };
        let text = match &args.file {
            Some(path) if args.wanted().contains(&What::EndToEnd) => Some(source.read(path, args.prompt)?),
            _ => None,
        };
        Ok(Unloaded { source, pool, text })
    }

    fn config(&self) -> &Config {
        match &self.source {
            Source::File(file) => file.config(),
            Source::Random(random) => random.config(),
        }
    }

    fn weight_bytes(&self) -> usize {
        match &self.source {
            Source::File(file) => file.tensors().iter().map(|tensor| tensor.bytes).sum(),
            Source::Random(random) => random.weight_bytes(),
        }
    }

    /// Brings the weights into memory.
    pub fn load(self, args: &BenchArgs, cancel: Arc<AtomicBool>, quiet: bool) -> Result<Subject> {
        let device = args.model.open_device(self.config(), self.weight_bytes())?;
        if device.is_some() {
            let odd = |what: &&What| matches!(what, What::Attention | What::Matching | What::Split);
            ensure!(
                args.wanted().iter().find(odd).is_none(),
                "attention, matching and split measure the CPU alone: choose --device cpu"
            );
        }
        let options = args.model.load_options(device.as_ref());
        let bar = output::bar(0, "loading", true, quiet);
        let mut progress = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let pool = self.pool;
        let model = match &self.source {
            Source::File(file) => pool.install(|| Model::from_file(file, &options, &mut progress))?,
            Source::Random(random) => pool.install(|| random.make(SEED, &options, &mut progress))?,
        };
        let model = match device {
            Some(device) => pool.install(|| device.take(model))?,
            None => model,
        };
        bar.finish_and_clear();
        Ok(Subject { model: Arc::new(model), text: self.text, pool, cancel })
    }
}

/// A loaded model and what it runs on.
pub struct Subject {
    pub model: Arc<Model>,
    /// Tokens of the file that is to be read, if one was given.
    pub text: Option<Vec<u32>>,
    pub pool: Arc<ThreadPool>,
    pub cancel: Arc<AtomicBool>,
}

impl Subject {
    /// A session of `depth` tokens kept within `budget`, with room for `more`.
    pub fn session(&self, args: &BenchArgs, depth: usize, budget: Budget, more: usize, seed: u64) -> Result<Session> {
        let options = options(args, depth + more, budget);
        let (model, pool) = (self.model.clone(), self.pool.clone());
        let history = self.tokens(depth, seed);
        if args.real || depth == 0 {
            let mut session = Session::new(model, pool, self.cancel.clone(), &options)?;
            session.read(&history, |_| ())?;
            super::trials::stop_if_cancelled()?;
            return Ok(session);
        }
        let cache = self.cache(args, depth, budget, seed)?;
        Ok(Session::with_cache(model, pool, self.cancel.clone(), &options, cache, history)?)
    }

    /// A cache of random entries as a sequence of `depth` tokens would leave it.
    pub fn cache(&self, args: &BenchArgs, depth: usize, budget: Budget, seed: u64) -> Result<SequenceCache> {
        let config = cache_config(&self.model, &options(args, depth, budget))?;
        let entries = entries(&config, depth);
        Ok(self.pool.install(|| SequenceCache::synthetic(config, depth, entries, SEED ^ seed))?)
    }

    /// A cache of random entries that keeps everything, in the number format that goes with `budget`.
    pub fn full_cache(&self, args: &BenchArgs, depth: usize, budget: Budget) -> Result<SequenceCache> {
        let config = cache_config(&self.model, &options(args, depth, budget))?;
        let config = CacheConfig { budget: Budget::EntryFraction(1.0), ..config };
        Ok(self.pool.install(|| SequenceCache::synthetic(config, depth, depth, SEED))?)
    }

    /// Token ids without meaning: speed hardly depends on them.
    pub fn tokens(&self, n: usize, seed: u64) -> Vec<u32> {
        random_tokens(n, self.model.config().vocab, SEED ^ seed.rotate_left(32))
    }
}

/// Options of a session of `context` tokens at most.
pub fn options(args: &BenchArgs, context: usize, budget: Budget) -> SessionOptions {
    SessionOptions {
        budget,
        policy: args.policy.clone(),
        context: Some(context + 1),
        dtype: args.kv_type.map(DtypeArg::dtype),
        ..SessionOptions::default()
    }
}

/// How a budget is called in tables.
pub fn label(args: &BenchArgs, budget: Budget) -> String {
    let name = match budget {
        Budget::EntryFraction(keep) => format!("{}%", (f64::from(keep) * 1e4).round() / 100.0),
        Budget::ByteFraction(_) => format!("{budget} of bytes"),
        Budget::Entries(entries) => format!("{entries} entries"),
        Budget::Bytes(bytes) => output::bytes(bytes),
    };
    // Where nobody said how numbers are stored, rows of one table may differ in it.
    match dtype_for(budget, Dtype::F16) {
        dtype if args.kv_type.is_none() && dtype != Dtype::F16 => format!("{name} in {}", dtype.name()),
        _ => name,
    }
}

/// Entries of a head that the budget leaves of `tokens` tokens.
fn entries(config: &CacheConfig, tokens: usize) -> usize {
    (config.allowed(tokens) / config.shape.heads()).clamp(tokens.min(1), tokens)
}

pub fn random_tokens(n: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}

/// Seconds of a decode step of all `sessions` together: the median of `steps`, and a step's share of the clustering that
/// comes once in so many tokens. `step` takes the number of a step below `steps`. Where they are too few for a compaction,
/// they are taken once more, without being timed, until it came.
pub fn step_time(
    sessions: &mut [&mut Session],
    steps: usize,
    mut step: impl FnMut(&mut [&mut Session], usize) -> Result<(), EngineError>,
) -> Result<f64> {
    let clustered = |sessions: &[&mut Session]| -> Duration { sessions.iter().map(|s| s.times().clustering).sum() };
    let before = clustered(sessions);
    let mut times = Vec::with_capacity(steps);
    for i in 0..steps {
        let (start, earlier) = (Instant::now(), clustered(sessions));
        step(sessions, i)?;
        times.push((start.elapsed() - (clustered(sessions) - earlier)).as_secs_f64());
    }
    let mut taken = steps;
    if sessions.iter().any(|session| session.cache().config().budget != Budget::EntryFraction(1.0)) {
        let all = steps.next_multiple_of(DECODE_BLOCK);
        for i in (0..steps).cycle().take(all - steps) {
            step(sessions, i)?;
        }
        taken = all;
    }
    let share = (clustered(sessions) - before).as_secs_f64() / taken.max(1) as f64;
    Ok(output::median(&mut times).context("no step was timed")? + share)
}

/// Refuses what cannot work, before anything is allocated.
pub fn check(args: &BenchArgs, unloaded: &Unloaded) -> Result<()> {
    let config = unloaded.config();
    let room = room(config, args, unloaded.text.as_ref().map_or(prompt(args), Vec::len))?;
    let Some(available) = setup::available_bytes() else { return Ok(()) };
    refuse_beyond(unloaded.weight_bytes(), room, available)
}

fn refuse_beyond(weights: usize, caches: usize, available: usize) -> Result<()> {
    // A tenth for buffers and for what the system needs meanwhile.
    let needed = (weights.saturating_add(caches) as f64 * 1.1) as usize;
    if needed > available {
        bail!(
            "this needs about {} of memory ({} for caches, {} for weights), but only {} are free: give fewer or \
             smaller --depths, --batches or --keeps",
            output::bytes(needed),
            output::bytes(caches),
            output::bytes(weights),
            output::bytes(available)
        );
    }
    Ok(())
}

/// Tokens of the prompt of `--what end-to-end`, where no file says otherwise.
pub fn prompt(args: &BenchArgs) -> usize {
    args.prompt.unwrap_or(2048)
}

/// Bytes of the caches that are alive at once, at most, with a prompt of so many tokens.
fn room(config: &Config, args: &BenchArgs, prompt: usize) -> Result<usize> {
    let longest = args.depths.iter().max().copied().unwrap_or(0);
    let wants = args.wanted();
    let rounds = if wants.contains(&What::Matching) { args.trials as usize + 1 } else { 1 };
    let mixed = if wants.contains(&What::Mixed) { super::mixed::longest(args) } else { 0 };
    let more = args.prefill.saturating_mul(rounds).max(steps(args)).max(mixed);
    let limit = config.max_positions().min(MAX_TOKENS);
    if wants.iter().any(|&what| what != What::EndToEnd) && longest.saturating_add(more) > limit {
        bail!(
            "a depth of {longest} and {more} tokens more are beyond the {limit} that a sequence of this model may have"
        );
    }
    if wants.contains(&What::EndToEnd) {
        let needed = prompt.saturating_add(args.generate);
        if needed > limit {
            bail!(
                "the prompt and --generate make {needed} tokens, beyond the {limit} that a sequence of this model may have"
            );
        }
    }
    let mut most = 0;
    for what in wants {
        let bytes = args
            .budgets()
            .iter()
            .flat_map(|&budget| args.depths.iter().map(move |&depth| (budget, depth)))
            .map(|(budget, depth)| room_of(what, config, args, (budget, depth, prompt)))
            .collect::<Result<Vec<usize>>>()?;
        most = most.max(match what {
            // One setting after the other.
            What::Batch | What::Mixed | What::EndToEnd => bytes.into_iter().max().unwrap_or(0),
            _ => bytes.into_iter().fold(0, usize::saturating_add),
        });
    }
    Ok(most)
}

/// Tokens after which a decoding sequence may be compacted.
pub const DECODE_BLOCK: usize = 64;

/// Steps that are decoded, those that lead up to a compaction included.
pub fn steps(args: &BenchArgs) -> usize {
    args.decode.max(1).checked_next_multiple_of(DECODE_BLOCK).unwrap_or(usize::MAX)
}

fn room_of(
    what: What,
    config: &Config,
    args: &BenchArgs,
    (budget, depth, prompt): (Budget, usize, usize),
) -> Result<usize> {
    let dtype = args.kv_type.map_or(dtype_for(budget, Dtype::F16), DtypeArg::dtype);
    let cache = CacheConfig { dtype, budget, policy: args.policy.clone(), ..CacheConfig::new(config.cache_shape()) };
    cache.validate()?;
    let heads = cache.shape.heads();
    let page = Page::bytes(cache.shape.layer(0).dims(), dtype);
    let bytes_of = |entries: usize| heads.saturating_mul(entries.div_ceil(chelsea_kv::PAGE)).saturating_mul(page);
    let kept = |tokens: usize| bytes_of(entries(&cache, tokens));
    let block = bytes_of(args.prefill.max(steps(args)));
    // Reading fills a cache to its budget and one block; a compaction on a fork copies the pages it changes.
    let compressed = budget != Budget::EntryFraction(1.0);
    let fork = if compressed { kept(depth) } else { 0 };
    Ok(match what {
        What::Depth | What::Split => kept(depth).saturating_add(fork).saturating_add(block),
        What::Attention => kept(depth),
        What::Matching => {
            let one_shot = if compressed { bytes_of(depth) } else { 0 };
            let grown = depth.saturating_add((args.trials as usize + 1).saturating_mul(args.prefill));
            kept(grown).saturating_add(one_shot).saturating_add(block)
        }
        What::Batch => {
            let most = args.batches.iter().max().copied().unwrap_or(1) as usize;
            kept(depth).saturating_add(fork).saturating_add(block).saturating_mul(most)
        }
        What::Mixed => {
            let most = 1 + args.batches.iter().max().copied().unwrap_or(1) as usize;
            kept(depth).saturating_add(fork).saturating_add(bytes_of(super::mixed::longest(args))).saturating_mul(most)
        }
        What::EndToEnd => {
            let tokens = prompt.saturating_add(args.generate);
            kept(tokens).saturating_add(block)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    fn args(more: &[&str]) -> BenchArgs {
        let line = [&["chelsea", "bench", "-m", "random:tiny"], more].concat();
        match Cli::try_parse_from(line).unwrap().command {
            crate::cli::Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn config(name: &str) -> Config {
        RandomModel::named(name).unwrap().config().clone()
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary() {
        assert!(random_tokens(1000, 17, 5).iter().all(|&t| t < 17));
        assert_ne!(random_tokens(10, 1000, 1), random_tokens(10, 1000, 2));
    }

    #[test]
    fn a_full_cache_of_131072_tokens_of_the_1b_shape_takes_four_gib_and_a_fifth_a_fifth() {
        let room = |keep| {
            let args = args(&["--what", "attention", "--depths", "131072", "--keeps", keep]);
            room(&config("llama-3.2-1b"), &args, 0).unwrap() as f64
        };
        let full = room("1") / (1u64 << 30) as f64;
        assert!((4.0..4.5).contains(&full), "{full}");
        assert!((0.19..0.21).contains(&(room("0.2") / room("1"))));
    }

    #[test]
    fn batches_count_every_sequence_and_settings_of_a_depth_add_up() {
        let config = config("tiny");
        let of = |more: &[&str]| room(&config, &args(more), 0).unwrap();
        let one = of(&["--what", "batch", "--depths", "4096", "--keeps", "1", "--batches", "1"]);
        assert_eq!(of(&["--what", "batch", "--depths", "4096", "--keeps", "1", "--batches", "1,8"]), 8 * one);
        let single = of(&["--depths", "4096", "--keeps", "1"]);
        assert_eq!(of(&["--depths", "4096,4096", "--keeps", "1"]), 2 * single);
    }

    #[test]
    fn a_fixed_size_does_not_grow_with_the_depth() {
        let config = config("tiny");
        let of = |depth| room(&config, &args(&["--depths", depth, "--kv-budgets", "1024", "--what", "attention"]), 0);
        assert_eq!(of("8192").unwrap(), of("1000000").unwrap());
    }

    #[test]
    fn depths_beyond_positions_and_budgets_too_small_are_refused() {
        let config = config("tiny");
        let error = |more: &[&str]| room(&config, &args(more), prompt(&args(more))).unwrap_err().to_string();
        assert!(error(&["--depths", "16777216"]).contains("beyond the 16777216"));
        assert!(error(&["--depths", "18446744073709551615"]).contains("beyond the"));
        assert!(error(&["--kv-budgets", "16"]).contains("too small"));
        assert!(error(&["--what", "end-to-end", "--prompt", "16777216"]).contains("the prompt and --generate"));
        assert!(error(&["--policy", "full", "--keeps", "0.5"]).contains("keeps every entry"));
    }

    #[test]
    fn the_prompt_of_end_to_end_counts_as_long_as_it_is() {
        let config = config("tiny");
        let of = |prompt| room(&config, &args(&["--what", "end-to-end", "--keeps", "1"]), prompt).unwrap();
        assert_eq!(prompt(&args(&[])), 2048);
        assert!(of(2048) > 3 * of(0), "{} {}", of(2048), of(0));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        assert!(refuse_beyond(1 << 30, 1 << 30, 3 << 30).is_ok());
        let said = refuse_beyond(1 << 30, 3 << 30, 4 << 30).unwrap_err().to_string();
        assert!(said.contains("3.00 GiB for caches") && said.contains("only 4.00 GiB are free"), "{said}");
        assert!(refuse_beyond(1, usize::MAX, 4 << 30).is_err());
    }

    #[test]
    fn budgets_have_short_names() {
        let names = |more: &[&str]| {
            let budgets = ["100%", "20%", "10%", "8192"].map(|budget| budget.parse().unwrap());
            budgets.map(|budget| label(&args(more), budget))
        };
        assert_eq!(names(&[]), ["100%", "20% of bytes in q8", "10% of bytes in k8v4", "8192 entries"]);
        assert_eq!(names(&["--kv-type", "f16"])[1], "20% of bytes");
        assert_eq!(label(&args(&[]), Budget::EntryFraction(0.125)), "12.5%");
    }
}
