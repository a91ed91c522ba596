//! The command line: arguments, exit status, log.

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

/// Receives webhooks safely: verifies them, refuses replays, forwards only what is authentic and new.
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
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter such as `info,sealgate::replay=debug`.
    /// `info` is usual.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Readable on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the configuration is.
#[derive(Args)]
struct RunArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Run(RunArguments),
    /// Validate the configuration and print everything that is wrong with it.
    Check(RunArguments),
    /// Gateway, stand-in upstream and signed traffic on loopback; nothing to set up.
    Demo {
        /// End after the table; the status is 1 if any row is not as it must be.
        #[arg(long)]
        exit: bool,
    },
    /// Judge one captured HTTP request, offline.
    Verify(verify::VerifyArguments),
    /// Print the headers that a route's sender would send with a body.
    Sign(sign::SignArguments),
    /// Sign one event and send it.
    Send(send::SendArguments),
    /// List the schemes, or print one.
    Schemes {
        /// The scheme to print.
        id: Option<String>,
    },
    /// Ask the running gateway whether it is ready; for container health checks.
    Health(RunArguments),
    /// Print what a shell needs to complete this command line.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The exit status: see the interface's three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Done.
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// The command line, the configuration or an input file is wrong.
    Wrong = 2,
}

/// Parses the arguments, runs the command and tells its exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_log(&arguments.log, arguments.command.as_ref()) {
        eprintln!("error: --log-level: {error}");
        return ExitCode::from(Status::Wrong as u8);
    }
    if let Err(error) = leave_no_core() {
        tracing::warn!(%error, "a crash could leave a core file, which holds secrets");
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

/// Sees to it that no crash writes this process's memory, which holds secrets, to a file or hands it to a
/// collector, and that no other process of the same user reads it (prctl(2), `PR_SET_DUMPABLE`).
fn leave_no_core() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Tells what is wrong with the configuration, the arguments or an input file.
fn wrong(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<Report>() {
        Some(report) => eprint!("{report}"),
        None => eprintln!("error: {error:#}"),
    }
    Status::Wrong
}

/// Starts the log on standard error. The demo shows its own table, so its log is quieter.
fn start_log(
    arguments: &LogArguments,
    command: Option<&Command>,
) -> Result<(), tracing_subscriber::filter::ParseError> {
    let usual = if matches!(command, Some(Command::Demo { .. })) { "error" } else { "info" };
    let filter = EnvFilter::try_new(arguments.log_level.as_deref().unwrap_or(usual))?;
    // A line that cannot be written, because the disk is full, is lost; telling so on the same stream
    // would panic.
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

/// The time now.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
