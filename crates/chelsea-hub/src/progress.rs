//! How long work is reported, without saying how it is shown.

/// Receives what a long download does. One stage is shown at a time: `begin`, many `advance`, `end`.
///
/// The library draws nothing itself; a terminal program wraps a progress bar, a test records the calls.
pub trait Progress {
    /// A new stage of `total` bytes (unknown if `None`); `what` is a short noun phrase such as "downloading smollm2".
    fn begin(&mut self, what: &str, total: Option<u64>);
    /// `done` bytes of the current stage are there. Not always growing: a part that is tried again counts from zero.
    fn advance(&mut self, done: u64);
    /// The current stage is over.
    fn end(&mut self);
    /// Something worth a line: waiting for another process, using a cached copy since the hub cannot be reached.
    fn note(&mut self, message: &str);
    /// True once the user wants to stop. Asked several times a second; the work then ends with
    /// [`HubError::Cancelled`](crate::HubError::Cancelled) and keeps what is complete.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Shows nothing and never stops.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _total: Option<u64>) {}
    fn advance(&mut self, _done: u64) {}
    fn end(&mut self) {}
    fn note(&mut self, message: &str) {
        tracing::info!("{message}");
    }
}
