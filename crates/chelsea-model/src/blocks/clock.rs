//! Where a forward pass spends its time, when somebody wants to know.
//!
//! A clock that is off costs one test of a flag per phase. One that is on reads the time a few times per layer, which is
//! nothing beside a product, and charges each stretch to the phase that ended it.

use std::time::{Duration, Instant};

/// Time of forward passes, by what it went into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Products with the weights of the layers.
    pub products: Duration,
    /// The product that makes logits.
    pub output: Duration,
    /// Attention.
    pub attention: Duration,
    /// Writing keys and values into caches.
    pub append: Duration,
    /// Everything else: embedding, norms, rotary embedding, gates, residuals.
    pub rest: Duration,
}

impl Spent {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.products + self.output + self.attention + self.append + self.rest
    }
}

/// What a stretch of time was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Products,
    Output,
    Attention,
    Append,
    Rest,
}

/// A stopwatch with a lap a phase.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    on: bool,
    last: Option<Instant>,
    pub spent: Spent,
}

impl Clock {
    /// Turns it on or off, and forgets what it counted.
    pub fn set(&mut self, on: bool) {
        *self = Clock { on, ..Clock::default() };
    }

    /// Begins to count; time since the last lap belongs to nobody.
    #[inline]
    pub fn start(&mut self) {
        if self.on {
            self.last = Some(Instant::now());
        }
    }

    /// Charges the time since the last lap to `phase`.
    #[inline]
    pub fn lap(&mut self, phase: Phase) {
        if self.on {
            self.charge(phase);
        }
    }

    #[cold]
    fn charge(&mut self, phase: Phase) {
        let now = Instant::now();
        let part = match phase {
            Phase::Products => &mut self.spent.products,
            Phase::Output => &mut self.spent.output,
            Phase::Attention => &mut self.spent.attention,
            Phase::Append => &mut self.spent.append,
            Phase::Rest => &mut self.spent.rest,
        };
        *part += self.last.map_or(Duration::ZERO, |last| now - last);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_counts_nothing() {
        let mut clock = Clock::default();
        clock.start();
        clock.lap(Phase::Products);
        assert_eq!(clock.spent, Spent::default());
    }

    #[test]
    fn every_stretch_goes_to_the_phase_that_ended_it() {
        let mut clock = Clock::default();
        clock.set(true);
        let start = Instant::now();
        clock.start();
        for (phase, ms) in [(Phase::Attention, 2), (Phase::Rest, 1), (Phase::Attention, 2)] {
            std::thread::sleep(Duration::from_millis(ms));
            clock.lap(phase);
        }
        assert!(clock.spent.attention >= Duration::from_millis(4) && clock.spent.rest >= Duration::from_millis(1));
        assert_eq!(clock.spent.products + clock.spent.output + clock.spent.append, Duration::ZERO);
        assert!(clock.spent.total() <= start.elapsed());
    }
}
