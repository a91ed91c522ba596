//! The availability of the store: its gauge, and one log line for each change.

use std::{fmt::Display, sync::Mutex, time::Duration};

use prometheus::IntGauge;
use tokio::{sync::Notify, time::timeout};

use crate::replay::sync::lock;

/// The result of the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Availability {
    Unchecked,
    Available,
    Unavailable,
}

/// The availability of the store.
pub(super) struct RedisHealth {
    gauge: IntGauge,
    state: Mutex<Availability>,
    replied: Notify,
}

impl RedisHealth {
    pub(super) fn new(gauge: IntGauge) -> Self {
        gauge.set(0);
        RedisHealth { gauge, state: Mutex::new(Availability::Unchecked), replied: Notify::new() }
    }

    /// Records that every primary accepts writes. Returns `true` if that is a change.
    pub(super) fn set_available(&self) -> bool {
        let changed = self.replace(Availability::Available) != Availability::Available;
        self.gauge.set(1);
        if changed {
            tracing::info!("the replay store is available");
        }
        changed
    }

    /// Records that the store could not be used.
    pub(super) fn set_unavailable(&self, error: &dyn Display) {
        self.gauge.set(0);
        match self.replace(Availability::Unavailable) {
            Availability::Unchecked => {
                tracing::warn!(%error, "the replay store is unavailable at start");
            }
            Availability::Available => tracing::error!(%error, "the replay store is unavailable"),
            Availability::Unavailable => {
                tracing::debug!(%error, "the replay store is still unavailable")
            }
        }
    }

    /// Records a reply to a call. If the store counts as unavailable, [`RedisHealth::next_check`]
    /// returns.
    pub(super) fn replied(&self) {
        if self.gauge.get() == 0 {
            self.replied.notify_one();
        }
    }

    /// Waits until the next check is due: for `interval`, or until a store that was unavailable
    /// replies.
    pub(super) async fn next_check(&self, interval: Duration) {
        // Either way the check is due.
        let _ = timeout(interval, self.replied.notified()).await;
    }

    /// Returns whether the last check or call succeeded.
    pub(super) fn is_available(&self) -> bool {
        *lock(&self.state) == Availability::Available
    }

    fn replace(&self, state: Availability) -> Availability {
        std::mem::replace(&mut lock(&self.state), state)
    }
}
