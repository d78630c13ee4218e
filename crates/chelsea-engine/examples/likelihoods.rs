//! How likely texts are as they go on from others: what evaluation harnesses ask a server for, from the library.
//!
//! ```text
//! cargo run --release -p chelsea-engine --example likelihoods -- MODEL BUDGET STEP < SAMPLES.jsonl > SCORED.jsonl
//! ```
//!
//! Each line of the input is `{"context": "..", "continuation": ".."}`. Each line of the output holds the natural
//! logarithms of the probabilities of the continuation's tokens, and whether every one of them was the likeliest. BUDGET is
//! as `--kv-budget` of the command takes it, `100%` for the whole cache; a text is read in steps of STEP tokens.

use chelsea_engine::{Outcome, Reading, Runner, Sequence, SessionOptions, Work};
use chelsea_kv::Budget;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{LoadOptions, Model, ModelFile};
use serde_json::{Value, json};
use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, budget, step] = args.as_slice() else {
        return Err("usage: likelihoods MODEL BUDGET STEP < SAMPLES.jsonl".into());
    };
    let file = ModelFile::open(Path::new(model))?;
    let tokenizer = Tokenizer::open(&file)?;
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().build()?);
    let model = Arc::new(pool.install(|| Model::from_file(&file, &LoadOptions::default(), &mut |_, _| {}))?);
    let budget: Budget = budget.parse()?;
    let options = SessionOptions { budget, step: Some(step.parse()?), ..SessionOptions::default() };
    let mut runner = Runner::new(model.clone(), pool);
    for line in std::io::stdin().lock().lines() {
        let sample: Value = serde_json::from_str(&line?)?;
        let text = |name: &str| sample[name].as_str().ok_or(format!("a line has no {name}"));
        let (context, continuation) = (text("context")?, text("continuation")?);
        // As harnesses cut it: the tokens of the whole text, less as many as the context has alone.
        let known = tokenizer.encode(context, false)?.len();
        let tokens = tokenizer.encode(&format!("{context}{continuation}"), false)?;
        let logits = logits(&mut runner, &options, &tokens)?;
        let rows = logits.chunks_exact(model.config().vocab);
        // The token after each row's.
        let foretold: Vec<(&[f32], u32)> = rows.zip(tokens[1..].iter().copied()).skip(known - 1).collect();
        let logprobs: Vec<f32> = foretold.iter().map(|(row, token)| logprob(row, *token)).collect();
        let greedy = foretold.iter().all(|(row, token)| row.iter().all(|&x| x <= row[*token as usize]));
        println!("{}", json!({"logprobs": logprobs, "greedy": greedy}));
    }
    Ok(())
}

/// The logits after every token of a text.
fn logits(runner: &mut Runner, options: &SessionOptions, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut sequence = Sequence::new(runner.model().clone(), options)?;
    sequence.start(Reading::new(tokens).scored())?;
    let mut logits = Vec::new();
    while sequence.reading().is_some() {
        for outcome in runner.step(&mut [Work::Read(&mut sequence)]) {
            if let Outcome::Took(_) = outcome? {
                logits.extend_from_slice(runner.logits(0));
            }
        }
    }
    Ok(logits)
}

/// The logarithm of a token's probability.
fn logprob(row: &[f32], token: u32) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
    (f64::from(row[token as usize] - most) - sum.ln()) as f32
}
