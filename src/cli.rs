//! The command line: arguments, exit status, logging.

mod admin_client;
mod capture;
mod check;
mod client;
mod completions;
mod demo;
mod events;
mod health;
mod init;
mod listen;
mod log;
mod man;
mod output;
mod rehearse;
mod run;
mod schemes;
mod send;
mod sign;
mod systemd;
mod text;
mod verify;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use self::{
    log::LogArguments,
    output::{err, out},
};
use crate::{
    config::{self, Config},
    document::Report,
    scheme::UnixMillis,
};

/// The configuration file without `--config`.
const DEFAULT_CONFIG: &str = "gateway.toml";

/// A webhook gateway that forwards only authentic and new events to your handler.
#[derive(Parser)]
#[command(name = "sealgate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    log: LogArguments,
}

/// Options of commands that read the configuration.
#[derive(Args)]
struct ConfigArguments {
    /// The configuration file; the default is `gateway.toml`.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (default).
    Run,
    /// Validate the configuration and report every problem.
    Check(check::CheckArguments),
    /// Write a configuration to start from, and print the next steps.
    Init(init::InitArguments),
    /// Run a gateway for development without a configuration file, and log each event.
    Listen(listen::ListenArguments),
    /// Run a gateway, a stand-in upstream and signed traffic on loopback; needs no setup.
    Demo {
        /// Exit after the table, with status 1 if a row differs from what is expected.
        #[arg(long)]
        exit: bool,
    },
    /// Verify one captured HTTP request offline.
    Verify(verify::VerifyArguments),
    /// Print the headers that a route's sender sends with a body.
    Sign(sign::SignArguments),
    /// Sign one event and send it.
    Send(send::SendArguments),
    /// Test which events a handler processes twice or loses after copies, crashes and retries.
    Rehearse(rehearse::RehearseArguments),
    /// List the schemes, or print one.
    Schemes {
        /// The scheme to print.
        id: Option<String>,
    },
    /// List, show and redeliver the events of the running gateway.
    Events(events::EventsArguments),
    /// Query the running gateway's readiness; for container health checks.
    Health,
    /// Write the man pages to a directory.
    Man {
        /// The directory, which is created if it does not exist.
        dir: PathBuf,
    },
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Success.
    Success = 0,
    /// The operation failed.
    Failed = 1,
    /// The command line, the configuration or an input file is invalid.
    Invalid = 2,
}

/// Parses the arguments, runs the command and returns its exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse_from(without_help_of_help(std::env::args_os().collect()));
    if let Err(error) = log::start(&arguments.log) {
        err!("error: --log-level: {error}\n");
        return ExitCode::from(Status::Invalid as u8);
    }
    if let Err(error) = disable_core_dumps() {
        tracing::warn!(%error, "a crash may leave a core file, which contains secrets");
    }
    let config = arguments.config.config.unwrap_or_else(|| DEFAULT_CONFIG.into());
    let done = match arguments.command {
        None | Some(Command::Run) => run::run(&config),
        Some(Command::Check(arguments)) => check::check(&config, &arguments),
        Some(Command::Init(arguments)) => init::init(&config, &arguments),
        Some(Command::Listen(arguments)) => listen::listen(&arguments),
        Some(Command::Demo { exit }) => demo::demo(exit),
        Some(Command::Verify(arguments)) => verify::verify(&config, &arguments),
        Some(Command::Sign(arguments)) => sign::sign(&config, &arguments),
        Some(Command::Send(arguments)) => send::send(&config, &arguments),
        Some(Command::Rehearse(arguments)) => rehearse::rehearse(&config, &arguments),
        Some(Command::Schemes { id }) => schemes::schemes(id.as_deref()),
        Some(Command::Events(arguments)) => events::events(&config, arguments),
        Some(Command::Health) => health::health(&config),
        Some(Command::Man { dir }) => man::man(&dir),
        Some(Command::Completions { shell }) => completions::completions(shell),
    };
    let status = done.unwrap_or_else(|error| {
        if log::is_json() {
            tracing::error!("{error:#}");
        } else {
            err!("error: {error:#}\n");
        }
        Status::Failed
    });
    ExitCode::from(status as u8)
}

/// Removes `--help` after `help`: clap has no help about `help`, and rejects it.
fn without_help_of_help(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|command| command == "help") {
        arguments.retain(|argument| argument != "--help" && argument != "-h");
    }
    arguments
}

/// Disables core dumps, which contain secrets, and prevents other processes of the same user from
/// reading this process's memory (prctl(2), `PR_SET_DUMPABLE`).
fn disable_core_dumps() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Reads the configuration for a command that does not run the gateway.
///
/// # Errors
/// A [`Report`] of all problems, or the absence of the default file.
fn load(path: &Path) -> anyhow::Result<Config> {
    reported(path, config::load(path)).map(|(config, _)| config)
}

/// Adds to a report about the absent default file what to do about it.
fn reported<T>(path: &Path, result: Result<T, Report>) -> anyhow::Result<T> {
    result.map_err(|report| {
        let report = anyhow::Error::from(report);
        if path == Path::new(DEFAULT_CONFIG) && !path.exists() {
            report.context(
                "there is no gateway.toml in this directory: `sealgate init` writes one, \
                 `--config FILE` names another file, and `sealgate demo` needs none",
            )
        } else {
            report
        }
    })
}

/// Prints what is invalid in the configuration, the arguments or an input file.
fn invalid(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<Report>() {
        Some(report) if error.chain().count() == 1 => err!("{report}"),
        Some(_) => err!("error: {error}\n"),
        None if log::is_json() => tracing::error!("{error:#}"),
        None => err!("error: {error:#}\n"),
    }
    Status::Invalid
}

/// Parses a time argument: Unix seconds, Unix milliseconds (from 10^11) or RFC 3339.
fn instant(text: &str) -> Result<UnixMillis, String> {
    if let Ok(number) = text.parse::<i64>() {
        let is_millis = number.unsigned_abs() >= 100_000_000_000;
        return Ok(UnixMillis(if is_millis { number } else { number.saturating_mul(1000) }));
    }
    rfc3339(text).ok_or_else(|| {
        "write Unix seconds (1758184391) or RFC 3339 (2025-09-18T08:33:11Z)".to_owned()
    })
}

/// Parses a time in RFC 3339.
fn rfc3339(text: &str) -> Option<UnixMillis> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(UnixMillis)
}

/// Returns the current time.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
