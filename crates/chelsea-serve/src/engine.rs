//! The thread that computes, and the handle by which requests reach it.
//!
//! Requests arrive over a channel and hear of what becomes of them over one of their own. The HTTP side never waits for
//! the thread: what `/health` and `/metrics` tell is what the thread published after its last step.

use chelsea_engine::scheduler::{Event, Handed, Listener, Request, RequestError, Scheduler};
use chelsea_engine::{SchedulerStats, Sequence};
use chelsea_kv::Pool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc as channel, oneshot};

/// What the thread is told.
enum Command {
    Submit(Box<Request>, Option<Box<Sequence>>),
    /// To tell whether it would be taken in now.
    Check(Box<Request>, oneshot::Sender<(Box<Request>, Result<(), RequestError>)>),
    /// To make room for so many bytes, and tell whether there is.
    Room(usize, mpsc::Sender<bool>),
    Flush,
    Drain,
}

/// A way to the thread that computes. Clones lead to the same one.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    pool: Pool,
}

#[derive(Default)]
struct Shared {
    stats: Mutex<SchedulerStats>,
    draining: AtomicBool,
    ended: AtomicBool,
}

/// What a request hears.
pub type Events = channel::UnboundedReceiver<Event>;

/// A listener whose other end is a channel: dropping that ends the request.
struct Sender {
    channel: channel::UnboundedSender<Event>,
    watches: Option<Duration>,
    /// Whoever is to have the cache of the prompt.
    cache: Option<oneshot::Sender<Handed>>,
}

impl Listener for Sender {
    fn hear(&mut self, event: Event) {
        // Nobody listens any more: the scheduler asks before its next step.
        let _gone = self.channel.send(event);
    }

    fn is_gone(&self) -> bool {
        self.channel.is_closed()
    }

    fn watches(&self) -> Option<Duration> {
        self.watches
    }

    fn takes_cache(&self) -> bool {
        self.cache.is_some()
    }

    fn take_cache(&mut self, handed: Handed) {
        if let Some(cache) = self.cache.take() {
            // Nobody wants it any more.
            let _gone = cache.send(handed);
        }
    }
}

/// How often, at most, those who watch a cache are told what it holds.
const WATCHED: Duration = Duration::from_millis(250);

/// A channel for a request: as many events lie in it as the answer has tokens, at most, and a few a second where the cache
/// is watched. The cache of the prompt goes to `cache`, if that is given.
pub fn listener(watches: bool, cache: Option<oneshot::Sender<Handed>>) -> (Box<dyn Listener>, Events) {
    let (channel, events) = channel::unbounded_channel();
    (Box::new(Sender { channel, watches: watches.then_some(WATCHED), cache }), events)
}

impl Engine {
    /// Starts the thread. It ends when it was told to drain and everything is done, or when no handle is left.
    pub fn start(scheduler: Scheduler) -> (Engine, JoinHandle<()>) {
        let (commands, received) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        publish(&shared, &scheduler);
        let engine = Engine { commands, shared: shared.clone(), pool: scheduler.pool().clone() };
        let thread = std::thread::spawn(move || {
            // However the thread ends, requests that come afterwards are told so.
            let _ended = OnDrop(&shared.ended);
            compute(scheduler, &received, &shared);
        });
        (engine, thread)
    }

    /// Hands a request over. The first event tells whether it was taken in.
    ///
    /// # Errors
    /// [`RequestError::Draining`] if the thread has ended.
    pub fn submit(&self, request: Request) -> Result<(), RequestError> {
        self.submit_with(request, None)
    }

    /// The same with what was made of its prompt elsewhere.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_with(&self, request: Request, given: Option<Sequence>) -> Result<(), RequestError> {
        let command = Command::Submit(Box::new(request), given.map(Box::new));
        self.commands.send(command).map_err(|_| RequestError::Draining)
    }

    /// Asks whether a request would be taken in now, and gives it back.
    ///
    /// # Errors
    /// Why it would be refused, and [`RequestError::Draining`] if the thread has ended.
    pub async fn check(&self, request: Request) -> Result<Request, RequestError> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::Check(Box::new(request), tell)).map_err(|_| RequestError::Draining)?;
        let (request, checked) = told.await.map_err(|_| RequestError::Draining)?;
        checked.map(|()| *request)
    }

    /// Makes room for a cache of so many bytes that comes from elsewhere. Returns whether there is, by the end of the step
    /// that is being made. Blocks until then.
    pub fn make_room_for(&self, bytes: usize) -> bool {
        let (tell, told) = mpsc::channel();
        self.commands.send(Command::Room(bytes, tell)).is_ok() && told.recv().unwrap_or(false)
    }

    /// What all caches are charged to.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives up all checkpoints.
    pub fn flush(&self) {
        let _ended = self.commands.send(Command::Flush);
    }

    /// Takes no more requests; those that were taken in are served, and then the thread ends.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        let _ended = self.commands.send(Command::Drain);
    }

    /// Whether new requests are taken.
    pub fn is_ready(&self) -> bool {
        !self.shared.draining.load(Ordering::Relaxed) && self.is_alive()
    }

    /// Whether the thread computes.
    pub fn is_alive(&self) -> bool {
        !self.shared.ended.load(Ordering::Relaxed)
    }

    /// What the thread did so far, as of its last step.
    pub fn stats(&self) -> SchedulerStats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn publish(shared: &Shared, scheduler: &Scheduler) {
    *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.stats();
}

fn compute(mut scheduler: Scheduler, received: &mpsc::Receiver<Command>, shared: &Shared) {
    let mut draining = false;
    loop {
        if scheduler.is_idle() {
            publish(shared, &scheduler);
            if draining {
                return;
            }
            let Ok(command) = received.recv() else { return };
            draining |= obey(&mut scheduler, command);
        }
        while let Ok(command) = received.try_recv() {
            draining |= obey(&mut scheduler, command);
        }
        scheduler.step();
        publish(shared, &scheduler);
    }
}

/// Carries a command out. Returns whether it was the one to drain.
fn obey(scheduler: &mut Scheduler, command: Command) -> bool {
    match command {
        Command::Submit(request, None) => scheduler.submit(*request),
        Command::Submit(request, Some(given)) => scheduler.submit_with(*request, *given),
        Command::Check(request, tell) => {
            let checked = scheduler.admits(&request);
            // Whoever asked may be gone.
            let _gone = tell.send((request, checked));
        }
        Command::Room(bytes, tell) => {
            let _gone = tell.send(scheduler.make_room_for(bytes));
        }
        Command::Flush => scheduler.flush(),
        Command::Drain => {
            scheduler.drain();
            return true;
        }
    }
    false
}
