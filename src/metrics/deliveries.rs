//! The metrics of stored events and of secrets.

use std::sync::Arc;

use super::number::{Counter, DELAYS, Gauge, Histogram};

/// The result of an attempt, as counted in `sealgate_delivery_attempts_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The handler responded 2xx.
    Delivered,
    /// It did not, and the event is retried.
    Failed,
    /// It may have acted without a response, and the event is retried.
    Unknown,
    /// The event is dead.
    Dead,
}

impl AttemptOutcome {
    pub(super) const ALL: [AttemptOutcome; 4] = [
        AttemptOutcome::Delivered,
        AttemptOutcome::Failed,
        AttemptOutcome::Unknown,
        AttemptOutcome::Dead,
    ];

    /// Returns the metric label, which is also the word in the log.
    pub const fn label(self) -> &'static str {
        match self {
            AttemptOutcome::Delivered => "delivered",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Unknown => "unknown",
            AttemptOutcome::Dead => "dead",
        }
    }
}

/// The states of stored events that have a gauge, in the order of [`DeliveryMetrics::events`].
pub(super) const EVENT_STATES: [&str; 3] = ["dead", "delivering", "pending"];

/// The metrics of a route's stored events.
#[derive(Debug)]
pub struct DeliveryMetrics {
    pub(super) attempts: [Counter; AttemptOutcome::ALL.len()],
    /// From the receipt of an event to the handler's success.
    pub delay: Histogram,
    /// Dead, delivering and pending events.
    pub events: [Gauge; EVENT_STATES.len()],
    /// The age of the oldest event that is not settled, in seconds.
    pub oldest: Gauge,
}

impl DeliveryMetrics {
    pub(super) fn new() -> Self {
        DeliveryMetrics {
            attempts: Default::default(),
            delay: Histogram::new(&DELAYS),
            events: Default::default(),
            oldest: Gauge::default(),
        }
    }

    /// Returns the counter of attempts with a result.
    pub fn attempts(&self, outcome: AttemptOutcome) -> &Counter {
        &self.attempts[outcome as usize]
    }

    /// Sets the gauges to zero.
    pub(super) fn reset(&self) {
        self.events.iter().chain([&self.oldest]).for_each(|gauge| gauge.set(0));
    }
}

/// When each secret of a route was last used: the keys sorted by name, each with a gauge for each
/// of its secrets.
#[derive(Debug, Default)]
pub struct SecretUse(Vec<(Arc<str>, Vec<Gauge>)>);

impl SecretUse {
    /// Returns gauges for these keys, each with its number of secrets, with the values of `known`
    /// for keys with the same number of secrets there.
    pub(super) fn new(keys: impl Iterator<Item = (Arc<str>, usize)>, known: &SecretUse) -> Self {
        let gauges = |(key, count): (Arc<str>, usize)| {
            let gauges: Vec<_> = (0..count).map(|_| Gauge::default()).collect();
            if let Some(before) = known.of(&key).filter(|before| before.len() == count) {
                gauges.iter().zip(before).for_each(|(gauge, before)| gauge.set(before.get()));
            }
            (key, gauges)
        };
        let mut keys: Vec<_> = keys.map(gauges).collect();
        keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        SecretUse(keys)
    }

    fn of(&self, key: &str) -> Option<&[Gauge]> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key));
        found.ok().map(|at| &*self.0[at].1)
    }

    /// Notes that a secret of a key, by its position from 1, has verified a request at `now`, in
    /// Unix seconds.
    pub fn note(&self, key: &str, secret: u16, now: i64) {
        let gauges = self.of(key).unwrap_or_default();
        if let Some(gauge) = usize::from(secret).checked_sub(1).and_then(|at| gauges.get(at)) {
            gauge.set(now);
        }
    }

    /// Returns key, position and last use of every secret; 0 is never.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, usize, i64)> {
        self.0.iter().flat_map(|(key, gauges)| {
            gauges.iter().zip(1..).map(move |(gauge, secret)| (key, secret, gauge.get()))
        })
    }
}
