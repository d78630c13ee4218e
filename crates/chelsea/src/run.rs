//! `chelsea run`: read documents once, answer questions about them.

use crate::answer::{Answered, Draws, answer, finish_name, held};
use crate::cli::{QualityArg, RunArgs};
use crate::holding::Holding;
use crate::output::{self, Table};
use crate::setup::{self, Loaded};
use crate::{chat, documents, reading, saved, signals};
use anyhow::{Result, bail};
use chelsea_engine::{ReadStats, Session};
use chelsea_kv::Budget;
use serde::Serialize;
use std::io::IsTerminal as _;
use std::time::Duration;

/// One question and what became of it.
#[derive(Debug, Serialize)]
struct Answer {
    prompt: String,
    text: String,
    prompt_tokens: usize,
    generated_tokens: usize,
    ttft_s: f64,
    decode_tokens_per_s: f64,
    finish: &'static str,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    answers: Vec<Answer>,
    model: String,
    policy: String,
    keep: Option<f32>,
    /// The budget, as `--kv-budget` takes it, where it is no share of the entries.
    kv_budget: Option<String>,
    kv_type: &'static str,
    /// What to give as `--seed` for the same answers, where they were drawn.
    seed: Option<u64>,
    threads: usize,
    prefill_tokens: usize,
    prefill_s: f64,
    clustering_s: f64,
    kv_bytes: usize,
    kv_bytes_peak: usize,
    kv_bytes_full: usize,
    kv_entries: usize,
    kv_tokens: usize,
    /// What the budget asked for and what was held of it once the text was read.
    kv: Option<Holding>,
    process_peak_bytes: Option<usize>,
    cancelled: bool,
}

/// Runs the verb.
pub fn run(args: &RunArgs) -> Result<()> {
    if args.prompt.is_empty() && (args.json || !std::io::stdin().is_terminal()) && args.save_cache.is_none() {
        bail!("no question was given: use -p 'QUESTION' (a chat without -p needs a terminal)");
    }
    options_check(args)?;
    let text = documents::read(&args.document.file, args.document.lossy)?;
    let quiet = args.json || !std::io::stderr().is_terminal();
    let talks = args.prompt.is_empty() && !args.json && std::io::stdin().is_terminal();
    let editor = talks.then(chat::editor).transpose()?;
    let cancel = signals::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    let options = args.cache.session(&loaded.model);
    setup::warn_long_context(&loaded.model, &options);
    let layout = loaded.layout(&args.layout);

    let mut stats = ReadStats::default();
    let (mut session, system) = match &args.load_cache {
        Some(file) => saved::load(file, &loaded, &args.cache, &args.layout, args.any_template, cancel.clone())?,
        None => {
            let session = Session::new(loaded.model.clone(), loaded.pool.clone(), cancel.clone(), &options)?;
            (session, args.layout.system.clone())
        }
    };
    let words = reading::one_shot(&args.cache, &layout)?;
    let has_document = text.is_some() || args.load_cache.is_some();
    let document = text.map(|text| reading::tokens(&session, &loaded.tokenizer, &layout, &text)).transpose()?;
    let question = |prompt: &String| if has_document { layout.question(prompt) } else { layout.prompt(prompt) };
    let questions: Vec<Vec<u32>> = args.prompt.iter().map(question).collect::<Result<_, _>>()?;
    let longest = questions.iter().map(Vec::len).max().unwrap_or(0);
    reading::check_room(&session, document.as_ref().map_or(0, Vec::len), longest, words.as_ref())?;
    if let (Some(_), Some(words)) = (&args.load_cache, &words) {
        session.compress_with(words)?;
    }
    if let Some(document) = &document {
        stats = reading::read(&mut session, document, words.as_ref(), quiet)?;
    }
    let holding = has_document.then(|| Holding::of(&session)).filter(|_| !session.cancelled());
    if let Some(warning) = holding.as_ref().and_then(Holding::warning) {
        tracing::warn!("{warning}");
    }
    let mut not_saved = None;
    let saved = args.save_cache.as_ref().filter(|_| !session.cancelled());
    if let Some(file) = saved {
        if !has_document {
            bail!("there is nothing to save: give documents with -f");
        }
        not_saved = saved::save(file, &session, &loaded, system.as_deref(), args.layout.no_chat_template).err();
        if let Some(error) = &not_saved
            && !args.prompt.is_empty()
        {
            // What was read may have taken minutes: the questions are still answered.
            tracing::error!("{}", output::error_text(error));
            signals::note_failure();
        }
    }
    let stopped = session.cancelled();
    if stopped {
        eprintln!("{}", stopped_early(args, saved.is_some(), session.history().len()));
    }
    let mut draws = Draws::new(&args.sample);
    if args.prompt.is_empty() && !args.json {
        if let Some(error) = not_saved {
            return Err(error);
        }
        return match editor {
            Some(editor) if !stopped => chat::chat(editor, session, &loaded, &layout, &mut draws, has_document),
            _ => Ok(()),
        };
    }
    let done = answer_all(args, session, &loaded, &questions, &mut draws, stats)?;
    if holding.is_none()
        && let Some(warning) = done.first.as_ref().and_then(Holding::warning)
    {
        tracing::warn!("{warning}");
    }
    let report = report(&loaded, done, holding, draws.seed(), stats);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        eprint!("\n{}", summary(&report));
    }
    not_saved.map_or(Ok(()), Err)
}

/// What Ctrl-C before the first question leaves undone.
fn stopped_early(args: &RunArgs, saved: bool, tokens: usize) -> String {
    let not_saved =
        args.save_cache.as_ref().filter(|_| !saved).map(|file| format!("nothing was written to {}", file.display()));
    let not_asked = (!args.prompt.is_empty()).then(|| "no question was asked".to_owned());
    let undone: Vec<String> = not_saved.into_iter().chain(not_asked).collect();
    format!("stopped after {tokens} tokens{}{}", if undone.is_empty() { "" } else { ": " }, undone.join(", "))
}

/// Refuses what can be refused before anything is loaded.
fn options_check(args: &RunArgs) -> Result<()> {
    args.sample.sampling().validate()?;
    if let Some(file) = &args.save_cache {
        saved::check(file, args.layout.system.as_deref(), args.layout.no_chat_template)?;
    }
    if args.load_cache.is_some() && args.cache.quality == QualityArg::Best {
        bail!(
            "--quality best reads documents twice, and --load-cache reads none: build the cache with `chelsea cache build \
             --quality best`"
        );
    }
    let policy = args.cache.policy();
    if policy.needs().repetition.is_some() && args.document.file.is_empty() && args.load_cache.is_none() {
        bail!(
            "policy `{}` compresses a document, which it reads twice, and nothing else: give one with -f FILE, or choose \
             another policy",
            policy.name()
        );
    }
    Ok(())
}

/// All questions answered.
struct Done {
    answers: Vec<Answer>,
    /// What all caches together held at most.
    peak: usize,
    /// The session of the last answer: its cache is what the other figures speak of.
    session: Session,
    /// What the first question's cache held when it was read.
    first: Option<Holding>,
}

/// Answers every question on its own, each from the state after the document; nothing is to be asked of that state
/// afterwards, so the last question goes on in it.
fn answer_all(
    args: &RunArgs,
    mut session: Session,
    loaded: &Loaded,
    questions: &[Vec<u32>],
    draws: &mut Draws,
    read: ReadStats,
) -> Result<Done> {
    let (mut answers, mut first) = (Vec::new(), None);
    let mut peak = session.cache().peak();
    for (i, (prompt, tokens)) in args.prompt.iter().zip(questions).enumerate() {
        if session.cancelled() {
            break;
        }
        // A fork that is clustered has pages of its own: while it lives, the document's are held beside them.
        let mut fork = (i + 1 < args.prompt.len()).then(|| session.fork()).transpose()?;
        let turn = fork.as_mut().unwrap_or(&mut session);
        if !args.json && args.prompt.len() > 1 {
            println!("{}> {prompt}", if i > 0 { "\n" } else { "" });
        }
        let Answered { generation, prefill, holding } = answer(turn, tokens, loaded, &draws.next_answer(), !args.json)?;
        first.get_or_insert(holding);
        let document = if i == 0 { read.time } else { Duration::ZERO };
        answers.push(Answer {
            prompt: prompt.clone(),
            prompt_tokens: tokens.len() + if i == 0 { read.tokens } else { 0 },
            generated_tokens: generation.tokens.len(),
            ttft_s: (document + prefill + generation.first_token).as_secs_f64(),
            decode_tokens_per_s: generation.decode_tokens_per_s(),
            finish: finish_name(generation.finish),
            text: generation.text,
        });
        let Some(fork) = fork else {
            peak = peak.max(session.cache().peak());
            break;
        };
        peak = peak.max(held(&session, &fork, fork.cache().peak()));
        if fork.cancelled() {
            session = fork;
        }
    }
    Ok(Done { answers, peak, session, first })
}

fn report(loaded: &Loaded, done: Done, holding: Option<Holding>, seed: Option<u64>, read: ReadStats) -> Report {
    let Done { answers, peak, session, first } = done;
    let memory = session.memory();
    let mut prefill_tokens = read.tokens;
    let mut prefill_s = read.time.as_secs_f64();
    if read.tokens == 0 {
        prefill_tokens = answers.first().map_or(0, |a| a.prompt_tokens);
        prefill_s = answers.first().map_or(0.0, |a| a.ttft_s);
    }
    Report {
        model: loaded.name.clone(),
        policy: session.cache().config().policy.name().to_string(),
        keep: match session.cache().config().budget {
            Budget::EntryFraction(keep) => Some(keep),
            Budget::ByteFraction(_) | Budget::Entries(_) | Budget::Bytes(_) => None,
        },
        kv_budget: match session.cache().config().budget {
            Budget::EntryFraction(_) => None,
            budget => Some(budget.to_string()),
        },
        kv_type: session.cache().config().dtype.name(),
        seed,
        threads: loaded.threads,
        prefill_tokens,
        prefill_s,
        clustering_s: read.clustering.as_secs_f64(),
        kv_bytes: memory.total(),
        kv_bytes_peak: peak,
        kv_bytes_full: session.cache().full_bytes(),
        kv_entries: session.cache().entries(),
        kv_tokens: session.cache().tokens(),
        kv: holding.or(first),
        process_peak_bytes: setup::process_peak_bytes(),
        cancelled: session.cancelled() || answers.iter().any(|a| a.finish == "cancelled"),
        answers,
    }
}

/// The short table at the end of a run.
fn summary(r: &Report) -> String {
    let mut t = Table::default();
    let rate = if r.prefill_s > 0.0 { r.prefill_tokens as f64 / r.prefill_s } else { 0.0 };
    t.row(["prefill".to_string(), format!("{} tokens", r.prefill_tokens), format!("{rate:.1} tokens/s")]);
    if let Some(first) = r.answers.first() {
        t.row(["first token after".to_string(), format!("{:.2} s", first.ttft_s)]);
    }
    let generated: usize = r.answers.iter().map(|a| a.generated_tokens).sum();
    let mut rates: Vec<f64> = r.answers.iter().map(|a| a.decode_tokens_per_s).filter(|&x| x > 0.0).collect();
    let median = output::median(&mut rates).map_or("-".into(), |x| format!("{x:.1} tokens/s"));
    t.row(["decode".to_string(), format!("{generated} tokens"), median]);
    let of_full = |n: usize| output::percent(n, r.kv_bytes_full);
    t.row(["cache now".to_string(), output::bytes(r.kv_bytes), of_full(r.kv_bytes)]);
    t.row(["cache peak".to_string(), output::bytes(r.kv_bytes_peak), of_full(r.kv_bytes_peak)]);
    t.row(["full cache would take".to_string(), output::bytes(r.kv_bytes_full)]);
    if let Some(holding) = r.kv.as_ref().filter(|kv| kv.is_telling()) {
        t.row(["once the text was read".to_string(), holding.text()]);
        if holding.statistics_bytes > 0 {
            t.row(["statistics in it".to_string(), output::bytes(holding.statistics_bytes)]);
        }
    }
    if let Some(seed) = r.seed {
        t.row(["drawn with".to_string(), format!("--seed {seed}")]);
    }
    t.render()
}
