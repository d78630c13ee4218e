//! Clustering alone: what a token pays for it, online and in one shot, and what share of prefill that is.

use super::subject::{Subject, label};
use super::trials::{Samples, Spread, interleaved};
use crate::cli::BenchArgs;
use anyhow::{Result, bail};
use chelsea_engine::Session;
use chelsea_kv::Budget;
use serde::Serialize;

/// One depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    /// Microseconds of clustering a token, while reading goes on from the depth.
    pub online_us: Option<Spread>,
    /// Its share of the time of reading.
    pub share_of_prefill: Option<Spread>,
    /// Microseconds a token when a full cache of this depth is clustered at once.
    pub one_shot_us: Option<Spread>,
}

struct Case {
    depth: usize,
    budget: Budget,
    session: Session,
    online: Samples,
    share: Samples,
    one_shot: Samples,
}

/// Measures every depth under every budget that clusters.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Vec<Row>> {
    let mut cases = Vec::new();
    let rounds = args.trials as usize + 1;
    for &depth in &args.depths {
        for budget in args.budgets().into_iter().filter(|&budget| budget != Budget::EntryFraction(1.0)) {
            let session = subject.session(args, depth, budget, rounds * args.prefill, 0)?;
            let (online, share, one_shot) = (Samples::default(), Samples::default(), Samples::default());
            cases.push(Case { depth, budget, session, online, share, one_shot });
        }
    }
    if cases.is_empty() {
        bail!("--what matching needs a keep ratio below 1 or a fixed size");
    }
    let block = subject.tokens(args.prefill, 5);
    interleaved("clustering", &mut cases, args.trials, quiet, |case, counts| {
        // The sequence grows from trial to trial: a fork would pay for copying every page that is clustered.
        if !block.is_empty() {
            let stats = case.session.read(&block, |_| ())?;
            if counts && !stats.time.is_zero() {
                case.online.push(1e6 * stats.clustering.as_secs_f64() / stats.tokens as f64);
                case.share.push(stats.clustering.as_secs_f64() / stats.time.as_secs_f64());
            }
        }
        if case.depth > 0 {
            let mut full = subject.full_cache(args, case.depth, case.budget)?;
            full.set_budget(case.budget)?;
            let done = subject.pool.install(|| full.compact_now(None))?;
            if counts && done.compacted {
                case.one_shot.push(1e6 * done.elapsed.as_secs_f64() / case.depth as f64);
            }
        }
        Ok(())
    })?;
    let row = |case: &Case| Row {
        depth: case.depth,
        budget: label(args, case.budget),
        online_us: case.online.spread(),
        share_of_prefill: case.share.spread(),
        one_shot_us: case.one_shot.spread(),
    };
    Ok(cases.iter().map(row).collect())
}
