//! A chat on a pseudo-terminal: keys and signals as a person gives them.

use crate::small;
use pty_process::blocking::{Command, Pty, open};
use rustix::termios::{LocalModes, tcgetattr};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);
/// As the editor writes it: bars of progress have a `> `, too.
const PROMPT: &str = "\x1b[K> ";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A chat with the small model, once it asks.
    fn chat(folder: &Path, more: &[&str]) -> Terminal {
        let mut terminal = Terminal::run(folder, more);
        terminal.wait_for(PROMPT, 0);
        terminal
    }

    fn run(folder: &Path, more: &[&str]) -> Terminal {
        let model = folder.join("model");
        if !model.exists() {
            small::model(folder);
        }
        let (pty, pts) = open().unwrap();
        pty.resize(pty_process::Size::new(40, 120)).unwrap();
        let command = Command::new(env!("CARGO_BIN_EXE_chelsea"))
            .args(["run", "-m", model.to_str().unwrap(), "--threads", "1"])
            .args(more)
            .current_dir(folder)
            .env("TERM", "xterm");
        let child = command.spawn(pts).unwrap();
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Vec::new())));
        let (reader, shown) = (pty.clone(), seen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // At its end a pseudo-terminal has an error, not an end.
            while let Ok(n @ 1..) = (&*reader).read(&mut bytes) {
                shown.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Terminal { pty, child, seen }
    }

    fn type_in(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    fn shown(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn text(&self, from: usize) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()[from..]).into_owned()
    }

    fn until(&mut self, what: &str, done: impl Fn(&Terminal) -> bool) {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("waited for {what}: {}", self.text(0));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `text` is shown after the first `from` bytes.
    fn wait_for(&mut self, text: &str, from: usize) {
        self.until(text, |terminal| terminal.text(from).contains(text));
    }

    /// Asks, and waits until the answer is well on its way.
    fn ask(&mut self, question: &str) -> usize {
        let from = self.shown();
        self.type_in(&format!("{question}\r"));
        self.until("an answer", |terminal| terminal.shown() > from + 500);
        from
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("it goes on: {}", self.text(0));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&*self.pty).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }
}

/// Answers of the small model end when they are told to.
const ENDLESS: [&str; 2] = ["-n", "-1"];

#[test]
fn ctrl_c_ends_an_answer_in_every_turn_and_the_chat_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::chat(folder.path(), &ENDLESS);
    for question in ["one", "two", "three"] {
        let from = terminal.ask(question);
        terminal.type_in(CTRL_C);
        terminal.wait_for("kept for /clear]", from);
        let answered = terminal.shown();
        terminal.wait_for(PROMPT, from);
        // At the prompt it forgets the line.
        terminal.type_in(&format!("half a que{CTRL_C}"));
        terminal.until("another prompt", |t| t.shown() > answered + "half a que".len());
    }
    terminal.type_in("/exit\r");
    assert_eq!(terminal.ended().code(), Some(0));
}

#[test]
fn a_signal_from_elsewhere_ends_an_answer_as_the_key_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::chat(folder.path(), &ENDLESS);
    for question in ["one", "two"] {
        // At the prompt there is nothing to end.
        terminal.signal("INT");
        // It takes its time from one process to the other.
        std::thread::sleep(Duration::from_secs(1));
        let from = terminal.ask(question);
        terminal.signal("INT");
        terminal.wait_for("kept for /clear]", from);
        terminal.until("the prompt", |t| !t.echoes());
    }
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ended().code(), Some(0));
    assert!(terminal.echoes());
}

#[test]
fn ctrl_c_while_a_document_is_read_ends_the_command() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("doc.txt"), "The cat sat. ".repeat(60_000)).unwrap();
    let mut terminal = Terminal::run(folder.path(), &["-f", "doc.txt", "--block", "64"]);
    terminal.wait_for("reading", 0);
    terminal.type_in(CTRL_C);
    assert_eq!(terminal.ended().code(), Some(130));
    terminal.wait_for("stopped after", 0);
}

#[test]
fn sigterm_and_sighup_end_it_at_once_and_leave_the_terminal_right() {
    let folder = tempfile::tempdir().unwrap();
    // Under `nohup` the tests ignore SIGHUP, and so does what they start.
    let signals = [("TERM", 15), ("HUP", 1)];
    for (name, number) in signals.into_iter().filter(|&(_, number)| !is_ignored(number)) {
        for answering in [false, true] {
            let mut terminal = Terminal::chat(folder.path(), &ENDLESS);
            if answering {
                terminal.ask("one");
            } else {
                terminal.until("the prompt", |t| !t.echoes());
            }
            terminal.signal(name);
            assert_eq!(terminal.ended().signal(), Some(number), "{name}, answering: {answering}");
            assert!(terminal.echoes(), "{name}, answering: {answering}");
        }
    }
}

/// Whether this process, and so what it starts, ignores a signal, where the system tells.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[test]
fn lines_pasted_at_once_are_all_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::chat(folder.path(), &["-n", "3"]);
    let from = terminal.shown();
    terminal.type_in("one\rtwo\rthree\r");
    terminal.until("three answers", |t| t.text(from).matches("kept for /clear]").count() == 3);
    terminal.type_in(CTRL_D);
    assert_eq!(terminal.ended().code(), Some(0));
}

#[test]
fn a_cache_that_is_cut_short_while_it_is_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("doc.txt"), "The cat sat. ".repeat(1000)).unwrap();
    let mut build = Terminal::run(folder.path(), &["-f", "doc.txt", "-p", "Why?", "-n", "1", "--save-cache", "doc.kv"]);
    assert_eq!(build.ended().code(), Some(0), "{}", build.text(0));
    let mut terminal = Terminal::chat(folder.path(), &["--load-cache", "doc.kv", "-n", "3"]);
    let file = std::fs::OpenOptions::new().write(true).open(folder.path().join("doc.kv")).unwrap();
    file.set_len(4096).unwrap();
    terminal.type_in("Who?\r");
    assert_eq!(terminal.ended().code(), Some(1), "{}", terminal.text(0));
    terminal.wait_for("doc.kv was cut short by another program", 0);
}
