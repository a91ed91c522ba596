//! The state that all users of stored events share: the store, the clock, and the attempts in
//! flight.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, broadcast},
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TrackedFuture},
};

use super::{
    model::{
        Acceptance, AttemptLease, DeliveryAttempt, DueEvent, EventEntry, EventId, NewEvent,
        NextStep,
    },
    store::{EventStore, StoreError},
};
use crate::{
    metrics::{EventStoreDurations, timed},
    replay::{Clock, Millis},
    scheme::UnixMillis,
    traces::Traces,
};

/// The memory for bodies that were read from the store, in KiB.
pub(super) const BUDGET: u32 = 64 << 10;
/// The most changes that a reader may be behind.
const CHANGES: usize = 1024;
/// How long after an error an attempt is settled again.
const SETTLE_AGAIN: Duration = Duration::from_millis(500);

/// The store, and the attempts of its events that are in flight.
#[derive(Debug)]
pub(super) struct EventService {
    store: Arc<dyn EventStore>,
    clock: Clock,
    changes: broadcast::Sender<Arc<EventEntry>>,
    memory: Arc<Semaphore>,
    /// The leases of attempts in flight.
    leases: Mutex<HashSet<AttemptLease>>,
    attempts: TaskTracker,
    /// Cancelled when no further attempt may begin.
    pub(super) stopping: CancellationToken,
    next_id: AtomicU32,
    process: u64,
    traces: Option<Traces>,
    durations: EventStoreDurations,
}

impl EventService {
    /// Returns a service on `store`. `process` is a random number.
    pub(super) fn new(
        store: Arc<dyn EventStore>,
        clock: Clock,
        process: u64,
        (durations, traces): (EventStoreDurations, Option<Traces>),
    ) -> Self {
        EventService {
            store,
            clock,
            changes: broadcast::Sender::new(CHANGES),
            memory: Arc::new(Semaphore::new(BUDGET as usize)),
            leases: Mutex::default(),
            attempts: TaskTracker::new(),
            stopping: CancellationToken::new(),
            next_id: AtomicU32::new(0),
            process,
            traces,
            durations,
        }
    }

    /// Returns what traces the attempts, if they are traced.
    pub(super) fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    pub(super) fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// Stores an event, as [`EventStore::accept`].
    ///
    /// # Errors
    /// Those of the store, at `until` at the latest.
    pub(super) async fn accept(
        &self,
        event: NewEvent,
        until: Instant,
    ) -> Result<Acceptance, StoreError> {
        self.timed_accept(self.store.accept(event, until)).await
    }

    /// Waits until an event is stored, and measures how long that takes.
    pub(super) async fn timed_accept<T>(&self, accepting: impl Future<Output = T>) -> T {
        timed(&self.durations.accept, accepting).await
    }

    /// Begins attempts of events that are due, as [`EventStore::take_due`].
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn take_due(
        &self,
        route: &Arc<str>,
        limit: usize,
    ) -> Result<Vec<DueEvent>, StoreError> {
        timed(&self.durations.take, self.store.take_due(route, self.now(), limit)).await
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    pub(super) fn memory(&self) -> Arc<Semaphore> {
        Arc::clone(&self.memory)
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Arc<EventEntry>> {
        self.changes.subscribe()
    }

    /// Returns whether anyone reads changes.
    pub(super) fn has_readers(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    /// Sends a changed entry to those who read changes.
    pub(super) fn publish(&self, entry: &EventEntry) {
        if self.has_readers() {
            // An error means that the last reader has just disconnected.
            let _ = self.changes.send(Arc::new(entry.clone()));
        }
    }

    /// Returns a new ID. IDs of the same millisecond ascend.
    pub(super) fn id(&self, received: Millis) -> EventId {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let tail = self.process.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        EventId::new(received, u128::from(number) << 48 | u128::from(tail >> 16))
    }

    fn leases(&self) -> MutexGuard<'_, HashSet<AttemptLease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the leases of attempts in flight.
    pub(super) fn leases_in_flight(&self) -> Vec<AttemptLease> {
        self.leases().iter().copied().collect()
    }

    /// Notes that the lease of an attempt is held until [`EventService::untrack`].
    pub(super) fn note(&self, lease: AttemptLease) {
        self.leases().insert(lease);
    }

    /// Notes that an attempt has ended.
    pub(super) fn untrack(&self, lease: AttemptLease) {
        self.leases().remove(&lease);
    }

    /// Notes that an attempt is in flight until the returned future has completed.
    pub(super) fn track<F: Future<Output = ()>>(
        self: &Arc<Self>,
        lease: AttemptLease,
        attempt: F,
    ) -> TrackedFuture<impl Future<Output = ()> + use<F>> {
        self.note(lease);
        let service = Arc::clone(self);
        self.attempts.track_future(async move {
            attempt.await;
            service.untrack(lease);
        })
    }

    /// Waits until no attempt is in flight.
    pub(super) async fn settled(&self) {
        self.attempts.close();
        self.attempts.wait().await;
    }

    /// Settles an attempt, and retries until the store accepts it. Returns the entry after it.
    /// After a stop, the first error ends this: the next start finds the event with an unknown
    /// outcome.
    pub(super) async fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Option<EventEntry> {
        let mut has_warned = false;
        loop {
            let settle = self.store.settle(lease, attempt.clone(), next);
            match timed(&self.durations.settle, settle).await {
                Ok(settled) => return settled,
                Err(error) if !has_warned => {
                    has_warned = true;
                    tracing::error!(id = %lease.id, %error, "cannot store the result of an attempt");
                }
                Err(_) => {}
            }
            if self.stopping.is_cancelled() {
                return None;
            }
            self.clock.sleep(SETTLE_AGAIN).await;
        }
    }
}

/// Returns a time as RFC 3339 in UTC.
pub(crate) fn rfc3339(at: Millis) -> String {
    UnixMillis(i64::try_from(at).unwrap_or(i64::MAX)).rfc3339()
}
