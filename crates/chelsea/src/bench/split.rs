//! Where a decode step and a prefill block spend their time.

use super::subject::{DECODE_BLOCK, Subject, label};
use super::trials::{Samples, interleaved};
use crate::cli::BenchArgs;
use anyhow::Result;
use chelsea_engine::Session;
use chelsea_kv::Budget;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Names of the parts, in the order of [`Row::ms`].
pub const PARTS: [&str; 6] = ["products", "logits", "attention", "append", "clustering", "rest"];

/// One kind of work at one depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    /// `decode` or `prefill`.
    pub work: &'static str,
    /// Tokens of a trial.
    pub tokens: usize,
    /// Milliseconds a token, in the order of [`PARTS`]: medians of each part.
    pub ms: [f64; 6],
}

struct Case {
    depth: usize,
    budget: Budget,
    session: Session,
    parts: [[Samples; 6]; 2],
}

/// Measures every depth under every budget.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Vec<Row>> {
    // A whole number of the blocks in which decoding clusters: each step bears its share.
    let steps = args.decode.next_multiple_of(DECODE_BLOCK);
    let lengths = [steps, args.prefill];
    let mut cases = Vec::new();
    for &depth in &args.depths {
        for budget in args.budgets() {
            let session = subject.session(args, depth, budget, steps.max(args.prefill), 0)?;
            cases.push(Case { depth, budget, session, parts: Default::default() });
        }
    }
    let (answer, prompt) = (subject.tokens(steps, 6), subject.tokens(args.prefill, 7));
    interleaved("splitting", &mut cases, args.trials, quiet, |case, counts| {
        for (kind, tokens) in [&answer, &prompt].into_iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            let mut session = case.session.fork()?;
            session.measure(true);
            let start = Instant::now();
            if kind == 0 {
                tokens.iter().try_for_each(|&token| session.step(token))?;
            } else {
                session.read(tokens, |_| ())?;
            }
            let wall = start.elapsed();
            if counts {
                for (samples, time) in case.parts[kind].iter_mut().zip(parts(&session, wall)) {
                    samples.push(1e3 * time.as_secs_f64() / tokens.len() as f64);
                }
            }
        }
        Ok(())
    })?;
    let mut rows = Vec::new();
    for (kind, work) in ["decode", "prefill"].into_iter().enumerate() {
        for case in &cases {
            let medians: Vec<f64> = case.parts[kind].iter().filter_map(|s| s.spread()).map(|s| s.median).collect();
            let Ok(ms) = medians.try_into() else { continue };
            rows.push(Row { depth: case.depth, budget: label(args, case.budget), work, tokens: lengths[kind], ms });
        }
    }
    Ok(rows)
}

fn parts(session: &Session, wall: Duration) -> [Duration; 6] {
    let times = session.times();
    let forward = times.forward;
    let named = forward.products + forward.output + forward.attention + forward.append + times.clustering;
    let rest = wall.saturating_sub(named);
    [forward.products, forward.output, forward.attention, forward.append, times.clustering, rest]
}
