//! How long prompts may hold others up: the steps in which they are read, from how fast this machine reads.

use chelsea_engine::{EngineError, Runner, Sequence, SessionOptions, Work};
use chelsea_model::Model;
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of the text that is timed.
const SAMPLE: usize = 256;
/// Steps to choose from. Shorter ones would read much slower, as weights are opened for each.
const STEPS: [usize; 5] = [16, 32, 64, 128, 256];

/// Tokens a second that this machine reads in steps of `step`, once caches are warm.
///
/// # Errors
/// If the model cannot read at all.
pub fn read_rate(model: &Arc<Model>, threads: &Arc<ThreadPool>, step: usize) -> Result<f64, EngineError> {
    let options = SessionOptions { step: Some(step), ..SessionOptions::default() };
    let vocab = model.config().vocab as u32;
    let mut runner = Runner::new(model.clone(), threads.clone());
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let mut sequence = Sequence::new(model.clone(), &options)?;
        let length = SAMPLE.min(sequence.limit());
        sequence.start_reading((0..length as u32).map(|i| i * 31 % vocab).collect::<Vec<_>>())?;
        let start = Instant::now();
        while sequence.reading().is_some() {
            runner.step(&mut [Work::Read(&mut sequence)]).into_iter().try_for_each(|outcome| outcome.map(|_| ()))?;
        }
        best = best.min(start.elapsed().as_secs_f64() / length.max(1) as f64);
    }
    Ok(1.0 / best)
}

/// Share of a pause that reading may take where a text begins: attention to a long one, and the tokens of others that go
/// along, take the rest.
const SHARE: f64 = 0.6;

/// The longest step that takes no longer than `stall`, with what long texts take beyond short ones.
///
/// # Errors
/// If the model cannot read at all.
pub fn step_for(model: &Arc<Model>, threads: &Arc<ThreadPool>, stall: Duration) -> Result<usize, EngineError> {
    let mut chosen = STEPS[0];
    for step in STEPS {
        let rate = read_rate(model, threads, step)?;
        if step as f64 / rate > SHARE * stall.as_secs_f64() {
            break;
        }
        chosen = step;
    }
    Ok(chosen)
}
