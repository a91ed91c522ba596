use std::path::Path;

use super::{Status, err, invalid, out, reported};
use crate::{
    config,
    document::{Report, Severity},
};

/// `sealgate check`: reports every problem of the configuration, or that it is valid.
pub(super) fn check(path: &Path) -> anyhow::Result<Status> {
    let (config, warnings) = match reported(path, config::load(path)) {
        Ok(loaded) => loaded,
        Err(error) => {
            let status = invalid(&error);
            if let Some(report) = error.downcast_ref::<Report>() {
                let (errors, warnings) =
                    (report.count(Severity::Error), report.count(Severity::Warning));
                err!("{}: {errors} error(s), {warnings} warning(s)\n", path.display());
            }
            return Ok(status);
        }
    };
    err!("{warnings}");
    let warnings = warnings.count(Severity::Warning);
    let routes = config.routes.len();
    out!("{}: valid, {routes} route(s), {warnings} warning(s)\n", path.display())?;
    Ok(Status::Success)
}
