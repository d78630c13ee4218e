//! Environments of Python with packages that are pinned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{shown, succeeds};

/// The Python of the environment `name`, with all that lists in the folder `scripts` ask for. A list goes with whether its
/// packages are pinned by hash.
///
/// # Errors
/// If there is no Python, or packages cannot be installed.
pub fn environment(home: &Path, name: &str, scripts: &Path, lists: &[(&str, bool)]) -> Result<PathBuf> {
    let mut wanted = String::new();
    for (list, _) in lists {
        let path = scripts.join(list);
        wanted += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let folder = home.join("python").join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = folder.join("installed.txt");
    // Written last: an environment without it was left half made.
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }
    let base = crate::process::python();
    run_or_say(
        Command::new(&base).args(["-m", "venv", "--clear"]).arg(&folder),
        "a Python of version 3.11 or later with the module `venv` is needed: install one, or name one in CHELSEA_PYTHON",
    )?;
    for (list, hashes) in lists {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
        pip.args(["--only-binary", ":all:"]).args(hashes.then_some("--require-hashes"));
        pip.arg("--requirement").arg(scripts.join(list));
        run_or_say(&mut pip, &format!("packages of {} cannot be installed", scripts.join(list).display()))?;
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

fn run_or_say(command: &mut Command, otherwise: &str) -> Result<()> {
    if !succeeds(command).context(otherwise.to_owned())? {
        bail!("`{}` failed: {otherwise}", shown(command));
    }
    Ok(())
}
