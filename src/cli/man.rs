use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use super::{Arguments, Status};

/// `sealgate man DIR`: writes the man pages, one for each command.
pub(super) fn man(dir: &Path) -> anyhow::Result<Status> {
    let write = || {
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Arguments::command(), dir)
    };
    write().with_context(|| format!("cannot write to {}", dir.display()))?;
    Ok(Status::Success)
}
