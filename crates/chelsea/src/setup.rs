//! From a model's name to a loaded model, its tokenizer and its threads.

use crate::cli::{LayoutArgs, ModelArgs};
use crate::{output, signals};
use anyhow::{Context as _, Result};
use chelsea_engine::{Layout, SessionOptions};
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{Model, ModelFile};
use rayon::ThreadPool;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything a verb needs to compute with a model.
pub struct Loaded {
    pub model: Arc<Model>,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    pub pool: Arc<ThreadPool>,
    pub threads: usize,
    pub name: String,
    /// Where its files lie.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub path: PathBuf,
}

impl Loaded {
    /// How prompts are laid out for this model. Says so where its template knows no system message.
    pub fn layout<'a>(&'a self, args: &'a LayoutArgs) -> Layout<'a> {
        let template = if args.no_chat_template { None } else { self.template.as_ref() };
        let layout = Layout::new(&self.tokenizer, template, args.system.as_deref()).with_special(args.special);
        if layout.folds_system() {
            tracing::warn!(
                "the chat template of this model knows no system message: what --system says goes before the first question"
            );
        }
        layout
    }
}

/// Finds the file behind a model's name, fetching it when it is not on this machine.
pub fn resolve(spec: &OsStr, quiet: bool) -> Result<PathBuf> {
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
    note_mapped(&path);
    let file = ModelFile::open(&path)?;
    // Before weights are read: a GPU that was named and is not there is told at once.
    let device = args.open_device(file.config(), file.tensors().iter().map(|tensor| tensor.bytes).sum())?;
    let options = args.load_options(device.as_ref());
    let bar = output::bar(0, "loading", true, quiet);
    let (tokenizer, template) = words(&file)?;
    let model = pool.install(|| {
        Model::from_file(&file, &options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
    })?;
    let model = match device {
        Some(device) => pool.install(|| device.take(model))?,
        None => model,
    };
    bar.finish_and_clear();
    let threads = pool.current_num_threads();
    Ok(Loaded { model: Arc::new(model), tokenizer, template, pool, threads, name: args.name().into_owned(), path })
}

/// A model's files are read from maps while it is loaded.
fn note_mapped(path: &Path) {
    if path.is_file() {
        signals::note_mapped(path);
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "safetensors") {
            signals::note_mapped(&entry.path());
        }
    }
}

/// The tokenizer and the chat template that lie inside a model file, or beside it.
pub fn words(file: &ModelFile) -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let tokenizer = Tokenizer::open(file)?;
    let template = ChatTemplate::open(file, &tokenizer)?;
    Ok((tokenizer, template))
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
