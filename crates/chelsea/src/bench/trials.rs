//! How a number is taken: several trials, interleaved over all settings after one round that only warms up.

use crate::{output, signals};
use anyhow::{Result, bail};
use serde::Serialize;

/// Values of one thing measured again and again.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

/// The median of such values, and the lowest and highest of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Samples {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The median, the lowest and the highest value; nothing if there are no values.
    pub fn spread(&self) -> Option<Spread> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Spread { median: output::median(&mut sorted)?, min, max })
    }
}

/// Measures every case in turn, `trials` times over. The first round counts for nothing: `measure` is told so.
pub fn interleaved<C>(
    what: &str,
    cases: &mut [C],
    trials: u32,
    quiet: bool,
    mut measure: impl FnMut(&mut C, bool) -> Result<()>,
) -> Result<()> {
    let bar = output::bar(u64::from(trials) * cases.len() as u64, what, false, quiet);
    for trial in 0..=trials {
        for case in &mut *cases {
            stop_if_cancelled()?;
            measure(case, trial > 0)?;
            bar.inc(u64::from(trial > 0));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Ends the work in good order after Ctrl-C.
pub fn stop_if_cancelled() -> Result<()> {
    if signals::cancelled() {
        bail!("stopped before the end");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_ends() {
        let mut samples = Samples::default();
        assert_eq!(samples.spread(), None);
        [5.0, 1.0, 2.0].into_iter().for_each(|v| samples.push(v));
        assert_eq!(samples.spread(), Some(Spread { median: 2.0, min: 1.0, max: 5.0 }));
    }

    #[test]
    fn cases_take_turns_and_the_first_round_does_not_count() {
        let mut seen = Vec::new();
        let mut cases = ['a', 'b'];
        interleaved("x", &mut cases, 2, true, |case, counts| {
            seen.push((*case, counts));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [('a', false), ('b', false), ('a', true), ('b', true), ('a', true), ('b', true)]);
    }
}
