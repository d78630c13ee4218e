//! How long prompts may hold others up: the steps in which they are read, from how fast this machine reads.

use chelsea_engine::{EngineError, Runner, Sequence, SessionOptions, Work};
use chelsea_model::Model;
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of the text that is timed, at least.
const SAMPLE: usize = 256;
/// Steps to choose from. Shorter ones would read much slower, as weights are opened for each.
const STEPS: [usize; 5] = [16, 32, 64, 128, 256];
/// The same where a device computes, for which even these are short.
const DEVICE_STEPS: [usize; 4] = [64, 128, 256, 512];

/// Tokens a second that this machine reads in steps of `step`, once caches are warm.
///
/// # Errors
/// If the model cannot read at all.
pub fn read_rate(model: &Arc<Model>, threads: &Arc<ThreadPool>, step: usize) -> Result<f64, EngineError> {
    let mut options = SessionOptions { step: Some(step), ..SessionOptions::default() };
    if let Some(device) = model.device() {
        options.block = device.block();
    }
    let vocab = model.config().vocab as u32;
    let mut runner = Runner::new(model.clone(), threads.clone());
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let mut sequence = Sequence::new(model.clone(), &options)?;
        let length = SAMPLE.max(step).min(sequence.limit());
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
    let steps: &[usize] = if model.device().is_some() { &DEVICE_STEPS } else { &STEPS };
    let mut chosen = steps[0];
    for &step in steps {
        let rate = read_rate(model, threads, step)?;
        if step as f64 / rate > SHARE * stall.as_secs_f64() {
            break;
        }
        chosen = step;
    }
    Ok(chosen)
}
