//! Notifications to systemd (sd_notify(3)). Under another service manager, nothing happens.

use sd_notify::NotifyState;

use crate::gateway::Gateway;

/// Reports that the gateway serves, and what systemd shows as its status.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a reload has begun; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot notify systemd of the reload"),
    }
}

/// Reports that the gateway drains.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Starts a task that reports that the gateway is alive, if the unit has a `WatchdogSec`. It
/// reports nothing while the calling thread or a worker is stuck.
pub(super) fn start_watchdog(gateway: &Gateway) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let liveness = gateway.liveness();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(timeout / 3);
        loop {
            ticks.tick().await;
            liveness.check().await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
