//! What ends the command from outside. Nothing else in the command watches for signals: the line editor takes SIGINT when
//! it is made, so it is made first.
//!
//! - Ctrl-C (SIGINT) raises a flag that ends the work at hand in good order; a second one, before the flag was looked at
//!   and lowered, ends the command at once with code 130.
//! - SIGTERM and SIGHUP end it at once, as they would without a handler: whoever waits sees that signal, and a shell 143
//!   or 129. Only the terminal is put right before, which the line editor may have left without echo. A SIGHUP that was
//!   ignored when the command began (`nohup`) stays so.
//! - SIGBUS says which file was cut short while it was mapped. Saved caches are read from their maps, so that a cache may
//!   be larger than the memory that is free and costs nothing until it is looked at; reading them whole instead would take
//!   both away for the sake of a fault that only another program can cause. What is lost here is the answer on its way.

use anyhow::{Context as _, Result};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static CANCEL: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that Ctrl-C raises; watches for signals from the first call on.
pub fn cancel_flag() -> Result<Arc<AtomicBool>> {
    if let Some(flag) = CANCEL.get() {
        return Ok(flag.clone());
    }
    let flag = CANCEL.get_or_init(|| Arc::new(AtomicBool::new(false))).clone();
    system::watch(flag.clone()).context("cannot watch for signals")?;
    Ok(flag)
}

/// Whether Ctrl-C was pressed.
pub fn cancelled() -> bool {
    CANCEL.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Forgets an earlier Ctrl-C, so that a chat can go on after it.
pub fn rearm() {
    if let Some(flag) = CANCEL.get() {
        flag.store(false, Ordering::Relaxed);
    }
}

/// Whether something failed that the command goes on after.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Has the command end as one that failed, however it goes on: a closed pipe may end it before it can say so.
pub fn note_failure() {
    FAILED.store(true, Ordering::Relaxed);
}

/// What the command exits with: 130 once Ctrl-C was pressed, whatever it came to.
pub fn exit_code(ok: bool) -> u8 {
    if cancelled() { INTERRUPTED } else { u8::from(!ok || FAILED.load(Ordering::Relaxed)) }
}

const INTERRUPTED: u8 = 130;

/// The terminal is to be put right, as it is now, when a signal ends the command.
pub fn keep_terminal() {
    system::keep_terminal();
}

/// Names a file that is going to be read from a map, so that its end can be told if it is cut short meanwhile.
pub fn note_mapped(path: &Path) {
    system::note_mapped(path);
}

/// Watches for SIGBUS alone: for verbs that see to the other signals themselves.
#[cfg(feature = "serve")]
pub fn watch_maps() -> Result<()> {
    system::watch_maps().context("cannot watch for signals")
}

#[cfg(unix)]
mod system {
    use super::INTERRUPTED;
    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
    use signal_hook::consts::{SIGBUS, SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock};

    pub fn watch(raised: Arc<AtomicBool>) -> std::io::Result<()> {
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
        watch_maps()?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if signal == SIGINT {
                    if raised.swap(true, Ordering::Relaxed) {
                        restore_terminal();
                        std::process::exit(INTERRUPTED.into());
                    }
                } else {
                    restore_terminal();
                    let _ = low_level::emulate_default_handler(signal);
                }
            }
        })?;
        Ok(())
    }

    /// Whether whoever started the command had it ignore a signal, where the system tells.
    fn is_ignored(signal: i32) -> bool {
        let mask = || {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        mask().is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }

    static TERMINAL: OnceLock<Termios> = OnceLock::new();

    pub fn keep_terminal() {
        if let Ok(now) = tcgetattr(rustix::stdio::stdin()) {
            let _ = TERMINAL.set(now);
        }
    }

    fn restore_terminal() {
        let Some(before) = TERMINAL.get() else { return };
        let stdin = rustix::stdio::stdin();
        if tcgetattr(stdin).is_ok_and(|now| now.local_modes != before.local_modes) {
            let _ = tcsetattr(stdin, OptionalActions::Now, before);
            // Pasted text is no longer bracketed, and what follows begins a line.
            let _ = rustix::io::write(rustix::stdio::stdout(), b"\x1b[?2004l\r\n");
        }
    }

    /// A mapped file and its length when it was mapped.
    struct MappedFile {
        path: CString,
        length: u64,
    }

    /// As many as a model has parts, and a cache. A handler may neither lock nor allocate.
    static MAPPED: [OnceLock<MappedFile>; 64] = [const { OnceLock::new() }; 64];

    pub fn note_mapped(path: &Path) {
        let (Ok(meta), Ok(name)) = (path.metadata(), CString::new(path.as_os_str().as_bytes())) else { return };
        let mut file = MappedFile { path: name, length: meta.len() };
        for slot in &MAPPED {
            match slot.set(file) {
                Ok(()) => return,
                Err(other) => file = other,
            }
        }
    }

    #[allow(unsafe_code)]
    pub fn watch_maps() -> std::io::Result<()> {
        // SAFETY: the handler makes system calls (write, stat, _exit) and reads memory that does not change; it neither
        // allocates nor locks.
        unsafe { low_level::register(SIGBUS, map_failed) }.map(drop)
    }

    /// Runs in the handler of a signal.
    fn map_failed() {
        let say = |text: &[u8]| _ = rustix::io::write(rustix::stdio::stderr(), text);
        let is_shorter = |file: &&MappedFile| {
            rustix::fs::stat(file.path.as_c_str()).is_ok_and(|now| (now.st_size as u64) < file.length)
        };
        say(b"\nerror: ");
        match MAPPED.iter().filter_map(OnceLock::get).find(is_shorter) {
            Some(file) => {
                say(file.path.to_bytes());
                say(b" was cut short by another program while it was in use: write the file again\n");
            }
            None => say(b"a file that was in use can no longer be read: it was changed, or its disk failed\n"),
        }
        low_level::exit(1);
    }
}

#[cfg(not(unix))]
mod system {
    use super::INTERRUPTED;
    use signal_hook::consts::SIGINT;
    use signal_hook::flag;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    pub fn watch(raised: Arc<AtomicBool>) -> std::io::Result<()> {
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), raised.clone())?;
        flag::register(SIGINT, raised).map(drop)
    }

    pub fn watch_maps() -> std::io::Result<()> {
        Ok(())
    }

    pub fn keep_terminal() {}

    pub fn note_mapped(_path: &Path) {}
}
