//! Which positions each policy keeps of a text, for comparison with another implementation.
//!
//! ```text
//! cargo run --release -p chelsea-engine --example kept -- MODEL REQUEST.json > KEPT.json
//! ```
//!
//! The request is `{"ids": [..], "first": [..], "next": [..], "turn": [..], "runs": [{"policy": "..",
//! "keep": 0.25, "sinks": 4, "window": 64}, ..]}`; `first`, `next` and `turn` ask for a repetition. The answer
//! is a list of `[layers * kv_heads]` lists of kept positions, one for each run. Everything is computed in
//! f32 and compressed once, after the text.

use chelsea_engine::{Compression, Repetition, Session, SessionOptions};
use chelsea_kv::{Budget, Dtype};
use chelsea_linear::Products;
use chelsea_model::{LoadOptions, Model};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn Error>> {
    chelsea_baselines::register();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, request] = args.as_slice() else { return Err("usage: kept MODEL REQUEST.json".into()) };
    let request: Value = serde_json::from_slice(&std::fs::read(request)?)?;
    let ids = |name: &str| -> Result<Vec<u32>, Box<dyn Error>> { Ok(serde_json::from_value(request[name].clone())?) };
    let text = ids("ids")?;
    let words = Repetition { first: ids("first")?, next: ids("next")?, turn: ids("turn")? };

    let pool = Arc::new(rayon::ThreadPoolBuilder::new().build()?);
    let options = LoadOptions { products: Products::F32 };
    let model = Arc::new(pool.install(|| Model::load(Path::new(model), &options, &mut |_, _| {}))?);
    let mut answers = Vec::new();
    for run in request["runs"].as_array().ok_or("the request has no list of runs")? {
        let policy = run["policy"].as_str().ok_or("a run names no policy")?;
        let number = |name: &str| run[name].as_f64().ok_or(format!("the run of {policy} has no {name}"));
        let options = SessionOptions {
            budget: Budget::EntryFraction(number("keep")? as f32),
            policy: chelsea_kv::policy(policy)?,
            compression: Compression::OneShot,
            sinks: number("sinks")? as usize,
            window: number("window")? as usize,
            dtype: Some(Dtype::F32),
            ..SessionOptions::default()
        };
        let mut session = Session::new(model.clone(), pool.clone(), Arc::new(AtomicBool::new(false)), &options)?;
        session.read(&text, |_| ())?;
        session.compress_with(&words)?;
        let heads = session.cache().heads();
        let kept: Vec<Vec<u64>> =
            heads.iter().map(|head| (0..head.len()).map(|i| head.position(i) as u64).collect()).collect();
        answers.push(json!(kept));
    }
    println!("{}", Value::Array(answers));
    Ok(())
}
