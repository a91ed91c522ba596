//! The command line: arguments, exit status, logging.

mod capture;
mod check;
mod client;
mod completions;
mod demo;
mod health;
mod run;
mod schemes;
mod send;
mod sign;
mod verify;

use std::{
    io::{IsTerminal, stderr},
    path::PathBuf,
    process::ExitCode,
    time::SystemTime,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::EnvFilter;

use crate::{document::Report, scheme::UnixMillis};

/// A webhook gateway that forwards only authentic and new events to your handler.
#[derive(Parser)]
#[command(name = "sealgate", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    log: LogArguments,
}

#[derive(Args)]
struct LogArguments {
    /// The format of log lines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// The log level (error, warn, info or debug), or a filter such as
    /// `info,sealgate::replay=debug`; the default is `info`.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Options of commands that read the configuration.
#[derive(Args)]
struct RunArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (default).
    Run(RunArguments),
    /// Validate the configuration and report every problem.
    Check(RunArguments),
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
    /// List the schemes, or print one.
    Schemes {
        /// The scheme to print.
        id: Option<String>,
    },
    /// Query the running gateway's readiness; for container health checks.
    Health(RunArguments),
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
    let arguments = Arguments::parse();
    if let Err(error) = start_log(&arguments.log, arguments.command.as_ref()) {
        eprintln!("error: --log-level: {error}");
        return ExitCode::from(Status::Invalid as u8);
    }
    if let Err(error) = disable_core_dumps() {
        tracing::warn!(%error, "a crash may leave a core file, which contains secrets");
    }
    let done = match arguments.command {
        None => run::run(&arguments.run.config),
        Some(Command::Run(run)) => run::run(&run.config),
        Some(Command::Check(run)) => check::check(&run.config),
        Some(Command::Demo { exit }) => demo::demo(exit),
        Some(Command::Verify(arguments)) => verify::verify(&arguments),
        Some(Command::Sign(arguments)) => sign::sign(&arguments),
        Some(Command::Send(arguments)) => send::send(&arguments),
        Some(Command::Schemes { id }) => schemes::schemes(id.as_deref()),
        Some(Command::Health(run)) => health::health(&run.config),
        Some(Command::Completions { shell }) => completions::completions(shell),
    };
    let status = done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Status::Failed
    });
    ExitCode::from(status as u8)
}

/// Disables core dumps, which contain secrets, and prevents other processes of the same user from
/// reading this process's memory (prctl(2), `PR_SET_DUMPABLE`).
fn disable_core_dumps() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Prints what is invalid in the configuration, the arguments or an input file.
fn invalid(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<Report>() {
        Some(report) => eprint!("{report}"),
        None => eprintln!("error: {error:#}"),
    }
    Status::Invalid
}

/// Starts logging to standard error. The demo logs errors only, because it prints a table.
fn start_log(
    arguments: &LogArguments,
    command: Option<&Command>,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let usual = if matches!(command, Some(Command::Demo { .. })) { "error" } else { "info" };
    let filter = EnvFilter::try_new(arguments.log_level.as_deref().unwrap_or(usual))?;
    // Lines that cannot be written, for example to a full disk, are dropped: reporting this on the
    // same stream would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .log_internal_errors(false);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
    }
    Ok(())
}

/// Returns the current time.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
