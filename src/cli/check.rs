use std::path::Path;

use super::{Status, err, invalid, now, out, reported};
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
    let now = now().0 / 1000;
    // A pair without files is created at start.
    let loaded = config.server.tls.iter().filter_map(|pair| pair.validity().ok());
    let outdated: Vec<_> =
        loaded.filter_map(|(name, validity)| validity.problem_at(&name, now)).collect();
    if !outdated.is_empty() {
        for problem in &outdated {
            err!("error: {problem}\n  help: renew it; senders reject it\n\n");
        }
        err!("{}: {} error(s)\n", path.display(), outdated.len());
        return Ok(Status::Invalid);
    }
    let warnings = warnings.count(Severity::Warning);
    let routes = config.routes.len();
    out!("{}: valid, {routes} route(s), {warnings} warning(s)\n", path.display())?;
    Ok(Status::Success)
}
