use std::path::Path;

use super::Status;
use crate::{config, document::Severity};

/// `sealgate check`: reports every problem of the configuration, or that it is valid.
pub(super) fn check(path: &Path) -> anyhow::Result<Status> {
    let (config, warnings) = match config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{report}");
            let (errors, warnings) =
                (report.count(Severity::Error), report.count(Severity::Warning));
            eprintln!("{}: {errors} error(s), {warnings} warning(s)", path.display());
            return Ok(Status::Invalid);
        }
    };
    eprint!("{warnings}");
    let warnings = warnings.count(Severity::Warning);
    let routes = config.routes.len();
    println!("{}: valid, {routes} route(s), {warnings} warning(s)", path.display());
    Ok(Status::Success)
}
