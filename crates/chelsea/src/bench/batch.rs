//! Decode speed of several sequences that share each pass over the weights.
//!
//! Every sequence has a cache of its own: forks of one cache would share its pages, and their attention would read
//! them from the processor's cache.

use super::subject::{Subject, label, step_time, steps};
use super::trials::{Samples, Spread, interleaved};
use crate::cli::BenchArgs;
use anyhow::Result;
use chelsea_engine::{Pace, Runner, Session};
use serde::Serialize;

/// So many sequences at one depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    pub sequences: usize,
    pub kv_bytes: usize,
    pub step_ms: Spread,
    pub tokens_per_s: f64,
}

/// Measures every depth under every budget, one after the other; batch sizes take turns. `rows` gets those of each depth
/// and budget when they are complete.
pub fn run(args: &BenchArgs, subject: &Subject, rows: &mut Vec<Row>, quiet: bool) -> Result<()> {
    anyhow::ensure!(args.decode > 0, "--what batch measures decoding, but --decode is 0");
    let most = args.batches.iter().max().copied().unwrap_or(1) as usize;
    for &depth in &args.depths {
        for budget in args.budgets() {
            let sessions: Vec<Session> = (0..most)
                .map(|i| subject.session(args, depth, budget, steps(args), i as u64))
                .collect::<Result<_>>()?;
            let mut cases: Vec<(usize, Samples)> =
                args.batches.iter().map(|&n| (n as usize, Samples::default())).collect();
            let mut runner = Runner::new(subject.model.clone(), subject.pool.clone()).with_pace(Pace::AllAtOnce);
            interleaved("measuring", &mut cases, args.trials, quiet, |(n, samples), counts| {
                let step = step(&sessions[..*n], args.decode, subject, &mut runner)?;
                if counts {
                    samples.push(1e3 * step);
                }
                Ok(())
            })?;
            for (n, samples) in cases {
                let Some(step_ms) = samples.spread() else { continue };
                let bytes = |s: &Session| if depth == 0 { 0 } else { s.memory().total() };
                rows.push(Row {
                    depth,
                    budget: label(args, budget),
                    sequences: n,
                    kv_bytes: sessions[..n].iter().map(bytes).sum(),
                    step_ms,
                    tokens_per_s: 1e3 * n as f64 / step_ms.median,
                });
            }
        }
    }
    Ok(())
}

/// Seconds of a step of all sessions together.
fn step(sessions: &[Session], steps: usize, subject: &Subject, runner: &mut Runner) -> Result<f64> {
    let mut forks = sessions.iter().map(Session::fork).collect::<Result<Vec<_>, _>>()?;
    let mut batch: Vec<&mut Session> = forks.iter_mut().collect();
    let n = batch.len();
    let tokens = subject.tokens(steps * n, 3);
    step_time(&mut batch, steps, |all, i| Session::step_many(all, &tokens[i * n..][..n], runner))
}
