//! `chelsea run`: read documents once, answer questions about them.

use crate::cli::{CacheArgs, QualityArg, RunArgs};
use crate::output::{self, Table};
use crate::setup::{self, Loaded};
use crate::{chat, saved};
use anyhow::{Context as _, Result, bail};
use chelsea_engine::{
    Compression, Finish, GenerateOptions, Generation, Layout, ReadStats, Repetition, Session, generate,
};
use chelsea_kv::Budget;
use serde::Serialize;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
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
    threads: usize,
    prefill_tokens: usize,
    prefill_s: f64,
    clustering_s: f64,
    kv_bytes: usize,
    kv_bytes_peak: usize,
    kv_bytes_full: usize,
    kv_entries: usize,
    kv_tokens: usize,
    process_peak_bytes: Option<usize>,
    cancelled: bool,
}

/// Runs the verb.
pub fn run(args: &RunArgs) -> Result<()> {
    if args.prompt.is_empty() && (args.json || !std::io::stdin().is_terminal()) && args.save_cache.is_none() {
        bail!("no question was given: use -p 'QUESTION' (a chat without -p needs a terminal)");
    }
    let options = args.cache.session();
    options_check(args)?;
    let text = documents(&args.file)?;
    let quiet = args.json || !std::io::stderr().is_terminal();
    let cancel = setup::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    setup::warn_long_context(&loaded.model, &options);
    let template = if args.no_chat_template { None } else { loaded.template.as_ref() };
    let layout = Layout::new(&loaded.tokenizer, template, args.system.as_deref());

    let mut stats = ReadStats::default();
    let (mut session, system) = match &args.load_cache {
        Some(file) => {
            saved::load(file, &loaded, &args.cache, cancel.clone(), args.system.as_deref(), args.no_chat_template)?
        }
        None => {
            (Session::new(loaded.model.clone(), loaded.pool.clone(), cancel.clone(), &options)?, args.system.clone())
        }
    };
    let words = one_shot(&args.cache, &layout)?;
    let has_document = text.is_some() || args.load_cache.is_some();
    let document = text.map(|text| layout.document(&text)).transpose()?;
    let question = |prompt: &String| if has_document { layout.question(prompt) } else { layout.prompt(prompt) };
    let questions: Vec<Vec<u32>> = args.prompt.iter().map(question).collect::<Result<_, _>>()?;
    let longest = questions.iter().map(Vec::len).max().unwrap_or(0);
    check_room(&session, document.as_ref().map_or(0, Vec::len), longest, words.as_ref())?;
    if let (Some(_), Some(words)) = (&args.load_cache, &words) {
        session.compress_with(words)?;
    }
    if let Some(document) = &document {
        stats = read(&mut session, document, words.as_ref(), quiet)?;
    }
    let mut not_saved = None;
    let saved = args.save_cache.as_ref().filter(|_| !session.cancelled());
    if let Some(file) = saved {
        if !has_document {
            bail!("there is nothing to save: give documents with -f");
        }
        not_saved = saved::save(file, &session, system.as_deref(), args.no_chat_template).err();
        if let Some(error) = &not_saved
            && !args.prompt.is_empty()
        {
            // What was read may have taken minutes: the questions are still answered.
            tracing::error!("{error:#}");
            setup::note_failure();
        }
    }
    let stopped = session.cancelled();
    if stopped {
        eprintln!("{}", stopped_early(args, saved.is_some(), session.history().len()));
    }
    if args.prompt.is_empty() && !args.json {
        if let Some(error) = not_saved {
            return Err(error);
        }
        if stopped || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        return chat::chat(session, &loaded, &layout, args, has_document);
    }
    let (answers, peak, session) = answer_all(args, session, &loaded, &questions, stats)?;
    let report = report(&loaded, &session, peak, answers, stats);
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
    if args.sample.max_tokens == 0 {
        bail!("--max-tokens is 0: an answer needs at least one token");
    }
    if let Some(file) = &args.save_cache {
        saved::check(file, args.system.as_deref(), args.no_chat_template)?;
    }
    if args.load_cache.is_some() && args.cache.quality == QualityArg::Best {
        bail!(
            "--quality best reads documents twice, and --load-cache reads none: build the cache with `chelsea cache build \
             --quality best`"
        );
    }
    let policy = args.cache.policy();
    if policy.needs().repetition.is_some() && args.file.is_empty() && args.load_cache.is_none() {
        bail!(
            "policy `{}` compresses a document, which it reads twice, and nothing else: give one with -f FILE, or choose \
             another policy",
            policy.name()
        );
    }
    Ok(())
}

/// The documents' text, none when no file was given.
pub fn documents(files: &[PathBuf]) -> Result<Option<String>> {
    let mut all = Vec::new();
    for file in files {
        let bytes = if file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
            bytes
        } else {
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
        };
        let text = String::from_utf8(bytes).map_err(|e| {
            anyhow::anyhow!(
                "{} is not UTF-8 text (byte {} is not): convert it first, for instance with `iconv -t UTF-8`",
                file.display(),
                e.utf8_error().valid_up_to()
            )
        })?;
        all.push(text.trim_end().to_string());
    }
    Ok(if all.is_empty() { None } else { Some(all.join("\n\n")) })
}

/// If a document is to be clustered after reading: the words for policies that have it repeated first.
pub fn one_shot(args: &CacheArgs, layout: &Layout<'_>) -> Result<Option<Repetition>> {
    Ok(if args.compression() == Compression::OneShot { Some(layout.repetition()?) } else { None })
}

/// Refuses a document of `document` tokens and a question of `question` that do not fit after what was read, before any of it
/// is read; and a document that leaves no room to be repeated by a policy that has to read it twice.
pub fn check_room(session: &Session, document: usize, question: usize, words: Option<&Repetition>) -> Result<()> {
    session.check_context(document + question)?;
    let config = session.cache().config();
    let all = session.history().len() + document;
    // What was compressed before is not compressed again.
    let compressed = document == 0 && session.cache().is_within_budget();
    if let (Some(words), Some(chunk)) = (words, config.policy.needs().repetition)
        && !compressed
        && config.allowed(all) < all * config.shape.heads()
    {
        session.check_context(document + words.longest(chunk.min(all))).with_context(|| {
            format!("policy `{}` has the model repeat the text after it, part by part", config.policy.name())
        })?;
    }
    Ok(())
}

/// Reads a document with a progress bar, and clusters it afterwards if there are words for that.
pub fn read(session: &mut Session, tokens: &[u32], one_shot: Option<&Repetition>, quiet: bool) -> Result<ReadStats> {
    let bar = output::bar(tokens.len() as u64, "reading", false, quiet);
    let mut stats = session.read(tokens, |p| bar.set_position(p.done as u64))?;
    bar.finish_and_clear();
    if let Some(words) = one_shot
        && !session.cancelled()
    {
        stats.clustering += session.compress_with(words)?;
        stats.time += stats.clustering;
    }
    Ok(stats)
}

/// Answers every question on its own, each from the state after the document; nothing is to be asked of that state
/// afterwards, so the last question goes on in it. Returns what all caches together held at most, and the session of the
/// last answer: its cache is what the other figures speak of.
fn answer_all(
    args: &RunArgs,
    mut session: Session,
    loaded: &Loaded,
    questions: &[Vec<u32>],
    read: ReadStats,
) -> Result<(Vec<Answer>, usize, Session)> {
    let mut answers = Vec::new();
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
        let (generation, prefill) = answer(turn, tokens, loaded, &args.generate_options(), !args.json)?;
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
    Ok((answers, peak, session))
}

/// Bytes of `origin` and of a fork of it that holds, or held, `of_fork`: pages that both still share lie there once. They
/// never become more, so of an earlier moment this says too much rather than too little.
pub fn held(origin: &Session, fork: &Session, of_fork: usize) -> usize {
    origin.memory().total() + of_fork - fork.memory().shared.min(of_fork)
}

/// Reads a question and generates the answer, streaming it to stdout if `show`.
pub fn answer(
    session: &mut Session,
    tokens: &[u32],
    loaded: &Loaded,
    options: &GenerateOptions,
    show: bool,
) -> Result<(Generation, Duration)> {
    let prefill = session.read(tokens, |_| ())?;
    let generation = generate(session, &loaded.tokenizer, options, |text| {
        if show {
            print!("{text}");
        }
    })?;
    if show {
        println!("");
    }
    Ok((generation, prefill.time))
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn => "end_of_turn",
        Finish::StopString => "stop_string",
        Finish::MaxTokens => "max_tokens",
        Finish::Context => "context",
        Finish::Cancelled => "cancelled",
    }
}

impl RunArgs {
    /// What an answer may look like.
    pub fn generate_options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: Some(self.sample.max_tokens),
            sampling: self.sample.sampling(),
            stop: self.sample.stop.clone(),
            ignore_eos: false,
        }
    }
}

fn report(loaded: &Loaded, session: &Session, peak: usize, answers: Vec<Answer>, read: ReadStats) -> Report {
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
            Budget::Keep(keep) => Some(keep),
            Budget::Share(_) | Budget::Entries(_) | Budget::Bytes(_) => None,
        },
        kv_budget: match session.cache().config().budget {
            Budget::Keep(_) => None,
            budget => Some(budget.to_string()),
        },
        kv_type: session.cache().config().dtype.name(),
        threads: loaded.threads,
        prefill_tokens,
        prefill_s,
        clustering_s: read.clustering.as_secs_f64(),
        kv_bytes: memory.total(),
        kv_bytes_peak: peak,
        kv_bytes_full: session.cache().full_bytes(),
        kv_entries: session.cache().entries(),
        kv_tokens: session.cache().tokens(),
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
    t.render()
}
