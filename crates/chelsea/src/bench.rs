//! `chelsea bench`: prefill and decode speed, and cache bytes, at given depths and keep ratios.
//!
//! Trials are interleaved over all settings, so that a machine that slows down for a while slows all of
//! them down; medians are printed.

use crate::cli::BenchArgs;
use crate::output::{self, Table};
use crate::setup::{self, Loaded};
use anyhow::{Result, bail};
use chelsea_engine::{Session, SessionOptions, cache_config};
use chelsea_kv::{Budget, SequenceCache};
use serde::Serialize;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// One depth at one keep ratio.
#[derive(Debug, Serialize)]
struct Row {
    depth: usize,
    keep: f32,
    entries_a_head: f64,
    kv_bytes: usize,
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    threads: usize,
    trials: u32,
    prefill: usize,
    decode: usize,
    filled: &'static str,
    weight_bytes: usize,
    rows: Vec<Row>,
}

/// One setting with its cache ready, and the times measured so far.
struct Case {
    depth: usize,
    keep: f32,
    session: Session,
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

/// Runs the verb.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.prefill == 0 && args.decode == 0 {
        bail!("nothing to measure: --prefill and --decode are both 0");
    }
    let quiet = args.json || !std::io::stderr().is_terminal();
    let cancel = setup::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    check_memory(args, &loaded)?;
    let mut cases = Vec::new();
    for &depth in &args.depths {
        for &keep in &args.keeps {
            let session = filled(args, &loaded, cancel.clone(), depth, keep)?;
            cases.push(Case { depth, keep, session, prefill: Vec::new(), decode: Vec::new() });
        }
    }
    let bar = output::bar(u64::from(args.trials) * cases.len() as u64, "measuring", false, quiet);
    for trial in 0..=args.trials {
        for case in &mut cases {
            if setup::cancelled() {
                bail!("stopped before the end");
            }
            // The first round only warms up.
            measure(args, &loaded, case, trial > 0)?;
            bar.inc(u64::from(trial > 0));
        }
    }
    bar.finish_and_clear();
    let report = Report {
        model: args.model.model.clone(),
        threads: loaded.threads,
        trials: args.trials,
        prefill: args.prefill,
        decode: args.decode,
        filled: if args.real { "read" } else { "random entries" },
        weight_bytes: loaded.model.memory().total(),
        rows: cases.iter().map(row).collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

fn options(args: &BenchArgs, depth: usize, keep: f32) -> SessionOptions {
    SessionOptions {
        budget: Budget::Keep(keep),
        policy: args.policy.clone(),
        context: Some(depth + args.prefill + args.decode + 1),
        ..SessionOptions::default()
    }
}

/// A session at `depth` tokens of which `keep` are left.
fn filled(args: &BenchArgs, loaded: &Loaded, cancel: Arc<AtomicBool>, depth: usize, keep: f32) -> Result<Session> {
    let options = options(args, depth, keep);
    let (model, pool) = (loaded.model.clone(), loaded.pool.clone());
    if args.real {
        let mut session = Session::new(model, pool, cancel, &options)?;
        session.read(&random_tokens(depth, model_vocab(loaded), 1), |_| ())?;
        return Ok(session);
    }
    let config = cache_config(&model, &options)?;
    let entries = config.allowed(depth) / config.shape.heads();
    let cache = SequenceCache::synthetic(config, depth, entries, 1)?;
    let history = random_tokens(depth, model_vocab(loaded), 1);
    Ok(Session::with_cache(model, pool, cancel, &options, cache, history)?)
}

fn measure(args: &BenchArgs, loaded: &Loaded, case: &mut Case, count: bool) -> Result<()> {
    let vocab = model_vocab(loaded);
    if args.prefill > 0 {
        let mut session = case.session.fork();
        let tokens = random_tokens(args.prefill, vocab, 2);
        let start = Instant::now();
        session.read(&tokens, |_| ())?;
        if count {
            case.prefill.push(args.prefill as f64 / start.elapsed().as_secs_f64());
        }
    }
    if args.decode > 0 {
        let mut session = case.session.fork();
        let tokens = random_tokens(args.decode, vocab, 3);
        let mut times = Vec::with_capacity(tokens.len());
        for &token in &tokens {
            let start = Instant::now();
            session.step(token)?;
            times.push(start.elapsed().as_secs_f64());
        }
        if count {
            case.decode.push(1.0 / median(&mut times));
        }
    }
    Ok(())
}

fn row(case: &Case) -> Row {
    let rate = |values: &Vec<f64>| if values.is_empty() { None } else { Some(median(&mut values.clone())) };
    let cache = case.session.cache();
    Row {
        depth: case.depth,
        keep: case.keep,
        entries_a_head: cache.entries() as f64 / cache.heads().len() as f64,
        kv_bytes: if case.depth == 0 { 0 } else { case.session.memory().total() },
        prefill_tokens_per_s: rate(&case.prefill),
        decode_tokens_per_s: rate(&case.decode),
    }
}

fn model_vocab(loaded: &Loaded) -> usize {
    loaded.model.config().vocab
}

/// Token ids without meaning: speed does not depend on them.
fn random_tokens(n: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Refuses depths whose caches would not fit, before anything is allocated.
fn check_memory(args: &BenchArgs, loaded: &Loaded) -> Result<()> {
    let Some(available) = setup::available_bytes() else { return Ok(()) };
    let per_token = loaded.model.cache_shape().bytes_per_token(loaded.model.kv_dtype()) as f64;
    let kept: f64 = args.keeps.iter().map(|&k| f64::from(k)).sum();
    let depth: usize = args.depths.iter().sum();
    let longest = args.depths.iter().max().copied().unwrap_or(0);
    if longest > chelsea_kv::MAX_TOKENS {
        bail!("depth {longest} is beyond the {} tokens that a sequence may have", chelsea_kv::MAX_TOKENS);
    }
    let needed = 1.1 * per_token * kept * depth as f64;
    if needed > available as f64 {
        bail!(
            "the caches asked for need about {}, but only {} of memory are free: give fewer or smaller --depths",
            output::bytes(needed as usize),
            output::bytes(available)
        );
    }
    Ok(())
}

fn text(r: &Report) -> String {
    let mut table =
        Table::with_heading(["depth", "kept", "entries", "cache", "prefill tok/s", "decode tok/s", "ratio"]);
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
    for row in &r.rows {
        let first = r.rows.iter().find(|x| x.depth == row.depth).and_then(|x| x.decode_tokens_per_s);
        let ratio = first.zip(row.decode_tokens_per_s).map(|(a, b)| format!("{:.2}x", b / a));
        table.row([
            row.depth.to_string(),
            format!("{:.0}%", row.keep * 100.0),
            format!("{:.0}", row.entries_a_head),
            output::bytes(row.kv_bytes),
            number(row.prefill_tokens_per_s),
            number(row.decode_tokens_per_s),
            ratio.unwrap_or("-".into()),
        ]);
    }
    format!(
        "{}, {} threads, weights {}, medians of {} trials; prefill of {}, decode of {} tokens; caches filled: {}.\n\
         The ratio compares decode with the first keep ratio at the same depth.\n\n{}",
        r.model,
        r.threads,
        output::bytes(r.weight_bytes),
        r.trials,
        r.prefill,
        r.decode,
        r.filled,
        table.render()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary() {
        assert!(random_tokens(1000, 17, 5).iter().all(|&t| t < 17));
    }
}
