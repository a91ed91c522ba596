use std::io::{Write, stdout};

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Arguments, Status};

/// `sealgate completions SHELL`: prints the script that the shell reads.
pub(super) fn completions(shell: Shell) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "sealgate", &mut script);
    stdout().write_all(&script)?;
    Ok(Status::Done)
}
