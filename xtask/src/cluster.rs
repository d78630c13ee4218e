//! Whether servers behind a router hold what docs/deploy.md says: a small form of `scripts/scale/chaos.py`.
//!
//! The routers come from Python packages into environments of their own. Where these cannot be installed (there is no Python
//! of the right version, or no registry) the check is skipped, and the table of steps says so.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// What came of a check.
pub enum Checked {
    /// It held.
    Held,
    /// It did not.
    Failed,
    /// It could not be made here, for this reason.
    Skipped(String),
}

/// The exit status by which the script says that something is missing here.
const MISSING: i32 = 77;
/// How long the installation of a router may take, and after it the check.
const INSTALLING: Duration = Duration::from_secs(480);
const CHECKING: Duration = Duration::from_secs(300);

/// Kills one of two servers of the debug build behind this router, while clients ask. Behind Dynamo one of them then reads
/// for the other.
///
/// # Errors
/// If the script cannot be started, or does not come to an end.
pub fn check(router: &str) -> Result<Checked> {
    match run(&[router, "--install"], INSTALLING) {
        Ok(Checked::Held) => {}
        Ok(other) => return Ok(other),
        // A slow mirror of packages says nothing about this project.
        Err(error) => return Ok(Checked::Skipped(format!("{error:#}"))),
    }
    let program = process::target_dir().join("debug").join(format!("chelsea{}", std::env::consts::EXE_SUFFIX));
    let program = program.display().to_string();
    let load = ["--requests", "24", "--kills", "2", "--conversations", "2", "--clients", "4", "--tokens", "64"];
    let settled = ["--settle", "1.5", "--chelsea", &program];
    let killed = run(&[&[router], &load[..], &settled[..]].concat(), CHECKING)?;
    if router != "dynamo" || !matches!(killed, Checked::Held) {
        return Ok(killed);
    }
    // One reads, and hands its caches to another, which answers.
    let apart = ["--readers", "1", "--requests", "12", "--kills", "0", "--conversations", "1", "--tokens", "32"];
    run(&[&[router], &apart[..], &settled[..]].concat(), CHECKING)
}

/// Runs the script with these words, for so long at most.
fn run(words: &[&str], patience: Duration) -> Result<Checked> {
    let mut command = std::process::Command::new(process::python());
    command.current_dir(process::root()).stdout(Stdio::piped()).arg("scripts/scale/chaos.py").args(words);
    eprintln!("\n$ {}", process::shown(&command));
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Checked::Skipped(format!("there is no Python at {}", process::python().display())));
        }
        Err(error) => return Err(error).context("cannot start Python"),
    };
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > patience {
            // It ends its servers when it is asked to.
            interrupt(&mut child)?;
            bail!("the check did not end within {} seconds", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = std::io::read_to_string(child.stdout.take().context("its output")?)?;
    print!("{said}");
    Ok(match status.code() {
        Some(0) => Checked::Held,
        Some(MISSING) => Checked::Skipped(said.trim().trim_start_matches("skipped: ").to_owned()),
        _ => Checked::Failed,
    })
}

fn interrupt(child: &mut std::process::Child) -> Result<()> {
    let asked = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    if asked.is_ok_and(|status| status.success()) {
        std::thread::sleep(Duration::from_secs(15));
    }
    let _ended = child.kill();
    child.wait()?;
    Ok(())
}
