//! Prefill and decode speed, and cache bytes, at each depth.

use super::subject::{Subject, label, step_time, steps};
use super::trials::{Samples, Spread, interleaved};
use crate::cli::BenchArgs;
use anyhow::Result;
use chelsea_engine::Session;
use chelsea_kv::Budget;
use serde::Serialize;
use std::time::Instant;

/// One depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    pub entries_a_head: f64,
    pub kv_bytes: usize,
    /// Seconds for the whole prompt.
    pub prefill_s: Option<Spread>,
    pub prefill_tokens_per_s: Option<f64>,
    pub decode_ms: Option<Spread>,
    pub decode_tokens_per_s: Option<f64>,
}

struct Case {
    depth: usize,
    budget: Budget,
    session: Session,
    prefill: Samples,
    decode: Samples,
}

/// Measures every depth under every budget.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Vec<Row>> {
    let mut cases = Vec::new();
    for &depth in &args.depths {
        for budget in args.budgets() {
            let session = subject.session(args, depth, budget, args.prefill.max(steps(args)), 0)?;
            cases.push(Case { depth, budget, session, prefill: Samples::default(), decode: Samples::default() });
        }
    }
    let (prompt, answer) = (subject.tokens(args.prefill, 1), subject.tokens(args.decode, 2));
    interleaved("measuring", &mut cases, args.trials, quiet, |case, counts| {
        if !prompt.is_empty() {
            let mut session = case.session.fork()?;
            let start = Instant::now();
            session.read(&prompt, |_| ())?;
            if counts {
                case.prefill.push(start.elapsed().as_secs_f64());
            }
        }
        if !answer.is_empty() {
            let step = step_time(&mut [&mut case.session.fork()?], answer.len(), |all, i| all[0].step(answer[i]))?;
            if counts {
                case.decode.push(1e3 * step);
            }
        }
        Ok(())
    })?;
    Ok(cases.iter().map(|case| row(args, case)).collect())
}

fn row(args: &BenchArgs, case: &Case) -> Row {
    let cache = case.session.cache();
    let (prefill_s, decode_ms) = (case.prefill.spread(), case.decode.spread());
    Row {
        depth: case.depth,
        budget: label(args, case.budget),
        entries_a_head: cache.entries() as f64 / cache.heads().len() as f64,
        kv_bytes: if case.depth == 0 { 0 } else { case.session.memory().total() },
        prefill_s,
        prefill_tokens_per_s: prefill_s.map(|s| args.prefill as f64 / s.median),
        decode_ms,
        decode_tokens_per_s: decode_ms.map(|ms| 1e3 / ms.median),
    }
}
