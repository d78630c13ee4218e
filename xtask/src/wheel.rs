//! `cargo xtask wheel`: the command as a package of Python's, so that `pip install` puts it where scripts lie.
//!
//! A wheel is an archive with the files, what is known of them (METADATA), and the checksum of each (RECORD). There is
//! nothing of Python's in this one, so it serves every version. It is made of a program that was built already; the
//! system it needs is read from the program.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::process::{build_release, program, python, root, stdout, succeeds, target_dir};
use crate::{dist, table};

/// What `wheel` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the wheel [default: `dist` in the folder that cargo builds into].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only see whether a wheel of the program that `cargo build` has built can be installed: a step of `cargo xtask test`.
    #[arg(long, conflicts_with = "out")]
    check: bool,
}

const NAME: &str = "chelsea";

/// Builds and packs; prints the wheel with its size.
pub fn run(args: &Args) -> Result<bool> {
    if args.check {
        return check();
    }
    if !build_release()? {
        return Ok(false);
    }
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("dist"));
    let wheel = pack(&program(), &out, CompressionMethod::Deflated)?;
    println!("{}\n{}", wheel.display(), table::bytes(fs::metadata(&wheel)?.len()));
    Ok(true)
}

/// Packs a program that was built for tests, installs it into a fresh environment, and asks it what it is: whether a
/// wheel is one, without a release being built.
pub fn check() -> Result<bool> {
    let built = target_dir().join("debug").join(format!("{NAME}{}", std::env::consts::EXE_SUFFIX));
    ensure!(built.is_file(), "{} was not built: `cargo build` does", built.display());
    let folder = tempfile::tempdir()?;
    // Uncompressed: it is large, and thrown away.
    let wheel = pack(&built, folder.path(), CompressionMethod::Stored)?;
    let base = python();
    let environment = folder.path().join("environment");
    let scripts = environment.join(if cfg!(windows) { "Scripts" } else { "bin" });
    // Without a pip of its own, which some systems package apart: the one that is there installs into it.
    if !succeeds(Command::new(&base).args(["-m", "venv", "--without-pip"]).arg(&environment))? {
        return Ok(false);
    }
    let mut pip = Command::new(&base);
    pip.args(["-m", "pip", "--python"]).arg(&environment);
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]);
    if !succeeds(pip.arg(&wheel))? {
        return Ok(false);
    }
    let installed = scripts.join(format!("{NAME}{}", std::env::consts::EXE_SUFFIX));
    let version = String::from_utf8(stdout(Command::new(&installed).arg("--version"))?)?;
    ensure!(version.trim() == format!("{NAME} {}", dist::version()?), "it says that it is {}", version.trim());
    let help = String::from_utf8(stdout(Command::new(&installed).args(["serve", "--help"]))?)?;
    ensure!(help.contains("--kv-memory"), "its help is another's");
    Ok(true)
}

/// Writes the wheel of a program to `out` and returns its path.
fn pack(program: &Path, out: &Path, method: CompressionMethod) -> Result<PathBuf> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let (version, system) = (dist::version()?, system(&bytes)?);
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let path = out.join(format!("{NAME}-{version}-py3-none-{system}.whl"));
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let info = format!("{NAME}-{version}.dist-info");
    let mut wheel = Wheel { zip: ZipWriter::new(file), method, record: String::new() };
    let name = program.file_name().context("the program has a name")?.to_string_lossy().into_owned();
    wheel.add(&format!("{NAME}-{version}.data/scripts/{name}"), &bytes, 0o755)?;
    let mut licences = String::new();
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read(root().join(file)).with_context(|| format!("cannot read {file}"))?;
        wheel.add(&format!("{info}/licenses/{file}"), &text, 0o644)?;
        licences += &format!("License-File: {file}\n");
    }
    let others = dist::licences_of_dependencies()?;
    wheel.add(&format!("{info}/licenses/{}", dist::LICENCES), others.as_bytes(), 0o644)?;
    licences += &format!("License-File: {}\n", dist::LICENCES);
    let readme = fs::read_to_string(root().join("README.md")).context("cannot read README.md")?;
    let metadata = format!(
        "Metadata-Version: 2.4\nName: {NAME}\nVersion: {version}\n\
         Summary: Runs language models over long texts and clusters their KV cache while reading\n\
         License-Expression: MIT OR Apache-2.0\n{licences}Requires-Python: >=3.8\n\
         Classifier: Programming Language :: Rust\n\
         Classifier: Topic :: Scientific/Engineering :: Artificial Intelligence\n\
         Description-Content-Type: text/markdown\n\n{readme}"
    );
    wheel.add(&format!("{info}/METADATA"), metadata.as_bytes(), 0o644)?;
    let about = format!(
        "Wheel-Version: 1.0\nGenerator: cargo xtask wheel ({version})\nRoot-Is-Purelib: false\nTag: py3-none-{system}\n"
    );
    wheel.add(&format!("{info}/WHEEL"), about.as_bytes(), 0o644)?;
    wheel.finish(&format!("{info}/RECORD"))?;
    Ok(path)
}

/// A wheel that is being written.
struct Wheel {
    zip: ZipWriter<fs::File>,
    method: CompressionMethod,
    record: String,
}

impl Wheel {
    fn add(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.record += &record(name, bytes);
        let options = SimpleFileOptions::default().compression_method(self.method).unix_permissions(mode);
        self.zip.start_file(name, options)?;
        Ok(self.zip.write_all(bytes)?)
    }

    /// The list of all files comes last, and has no checksum of itself.
    fn finish(mut self, name: &str) -> Result<()> {
        let record = std::mem::take(&mut self.record) + &format!("{name},,\n");
        self.zip.start_file(name, SimpleFileOptions::default().unix_permissions(0o644))?;
        self.zip.write_all(record.as_bytes())?;
        self.zip.finish()?;
        Ok(())
    }
}

fn record(name: &str, bytes: &[u8]) -> String {
    format!("{name},sha256={},{}\n", BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)), bytes.len())
}

/// The systems that a program runs on, as the names of wheels have them.
fn system(program: &[u8]) -> Result<String> {
    let machine = std::env::consts::ARCH;
    Ok(match std::env::consts::OS {
        "linux" => {
            let Some((major, minor)) = glibc(program) else {
                bail!("the program names no version of glibc: wheels of others are not made");
            };
            format!("manylinux_{major}_{minor}_{machine}")
        }
        // What rustc builds for unless MACOSX_DEPLOYMENT_TARGET says otherwise.
        "macos" if machine == "aarch64" => "macosx_11_0_arm64".into(),
        "macos" => format!("macosx_10_12_{machine}"),
        "windows" if machine == "x86_64" => "win_amd64".into(),
        "windows" => "win_arm64".into(),
        other => bail!("wheels for {other} are not made"),
    })
}

/// The newest version of glibc of which a program wants a symbol: older systems cannot run it.
fn glibc(program: &[u8]) -> Option<(u32, u32)> {
    const MARK: &[u8] = b"GLIBC_";
    let version = |at: usize| {
        let rest = &program[at + MARK.len()..];
        let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.')?;
        let mut numbers = std::str::from_utf8(&rest[..end]).ok()?.split('.').map(|part| part.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let marks = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.filter_map(|(at, _)| version(at)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_which_glibc_it_needs() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0GLIBCXX_9.9\0GLIBC_";
        assert_eq!(glibc(program), Some((2, 34)));
        assert_eq!(glibc(b"nothing of the kind"), None);
    }

    #[test]
    fn a_record_holds_what_the_format_asks_for() {
        assert_eq!(record("a", b""), "a,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n");
    }
}
