//! What a server is started with, and what every request needs.

use crate::files::Files;
use crate::foreign::Foreign;
use crate::live::Answers;
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::transfer::{Transfer, TransferOptions};
use crate::{ApiError, Engine};
use chelsea_engine::{GrammarError, Grammars, SchedulerOptions, SessionOptions};
use chelsea_model::Model;
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name by which clients know the model.
    pub model_name: String,
    /// How caches are kept where a request does not say.
    pub session: SessionOptions,
    /// Keys of which a request must bring one; none: everybody may ask.
    pub api_keys: Vec<String>,
    /// Web pages of other origins that may ask, such as `https://example.org`.
    pub origins: Vec<String>,
    /// Names by which the server may be called, beside those of this machine: any where the list holds `*`.
    pub hosts: Vec<String>,
    /// Most answers that are generated together, and most requests that wait: the scheduler's own limits, to be told.
    pub running: usize,
    /// See `running`.
    pub waiting: usize,
    /// Most bytes of a request.
    pub body: usize,
    /// How long a client may take to send its request.
    pub patience: Duration,
    /// The longest pause that a prompt of others may make in an answer.
    pub max_stall: Duration,
    /// Documents that clients put on the server.
    pub files: Arc<Files>,
    /// Documents that it was started with.
    pub mounts: Mounts,
    /// How caches are handed to other servers.
    pub transfer: TransferOptions,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            model_name: "model".into(),
            session: SessionOptions::default(),
            api_keys: Vec::new(),
            origins: Vec::new(),
            hosts: Vec::new(),
            running: SchedulerOptions::default().running,
            waiting: SchedulerOptions::default().waiting,
            body: 32 << 20,
            patience: Duration::from_secs(30),
            max_stall: Duration::from_millis(150),
            files: Arc::default(),
            mounts: Mounts::default(),
            transfer: TransferOptions::default(),
        }
    }
}

/// What every request needs.
pub struct Serving {
    /// What the server was started with.
    pub settings: Settings,
    /// The model.
    pub model: Arc<Model>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub template: Option<ChatTemplate>,
    /// Keeps what clients say text on its way through the template.
    pub(crate) foreign: Foreign,
    /// The thread that computes.
    pub engine: Engine,
    pub(crate) metrics: Metrics,
    pub(crate) transfer: Transfer,
    /// Those that somebody listens to.
    pub(crate) answers: Answers,
    pub(crate) started: u64,
    ids: AtomicU64,
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl Serving {
    /// A server around a thread that computes.
    pub fn new(
        settings: Settings,
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        engine: Engine,
    ) -> Arc<Serving> {
        let ids = AtomicU64::new(rand::random::<u64>() >> 8);
        let metrics = Metrics::new(&settings.model_name);
        let foreign = Foreign::of(&tokenizer, template.as_ref());
        let transfer = Transfer::new(settings.transfer.clone());
        Arc::new(Serving {
            settings,
            model,
            tokenizer,
            template,
            foreign,
            engine,
            metrics,
            transfer,
            answers: Answers::default(),
            started: now(),
            ids,
            grammars: OnceLock::new(),
        })
    }

    /// Tokens of the longest sequence: prompt and answer together.
    pub fn context(&self) -> usize {
        let config = self.model.config();
        self.settings.session.context.unwrap_or(config.context_length).min(config.max_positions())
    }

    /// What grammars of answers are compiled with. Made when it is first asked for, which takes a fraction of a second: most
    /// servers never need it.
    ///
    /// # Errors
    /// If the vocabulary does not lend itself to grammars.
    pub(crate) fn grammars(&self) -> Result<&Grammars, ApiError> {
        let made = self.grammars.get_or_init(|| {
            let start = Instant::now();
            let made = Grammars::new(&self.tokenizer);
            tracing::info!("the vocabulary was put in order for grammars in {:.0?}", start.elapsed());
            made
        });
        made.as_ref().map_err(|error| ApiError::bad(error.to_string()))
    }

    /// A name for an answer that no other one has.
    pub(crate) fn id(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
