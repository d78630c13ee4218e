//! Every sample under every setting, with results kept on disk as they come.

use crate::cli::{CompareArgs, DtypeArg, OnError, ProductsArg};
use crate::setup::Loaded;
use anyhow::{Result, bail};
use chelsea_engine::{Layout, SessionOptions};
use chelsea_eval::results::{Key, Record, ResultsFile};
use chelsea_eval::{Basis, EvalError, Mode, ParsedSetting, Probe, Sample, Setting, Subject};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Every policy at every share in every mode; the full cache once a way of asking.
pub fn settings(policies: &[String], shares: &[(Basis, f32)], modes: &[Mode]) -> Result<Vec<ParsedSetting>> {
    let mut settings = Vec::new();
    for setting in Setting::all(policies, shares, modes)? {
        if setting.can_run() {
            settings.push(setting);
        } else {
            tracing::warn!("left out: policy `{}` reads the text twice, so not {}", setting.policy, setting.mode);
        }
    }
    if settings.is_empty() {
        bail!("nothing to measure: give at least one share, one policy and one mode");
    }
    Ok(settings)
}

/// Refuses samples that make no sense in a mode.
pub fn check(samples: &[Sample], settings: &[ParsedSetting]) -> Result<()> {
    // The pieces of a stream follow each other as turns do.
    let scored = samples.iter().any(|s| s.task != "stream" && s.probes.iter().any(|p| matches!(p, Probe::Continue(_))));
    if scored && settings.iter().any(|s| s.mode.turns() || s.mode.aware()) {
        bail!("this task scores text and asks no questions: its modes are one-shot and online");
    }
    Ok(())
}

/// What is evaluated.
pub fn subject<'a>(
    args: &CompareArgs,
    loaded: &'a Loaded,
    layout: &'a Layout<'a>,
    cancel: Arc<AtomicBool>,
) -> Subject<'a> {
    Subject {
        model: loaded.model.clone(),
        name: loaded.name.clone(),
        tokenizer: &loaded.tokenizer,
        layout,
        pool: loaded.pool.clone(),
        cancel,
        options: SessionOptions {
            sinks: args.sinks,
            window: args.window,
            context: args.ctx,
            dtype: args.kv_type.map(DtypeArg::dtype),
            ..SessionOptions::default()
        },
        seed: args.seed,
        setup: match args.model.products {
            ProductsArg::Fast => String::new(),
            ProductsArg::F32 => "products=f32".into(),
        },
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Done {
    /// All results that were asked for, those measured earlier included.
    pub records: Vec<Record>,
    /// Samples that were left out.
    pub skipped: usize,
    /// Whether Ctrl-C ended it.
    pub cancelled: bool,
    /// What ended it, if it did not come to its end.
    pub error: Option<EvalError>,
}

/// Runs what was not run before; `print` sees every result, earlier ones included.
pub fn run(
    args: &CompareArgs,
    subject: &Subject<'_>,
    samples: &[Sample],
    settings: &[ParsedSetting],
    quiet: bool,
    print: &mut dyn FnMut(&Record),
) -> Result<Done> {
    let mut file = args.out.as_deref().map(ResultsFile::open).transpose()?;
    let mut earlier: HashMap<Key, Record> = HashMap::new();
    if let Some(file) = &mut file {
        if file.torn {
            tracing::warn!("the last line of the results was cut short, by a kill perhaps: it is measured again");
        }
        earlier = std::mem::take(&mut file.earlier).into_iter().map(|r| (r.key(), r)).collect();
    }
    let mut done = Done::default();
    let mut todo: Vec<(&Sample, Vec<ParsedSetting>)> = Vec::new();
    let mut queued: HashSet<Key> = HashSet::new();
    for sample in samples {
        let mut left = Vec::new();
        for setting in settings {
            let key = subject.record(sample, setting)?.key();
            // The same sample may stand in two files.
            if !queued.insert(key.clone()) {
                continue;
            }
            match earlier.remove(&key) {
                Some(mut record) => {
                    // It may have been asked for by another name.
                    record.setting = (**setting).clone();
                    print(&record);
                    done.records.push(record);
                }
                None => left.push(setting.clone()),
            }
        }
        if !left.is_empty() {
            todo.push((sample, left));
        }
    }
    let measured = done.records.len();
    let mut pace = Pace::new(todo.iter().map(|(_, left)| left.len()).sum(), measured, quiet);
    for (sample, left) in todo {
        let mut count = 0;
        let outcome = subject.run(sample, &left, &mut |record| {
            if let Some(file) = &mut file {
                file.push(&record)?;
            }
            print(&record);
            count += 1;
            pace.advance(1, &record.task);
            done.records.push(record);
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(EvalError::Cancelled) => {
                done.cancelled = true;
                break;
            }
            Err(error) if args.on_error == OnError::Skip && error.is_of_one_sample() => {
                tracing::warn!("left out: {error}");
                done.skipped += 1;
                pace.advance(left.len() - count, &sample.task);
            }
            Err(error) => {
                done.error = Some(error);
                break;
            }
        }
        if subject.cancel.load(Ordering::Relaxed) {
            done.cancelled = true;
            break;
        }
    }
    pace.end();
    Ok(done)
}

/// What to say after Ctrl-C.
pub fn goes_on(args: &CompareArgs, done: usize, all: usize) -> String {
    match &args.out {
        Some(file) => {
            format!("{done} of {all} results are in {}: the same command goes on from there", file.display())
        }
        None => format!("{done} of {all} results; with --out FILE the same command would go on from there"),
    }
}

/// A bar on a terminal, a line now and then in a log.
struct Pace {
    bar: ProgressBar,
    quiet: bool,
    done: usize,
    total: usize,
    start: Instant,
    said: Instant,
}

/// How often a log is written to.
const LOG_EVERY: Duration = Duration::from_secs(60);

impl Pace {
    fn new(total: usize, earlier: usize, quiet: bool) -> Self {
        if earlier > 0 {
            eprintln!("{earlier} results were there already, {total} are left");
        }
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = ProgressStyle::with_template("{msg:20} [{bar:30}] {pos}/{len} in {elapsed}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_secs(1));
        Pace { bar, quiet, done: 0, total, start: Instant::now(), said: Instant::now() }
    }

    fn advance(&mut self, n: usize, task: &str) {
        self.done += n;
        self.bar.set_message(task.to_owned());
        self.bar.inc(n as u64);
        if self.quiet && self.said.elapsed() >= LOG_EVERY {
            self.said = Instant::now();
            let left = self.start.elapsed().as_secs_f64() / self.done as f64 * (self.total - self.done) as f64;
            eprintln!("{} of {} results, about {:.0} min left", self.done, self.total, (left / 60.0).ceil());
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
