//! `cargo xtask gpu-check`: everything that a machine with a GPU can tell, in eight minutes at most. First the tests of kernels,
//! caches and the forward pass, which run in the emulator everywhere else, on the GPU itself; then what it reaches, stage by
//! stage. Every stage has a limit of time, and what it printed until then stays, whatever becomes of the others.

mod stages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, root, stdout, succeeds, target_dir};
use stages::{ALL_TESTS, Ended, Stage, TESTS};

/// What `gpu-check` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The GPU, by its number.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Run in the emulator: whether this check itself works, with a tiny shape. The tests are left out, which run there anyway.
    #[arg(long, conflicts_with = "collect")]
    emulated: bool,
    /// Build only, and put the programs and a script into this folder: for a machine with a GPU and without a compiler.
    #[arg(long, value_name = "FOLDER")]
    collect: Option<PathBuf>,
}

/// Crates whose tests run on the GPU.
const CRATES: [&str; 4] = ["--package", "chelsea-emulator", "--package", "chelsea-cuda"];
const EXAMPLE: [&str; 4] = ["--package", "chelsea-cuda", "--example", "gpu_check"];
/// Tells tests which GPU to run on.
const VARIABLE: &str = "CHELSEA_TEST_GPU";

/// Runs the check; false if a stage failed or took too long.
///
/// # Errors
/// If something does not build, or a program cannot be started.
pub fn run(args: &Args) -> Result<bool> {
    if let Some(folder) = &args.collect {
        return collect(folder).map(|()| true);
    }
    ensure!(succeeds(cargo(&["build", "--release"]).args(EXAMPLE))?, "the example does not build");
    let mut ended: Vec<(String, Ended)> = Vec::new();
    if !args.emulated {
        let programs = test_programs()?;
        let start = Instant::now();
        for program in programs {
            let mut tests = Command::new(&program);
            // One after the other: they share the GPU's memory.
            tests.arg("--test-threads=1").env(VARIABLE, args.device.to_string()).current_dir(root());
            let name = format!("tests: {}", name_of(&program)?);
            let is_late = start.elapsed() > ALL_TESTS;
            ended.push((name, if is_late { Ended::LeftOut } else { stages::limited(&mut tests, TESTS)? }));
        }
    }
    let (device, stages) = match args.emulated {
        true => ("emulated".to_owned(), Stage::emulated()),
        false => (args.device.to_string(), Stage::on_a_gpu()),
    };
    for stage in stages {
        let mut measured = Command::new(example());
        measured.arg(&device).args(stage.words);
        ended.push((stage.words.join(" "), stages::limited(&mut measured, stage.limit)?));
    }
    println!();
    ended.iter().for_each(|(name, ended)| println!("{ended}: {name}"));
    Ok(ended.iter().all(|(_, ended)| *ended == Ended::Well))
}

/// The programs of the tests, built.
fn test_programs() -> Result<Vec<PathBuf>> {
    let build = ["test", "--release", "--tests", "--no-run", "--message-format=json"];
    let told = stdout(cargo(&build).args(CRATES))?;
    let mut programs: Vec<PathBuf> =
        String::from_utf8_lossy(&told).lines().filter_map(executable).map(PathBuf::from).collect();
    programs.sort();
    programs.dedup();
    ensure!(!programs.is_empty(), "cargo told of no tests");
    Ok(programs)
}

fn example() -> PathBuf {
    target_dir().join("release").join("examples").join(format!("gpu_check{}", std::env::consts::EXE_SUFFIX))
}

fn name_of(program: &Path) -> Result<&str> {
    program.file_name().and_then(|name| name.to_str()).context("a program without a name")
}

/// Builds the programs of the check and copies them, with a script that runs them in order.
fn collect(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, folder.join(name)).with_context(|| format!("cannot copy {}", from.display()))
    };
    let programs = test_programs()?;
    ensure!(succeeds(cargo(&["build", "--release"]).args(EXAMPLE))?, "the example does not build");
    let names = programs.iter().map(|program| name_of(program)).collect::<Result<Vec<_>>>()?;
    for (program, name) in programs.iter().zip(&names) {
        copy(program, name)?;
    }
    copy(&example(), "gpu_check")?;
    let path = folder.join("run.sh");
    std::fs::write(&path, stages::script(VARIABLE, &names))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} programs and run.sh in {}: run `sh run.sh` there", programs.len() + 1, folder.display());
    Ok(())
}

/// The program that a line of cargo's messages tells of.
fn executable(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(message.get("executable")?.as_str()?.to_owned())
}
