//! `cargo xtask dist`: an archive to install from: the program, its manual pages, completions for shells, licences,
//! and a checksum of each file.
//!
//! It holds what was built for the machine that it runs on. The licences of all crates that are linked into the program
//! go with it, as they ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::process::{build_release, cargo, program, root, stdout, succeeds, target_dir};
use crate::table;

/// What `dist` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the archive [default: `dist` in the folder that cargo builds into].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const SHELLS: [(&str, &str); 5] = [
    ("bash", "chelsea.bash"),
    ("zsh", "_chelsea"),
    ("fish", "chelsea.fish"),
    ("elvish", "chelsea.elv"),
    ("powershell", "_chelsea.ps1"),
];
const SUMS: &str = "SHA256SUMS";
/// The file with the licences of what is linked in.
pub const LICENCES: &str = "LICENSES-OF-DEPENDENCIES.txt";

/// Builds and packs; prints the archive with its size and checksum.
pub fn run(args: &Args) -> Result<bool> {
    if !build_release()? {
        return Ok(false);
    }
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("dist"));
    let out = std::path::absolute(out)?;
    let name = format!("chelsea-{}-{}", version()?, host()?);
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fill(&folder)?;
    let sums = sums(&folder)?;
    write(&folder.join(SUMS), &sums)?;
    let archive = out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&archive).arg("-C").arg(&out).arg(&name);
    if !succeeds(&mut tar).context("`tar` packs the archive")? {
        return Ok(false);
    }
    let (bytes, sum) = (fs::metadata(&archive)?.len(), sha256(&archive)?);
    write(&out.join(format!("{name}.tar.gz.sha256")), &format!("{sum}  {name}.tar.gz\n"))?;
    println!("{}\n{}\nSHA-256 {sum}", archive.display(), table::bytes(bytes));
    Ok(true)
}

/// All files but the checksums.
fn fill(folder: &Path) -> Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [folder, &man, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let own = program();
    let name = own.file_name().context("the program has a name")?;
    fs::copy(&own, folder.join(name)).with_context(|| format!("cannot copy {}", own.display()))?;
    ensure!(succeeds(Command::new(&own).arg("man").arg(&man))?, "the manual pages cannot be written");
    for (shell, file) in SHELLS {
        let script = stdout(Command::new(&own).args(["completions", shell]))?;
        ensure!(!script.is_empty(), "no completions for {shell}");
        fs::write(completions.join(file), script)?;
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "CHANGELOG.md"] {
        fs::copy(root().join(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    write(&folder.join(LICENCES), &licences_of_dependencies()?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}

/// A line for each file below `folder`, as `sha256sum --check` reads them.
fn sums(folder: &Path) -> Result<String> {
    let (mut folders, mut lines) = (vec![folder.to_path_buf()], BTreeMap::new());
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder)?.to_string_lossy().replace('\\', "/");
                lines.insert(name, sha256(&path)?);
            }
        }
    }
    Ok(lines.iter().fold(String::new(), |text, (name, sum)| text + &format!("{sum}  {name}\n")))
}

/// The version of the command.
pub fn version() -> Result<String> {
    let packages = metadata(&["--no-deps"])?.packages;
    let own = packages.into_iter().find(|p| p.name == "chelsea").context("the workspace has the package `chelsea`")?;
    Ok(own.version)
}

/// The machine that this builds for, such as `x86_64-unknown-linux-gnu`.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = String::from_utf8(stdout(Command::new(rustc).arg("-vV"))?)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it builds for")?.to_owned())
}

/// What `cargo metadata` prints, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// Nothing for members of the workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

fn metadata(args: &[&str]) -> Result<Metadata> {
    let mut command = cargo(&["metadata", "--format-version", "1", "--locked"]);
    serde_json::from_slice(&stdout(command.args(args))?).context("what `cargo metadata` prints cannot be read")
}

/// Packages from elsewhere that are linked into the command on this machine.
fn linked() -> Result<Vec<Package>> {
    let mut tree = cargo(&["tree", "--locked", "--package", "chelsea", "--edges", "normal,no-proc-macro"]);
    let tree = String::from_utf8(stdout(tree.args(["--prefix", "none", "--format", "{p}"]))?)?;
    let named: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let all = metadata(&["--filter-platform", &host()?])?.packages;
    Ok(all.into_iter().filter(|p| p.source.is_some() && named.contains(&(&*p.name, &*p.version))).collect())
}

/// The licences of everything that is linked into the command.
pub fn licences_of_dependencies() -> Result<String> {
    licences(&linked()?)
}

/// What each package is under, then every licence text once with the packages that carry it.
fn licences(packages: &[Package]) -> Result<String> {
    let mut out = String::from("The program holds code of these packages.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let under = package.license.as_deref().unwrap_or("see below");
        let _ = writeln!(out, "{name}: {under}");
        let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            let legal = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
            if path.is_file() && legal.iter().any(|name| file.starts_with(name)) {
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
                texts.entry(text.trim().to_owned()).or_default().push(name.clone());
            }
        }
    }
    for (text, mut names) in texts {
        names.dedup();
        let _ = write!(out, "\n{}\n{}\n\n{text}\n", "=".repeat(100), names.join(", "));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_that_the_usual_tool_checks() {
        let folder = std::env::temp_dir().join(format!("chelsea-dist-{}", std::process::id()));
        fs::create_dir_all(folder.join("man")).expect("created");
        fs::write(folder.join("b"), "abc").expect("written");
        fs::write(folder.join("man").join("a.1"), "").expect("written");
        let sums = sums(&folder).expect("read");
        fs::remove_dir_all(&folder).expect("removed");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sums, format!("{abc}  b\n{empty}  man/a.1\n"));
    }

    #[test]
    fn every_crate_that_is_linked_brings_its_licence() {
        let packages = linked().expect("a tree");
        assert!(packages.iter().any(|p| p.name == "tokenizers") && packages.len() > 50);
        let text = licences(&packages).expect("texts");
        for package in &packages {
            assert!(text.contains(&format!("{} {}: ", package.name, package.version)));
        }
        assert!(!packages.iter().any(|p| p.name == "proptest" || p.name.starts_with("chelsea")));
    }
}
