//! Child processes of the chores, run in the root of the workspace.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The root of the workspace.
pub fn root() -> PathBuf {
    // The manifest lies in `xtask/`, directly below the root.
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// The folder that cargo builds into.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `cargo ARGS` in the root, with the cargo that runs this program.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    // What cargo tells this program about its package would reach build scripts, some of which start over
    // whenever it differs from the last time.
    for (name, _) in std::env::vars_os() {
        let about =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST"));
        if about {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit(['/', '\\']).next().unwrap_or(&program).to_owned();
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

/// Runs it with its output on this terminal; true if it succeeded.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("\n$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    Ok(status.success())
}

/// Builds the command as users do; true if it succeeded.
pub fn build_release() -> Result<bool> {
    succeeds(&mut cargo(&["build", "--release", "--package", "chelsea"]))
}

/// Builds what the demonstration runs: the command, without the server, and what fetches. Together, so that a dependency
/// which both have is compiled once.
pub fn build_demo() -> Result<bool> {
    let command = ["build", "--release", "--no-default-features", "--package", "chelsea", "--bin", "chelsea"];
    succeeds(cargo(&command).args(["--package", "chelsea-hub", "--example", "fetch"]))
}

/// The Python that was asked for, or the system's.
pub fn python() -> PathBuf {
    std::env::var_os("CHELSEA_PYTHON").filter(|path| !path.is_empty()).unwrap_or_else(|| "python3".into()).into()
}

/// What [`build_release`] and [`build_demo`] build.
pub fn program() -> PathBuf {
    target_dir().join("release").join(format!("chelsea{}", std::env::consts::EXE_SUFFIX))
}

/// Runs it in the root and returns what it prints; an error if it fails.
pub fn stdout(command: &mut Command) -> Result<Vec<u8>> {
    command.current_dir(root()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    eprintln!("\n$ {}", shown(command));
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    ensure!(output.status.success(), "`{}` failed: {}", shown(command), output.status);
    Ok(output.stdout)
}
