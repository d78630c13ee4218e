//! `cargo xtask data`: sets of long-context samples for the tokenizer of a model, as JSON lines.
//!
//! The samples are made by the scripts in `scripts/data`, in a Python environment that belongs to them alone. What
//! they are made from is pinned by hash, so the same model, length, number and seed give the same files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, root, succeeds};
use crate::{fetch, python};

/// What `data` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    set: Set,
}

#[derive(Debug, clap::Subcommand)]
enum Set {
    /// RULER's thirteen tasks, made by the published generators.
    Ruler {
        #[command(flatten)]
        common: Common,
        /// Samples of each task.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        samples: u32,
        /// Only these tasks.
        #[arg(long, value_delimiter = ',')]
        tasks: Vec<String>,
    },
    /// Questions over several documents from SQuAD and HotpotQA, in the format of LongBench.
    Qa {
        #[command(flatten)]
        common: Common,
        /// Questions of each of the two.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5_000))]
        samples: u32,
    },
    /// The next line of a Python module that calls what another one defines, in the format of LongBench.
    Completion {
        #[command(flatten)]
        common: Common,
        /// Lines that are asked for.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        samples: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The model whose tokens are counted: a short name, a file or a hub id.
    #[arg(long)]
    model: String,
    /// Length of the samples in tokens.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..=1_048_576))]
    length: u32,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 42)]
    seed: u32,
    /// Folder to write to [default: one in the cache folder, named after the set].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Makes the samples and prints the SHA-256 and the path of each file; false if a task could not be made.
pub fn run(args: &Args) -> Result<bool> {
    let (script, common, samples, tasks) = match &args.set {
        Set::Ruler { common, samples, tasks } => ("ruler", common, samples, tasks.as_slice()),
        Set::Qa { common, samples } => ("qa", common, samples, [].as_slice()),
        Set::Completion { common, samples } => ("completion", common, samples, [].as_slice()),
    };
    let home = fetch::folder("home")?;
    let python = environment(&home)?;
    let tokenizer = tokenizer(&home, &common.model)?;
    let out = match &common.out {
        Some(folder) => folder.clone(),
        None => {
            let name = format!("{}-{}-{samples}-seed{}", slug(&common.model), common.length, common.seed);
            fetch::folder("data")?.join(script).join(name)
        }
    };
    let mut command = Command::new(python);
    command.current_dir(root()).arg(scripts().join(format!("{script}.py")));
    command.arg("--tokenizer").arg(tokenizer).arg("--out").arg(std::path::absolute(&out)?);
    for (name, value) in [("--length", common.length), ("--samples", *samples), ("--seed", common.seed)] {
        command.args([name, &value.to_string()]);
    }
    command.args(tasks);
    succeeds(&mut command)
}

fn scripts() -> PathBuf {
    root().join("scripts").join("data")
}

/// A model's name as part of a file's.
fn slug(model: &str) -> String {
    let name = Path::new(model).file_stem().map_or(model.into(), |stem| stem.to_string_lossy());
    let name = if model.contains(['/', '\\']) { name } else { model.into() };
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' }).collect()
}

/// The model's tokenizer as `tokenizer.json`.
fn tokenizer(home: &Path, model: &str) -> Result<PathBuf> {
    let path = fetch::one(model)?;
    let folder = home.join("tokenizers");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let out = folder.join(format!("{}.json", slug(model)));
    let mut command = cargo(&["run", "--quiet", "--package", "chelsea-model", "--example", "tokenizer_json", "--"]);
    ensure!(succeeds(command.arg(path).arg(&out))?, "the tokenizer of {model} cannot be read");
    Ok(out)
}

/// The Python of an environment with all that `packages.txt` and `requirements.txt` ask for.
fn environment(home: &Path) -> Result<PathBuf> {
    python::environment(home, "data", &scripts(), &[("packages.txt", true), ("requirements.txt", false)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_become_names_of_files() {
        assert_eq!(slug("qwen2.5-coder-0.5b"), "qwen2.5-coder-0.5b");
        assert_eq!(slug("/models/a b.gguf"), "a-b");
        assert_eq!(slug("org/name"), "name");
    }

    #[test]
    fn packages_that_make_the_data_are_pinned_by_hash() {
        let list = fs::read_to_string(scripts().join("packages.txt")).expect("it is there");
        let packages: Vec<&str> = list.lines().filter(|l| !l.starts_with('#')).collect();
        assert!(!packages.is_empty());
        for package in packages {
            let hash = package.split_once(" --hash=sha256:").map_or("", |(_, hash)| hash);
            let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(package.contains("==") && is_hash, "{package}");
        }
    }
}
