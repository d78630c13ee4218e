//! One file of the hub into its blob: resumable, checked, and only renamed into place when it is right.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use super::cache::{RepoCache, make_parent};
use super::client::{Client, Failure, FileMeta};
use crate::digest;
use crate::error::HubError;
use crate::install::remove_if_there;
use crate::lock::Lock;
use crate::options::Options;
use crate::progress::Progress;

/// A file at a commit of a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub repo: &'a str,
    pub commit: &'a str,
    pub file: &'a str,
}

impl Wanted<'_> {
    fn name(&self) -> String {
        format!("{}:{}", self.repo, self.file)
    }
}

/// Makes sure that the blob of `meta` is in the cache.
pub(crate) fn fetch(
    client: &Client,
    cache: &RepoCache,
    wanted: Wanted<'_>,
    meta: &FileMeta,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    if is_there(cache, wanted, meta)? {
        return Ok(());
    }
    let _lock = Lock::take(&cache.lock(&meta.etag), &wanted.name(), progress)?;
    if is_there(cache, wanted, meta)? {
        return Ok(());
    }
    let partial = cache.incomplete(&meta.etag);
    make_parent(&partial)?;
    progress.begin(&format!("downloading {}", wanted.name()), meta.size);
    let received = receive(client, wanted, meta, &partial, options, progress);
    progress.end();
    let checked = received.and_then(|()| check(wanted, meta, &partial, progress));
    if matches!(checked, Err(HubError::WrongContent { .. })) {
        remove_if_there(&partial)?;
    }
    checked?;
    let blob = cache.blob(&meta.etag);
    std::fs::rename(&partial, &blob).map_err(HubError::io("rename into place", &blob))
}

fn is_there(cache: &RepoCache, wanted: Wanted<'_>, meta: &FileMeta) -> Result<bool, HubError> {
    let blob = cache.blob(&meta.etag);
    match (std::fs::metadata(&blob), meta.size) {
        (Err(e), _) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        (Err(e), _) => Err(HubError::io("look at", &blob)(e)),
        (Ok(found), Some(size)) if found.len() != size => Err(HubError::CacheDamaged {
            path: blob,
            name: wanted.repo.to_owned(),
            reason: format!("it has {} bytes and should have {size}", found.len()),
        }),
        _ => Ok(true),
    }
}

/// Appends to `partial` until the file is complete, taking a broken transfer up again where it stopped. Tries that
/// bring no byte are limited; tries that do are not.
fn receive(
    client: &Client,
    wanted: Wanted<'_>,
    meta: &FileMeta,
    partial: &Path,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    let mut file = OpenOptions::new().create(true).append(true).open(partial).map_err(HubError::io("open", partial))?;
    let mut have = file.metadata().map_err(HubError::io("look at", partial))?.len();
    if meta.size.is_some_and(|size| have > size) {
        have = restart(&file, partial)?;
    }
    let (mut fruitless, mut wait) = (0, options.retry_wait);
    while meta.size.is_none_or(|size| have < size) || have == 0 {
        if meta.size == Some(0) {
            break;
        }
        let before = have;
        let failure = match attempt(client, wanted, meta, &mut file, partial, &mut have, progress)? {
            None => break,
            Some(failure) => failure,
        };
        if matches!(&failure, Failure::Status { status, .. } if status.as_u16() == 416) && before > 0 {
            // The server has no such offset: what lies here belongs to something else.
            have = restart(&file, partial)?;
        } else if !failure.is_passing() {
            return Err(client.explain(failure, &wanted.name()));
        }
        if have > before {
            (fruitless, wait) = (0, options.retry_wait);
        }
        if fruitless >= options.retries {
            return Err(client.explain(failure, &wanted.name()));
        }
        fruitless += 1;
        tracing::debug!("{} at byte {have}: {failure:?}; trying again", wanted.name());
        pause(wait, progress)?;
        wait = (wait * 2).min(std::time::Duration::from_secs(30));
    }
    file.sync_all().map_err(HubError::io("write", partial))
}

/// One request. `Ok(None)`: the body ended as it should. `Ok(Some)`: it did not, and what came is in the file.
fn attempt(
    client: &Client,
    wanted: Wanted<'_>,
    meta: &FileMeta,
    file: &mut File,
    partial: &Path,
    have: &mut u64,
    progress: &mut dyn Progress,
) -> Result<Option<Failure>, HubError> {
    let stream = match client.open(wanted.repo, wanted.commit, wanted.file, *have) {
        Ok(stream) => stream,
        Err(failure) => return Ok(Some(failure)),
    };
    if let (Some(size), Some(total)) = (meta.size, stream.total)
        && size != total
    {
        let reason = format!("the hub announced {size} bytes and serves {total}");
        return Err(HubError::WrongContent { what: wanted.name(), reason });
    }
    if stream.start != *have {
        if stream.start != 0 {
            let detail = format!("asked for byte {have} on, it sent byte {} on", stream.start);
            return Err(HubError::BadAnswer { what: wanted.name(), detail });
        }
        *have = restart(file, partial)?;
    }
    let expected = meta.size.or(stream.total);
    let mut body = stream.body.into_reader();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        if progress.cancelled() {
            return Err(HubError::Cancelled);
        }
        let n = match body.read(&mut buffer) {
            Ok(n) => n,
            Err(e) => return Ok(Some(Failure::Transport { detail: e.to_string(), no_server: false })),
        };
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(HubError::io("write", partial))?;
        *have += n as u64;
        progress.advance(*have);
        if let Some(size) = expected.filter(|&size| *have > size) {
            let reason = format!("more than the announced {size} bytes came");
            return Err(HubError::WrongContent { what: wanted.name(), reason });
        }
    }
    match expected {
        Some(size) if *have < size => {
            let detail = format!("the connection closed after {have} of {size} bytes");
            Ok(Some(Failure::Transport { detail, no_server: false }))
        }
        _ => Ok(None),
    }
}

/// Sleeps in short steps, so that a user who gives up is heard.
fn pause(wait: std::time::Duration, progress: &dyn Progress) -> Result<(), HubError> {
    let until = std::time::Instant::now() + wait;
    loop {
        if progress.cancelled() {
            return Err(HubError::Cancelled);
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(std::time::Duration::from_millis(100)));
    }
}

fn restart(file: &File, partial: &Path) -> Result<u64, HubError> {
    file.set_len(0).map_err(HubError::io("empty", partial))?;
    Ok(0)
}

/// Size, and the hash where the etag is one (the hub names large files by their SHA-256).
fn check(wanted: Wanted<'_>, meta: &FileMeta, partial: &Path, progress: &mut dyn Progress) -> Result<(), HubError> {
    let wrong = |reason: String| HubError::WrongContent { what: wanted.name(), reason };
    let found = std::fs::metadata(partial).map_err(HubError::io("look at", partial))?.len();
    if let Some(size) = meta.size.filter(|&size| size != found) {
        return Err(wrong(format!("it has {found} bytes and should have {size}")));
    }
    if !digest::is_sha256(&meta.etag) {
        return Ok(());
    }
    progress.begin(&format!("checking {}", wanted.name()), Some(found));
    let sha256 = digest::file(partial, progress);
    progress.end();
    let sha256 = sha256?;
    if sha256 != meta.etag {
        return Err(wrong(format!("its SHA-256 is {sha256} and should be {}", meta.etag)));
    }
    Ok(())
}
