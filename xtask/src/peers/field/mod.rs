//! `cargo xtask bench-peers --field`: Chelsea beside every engine for this kind of machine that can be had.
//!
//! - here: what is asked for, and where results go;
//! - [`engine`]: the engines, the types of cache of each, and the settings that are tried;
//! - [`measure`]: runs in turns;
//! - [`kept`]: results as they are kept, in JSON;
//! - [`table`]: results as tables.
//!
//! Every engine reads the same prompts and answers them, one process for each setting. In the first trial each type of
//! cache runs with all settings of its engine; in the others only with those that were fastest at something then. A
//! setting that crashes is a result like any other: its row says how it ended.

mod engine;
mod kept;
mod measure;
mod table;

use super::{Args, environment, replace_file};
use crate::fetch;
use crate::process::{build_release, program, root, target_dir};
use anyhow::{Context as _, Result, ensure};
pub use engine::Peer;
use kept::Results;
use measure::Plan;
use std::path::PathBuf;

/// Lengths of prompts, in tokens, if none are given.
const PROMPTS: [usize; 2] = [512, 4096];
/// Tokens of each answer: one round of the clustering that comes once in so many.
const GENERATE: usize = 64;

/// Measures, or reads what was measured; prints, and writes the pages if that is asked for.
pub fn run(args: &Args, models: &[String]) -> Result<bool> {
    let all = match &args.from {
        files if !files.is_empty() => files.iter().map(|file| Results::read(file)).collect::<Result<Vec<_>>>()?,
        _ => {
            let Some(all) = measured(args, models)? else { return Ok(false) };
            all
        }
    };
    for results in &all {
        println!("\n{}", table::text(results));
    }
    if args.write {
        let folder = root().join("docs").join("results");
        all.iter().try_for_each(|results| results.write(&folder.join(results.file_name())))?;
        let page = root().join("docs").join("lab").join("field.md");
        let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        replace_file(&page, &super::table::between_markers(&text, "docs/lab/field.md", &table::markdown(&all))?)?;
        eprintln!("written: {}", page.display());
    }
    Ok(true)
}

/// Results of each model; none if Chelsea does not compile.
fn measured(args: &Args, models: &[String]) -> Result<Option<Vec<Results>>> {
    if args.program.is_none() && !build_release()? {
        return Ok(None);
    }
    let prompts = if args.depths.is_empty() { PROMPTS.to_vec() } else { args.depths.clone() };
    ensure!(!prompts.contains(&0), "--field reads prompts: a depth of 0 is no prompt");
    let given = [&args.python, &args.ik_python, &args.openvino_python];
    let wanted = |peer: &Peer| args.peers.is_empty() || args.peers.contains(peer);
    let peers = Peer::ALL.into_iter().zip(given).filter(|(peer, _)| wanted(peer));
    let pythons = peers.map(|(peer, given)| (peer, python(peer, given.as_ref()))).collect();
    let plan = Plan {
        program: args.program.clone().unwrap_or_else(program),
        pythons,
        threads: args.threads,
        trials: args.trials,
        prompts,
        generate: GENERATE,
        keep_in: target_dir().join("peers"),
    };
    let mut known = args.add.iter().map(|file| Results::read(file)).collect::<Result<Vec<_>>>()?;
    let results = models.iter().map(|model| {
        let place = known.iter().position(|results| results.model == *model);
        plan.run(model, &fetch::one(model)?, place.map(|place| known.swap_remove(place)))
    });
    results.collect::<Result<Vec<_>>>().map(Some)
}

/// The Python that has a peer, or why there is none: then its rows say that.
fn python(peer: Peer, given: Option<&PathBuf>) -> Result<PathBuf, String> {
    match given {
        Some(python) => Ok(python.clone()),
        None => environment(&target_dir().join("peers").join(peer.folder()), peer.package(), peer.module())
            .map_err(|error| format!("not installed: {error:#}")),
    }
}
