//! `chelsea eval`: what a compressed cache remembers, side by side with the full one.
//!
//! Samples are made or read (`samples`), run under every setting (`work`), and summed up (`table`).

mod report;
mod samples;
mod table;
mod work;

use crate::cli::{CompareArgs, EvalAction, EvalArgs, GenerateArgs, QuickArgs, ReportArgs, StreamArgs};
use crate::{setup, signals};
use anyhow::{Context as _, Result};
use chelsea_engine::Layout;
use chelsea_eval::results::Record;
use chelsea_eval::{Mode, ParsedSetting};
use std::io::IsTerminal as _;

/// Runs the verb.
pub fn run(args: &EvalArgs) -> Result<()> {
    match &args.action {
        EvalAction::Quick(a) => quick(a),
        EvalAction::Needles(a) => generated(&a.compare, &a.generate, Shown::Needles, &|s| samples::needles(a, s)),
        EvalAction::Copying(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::copying(a, s)),
        EvalAction::Variables(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::variables(a, s)),
        EvalAction::Words(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::words(a, s)),
        EvalAction::Lookup(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::lookup(a, s)),
        EvalAction::Rules(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::rules(a, s)),
        EvalAction::Arithmetic(a) => generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::arithmetic(a, s)),
        EvalAction::Continuation(a) => {
            generated(&a.compare, &a.generate, Shown::Tasks, &|s| samples::continuation(a, s))
        }
        EvalAction::Stream(a) => stream(a),
        EvalAction::Run(a) => {
            // Files are read before the model is loaded: what is wrong with them is said at once.
            let (samples, skipped) = samples::files(a)?;
            compared(&a.compare, &settings_of(&a.compare)?, Shown::Tasks, skipped, &|_, _| Ok(samples.clone()))
        }
        EvalAction::Report(a) => report::run(a),
    }
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Hits and digits.
    Needles,
    /// Scores of tasks.
    Tasks,
    /// Losses of one piece after the other.
    Stream,
}

type Make<'a> = &'a dyn Fn(&samples::Source<'_>) -> Result<Vec<chelsea_eval::Sample>>;

/// All generated tasks, and the page of what came out.
fn quick(args: &QuickArgs) -> Result<()> {
    let out = args.compare.out.clone().unwrap_or_else(|| args.report.join("results.jsonl"));
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let compare = CompareArgs { out: Some(out.clone()), ..args.compare.clone() };
    generated(&compare, &args.generate, Shown::Tasks, &|source| samples::quick(source, compare.seed))?;
    // Interrupted before anything was measured, there is nothing to report on.
    if std::fs::metadata(&out).is_ok_and(|file| file.len() > 0) {
        report::run(&ReportArgs { results: vec![out], out: args.report.clone(), policies: Vec::new() })?;
    }
    Ok(())
}

/// A text that goes on. How it is compressed follows from what it is.
fn stream(args: &StreamArgs) -> Result<()> {
    let (compare, generate) = (&args.compare, &args.generate);
    if compare.modes != [Mode::OneShot] {
        anyhow::bail!("a stream is always compressed while it is read: leave out --modes");
    }
    let &[tokens] = generate.tokens.as_slice() else {
        anyhow::bail!("entries would be another share of each length: give --tokens one length");
    };
    let settings = work::settings(&compare.policies(), &args.shares(tokens), &[Mode::TurnsOnline])?;
    from_text(compare, generate, &settings, Shown::Stream, &|source| samples::stream(args, source))
}

/// What `--policies`, `--modes` and shares come to.
fn settings_of(compare: &CompareArgs) -> Result<Vec<ParsedSetting>> {
    work::settings(&compare.policies(), &compare.shares(), &compare.modes)
}

/// Samples that are made from a text.
fn generated(compare: &CompareArgs, generate: &GenerateArgs, shown: Shown, make: Make<'_>) -> Result<()> {
    from_text(compare, generate, &settings_of(compare)?, shown, make)
}

fn from_text(
    compare: &CompareArgs,
    generate: &GenerateArgs,
    settings: &[ParsedSetting],
    shown: Shown,
    make: Make<'_>,
) -> Result<()> {
    let quiet = !std::io::stderr().is_terminal();
    signals::cancel_flag()?;
    let text = samples::haystack(generate.haystack.as_deref(), quiet)?;
    compared(compare, settings, shown, 0, &|loaded, _| make(&samples::Source::new(&text, &loaded.tokenizer, generate)?))
}

type Gather<'a> = &'a dyn Fn(&setup::Loaded, &Layout<'_>) -> Result<Vec<chelsea_eval::Sample>>;

fn compared(
    args: &CompareArgs,
    settings: &[ParsedSetting],
    shown: Shown,
    skipped: usize,
    gather: Gather<'_>,
) -> Result<()> {
    let quiet = !std::io::stderr().is_terminal();
    let cancel = signals::cancel_flag()?;
    let loaded = setup::load(&args.model, quiet)?;
    let template = if args.no_chat_template { None } else { loaded.template.as_ref() };
    let layout = Layout::new(&loaded.tokenizer, template, None);
    let samples = gather(&loaded, &layout)?;
    work::check(&samples, settings)?;
    let subject = work::subject(args, &loaded, &layout, cancel);
    setup::warn_long_context(&loaded.model, &subject.options);
    let mut print = |record: &Record| {
        if args.json {
            table::print_json(record, shown);
        }
    };
    let done = work::run(args, &subject, &samples, settings, quiet, &mut print)?;
    let table = match shown {
        Shown::Needles => table::needles(settings, &done.records),
        Shown::Tasks => table::tasks(settings, &done.records),
        Shown::Stream => table::stream(settings, &done.records),
    };
    if args.json {
        eprint!("{table}");
    } else if !done.records.is_empty() {
        println!("{}\n", table::heading(&loaded.name, &samples, skipped + done.skipped, shown));
        print!("{table}");
    }
    // What was measured until then is said first.
    if let Some(error) = done.error {
        return Err(error.into());
    }
    if done.records.is_empty() && !done.cancelled {
        anyhow::bail!("nothing was measured: all {} samples were left out", skipped + done.skipped);
    }
    if done.cancelled {
        eprintln!("{}", work::goes_on(args, done.records.len(), samples.len() * settings.len()));
    }
    Ok(())
}
