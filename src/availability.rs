//! The availability of a store in another process: its gauge, and one log line for each change.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{sync::Notify, time::timeout};

/// The result of the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastResult {
    Unchecked,
    Available,
    Unavailable,
}

/// The log lines of a store.
#[derive(Debug)]
pub struct Messages {
    available: &'static str,
    unavailable: &'static str,
    unavailable_at_start: &'static str,
}

/// The log lines of the replay store.
pub const REPLAY_STORE: Messages = Messages {
    available: "the replay store is available",
    unavailable: "the replay store is unavailable",
    unavailable_at_start: "the replay store is unavailable at start",
};

/// The log lines of the event store.
pub const EVENT_STORE: Messages = Messages {
    available: "the event store is available",
    unavailable: "the event store is unavailable",
    unavailable_at_start: "the event store is unavailable at start",
};

/// The availability of a store.
#[derive(Debug)]
pub struct Availability {
    messages: Messages,
    gauge: IntGauge,
    status: Mutex<LastResult>,
    replied: Notify,
}

impl Availability {
    /// Returns the availability of a store that was not used yet.
    pub fn new(messages: Messages, gauge: IntGauge) -> Self {
        gauge.set(0);
        Availability {
            messages,
            gauge,
            status: Mutex::new(LastResult::Unchecked),
            replied: Notify::new(),
        }
    }

    /// Records that the store accepts writes. Returns `true` if that is a change.
    pub fn set_available(&self) -> bool {
        let changed = self.replace(LastResult::Available) != LastResult::Available;
        self.gauge.set(1);
        if changed {
            tracing::info!("{}", self.messages.available);
        }
        changed
    }

    /// Records that the store could not be used.
    pub fn set_unavailable(&self, error: &dyn Display) {
        self.gauge.set(0);
        let Messages { unavailable, unavailable_at_start, .. } = self.messages;
        match self.replace(LastResult::Unavailable) {
            LastResult::Unchecked => tracing::warn!(%error, "{unavailable_at_start}"),
            LastResult::Available => tracing::error!(%error, "{unavailable}"),
            LastResult::Unavailable => tracing::debug!(%error, "{unavailable}"),
        }
    }

    /// Records a reply to a call. If the store counts as unavailable, [`Availability::next_check`]
    /// returns.
    pub fn replied(&self) {
        if self.gauge.get() == 0 {
            self.replied.notify_one();
        }
    }

    /// Waits until the next check is due: for `interval`, or until a store that was unavailable
    /// replies.
    pub async fn next_check(&self, interval: Duration) {
        // Either way the check is due.
        let _ = timeout(interval, self.replied.notified()).await;
    }

    /// Returns whether the last check or call succeeded.
    pub fn is_available(&self) -> bool {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) == LastResult::Available
    }

    fn replace(&self, status: LastResult) -> LastResult {
        let mut current = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, status)
    }
}
