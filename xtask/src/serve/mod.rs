//! `cargo xtask bench-serve`: what a server holds and how long its clients wait, for full and for clustered caches in the
//! same bytes, and beside llama-server where one is given.
//!
//! Three loads, all on loopback and bounded. *At once*: more long conversations than fit arrive together, and as many as the
//! server holds are answered side by side; counted are those and the tokens a second they get. *Arriving*: requests come
//! at random times whatever the server does (an open loop), each with a prompt of its own length, some beginning alike; told
//! are the times to the first token and between tokens. *Waits*: what a long prompt does to an answer that runs and to a
//! short request behind it, and how long a second turn about a long document takes, also after the server was killed.

mod client;
mod load;
mod report;
mod server;
mod waits;

use crate::fetch;
use crate::process::{build_release, program, target_dir};
use anyhow::{Context as _, Result, ensure};
use load::{Arriving, AtOnce, Measured};
use serde::Serialize;
use server::{Kind, Server};
use std::path::{Path, PathBuf};
use waits::Waits;

/// What `bench-serve` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a short name or a file.
    #[arg(long, default_value = "smollm2")]
    model: String,
    /// What to measure; several with commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::AtOnce, Part::Arriving, Part::Waits])]
    what: Vec<Part>,
    /// Bytes of all caches together, in MiB.
    #[arg(long, default_value_t = 400)]
    kv_mib: usize,
    /// Budgets of the caches that are compared.
    #[arg(long, value_delimiter = ',', default_values_t = ["100%", "25%"].map(String::from))]
    budgets: Vec<String>,
    /// Tokens of a long conversation, about.
    #[arg(long, default_value_t = 4096)]
    prompt: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 128)]
    answer: usize,
    /// Long conversations that arrive together [default: a few more than fit; as many as fit then decode once more alone].
    #[arg(long)]
    conversations: Option<usize>,
    /// Requests a second of the arriving load.
    #[arg(long, value_delimiter = ',', default_values_t = [0.2, 0.5])]
    rates: Vec<f64>,
    /// Seconds for which requests arrive.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Threads of each server.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// A llama-server to be measured beside, with f16 and q8_0 caches of the same bytes.
    #[arg(long, value_name = "FILE")]
    llama_server: Option<PathBuf>,
    /// The model's file for llama-server [default: that of the short name].
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// A build of chelsea to measure [default: the release build of this tree, built if need be].
    #[arg(long, value_name = "FILE")]
    chelsea: Option<PathBuf>,
    /// Folder for what was measured: tables as Markdown, plots, and everything as JSON.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// The loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Many long conversations together.
    AtOnce,
    /// Requests that come at random times.
    Arriving,
    /// What one request makes others wait, and a second turn.
    Waits,
}

/// Everything that was measured of one server.
#[derive(Debug, Serialize)]
struct Row {
    server: String,
    at_once: Option<Measured>,
    arriving: Vec<(f64, Measured)>,
    waits: Option<Waits>,
}

/// Runs both loads over every server; fails only if a server does.
pub fn run(args: &Args) -> Result<bool> {
    let chelsea = match &args.chelsea {
        Some(path) => path.clone(),
        None if build_release()? => program(),
        None => return Ok(false),
    };
    ensure!(args.prompt >= 64 && args.answer >= 2, "prompts of 64 tokens and answers of 2 are the least");
    ensure!(args.rates.iter().all(|&rate| rate > 0.0), "requests come at a rate above 0; --what leaves loads out");
    let kinds = kinds(args)?;
    let mut rows = Vec::new();
    for kind in kinds {
        eprintln!("\n{}", kind.name());
        rows.push(measure(args, &chelsea, &kind).with_context(|| format!("measuring {}", kind.name()))?);
        // After every server: what was measured stays, whatever becomes of the next one.
        let report = report::Report::new(args, &rows);
        println!("\n{}", report.text());
        if let Some(out) = &args.out {
            report.write(out).with_context(|| format!("cannot write to {}", out.display()))?;
        }
    }
    Ok(true)
}

fn kinds(args: &Args) -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = args.budgets.iter().map(|budget| Kind::Chelsea { budget: budget.clone() }).collect();
    if let Some(llama) = &args.llama_server {
        let gguf = match &args.gguf {
            Some(file) => file.clone(),
            None => fetch::folder("models")?.join(format!("{}.gguf", args.model)),
        };
        ensure!(gguf.is_file(), "{} is no file: --gguf names the model for llama-server", gguf.display());
        for cache in ["f16", "q8_0"] {
            kinds.push(Kind::Llama { program: llama.clone(), gguf: gguf.clone(), cache });
        }
    }
    Ok(kinds)
}

fn measure(args: &Args, chelsea: &Path, kind: &Kind) -> Result<Row> {
    let settings = server::Settings {
        model: args.model.clone(),
        kv_bytes: args.kv_mib << 20,
        context: args.prompt + args.answer + 512,
        threads: args.threads,
        shelf: None,
    };
    let at_once = match args.what.contains(&Part::AtOnce) {
        true => Some(at_once(args, chelsea, kind, &settings)?),
        false => None,
    };
    let mut arriving = Vec::new();
    for &rate in args.rates.iter().filter(|_| args.what.contains(&Part::Arriving)) {
        // Each with a shelf that is empty.
        let server = Server::start(chelsea, kind, &settings)?;
        let load = Arriving { rate, seconds: args.seconds, prompt: args.prompt, answer: args.answer };
        arriving.push((rate, load.run(&server)?));
    }
    let waits = match args.what.contains(&Part::Waits) {
        true => Some(waits::run(chelsea, kind, &settings, &target_dir().join("bench-serve").join("shelf"))?),
        false => None,
    };
    Ok(Row { server: kind.name(), at_once, arriving, waits })
}

/// Tokens that the first conversation generates after the last prompt was read, so that there is a while in which all of them
/// do.
const TOGETHER: usize = 256;

fn at_once(args: &Args, chelsea: &Path, kind: &Kind, settings: &server::Settings) -> Result<Measured> {
    let server = Server::start(chelsea, kind, settings)?;
    // As long as it takes to read all prompts, a step beside each token: nobody ends before the last one begins.
    let step = server.read_step()?;
    let load = |conversations: usize| AtOnce {
        conversations,
        prompt: args.prompt,
        answer: args.answer + TOGETHER + conversations * args.prompt.div_ceil(step),
    };
    let asked = match args.conversations {
        Some(n) => n,
        None => server.room_for(args.prompt + args.answer)? + 2,
    };
    let all = load(asked).run(&server)?;
    drop(server);
    if all.at_once == asked || all.at_once == 0 {
        return Ok(all);
    }
    // Beside those that are held, the next one is read already. So how fast they decode is measured again, with no more of
    // them than fit.
    let fitting = load(all.at_once).run(&Server::start(chelsea, kind, settings)?)?;
    Ok(Measured { decode_rate: fitting.decode_rate, ..all })
}
