//! The log on standard error: format, level and filter.

mod line;

use std::{
    io::{IsTerminal, stderr},
    os::unix::fs::MetadataExt,
    sync::OnceLock,
};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use self::line::{JsonLine, Prioritized};

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

/// The format, once logging has started.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

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
        .with_ansi(wants_color())
        .log_internal_errors(false);
    let for_journal = goes_to_journal();
    match arguments.log_format {
        LogFormat::Text => {
            let text = tracing_subscriber::fmt::format().with_target(false);
            log.event_format(Prioritized { for_journal, format: text }).init();
        }
        LogFormat::Json => log.event_format(Prioritized { for_journal, format: JsonLine }).init(),
    }
    FORMAT.get_or_init(|| arguments.log_format);
    Ok(())
}

/// Returns whether log lines are JSON.
pub(super) fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Returns whether standard error is a terminal whose user has not set `NO_COLOR`.
fn wants_color() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns whether standard error is the journal of systemd (systemd.exec(5), `JOURNAL_STREAM`).
fn goes_to_journal() -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    let stream = std::fs::metadata("/proc/self/fd/2");
    stream.is_ok_and(|stream| journal == format!("{}:{}", stream.dev(), stream.ino()))
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
