use std::path::Path;

use super::Status;
use crate::{config, document::Severity};

/// `sealgate check`: everything that is wrong with the configuration, or what it sets up.
pub(super) fn check(path: &Path) -> anyhow::Result<Status> {
    let (config, warnings) = match config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{report}");
            let (errors, warnings) =
                (report.count(Severity::Error), report.count(Severity::Warning));
            eprintln!("{}: {errors} error(s), {warnings} warning(s)", path.display());
            return Ok(Status::Wrong);
        }
    };
    eprint!("{warnings}");
    let warnings = warnings.count(Severity::Warning);
    let routes = config.routes.len();
    println!("{}: in order, {routes} route(s), {warnings} warning(s)", path.display());
    Ok(Status::Done)
}
