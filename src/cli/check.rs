mod against;

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Status, err, invalid, now, out, reported};
use crate::{
    config,
    document::{Report, Severity},
};

/// Options of `sealgate check`.
#[derive(Args)]
pub(super) struct CheckArguments {
    /// Also verify the captured requests in this directory, or with `-` those that the running
    /// gateway has kept, against the configuration: reports how many would be rejected, and why.
    #[arg(long, value_name = "DIR|-")]
    against: Option<PathBuf>,
}

/// `sealgate check`: reports every problem of the configuration, or that it is valid.
pub(super) fn check(path: &Path, arguments: &CheckArguments) -> anyhow::Result<Status> {
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
    match &arguments.against {
        Some(captures) => against::against(config, path, captures),
        None => Ok(Status::Success),
    }
}
