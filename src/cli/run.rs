use std::{net::SocketAddr, path::Path};

use anyhow::Context;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::disable_transparent_huge_pages,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Status, invalid, log, reported, systemd};
use crate::{
    config::{self, Changes, Config, Sources},
    document::{Report, Severity},
    gateway::Gateway,
};

/// Open files other than public connections: upstreams, the store, listeners, admin connections.
const OTHER_FILES: u64 = 512;

/// `sealgate run`: loads the configuration, starts the gateway, and handles signals until it stops.
pub(super) fn run(path: &Path) -> anyhow::Result<Status> {
    let config = match reported(path, config::load(path)) {
        Ok((config, warnings)) => {
            log::set_level(&config.log.level);
            log_warnings(&warnings);
            config
        }
        Err(error) => match error.downcast_ref::<Report>() {
            Some(report) if log::is_json() => {
                for (_, problem) in report.lines() {
                    tracing::error!("{problem}");
                }
                return Ok(Status::Invalid);
            }
            _ => return Ok(invalid(&error)),
        },
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(path, config))
}

async fn serve(path: &Path, config: Config) -> anyhow::Result<Status> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let routes = config.routes.len();
    let mut watched =
        Watched { on: config.server.watch, sources: config.inventory.sources.clone() };
    // With huge pages, the allocator could return freed memory only in units of 2 MiB.
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "cannot disable huge pages: connections use more memory");
    }
    raise_open_files(config.server.limits.connections);
    let gateway = match Gateway::start(config) {
        Ok(gateway) => gateway,
        Err(error) => {
            let is_configuration = error.is_configuration();
            let error = anyhow::Error::new(error).context("cannot start");
            return if is_configuration { Ok(invalid(&error)) } else { Err(error) };
        }
    };
    watched.sources.note_created();
    let addresses = gateway.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        https = ?shown(&addresses.https),
        http = ?shown(&addresses.http),
        admin = ?shown(&addresses.admin),
        routes,
        "ready"
    );
    systemd::start_watchdog(&gateway);
    systemd::ready(&status(routes));
    loop {
        let cause = tokio::select! {
            wanted = signals.next() => match wanted {
                SignalAction::Reload => "SIGHUP",
                SignalAction::Stop => break,
            },
            () = watched.changed() => "a file has changed",
        };
        // A signal to end does not wait for key sets or slow files.
        let ended = tokio::select! {
            () = reload(&gateway, path, cause, &mut watched) => false,
            () = signals.stop() => true,
        };
        if ended {
            break;
        }
    }
    tracing::info!("draining");
    systemd::stopping();
    tokio::select! {
        () = gateway.drain() => tracing::info!("drained"),
        () = signals.stop() => tracing::warn!("stopped by a second signal"),
    }
    Ok(Status::Success)
}

/// The files of the configuration that was read last, even if it was rejected.
struct Watched {
    on: bool,
    sources: Sources,
}

impl Watched {
    /// Waits until a file changes; never returns if the files are not watched.
    async fn changed(&self) {
        if self.on {
            self.sources.changed().await;
        } else {
            std::future::pending().await
        }
    }
}

/// Raises the limit on open files to the hard limit, and warns if it is too low for so many
/// connections.
fn raise_open_files(connections: usize) {
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < needed) {
        tracing::warn!(
            files,
            needed,
            "`limits.connections` exceeds the limit on open files (ulimit -Hn)"
        );
    }
}

/// Returns what a service manager shows as the status.
fn status(routes: usize) -> String {
    let plural = if routes == 1 { "route" } else { "routes" };
    format!("serving {routes} {plural}")
}

/// Reloads the configuration from its file. An invalid one changes nothing.
async fn reload(gateway: &Gateway, path: &Path, cause: &str, watched: &mut Watched) {
    systemd::reloading();
    let file = path.to_owned();
    // Files that are slow to read must not block the thread that accepts connections.
    let read = tokio::task::spawn_blocking(move || config::load_with_sources(&file)).await;
    let applied = match read {
        Ok((result, sources)) => {
            watched.sources = sources;
            apply(gateway, result, watched).await
        }
        Err(error) => Err(vec![error.to_string()]),
    };
    gateway.count_reload(applied.is_ok());
    systemd::ready(&status(gateway.routes()));
    match applied {
        Ok(changes) => log_changes(path, cause, &changes),
        Err(problems) => {
            for problem in problems {
                tracing::error!(cause, %problem, "configuration rejected, the running one stays in effect");
            }
        }
    }
}

async fn apply(
    gateway: &Gateway,
    result: Result<(Config, Report), Report>,
    watched: &mut Watched,
) -> Result<Changes, Vec<String>> {
    let (config, warnings) = result.map_err(|report| {
        let errors = report.lines().filter(|(severity, _)| *severity == Severity::Error);
        errors.map(|(_, line)| line).collect::<Vec<_>>()
    })?;
    log_warnings(&warnings);
    let level = config.log.level.clone();
    let watch = config.server.watch;
    let changes = gateway.reload(config).await.map_err(|error| vec![error.to_string()])?;
    watched.on = watch;
    log::set_level(&level);
    Ok(changes)
}

fn shown(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Logs by name what a reload changed and what it could not change.
fn log_changes(path: &Path, cause: &str, changes: &Changes) {
    let list =
        |names: &[String]| (!names.is_empty()).then(|| tracing::field::debug(names.to_vec()));
    let Changes { routes_added, routes_removed, routes_changed, sections, secrets, files, .. } =
        changes;
    tracing::info!(
        file = %path.display(),
        cause,
        routes_added = list(routes_added),
        routes_removed = list(routes_removed),
        routes_changed = list(routes_changed),
        sections = list(sections),
        secrets = list(secrets),
        files = list(files),
        "configuration reloaded"
    );
    for key in &changes.not_taken {
        tracing::warn!(key, "a reload does not change this key: restart sealgate to apply it");
    }
}

fn log_warnings(warnings: &Report) {
    for (_, warning) in warnings.lines() {
        tracing::warn!("{warning}");
    }
}

/// The action that a signal requests.
enum SignalAction {
    Reload,
    Stop,
}

/// The signals that the process handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            // Without a handler, a log rotation for another program would end the process.
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> SignalAction {
        loop {
            return tokio::select! {
                _ = self.terminate.recv() => SignalAction::Stop,
                _ = self.interrupt.recv() => SignalAction::Stop,
                _ = self.hang_up.recv() => SignalAction::Reload,
                _ = self.user.recv() => {
                    tracing::info!("SIGUSR1 is ignored: SIGHUP reloads the configuration");
                    continue;
                }
            };
        }
    }

    /// Waits for a signal to stop; requests to reload stay pending.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
