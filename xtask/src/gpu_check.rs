//! `cargo xtask gpu-check`: everything that a machine with a GPU can tell, in a few minutes. First the tests of kernels,
//! caches and the forward pass, which run in the emulator everywhere else, on the GPU itself; then what it reaches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, stdout, succeeds, target_dir};

/// What `gpu-check` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The GPU, by its number.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Run in the emulator: whether this check itself works, with a tiny shape.
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

/// Runs the check; false if a test failed.
///
/// # Errors
/// If something does not build, or a program cannot be started.
pub fn run(args: &Args) -> Result<bool> {
    if let Some(folder) = &args.collect {
        return collect(folder).map(|()| true);
    }
    let which = if args.emulated { "emulated".to_owned() } else { args.device.to_string() };
    let mut tests = cargo(&["test", "--release", "--tests"]);
    tests.args(CRATES);
    if !args.emulated {
        // One after the other: they share the GPU's memory.
        tests.env(VARIABLE, &which).args(["--", "--test-threads=1"]);
    }
    let passed = succeeds(&mut tests)?;
    let measured = succeeds(cargo(&["run", "--release"]).args(EXAMPLE).args(["--", &which]))?;
    Ok(passed && measured)
}

/// Builds the programs of the check and copies them, with a script that runs them in order.
fn collect(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let build = ["test", "--release", "--tests", "--no-run", "--message-format=json"];
    let told = stdout(cargo(&build).args(CRATES))?;
    ensure!(succeeds(cargo(&["build", "--release"]).args(EXAMPLE))?, "the example does not build");
    let mut programs: Vec<PathBuf> =
        String::from_utf8_lossy(&told).lines().filter_map(executable).map(PathBuf::from).collect();
    programs.sort();
    let suffix = std::env::consts::EXE_SUFFIX;
    let mut script =
        format!("#!/bin/sh\n# {VARIABLE} names the GPU.\ncd \"$(dirname \"$0\")\"\nexport {VARIABLE}=${{1:-0}}\n");
    for program in &programs {
        let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        std::fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
        script.push_str(&format!("./{name} --test-threads=1 || failed=1\n"));
    }
    let example = target_dir().join("release").join("examples").join(format!("gpu_check{suffix}"));
    std::fs::copy(&example, folder.join("gpu_check")).with_context(|| format!("cannot copy {}", example.display()))?;
    script.push_str(&format!("./gpu_check ${VARIABLE} || failed=1\nexit ${{failed:-0}}\n"));
    let path = folder.join("run.sh");
    std::fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{} programs and run.sh in {}: run `sh run.sh` there", programs.len() + 1, folder.display());
    Ok(())
}

/// The program that a line of cargo's messages tells of.
fn executable(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(message.get("executable")?.as_str()?.to_owned())
}
