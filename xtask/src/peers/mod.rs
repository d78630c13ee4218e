//! `cargo xtask bench-peers`: Chelsea beside llama.cpp on the same models, lengths and threads; and with `--field` beside
//! every engine that can be had, at each one's types of cache.
//!
//! - here: what is compared, and the Python environment that llama.cpp runs in;
//! - [`measure`]: runs of both in turns, and what they say;
//! - [`table`]: the comparison as text, as a section of `docs/lab/llama-cpp.md`, and as charts;
//! - [`field`]: the comparison with all engines.
//!
//! llama.cpp runs with flash attention on and off and with weight repacking on and off; for each work the setting
//! that was fastest counts. Both cache f16. Long depths are filled without reading in both: random entries here, a
//! lengthened state there.

mod field;
mod measure;
mod table;

use crate::fetch;
use crate::process::{self, build_release, root, succeeds, target_dir};
use anyhow::{Context as _, Result, ensure};
pub(crate) use measure::median;
use measure::{Comparison, Plan};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that is compared with; its states are understood.
const PACKAGE: &str = "llama-cpp-python==0.3.36";

/// What `bench-peers` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Models to compare on: short names or files; SmolLM2 and both Qwens if none is given.
    models: Vec<String>,
    /// Compare with llama.cpp, ik_llama.cpp and OpenVINO GenAI at each type of cache that they have, over prompts that
    /// are really read; without it, with llama.cpp at 16 bits alone, over caches that are made up.
    #[arg(long)]
    field: bool,
    /// A Python that has llama-cpp-python 0.3.36; without it, one is made below the build folder (which compiles
    /// llama.cpp once).
    #[arg(long)]
    python: Option<PathBuf>,
    /// A Python that has ik-llama-cpp-python 0.1.5, for --field; without it, one is made as for llama.cpp.
    #[arg(long, requires = "field")]
    ik_python: Option<PathBuf>,
    /// A Python that has openvino-genai 2026.4.1.0, for --field; without it, one is made as for llama.cpp.
    #[arg(long, requires = "field")]
    openvino_python: Option<PathBuf>,
    /// Engines to run beside Chelsea, for --field [default: all].
    #[arg(long, requires = "field", value_delimiter = ',', value_enum)]
    peers: Vec<field::Peer>,
    /// Results that were kept, for --field: the trials come on top of these. So a long comparison can be made in pieces.
    #[arg(long, requires = "field", value_name = "FILE")]
    add: Vec<PathBuf>,
    /// A Chelsea that is built already, for --field.
    #[arg(long, requires = "field")]
    program: Option<PathBuf>,
    /// Results that were kept, for --field: they are shown, and written with --write, and nothing is measured.
    #[arg(long, requires = "field", value_name = "FILE", conflicts_with_all = ["models", "add"])]
    from: Vec<PathBuf>,
    /// Threads of each engine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Trials of each work, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    trials: u32,
    /// Trials of a prompt with its answer, which take minutes each; 0 leaves it out.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    end_to_end_trials: u32,
    /// Cached tokens before decode is timed [default: 0,4000,8000 for SmolLM2, 0,4000,16384 for Qwen 0.5B,
    /// 0,16384,32768 for the others]. With --field tokens of each prompt [default: 512,4096].
    #[arg(long, value_delimiter = ',')]
    depths: Vec<usize>,
    /// Also write the comparison into docs/lab/llama-cpp.md and its charts into docs/plots; with --field into
    /// docs/lab/field.md, and every run into docs/results.
    #[arg(long)]
    write: bool,
}

const MODELS: [&str; 3] = ["smollm2", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"];

/// Builds, compares, prints.
pub fn run(args: &Args) -> Result<bool> {
    let models: Vec<String> =
        if args.models.is_empty() { MODELS.map(String::from).to_vec() } else { args.models.clone() };
    if args.field {
        return field::run(args, &models);
    }
    if !build_release()? {
        return Ok(false);
    }
    let python = match &args.python {
        Some(python) => python.clone(),
        None => environment(&target_dir().join("peers").join("venv"), PACKAGE, "llama_cpp")?,
    };
    let mut comparisons: Vec<Comparison> = Vec::new();
    for model in models {
        let file = fetch::one(&model)?;
        let plan = Plan {
            name: model.clone(),
            file,
            python: python.clone(),
            threads: args.threads,
            trials: args.trials,
            end_to_end_trials: args.end_to_end_trials,
            depths: if args.depths.is_empty() { depths_of(&model) } else { args.depths.clone() },
        };
        let comparison = plan.run()?;
        println!("\n{}", table::text(&comparison));
        comparisons.push(comparison);
    }
    if args.write {
        write(&comparisons)?;
    }
    Ok(true)
}

/// Depths that a model was trained for, up to what is worth waiting for.
fn depths_of(model: &str) -> Vec<usize> {
    match model {
        "smollm2" => vec![0, 4000, 8000],
        "qwen2.5-coder-0.5b" => vec![0, 4000, 16_384],
        _ => vec![0, 16_384, 32_768],
    }
}

/// A Python environment in a folder with a package in it, which has this module; made at the first call.
fn environment(folder: &Path, package: &str, module: &str) -> Result<PathBuf> {
    let bin = if cfg!(windows) { "Scripts" } else { "bin" };
    let python = folder.join(bin).join(format!("python{}", std::env::consts::EXE_SUFFIX));
    if python.is_file() && has(&python, module) {
        return Ok(python);
    }
    eprintln!(
        "making a Python environment with {package} in {}: what has to be compiled is compiled once",
        folder.display()
    );
    let system = process::python();
    let made = succeeds(Command::new(&system).args(["-m", "venv"]).arg(folder))?;
    ensure!(made, "Python cannot make an environment (its package may be called python3-venv)");
    let installed = succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]))?;
    ensure!(installed, "{package} cannot be installed: a C++ compiler and CMake may be needed");
    Ok(python)
}

fn has(python: &Path, module: &str) -> bool {
    let status = Command::new(python).args(["-c", &format!("import {module}")]).output();
    status.is_ok_and(|output| output.status.success())
}

/// Puts the comparison where people read it.
fn write(comparisons: &[Comparison]) -> Result<()> {
    let plots = root().join("docs").join("plots");
    std::fs::create_dir_all(&plots).with_context(|| plots.display().to_string())?;
    for comparison in comparisons {
        replace_file(&plots.join(table::chart_name(comparison)), &table::chart(comparison)?)?;
    }
    let page = root().join("docs").join("lab").join("llama-cpp.md");
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    replace_file(&page, &table::between_markers(&text, "docs/lab/llama-cpp.md", &table::markdown(comparisons))?)?;
    eprintln!("written: {}", page.display());
    Ok(())
}

/// Writes beside the file first, so that it is whole or as it was.
fn replace_file(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}
