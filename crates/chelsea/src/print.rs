//! Printing to pipes that somebody may close, where `println!` and the other macros of the standard library panic. The macros
//! here have the same names, so that no verb has to think of it.
//!
//! A closed standard output ends the command: nobody is there to read what is still to come. A closed standard error does
//! not.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

macro_rules! print {
    ($($text:tt)*) => { $crate::print::out(format_args!($($text)*)) };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::print::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::print::err(format_args!($($text)*)) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::print::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes to standard output at once, whole lines or not.
pub fn out(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(true),
        Err(error) => {
            err(format_args!("error: cannot write to standard output: {error}\n"));
            exit(false);
        }
    }
}

fn exit(ok: bool) -> ! {
    std::process::exit(crate::signals::exit_code(ok).into())
}

/// Writes to standard error, if it is still open.
pub fn err(text: Arguments<'_>) {
    let _closed = std::io::stderr().write_fmt(text);
}
