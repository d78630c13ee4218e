//! One process at a time per download, by a lock on a file. The system drops the lock when its holder dies, so a
//! killed download never blocks the next one.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::error::HubError;
use crate::progress::Progress;

/// Held as long as the value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock `path`, waiting for another holder; the user hears about the wait and can stop it.
    pub(crate) fn take(path: &Path, what: &str, progress: &mut dyn Progress) -> Result<Lock, HubError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(HubError::io("create", dir))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(HubError::io("open the lock", path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        progress.note(&format!("another process is downloading {what}; waiting for it"));
                        told = true;
                    }
                    if progress.cancelled() {
                        return Err(HubError::Cancelled);
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                // Some network file systems have no locks: working without one is better than not working.
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                    tracing::warn!("no file locks at {}: do not download the same model twice at once", path.display());
                    return Ok(Lock { _file: file });
                }
                Err(TryLockError::Error(e)) => return Err(HubError::io("lock", path)(e)),
            }
        }
    }
}
