//! The log on standard error: format, level and filter.

mod line;

use std::{
    io::{self, IsTerminal, Write, stderr},
    os::unix::fs::MetadataExt,
    sync::OnceLock,
};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use self::line::{JsonLine, Prioritized};
use crate::{config::log_filter, metrics::DroppedLine};

/// Options of the log, for every command.
#[derive(Args)]
pub(super) struct LogArguments {
    /// The format of log lines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// The log level (off, error, warn, info, debug or trace), or a filter such as
    /// `info,sealgate::replay=debug`; the default is `log.level` of the configuration, or `info`.
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

/// The log, once it has started.
static STARTED: OnceLock<StartedLog> = OnceLock::new();

struct StartedLog {
    format: LogFormat,
    /// Whether `--log-level` was given, so that the configuration does not change it.
    has_level: bool,
    replace: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

/// Starts logging.
///
/// # Errors
/// One sentence that says what is wrong with `--log-level`.
pub(super) fn start(arguments: &LogArguments) -> Result<(), String> {
    let filter = parsed(&log_filter(arguments.log_level.as_deref().unwrap_or("info"))?)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::default)
        .with_ansi(wants_color())
        .log_internal_errors(false);
    let for_journal = goes_to_journal();
    let replace: Box<dyn Fn(EnvFilter) + Send + Sync> = match arguments.log_format {
        LogFormat::Text => {
            let text = tracing_subscriber::fmt::format().with_target(false);
            let log = log.event_format(Prioritized { for_journal, format: text });
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            // An error means that there is no log any more.
            Box::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let log = log.event_format(Prioritized { for_journal, format: JsonLine });
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| drop(handle.reload(filter)))
        }
    };
    let has_level = arguments.log_level.is_some();
    STARTED.get_or_init(|| StartedLog { format: arguments.log_format, has_level, replace });
    Ok(())
}

/// Sets the level that the configuration names, unless the command line names one.
pub(super) fn set_level(level: &str) {
    if let Some(log) = STARTED.get().filter(|log| !log.has_level)
        && let Ok(filter) = parsed(level)
    {
        (log.replace)(filter);
    }
}

fn parsed(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}

/// Standard error. Lines that it does not accept, for example because a disk is full, are counted
/// and dropped: reporting this on the same stream would panic.
#[derive(Default)]
struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if stderr().write_all(line).is_err() {
            DroppedLine::Failed.count(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether log lines are JSON.
pub(super) fn is_json() -> bool {
    STARTED.get().is_some_and(|log| log.format == LogFormat::Json)
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
