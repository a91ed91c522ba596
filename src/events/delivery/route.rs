//! The delivery of a route's stored events: its options and its slots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::retry::RetryOptions;
use crate::{
    events::model::Backlog,
    metrics::{DeliveryMetrics, RouteMetrics},
    scheme::{ValueSelector, Verifier},
    upstream::Upstream,
};

/// The concurrent attempts of a route without `upstream_concurrency`.
const SLOTS: usize = 32;
/// The most new events of a route that wait in memory for a slot, so that a backlog does not delay
/// them.
const WAITING: usize = 64;
/// The shortest and the longest time that an attempt tries to connect.
const CONNECTING: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// When the sender gets its response, and who repeats a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// After the handler's response; the sender repeats.
    Sync,
    /// Once the event is durable; the gateway repeats.
    Async,
    /// After the handler's response if that is a success in time, else once the event is durable.
    Fallback,
}

impl DeliveryMode {
    /// Returns the word in the configuration and the API.
    pub const fn label(self) -> &'static str {
        match self {
            DeliveryMode::Sync => "sync",
            DeliveryMode::Async => "async",
            DeliveryMode::Fallback => "fallback",
        }
    }
}

/// What is kept about events that the handler accepted synchronously.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryMode {
    /// Nothing.
    Off,
    /// Time, IDs, outcome and attempts.
    Metadata,
    /// Also the request.
    Full,
}

impl HistoryMode {
    /// Returns the word in the configuration and the API.
    pub const fn label(self) -> &'static str {
        match self {
            HistoryMode::Off => "off",
            HistoryMode::Metadata => "metadata",
            HistoryMode::Full => "full",
        }
    }
}

/// How the events of a route are delivered, as configured.
#[derive(Clone, Debug)]
pub struct DeliveryOptions {
    /// When the sender gets its response.
    pub mode: DeliveryMode,
    /// What is kept about events that the handler accepted synchronously.
    pub history: HistoryMode,
    /// Whether a sender's retry of a delivered event is delivered again.
    pub forwards_duplicates: bool,
    /// The value whose events are delivered in order.
    pub order_by: Option<ValueSelector>,
    /// Whether late attempts are signed again.
    pub resigns: bool,
    /// When failed attempts are repeated.
    pub retry: RetryOptions,
}

/// The delivery of a route's stored events.
#[derive(Debug)]
pub struct DeliveryRoute {
    /// Its name.
    pub name: Arc<str>,
    /// How its events are delivered.
    pub options: DeliveryOptions,
    pub(in crate::events) verifier: Arc<Verifier>,
    pub(in crate::events) upstream: Arc<Upstream>,
    /// On a wildcard route, the length of the path's part that the pattern matched.
    pub(in crate::events) matched: Option<usize>,
    /// The longest body.
    pub(in crate::events) body_bytes: u64,
    pub(in crate::events) metrics: Arc<RouteMetrics>,
    pub(super) slots: Arc<Semaphore>,
    /// Attempts that have begun or wait for a slot.
    in_flight: AtomicUsize,
    /// Those of them that wait for a slot.
    waiting: AtomicUsize,
    /// Notified when something may be due or when an attempt has ended.
    pub(super) wake: Notify,
}

impl DeliveryRoute {
    /// Returns a route without attempts in flight.
    pub fn new(
        name: Arc<str>,
        options: DeliveryOptions,
        verifier: Arc<Verifier>,
        upstream: Arc<Upstream>,
        (matched, body_bytes): (Option<usize>, u64),
        metrics: Arc<RouteMetrics>,
    ) -> Arc<Self> {
        let slots = upstream.slots().cloned();
        Arc::new(DeliveryRoute {
            name,
            options,
            verifier,
            slots: slots.unwrap_or_else(|| Arc::new(Semaphore::new(SLOTS))),
            upstream,
            matched,
            body_bytes,
            metrics,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
        })
    }

    /// Sets the gauges of the route's events; `age` is that of the oldest, in seconds.
    pub(in crate::events) fn set_backlog(&self, backlog: Backlog, age: u64) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let Backlog { pending, delivering, dead, .. } = backlog;
        let gauges = &self.deliveries().events;
        for (gauge, count) in gauges.iter().zip([dead, delivering, pending]) {
            gauge.set(number(count));
        }
        self.deliveries().oldest.set(number(age));
    }

    pub(super) fn deliveries(&self) -> &DeliveryMetrics {
        &self.metrics.deliveries
    }

    /// Returns whether the handler could be connected to at the last attempt.
    pub(in crate::events) fn is_reachable(&self) -> bool {
        self.upstream.is_reachable()
    }

    /// Checks again which events are due.
    pub(in crate::events) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Counts as an attempt until the result is dropped: while events are taken from the store,
    /// they are no longer due there and their attempts have not begun.
    pub(super) fn taking(self: &Arc<Self>) -> TakingEvents {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        TakingEvents(Arc::clone(self))
    }

    /// Returns whether an attempt has begun, waits for a slot or is about to begin.
    pub(in crate::events) fn has_attempts(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Returns a slot for the first attempt of a new event, or the right to wait for one. `None` if
    /// too many wait already, or if the handler cannot be reached: then the event waits in the
    /// store, and one event probes the handler.
    pub(in crate::events) fn first_slot(self: &Arc<Self>) -> Option<AttemptSlot> {
        if !self.upstream.is_reachable() {
            return None;
        }
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(AttemptSlot::new(self, Some(permit)));
        }
        let join = |waiting| (waiting < WAITING).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).ok()?;
        Some(AttemptSlot::new(self, None))
    }

    /// Returns how long an attempt tries to connect: about as long as the first backoff. Probes of
    /// an unreachable handler follow each other at this distance.
    pub(super) fn connecting(&self) -> Duration {
        let [shortest, longest] = CONNECTING;
        self.options.retry.first.clamp(shortest, longest)
    }
}

/// The time in which events are taken from the store.
#[derive(Debug)]
pub(super) struct TakingEvents(Arc<DeliveryRoute>);

impl Drop for TakingEvents {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of the attempts of a route in flight.
#[derive(Debug)]
pub(in crate::events) struct AttemptSlot {
    route: Arc<DeliveryRoute>,
    /// `None` while it waits for one.
    permit: Option<OwnedSemaphorePermit>,
    is_waiting: bool,
}

impl AttemptSlot {
    /// Returns a slot with this permit, or the right to wait for one.
    pub(super) fn new(route: &Arc<DeliveryRoute>, permit: Option<OwnedSemaphorePermit>) -> Self {
        route.in_flight.fetch_add(1, Ordering::AcqRel);
        let is_waiting = permit.is_none();
        AttemptSlot { route: Arc::clone(route), permit, is_waiting }
    }

    /// Returns the slot of an exchange that began without one: a synchronous attempt.
    pub(in crate::events) fn of_synchronous(route: &Arc<DeliveryRoute>) -> Self {
        let mut slot = AttemptSlot::new(route, None);
        slot.is_waiting = false;
        slot
    }

    /// Releases the slot before the attempt has been settled.
    pub(super) fn release(&mut self) {
        self.permit = None;
    }

    /// Waits for the slot.
    pub(super) async fn ready(&mut self) {
        if self.is_waiting {
            self.permit = Arc::clone(&self.route.slots).acquire_owned().await.ok();
            self.is_waiting = false;
            self.route.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for AttemptSlot {
    fn drop(&mut self) {
        if self.is_waiting {
            self.route.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        self.permit = None;
        self.route.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.route.wake();
    }
}
