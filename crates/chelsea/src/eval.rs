//! `chelsea eval`: what a clustered cache remembers, side by side with the full one.

use crate::cli::{EvalAction, EvalArgs, NeedlesArgs};
use crate::output::{self, Table};
use crate::setup;
use anyhow::{Context as _, Result, bail};
use chelsea_engine::{Layout, SessionOptions};
use chelsea_eval::needles::NeedleOptions;
use chelsea_eval::{Outcome, Setting, Subject};
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs the verb.
pub fn run(args: &EvalArgs) -> Result<()> {
    match &args.action {
        EvalAction::Needles(args) => needles(args),
    }
}

fn needles(args: &NeedlesArgs) -> Result<()> {
    let settings = settings(args);
    for setting in settings.iter().filter(|setting| setting.online) {
        if chelsea_kv::policy(&setting.policy)?.needs().repetition.is_some() {
            bail!("policy `{}` reads the text a second time: it can be measured one-shot only", setting.policy);
        }
    }
    if settings.is_empty() {
        bail!("nothing to measure: give at least one keep ratio and one mode");
    }
    let quiet = !std::io::stderr().is_terminal();
    let cancel = setup::cancel_flag()?;
    let haystack = haystack(args.haystack.as_deref(), quiet)?;
    let loaded = setup::load(&args.model, quiet)?;
    let layout = Layout::new(&loaded.tokenizer, loaded.template.as_ref(), None);
    let subject = Subject {
        model: loaded.model.clone(),
        tokenizer: &loaded.tokenizer,
        layout: &layout,
        pool: loaded.pool.clone(),
        cancel: cancel.clone(),
        options: SessionOptions {
            sinks: args.sinks,
            window: args.window,
            schedule: args.schedule(),
            dtype: args.kv_type.map(crate::cli::DtypeArg::dtype),
            ..SessionOptions::default()
        },
    };
    let options =
        NeedleOptions { tokens: args.tokens, needles: args.needles, seed: args.seed, ..NeedleOptions::default() };
    let total = u64::from(args.contexts) * args.needles as u64 * settings.len() as u64;
    let bar = output::bar(total, "asking", false, quiet);
    let mut outcomes = Vec::new();
    for index in 0..u64::from(args.contexts) {
        subject.run_context(&haystack, &options, args.first_context + index, &settings, &mut |outcome| {
            bar.inc(1);
            if args.json
                && let Ok(line) = serde_json::to_string(&outcome)
            {
                println!("{line}");
            }
            outcomes.push(outcome);
        })?;
    }
    bar.finish_and_clear();
    let table = table(&settings, &outcomes);
    if args.json {
        eprint!("{table}");
    } else {
        println!(
            "{}: {} contexts of {} tokens, {} needles each, asked after compression\n",
            args.model.model, args.contexts, args.tokens, args.needles
        );
        print!("{table}");
    }
    Ok(())
}

/// Every policy at every keep ratio below 1, one-shot and online; the full cache once.
fn settings(args: &NeedlesArgs) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &keep in &args.keeps {
        if keep >= 1.0 {
            settings.push(Setting { policy: "full".into(), keep: 1.0, online: false });
            continue;
        }
        for policy in &args.policies {
            for mode in &args.modes {
                let online = *mode == crate::cli::CompressArg::Online;
                settings.push(Setting { policy: policy.clone(), keep, online });
            }
        }
    }
    settings
}

/// The text of a file, of all .txt files of a folder, or of the essays.
fn haystack(path: Option<&Path>, quiet: bool) -> Result<String> {
    let fetched;
    let path = match path {
        Some(path) => path,
        None => {
            let options = chelsea_hub::Options::from_env();
            fetched = chelsea_hub::fetch_data("essays", &options, &mut output::Downloads::new(quiet))?;
            &fetched
        }
    };
    if !path.is_dir() {
        return std::fs::read_to_string(path).with_context(|| format!("cannot read the haystack {}", path.display()));
    }
    let mut files: Vec<_> = std::fs::read_dir(path)
        .with_context(|| format!("cannot read the folder {}", path.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let texts: std::io::Result<Vec<String>> = files.iter().map(std::fs::read_to_string).collect();
    Ok(texts.with_context(|| format!("cannot read the texts in {}", path.display()))?.join("\n\n"))
}

fn table(settings: &[Setting], outcomes: &[Outcome]) -> String {
    let mut table = Table::with_heading(["policy", "kept", "mode", "hits", "of", "digit NLL", "cache bytes"]);
    for setting in settings {
        let rows: Vec<&Outcome> = outcomes.iter().filter(|o| o.setting == *setting).collect();
        if rows.is_empty() {
            continue;
        }
        let hits = rows.iter().filter(|o| o.hit).count();
        let nll = rows.iter().map(|o| o.nll).sum::<f64>() / rows.len() as f64;
        let mean = |f: fn(&Outcome) -> usize| rows.iter().map(|o| f(o)).sum::<usize>() / rows.len();
        let mode = if setting.keep >= 1.0 {
            "-"
        } else if setting.online {
            "online"
        } else {
            "one-shot"
        };
        table.row([
            setting.policy.clone(),
            format!("{:.0}%", setting.keep * 100.0),
            mode.into(),
            hits.to_string(),
            rows.len().to_string(),
            format!("{nll:.3}"),
            output::percent(mean(|o| o.kv_bytes), mean(|o| o.kv_bytes_full)),
        ]);
    }
    table.render()
}
