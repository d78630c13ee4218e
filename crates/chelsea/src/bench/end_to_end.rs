//! A prompt read online, then generation: what somebody waits for, and the cache at its peak.

use super::subject::{Subject, label, options, prompt};
use super::trials::{Samples, Spread, stop_if_cancelled};
use crate::cli::BenchArgs;
use crate::output;
use anyhow::Result;
use chelsea_engine::Session;
use chelsea_kv::Budget;
use serde::Serialize;
use std::time::{Duration, Instant};

/// One budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub budget: String,
    pub prompt: usize,
    pub generated: usize,
    pub total_s: Spread,
    pub prefill_s: Spread,
    /// The part of prefill that went into clustering.
    pub clustering_s: Spread,
    pub decode_s: Spread,
    pub kv_bytes: usize,
    pub kv_bytes_peak: usize,
    pub kv_bytes_full: usize,
}

#[derive(Default)]
struct Case {
    total: Samples,
    prefill: Samples,
    clustering: Samples,
    decode: Samples,
    bytes: (usize, usize, usize),
}

/// Measures every budget, trial by trial in turn.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Vec<Row>> {
    let prompt = subject.text.clone().unwrap_or_else(|| subject.tokens(prompt(args), 4));
    let budgets = args.budgets();
    let mut cases: Vec<Case> = budgets.iter().map(|_| Case::default()).collect();
    warm_up(args, subject, &prompt)?;
    let total = u64::from(args.trials) * budgets.len() as u64 * (prompt.len() + args.generate) as u64;
    let bar = output::bar(total, "reading and answering", false, quiet);
    for _ in 0..args.trials {
        for (case, &budget) in cases.iter_mut().zip(&budgets) {
            once(args, subject, &prompt, budget, case, &|n| bar.inc(n as u64))?;
        }
    }
    bar.finish_and_clear();
    let row = |(case, &budget): (&Case, &Budget)| {
        Some(Row {
            budget: label(args, budget),
            prompt: prompt.len(),
            generated: args.generate,
            total_s: case.total.spread()?,
            prefill_s: case.prefill.spread()?,
            clustering_s: case.clustering.spread()?,
            decode_s: case.decode.spread()?,
            kv_bytes: case.bytes.0,
            kv_bytes_peak: case.bytes.1,
            kv_bytes_full: case.bytes.2,
        })
    };
    Ok(cases.iter().zip(&budgets).filter_map(row).collect())
}

fn once(
    args: &BenchArgs,
    subject: &Subject,
    prompt: &[u32],
    budget: Budget,
    case: &mut Case,
    progress: &dyn Fn(usize),
) -> Result<()> {
    let options = options(args, prompt.len() + args.generate, budget);
    let mut session = Session::new(subject.model.clone(), subject.pool.clone(), subject.cancel.clone(), &options)?;
    let start = Instant::now();
    let mut seen = 0;
    let stats = session.read(prompt, |p| {
        progress(p.done - seen);
        seen = p.done;
    })?;
    let read = start.elapsed();
    for _ in 0..args.generate {
        stop_if_cancelled()?;
        let token = likeliest(session.logits());
        session.step(token)?;
        progress(1);
    }
    stop_if_cancelled()?;
    let all = start.elapsed();
    let mut put = |samples: fn(&mut Case) -> &mut Samples, time: Duration| samples(case).push(time.as_secs_f64());
    put(|c| &mut c.total, all);
    put(|c| &mut c.prefill, read);
    put(|c| &mut c.clustering, stats.clustering);
    put(|c| &mut c.decode, all - read);
    let cache = session.cache();
    case.bytes = (session.memory().total(), cache.peak(), cache.full_bytes());
    Ok(())
}

/// The first trial should not pay for pages of weights that were never touched.
fn warm_up(args: &BenchArgs, subject: &Subject, prompt: &[u32]) -> Result<()> {
    let some = &prompt[..prompt.len().min(512)];
    subject.session(args, 0, Budget::EntryFraction(1.0), some.len(), 0)?.read(some, |_| ())?;
    Ok(())
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_token_is_the_one_with_the_highest_logit() {
        assert_eq!(likeliest(&[0.0, -1.0, 7.5, 7.0]), 2);
        assert_eq!(likeliest(&[]), 0);
    }
}
