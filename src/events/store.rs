//! The interface of an event store.
//!
//! A store keeps entries and requests, decides which event is due, and guarantees that at most one
//! attempt of an event is in flight. It knows nothing about HTTP, schemes or backoff: the callers
//! compute times and states.

use std::{collections::HashMap, fmt, pin::Pin, sync::Arc};

use tokio::time::Instant;

use super::model::{
    Acceptance, AttemptLease, Backlog, DeliveryAttempt, DueEvent, EventEntry, EventFilter, EventId,
    NewEvent, NextStep, StoredRequest,
};
use crate::{
    replay::{ClaimReply, Millis, ReplayRecord},
    scheme::EventKey,
};

pub(crate) mod disk;
pub(crate) mod postgres;
#[cfg(test)]
pub(crate) mod simulated;

/// A boxed future of a store's operation.
pub type Operation<'s, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 's>>;

/// Why a store cannot perform an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is full of events that must be kept.
    #[error("the event store is full")]
    Full,
    /// It cannot be reached, or it did not finish in time. Whether the operation took effect is
    /// unknown.
    #[error("the event store is unavailable: {0}")]
    Unavailable(Arc<str>),
}

/// What an operator's request for a redelivery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// An attempt begins as soon as possible: at once, or after the one that is in flight.
    Started,
    /// There is no such event.
    Unknown,
    /// Its request was not kept.
    NotKept,
}

/// One page of a list, newest first.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// The entries.
    pub entries: Vec<EventEntry>,
    /// Where the next page begins: entries older than this ID. `None` if there are no more.
    pub next: Option<EventId>,
}

/// What [`RecordingStore::accept_recorded`] did.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum RecordedAcceptance {
    /// The event is durable, and its replay record says that it is done.
    Recorded {
        /// The same as without a replay record.
        acceptance: Acceptance,
        /// The replay record said that an attempt may have reached the upstream: the event is
        /// marked as a possible duplicate.
        unknown: bool,
    },
    /// The event could not be claimed, and nothing changed.
    Declined(ClaimReply),
}

/// A store of events that also contains the replay records.
pub trait RecordingStore {
    /// Stores an event like [`EventStore::accept`], and in the same transaction claims it and
    /// records its success.
    ///
    /// # Errors
    /// Those of [`EventStore::accept`].
    fn accept_recorded(
        &self,
        event: NewEvent,
        record: ReplayRecord,
        until: Instant,
    ) -> Operation<'_, RecordedAcceptance>;
}

/// A store of events.
pub trait EventStore: fmt::Debug + Send + Sync {
    /// Stores an event durably. If an event of the same route with the same replay record is stored
    /// already, nothing is stored: a dead one becomes pending again with the new request's
    /// `expires` and `next_attempt`, a failed one becomes pending and takes the new request. If the
    /// new entry is marked as a possible duplicate, a delivered one also becomes pending, takes the
    /// new request and is marked.
    ///
    /// `attempts` and `log` of a new entry are stored as they are: an attempt that has begun is
    /// counted by the caller. Those of a failed or delivered event that takes the new request are
    /// added to it, and the result is [`Acceptance::New`] with the ID of that event.
    ///
    /// If the new entry is delivering, its first attempt begins with this call and the result holds
    /// the lease, unless an earlier event with the same order is unsettled: it is then pending.
    ///
    /// # Errors
    /// `StoreError::Full`; `StoreError::Unavailable` at `until` at the latest.
    fn accept(&self, event: NewEvent, until: Instant) -> Operation<'_, Acceptance>;

    /// Returns the store as one that also contains the replay records, if it is.
    fn recording(&self) -> Option<&dyn RecordingStore> {
        None
    }

    /// Returns the entry with this replay record.
    fn find(&self, route: &Arc<str>, record: EventKey) -> Operation<'_, Option<EventEntry>>;

    /// Makes the dead event with this replay record pending again, if there is one: a sender's
    /// retry. Returns whether there was one.
    fn revive(
        &self,
        route: &Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
    ) -> Operation<'_, bool>;

    /// Begins an attempt for at most `limit` events of a route that are due at `now`, those that
    /// are due for longest first. Of the events with one order, only the oldest can be due.
    fn take_due(&self, route: &Arc<str>, now: Millis, limit: usize)
    -> Operation<'_, Vec<DueEvent>>;

    /// Returns when the next event of a route is due; `None` if nothing is pending. A store that is
    /// shared with other processes may return a time at which it should be asked again.
    fn next_due(&self, route: &Arc<str>) -> Option<Millis>;

    /// Waits until an event may be due earlier than [`EventStore::next_due`] said. Create the
    /// future before calling `next_due`: it notices what happens after it was created.
    fn due_changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Ends an attempt. Returns the entry after it; `None` if the lease was lost. If an operator
    /// asked for a redelivery in the meantime, the event is pending again.
    ///
    /// # Errors
    /// `StoreError::Unavailable`: call it again with the same attempt. If the first call ended
    /// the attempt after all, the result is as if it had succeeded.
    fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Operation<'_, Option<EventEntry>>;

    /// Makes those of these pending events dead that are overdue at `now`: no attempt of them began
    /// in time. Returns their entries after that.
    fn give_up(&self, overdue: Vec<EventEntry>, now: Millis) -> Operation<'_, Vec<EventEntry>>;

    /// Keeps the leases of attempts in flight. Stores that are not shared do nothing.
    fn renew<'s>(&'s self, leases: &'s [AttemptLease]) -> Operation<'s, ()>;

    /// Records what happened to events that the handler accepted synchronously, and rejected
    /// requests: in one batch, without waiting for durability. An entry with the replay record of a
    /// stored one is merged into it: its attempts are added, and its state replaces the other's
    /// unless that one is pending, delivering or dead.
    fn record(&self, events: Vec<(EventEntry, Option<StoredRequest>)>) -> Operation<'_, ()>;

    /// Returns one entry.
    fn entry(&self, id: EventId) -> Operation<'_, Option<EventEntry>>;

    /// Returns the request of an event, if it was kept.
    fn request(&self, id: EventId) -> Operation<'_, Option<StoredRequest>>;

    /// Lists at most `limit` entries, newest first, beginning after `cursor`.
    fn list<'s>(
        &'s self,
        filter: &'s EventFilter,
        cursor: Option<EventId>,
        limit: usize,
    ) -> Operation<'s, EventPage>;

    /// Begins a new attempt of an event at `now`, whatever its state: it becomes pending, marked as
    /// a redelivery, with `expires`.
    fn redeliver(&self, id: EventId, now: Millis, expires: Millis) -> Operation<'_, Redelivery>;

    /// Forgets an event's replay record, and removes the event if it is pending or dead. Returns
    /// the entry as it was.
    fn forget(&self, id: EventId) -> Operation<'_, Option<EventEntry>>;

    /// Returns the unsettled events of all routes that have any.
    fn backlogs(&self) -> Operation<'_, HashMap<Arc<str>, Backlog>>;

    /// Removes what is kept for longer than configured. Called at least once a minute.
    fn expire(&self, now: Millis) -> Operation<'_, ()>;

    /// Returns the bytes that the store takes.
    fn bytes(&self) -> u64;

    /// Returns whether the last operation succeeded and the current one is not late.
    fn is_up(&self) -> bool;

    /// Waits until everything recorded is durable. The last step of draining.
    fn flush(&self) -> Operation<'_, ()>;
}
