//! Answers that somebody still listens to: the end of the server waits for them.

use crate::engine::Engine;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long clients may take, after the engine has ended, to read the answers that were computed for them.
const SLOW: Duration = Duration::from_secs(60);
/// How long the last bytes may be on their way, and a client that hangs may hold the end up.
const LAST: Duration = Duration::from_secs(5);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// Counts answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Live(Answers);

impl Answers {
    pub(crate) fn begin(&self) -> Live {
        self.0.fetch_add(1, Ordering::AcqRel);
        Live(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// Waits until the engine has ended and everything it said was read, or clients took too long for that.
    pub(crate) async fn read(&self, engine: &Engine) {
        while engine.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
        let until = Instant::now() + SLOW;
        while self.count() > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(LAST).await;
    }
}

impl Clone for Live {
    fn clone(&self) -> Self {
        self.0.begin()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
