//! Output of the commands. A reader that closes its pipe early is not an error, and text that
//! cannot be written never causes a panic.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write, stderr, stdout},
};

use anyhow::Context;

/// Writes to standard output.
///
/// # Errors
/// A full disk, for example; not a reader that has closed its pipe.
pub(super) fn print(text: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    written(out.write_fmt(text).and_then(|()| out.flush()))
}

/// Writes bytes to standard output.
///
/// # Errors
/// Those of [`print`].
pub(super) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

fn written(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Writes to standard error, if it can be written to.
pub(super) fn report(text: Arguments<'_>) {
    // There is no other place to report this.
    let _ = stderr().write_fmt(text);
}

/// Formats like `print!`, and returns an error instead of panicking.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::output::print(format_args!($($text)*)) };
}

/// Formats like `eprint!`, and ignores what cannot be written.
macro_rules! err {
    ($($text:tt)*) => { $crate::cli::output::report(format_args!($($text)*)) };
}

pub(super) use {err, out};
