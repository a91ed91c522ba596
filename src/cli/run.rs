use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Status;
use crate::{
    config::{self, Config},
    document::{Report, Severity},
    gateway::Gateway,
};

/// `sealgate run`: configuration, then listeners, then signals until one ends it.
pub(super) fn run(path: &Path) -> anyhow::Result<Status> {
    let config = match config::load(path) {
        Ok((config, warnings)) => {
            log(&warnings);
            config
        }
        Err(report) => {
            eprint!("{report}");
            return Ok(Status::Wrong);
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(path, config))?;
    Ok(Status::Done)
}

async fn serve(path: &Path, config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let routes = config.routes.len();
    let gateway = Gateway::start(config).context("cannot start")?;
    let addresses = gateway.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        https = ?addresses.https,
        http = ?addresses.http,
        admin = ?addresses.admin,
        routes,
        "ready"
    );
    while signals.next().await == Wanted::Reload {
        reload(&gateway, path).await;
    }
    tracing::info!("draining");
    tokio::select! {
        () = gateway.drain() => tracing::info!("drained"),
        () = signals.end() => tracing::warn!("stopped by a second signal"),
    }
    Ok(())
}

/// Takes the configuration as it is now in its file; a bad one changes nothing.
async fn reload(gateway: &Gateway, path: &Path) {
    let taken = match config::load(path) {
        Ok((config, warnings)) => {
            log(&warnings);
            gateway.reload(config).await.map_err(|error| vec![error.to_string()])
        }
        Err(report) => Err(report
            .lines()
            .filter(|(severity, _)| *severity == Severity::Error)
            .map(|(_, line)| line)
            .collect()),
    };
    gateway.count_reload(taken.is_ok());
    match taken {
        Ok(()) => tracing::info!(file = %path.display(), "configuration reloaded"),
        Err(problems) => {
            for problem in problems {
                tracing::error!(%problem, "configuration refused, the running one stays");
            }
        }
    }
}

fn log(warnings: &Report) {
    for (_, warning) in warnings.lines() {
        tracing::warn!("{warning}");
    }
}

/// What a signal asks for.
#[derive(PartialEq, Eq)]
enum Wanted {
    Reload,
    End,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
            _ = self.hang_up.recv() => Wanted::Reload,
        }
    }

    async fn end(&mut self) {
        while self.next().await == Wanted::Reload {}
    }
}
