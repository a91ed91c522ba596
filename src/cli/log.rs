//! The log on standard error: format, level and filter.

use std::io::{IsTerminal, stderr};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Options of the log, for every command.
#[derive(Args)]
pub(super) struct LogArguments {
    /// The format of log lines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// The log level (off, error, warn, info, debug or trace), or a filter such as
    /// `info,sealgate::replay=debug`; the default is `info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging.
///
/// # Errors
/// One sentence that says what is wrong with `--log-level`.
pub(super) fn start(arguments: &LogArguments) -> Result<(), String> {
    let filter = filter(arguments.log_level.as_deref().unwrap_or("info"))?;
    // Lines that cannot be written, for example to a full disk, are dropped: reporting this on the
    // same stream would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .log_internal_errors(false);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(wants_color()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
    }
    Ok(())
}

/// Returns whether standard error is a terminal whose user has not set `NO_COLOR`.
fn wants_color() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Parses a level, or a list of levels and `target=level`. A bare word that is not a level is an
/// error: it would be a target, and silence everything else.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let directive = |directive: &str| -> Result<String, String> {
        let directive = directive.trim();
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target), level.trim()),
            None => (None, directive),
        };
        let level = match level.to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            known @ ("off" | "error" | "warn" | "info" | "debug" | "trace") => known.to_owned(),
            _ => {
                return Err(format!(
                    "`{level}` is not a log level; the levels are off, error, warn, info, debug \
                     and trace"
                ));
            }
        };
        Ok(target.map_or(level.clone(), |target| format!("{target}={level}")))
    };
    let directives: Vec<_> = text.split(',').map(directive).collect::<Result<_, _>>()?;
    EnvFilter::try_new(directives.join(",")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_word_is_a_level() {
        for valid in ["info", "WARN", "warning", "off", "info,sealgate::replay=warning"] {
            assert!(filter(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "verbose", "info,", "sealgate", "sealgate=loud", "info debug"] {
            let error = filter(invalid).expect_err(invalid);
            assert!(error.contains("error, warn, info, debug"), "{invalid}: {error}");
        }
    }
}
