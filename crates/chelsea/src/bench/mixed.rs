//! A chunk of a text that is read in the same pass as sequences that decode, beside what each of the two takes apart.
//!
//! What a server does while somebody's prompt comes in: the pass should cost no more than its parts. Clustering is left
//! out of all three times.

use super::subject::{Subject, label, steps};
use super::trials::{Samples, Spread, interleaved};
use crate::cli::BenchArgs;
use anyhow::Result;
use chelsea_engine::{Pace, Runner, Sequence, Session, SessionOptions, Work};
use chelsea_kv::{PAGE, ReadPlan};
use serde::Serialize;
use std::time::{Duration, Instant};

/// So many sequences that decode beside one that reads, all at one depth under one budget.
#[derive(Debug, Serialize)]
pub struct Row {
    pub depth: usize,
    pub budget: String,
    /// Sequences that decode.
    pub sequences: usize,
    /// Tokens of the chunk that is read.
    pub chunk: usize,
    /// A pass over the decoded tokens alone.
    pub decode_ms: Spread,
    /// A pass over the chunk alone.
    pub read_ms: Spread,
    /// A pass over both.
    pub together_ms: Spread,
    /// The last as a share of the two others together.
    pub share: f64,
}

/// Passes of each kind in a trial: an even number, as their order takes turns.
const ROUNDS: usize = 4;

/// Chunks, and decoded tokens of each sequence, that a trial takes in: two in a round and one to begin with.
const PASSES: usize = 2 * ROUNDS + 1;

#[derive(Default)]
struct Case {
    sequences: usize,
    times: [Samples; 3],
}

/// Tokens that are read at once where clustering goes on meanwhile.
fn chunk() -> usize {
    ReadPlan::of_block(SessionOptions::default().block, PAGE).step
}

/// Tokens that a sequence takes in at most during a trial.
pub fn longest(args: &BenchArgs) -> usize {
    steps(args).max(PASSES * chunk())
}

/// Measures every depth under every budget, one after the other; batch sizes take turns.
pub fn run(args: &BenchArgs, subject: &Subject, quiet: bool) -> Result<Vec<Row>> {
    let most = args.batches.iter().max().copied().unwrap_or(1) as usize;
    let mut rows = Vec::new();
    for &depth in &args.depths {
        for budget in args.budgets() {
            // The first reads, the others decode.
            let sessions: Vec<Session> = (0..=most)
                .map(|i| subject.session(args, depth, budget, longest(args), i as u64))
                .collect::<Result<_>>()?;
            let mut cases: Vec<Case> =
                args.batches.iter().map(|&n| Case { sequences: n as usize, ..Case::default() }).collect();
            let mut runner = Runner::new(subject.model.clone(), subject.pool.clone()).with_pace(Pace::AllAtOnce);
            interleaved("measuring", &mut cases, args.trials, quiet, |case, counts| {
                trial(&sessions[..=case.sequences], subject, &mut runner, case, counts)
            })?;
            rows.extend(cases.iter().filter_map(|case| {
                let [decode_ms, read_ms, together_ms] = case.times.each_ref().map(Samples::spread);
                let (decode_ms, read_ms, together_ms) = (decode_ms?, read_ms?, together_ms?);
                Some(Row {
                    depth,
                    budget: label(args, budget),
                    sequences: case.sequences,
                    chunk: chunk(),
                    decode_ms,
                    read_ms,
                    together_ms,
                    share: together_ms.median / (decode_ms.median + read_ms.median),
                })
            }));
        }
    }
    Ok(rows)
}

fn trial(sessions: &[Session], subject: &Subject, runner: &mut Runner, case: &mut Case, counts: bool) -> Result<()> {
    let mut sequences: Vec<Sequence> =
        sessions.iter().map(|session| session.sequence().fork()).collect::<Result<_, _>>()?;
    let Some((reader, decoders)) = sequences.split_first_mut() else { return Ok(()) };
    let text = subject.tokens(PASSES * chunk(), 8);
    let tokens = subject.tokens(PASSES * decoders.len(), 9);
    let (mut chunks, mut tokens) = (text.chunks(chunk()), tokens.chunks(decoders.len().max(1)));
    // The first pass of a fork copies the pages that it is going to write to.
    pass(Some((reader, chunks.next().unwrap_or_default())), decoders, tokens.next().unwrap_or_default(), runner)?;
    for round in 1..=ROUNDS {
        let mut kinds = [0, 1, 2];
        if round % 2 == 0 {
            kinds.reverse();
        }
        for kind in kinds {
            let chunk = if kind == 0 { None } else { chunks.next() };
            let row = if kind == 1 { &[][..] } else { tokens.next().unwrap_or_default() };
            let time = pass(chunk.map(|chunk| (&mut *reader, chunk)), decoders, row, runner)?;
            if counts {
                case.times[kind].push(1e3 * time.as_secs_f64());
            }
        }
    }
    Ok(())
}

/// Time of a pass over a chunk and the next token of each sequence that decodes, without what clustering took.
fn pass(
    read: Option<(&mut Sequence, &[u32])>,
    decoders: &mut [Sequence],
    tokens: &[u32],
    runner: &mut Runner,
) -> Result<Duration> {
    let mut batch: Vec<Work<'_>> = decoders.iter_mut().zip(tokens).map(|(s, &token)| Work::Decode(s, token)).collect();
    if let Some((reader, chunk)) = read {
        reader.start_reading(chunk)?;
        batch.push(Work::Read(reader));
    }
    let clustered = |batch: &[Work<'_>]| -> Duration { batch.iter().map(|work| work.sequence().clustering()).sum() };
    let (start, before) = (Instant::now(), clustered(&batch));
    let outcomes = runner.step(&mut batch);
    let time = start.elapsed();
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(time.saturating_sub(clustered(&batch) - before))
}
