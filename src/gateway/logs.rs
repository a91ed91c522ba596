//! What a running gateway logs about its configuration and certificates.

use std::{sync::Weak, time::Duration};

use super::unix_seconds;
use crate::{
    gate::{Gate, Site},
    tls::Certificates,
};

/// How often certificates that are not valid are reported.
const REMIND: Duration = Duration::from_secs(3600);
/// How often omitted log lines are reported.
const OMITTED: Duration = Duration::from_secs(1);

/// Logs what the operator should know about the senders: schemes that sign nothing or not the body,
/// and schemes with unconfirmed facts.
pub(super) fn log_trust(site: &Site) {
    for route in site.routes.iter() {
        let scheme = route.verifier.scheme();
        if let Some(warning) = scheme.warning() {
            tracing::warn!(route = %route.name, scheme = scheme.id(), "{warning}");
        }
        if !scheme.is_confirmed() {
            tracing::warn!(
                route = %route.name,
                scheme = scheme.id(),
                "some facts about the scheme are unconfirmed: try it with mode = \"observe\" first"
            );
        }
    }
}

/// Warns about certificates that are not valid, now and every hour, as long as they are in use.
pub(super) async fn warn_of_invalid(certificates: Weak<Certificates>) {
    let mut ticks = tokio::time::interval(REMIND);
    loop {
        ticks.tick().await;
        let Some(certificates) = certificates.upgrade() else { return };
        for (name, validity) in certificates.validities() {
            if let Some(problem) = validity.problem_at(&name, unix_seconds()) {
                tracing::warn!("{problem}");
            }
        }
    }
}

/// Calls [`Gate::log_omitted`] regularly, as long as the gate exists.
pub(super) async fn log_omitted(gate: Weak<Gate>) {
    let mut ticks = tokio::time::interval(OMITTED);
    loop {
        ticks.tick().await;
        let Some(gate) = gate.upgrade() else { return };
        gate.log_omitted();
    }
}
