use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Arguments, Status, out};

/// `sealgate completions SHELL`: prints a completion script.
pub(super) fn completions(shell: Shell) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "sealgate", &mut script);
    out!("{}", String::from_utf8(script)?)?;
    Ok(Status::Success)
}
