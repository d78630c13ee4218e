//! From a model's name to a loaded model, its tokenizer and its threads.

use crate::cli::ModelArgs;
use crate::output;
use anyhow::{Context as _, Result};
use chelsea_engine::SessionOptions;
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Model, ModelFile};
use rayon::ThreadPool;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Everything a verb needs to compute with a model.
pub struct Loaded {
    pub model: Arc<Model>,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    pub pool: Arc<ThreadPool>,
    pub threads: usize,
    pub name: String,
}

/// Finds the file behind a model's name, fetching it when it is not on this machine.
pub fn resolve(spec: &str, quiet: bool) -> Result<PathBuf> {
    let mut bars = output::Downloads::new(quiet);
    let options = chelsea_hub::Options::from_env();
    Ok(chelsea_hub::resolve(spec, &options, &mut bars)?.path)
}

/// A pool of `threads` threads, or of as many as there are cores.
pub fn pool(threads: Option<u32>) -> Result<Arc<ThreadPool>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0) as usize)
        .thread_name(|i| format!("chelsea-{i}"))
        .build()
        .context("cannot start the threads")?;
    Ok(Arc::new(pool))
}

/// Loads a model with everything around it.
pub fn load(args: &ModelArgs, quiet: bool) -> Result<Loaded> {
    let pool = pool(args.threads)?;
    let path = resolve(&args.model, quiet)?;
    let options = args.load_options();
    let bar = output::bar(0, "loading", true, quiet);
    let file = ModelFile::open(&path)?;
    let (tokenizer, template) = words(&file)?;
    let model = pool.install(|| {
        Model::from_file(&file, &options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
    })?;
    bar.finish_and_clear();
    let threads = pool.current_num_threads();
    Ok(Loaded { model: Arc::new(model), tokenizer, template, pool, threads, name: args.model.clone() })
}

/// The tokenizer and the chat template that lie inside a model file, or beside it.
pub fn words(file: &ModelFile) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let tokenizer = Tokenizer::open(file)?;
    let template = ChatTemplate::open(file, &tokenizer)?;
    Ok((tokenizer, template))
}

static CANCEL: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A flag that Ctrl-C raises. The first one ends the work at hand in good order, a second one at once; either way the
/// command exits with 130.
pub fn cancel_flag() -> Result<Arc<AtomicBool>> {
    if let Some(flag) = CANCEL.get() {
        return Ok(flag.clone());
    }
    let flag = CANCEL.get_or_init(|| Arc::new(AtomicBool::new(false))).clone();
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(flag)
}

/// Whether Ctrl-C was pressed.
pub fn cancelled() -> bool {
    CANCEL.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Whether something failed that the command goes on after.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Has the command end as one that failed, however it goes on: a closed pipe may end it before it can say so.
pub fn note_failure() {
    FAILED.store(true, Ordering::Relaxed);
}

/// What the command exits with: 130 once Ctrl-C was pressed, whatever it came to.
pub fn exit_code(ok: bool) -> u8 {
    if cancelled() { 130 } else { u8::from(!ok || FAILED.load(Ordering::Relaxed)) }
}

/// Forgets an earlier Ctrl-C, so that a chat can go on after it.
pub fn rearm() {
    if let Some(flag) = CANCEL.get() {
        flag.store(false, Ordering::Relaxed);
    }
}

/// Says so when a sequence may grow past what the model was trained for.
pub fn warn_long_context(model: &Model, options: &SessionOptions) {
    let trained = model.config().context_length;
    if let Some(context) = options.context
        && context > trained
    {
        tracing::warn!(
            "the model was trained for {trained} tokens of context and {context} were asked for: beyond {trained} \
             answers may turn to nonsense"
        );
    }
}

/// The most memory this process has taken so far, where the system tells.
pub fn process_peak_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Memory that is free for use, where the system tells.
pub fn available_bytes() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
