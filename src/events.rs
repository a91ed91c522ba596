//! The event store: events accepted now and delivered later, and the history of all events.
//!
//! ```text
//!  accepted ──▶ pending ──▶ delivering ──▶ delivered
//!                  ▲            │
//!                  └── retry ───┴──▶ dead (410, or after `for`)
//! ```
//!
//! The store decides which event is due and guarantees that at most one attempt of it is in flight.
//! This module computes times, begins attempts and settles them.

mod accept;
pub(crate) mod codec;
mod delivery;
mod facts;
mod history;
pub(crate) mod model;
pub(crate) mod options;
mod overdue;
mod request;
mod seal;
mod service;
pub(crate) mod store;
mod tasks;
mod transition;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{accept::FirstAttempt, service::rfc3339, store::StoreError};
use self::{
    delivery::deliver,
    history::HistoryQueue,
    model::{EventEntry, EventId},
    service::EventService,
    store::{
        EventStore, Redelivery,
        disk::{DiskOpenError, DiskStore},
        postgres::PostgresStore,
    },
};
pub use self::{
    delivery::{DeliveryMode, DeliveryOptions, DeliveryRoute, HistoryMode, RetryOptions},
    facts::EventFacts,
    model::{EventState, Refusal, Retention},
    options::{EventStoreOptions, EventsOptions},
    request::InboundRequest,
};
use crate::{
    metrics::{EventStoreMetrics, Metrics},
    replay::{Clock, Millis, StoreOptions},
    scheme::EventKey,
    traces::Traces,
};

/// How long an event of a route that is no longer configured would be retried.
const USUAL_LASTS: Duration = Duration::from_secs(72 * 3600);

/// The store cannot be opened; the text says which one and why.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// What is stored does not fit the configuration.
    #[error("{0}")]
    Mismatch(String),
    /// The store cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// Routes by name, each with what ends the task that delivers its events.
type ServedRoutes = HashMap<Arc<str>, (Arc<DeliveryRoute>, CancellationToken)>;

/// The event store with the delivery of its events. Clones share one.
#[derive(Clone, Debug)]
pub struct Events(Arc<SharedEvents>);

#[derive(Debug)]
struct SharedEvents {
    service: Arc<EventService>,
    history: Arc<HistoryQueue>,
    keeps_refused: bool,
    /// Ends the background tasks.
    closed: CancellationToken,
    /// The routes of the running configuration, each with the task that delivers its events.
    routes: Mutex<ServedRoutes>,
}

impl Drop for SharedEvents {
    fn drop(&mut self) {
        self.service.stopping.cancel();
        self.closed.cancel();
    }
}

impl Events {
    /// Opens the store and starts its background tasks; must be called inside a Tokio runtime.
    /// `records` says where the replay records are. Nothing is delivered before [`Events::serve`].
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn open(
        options: EventsOptions,
        records: &StoreOptions,
        clock: Clock,
        (metrics, traces): (&Metrics, Option<Traces>),
    ) -> Result<Self, EventsError> {
        let store_metrics =
            metrics.event_store().map_err(|error| EventsError::Unusable(error.to_string()))?;
        let max_bytes = options.retention.max_bytes;
        store_metrics.capacity.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        let keeps_refused = options.retention.keep_refused > 0;
        let store = open_store(options, records, &store_metrics)?;
        Self::with_store(store, clock, (store_metrics, traces), keeps_refused)
    }

    fn with_store(
        store: Arc<dyn EventStore>,
        clock: Clock,
        (metrics, traces): (EventStoreMetrics, Option<Traces>),
        keeps_refused: bool,
    ) -> Result<Self, EventsError> {
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(|error| {
            EventsError::Unusable(format!("the system provides no random bytes: {error}"))
        })?;
        let process = u64::from_le_bytes(process);
        let durations = metrics.durations.clone();
        let service = Arc::new(EventService::new(store, clock, process, (durations, traces)));
        let events = Events(Arc::new(SharedEvents {
            service,
            history: Arc::default(),
            keeps_refused,
            closed: CancellationToken::new(),
            routes: Mutex::default(),
        }));
        events.start_tasks(metrics);
        Ok(events)
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Arc<dyn EventStore> {
        self.0.service.store()
    }

    /// Returns a reader of changed entries. One that is too slow misses some, and is notified.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<EventEntry>> {
        self.0.service.changes()
    }

    /// Delivers the stored events of these routes and of no others. The events of routes that are
    /// not among them stay pending.
    pub fn serve(&self, routes: impl Iterator<Item = Arc<DeliveryRoute>>) {
        let mut serving = self.routes();
        serving.drain().for_each(|(_, (_, stop))| stop.cancel());
        for route in routes {
            let stop = self.0.service.stopping.child_token();
            let service = Arc::clone(&self.0.service);
            tokio::spawn(deliver(service, Arc::clone(&route), stop.clone()));
            serving.insert(Arc::clone(&route.name), (route, stop));
        }
    }

    /// Begins no further attempts.
    pub fn stop(&self) {
        self.0.service.stopping.cancel();
    }

    /// Waits, at most until the deadline, until attempts in flight have ended and everything is
    /// durable. What is left is delivered after the next start.
    pub async fn drain(&self, until: Instant) {
        self.stop();
        let service = &self.0.service;
        if tokio::time::timeout_at(until, service.settled()).await.is_err() {
            tracing::warn!("the drain timed out; the attempts in flight are repeated later");
        }
        self.0.history.write(service).await;
        let flush = tokio::time::timeout_at(until, self.store().flush()).await;
        if !matches!(flush, Ok(Ok(()))) {
            tracing::error!("the process ends before the event store has every entry");
        }
        self.0.closed.cancel();
    }

    /// Returns whether rejected requests are kept, and this one may be one of them.
    pub(crate) fn admits_refusal(&self) -> bool {
        self.0.keeps_refused && self.0.history.admits_refusal()
    }

    /// Keeps a rejected request. `entry` fills in what is known about it.
    pub(crate) fn record_refusal(&self, received: Millis, route: &Arc<str>, refused: Refused) {
        let Refused { scheme, bytes, refusal } = refused;
        let entry = EventEntry {
            id: self.0.service.id(received),
            route: Arc::clone(route),
            scheme,
            event_id: None,
            key: "".into(),
            secret: 0,
            state: EventState::Refused,
            received,
            attempts: 0,
            next_attempt: None,
            expires: received,
            bytes,
            record: None,
            pin: crate::scheme::ContextPin([0; 16]),
            order: None,
            possible_duplicate: false,
            redelivery: false,
            has_request: false,
            log: Vec::new(),
            refusal: Some(refusal),
        };
        self.0.history.add(entry, None);
    }

    /// Returns the stored event of a request, if there can be one that the replay guard does not
    /// know. With `marked`, an earlier attempt may have reached the handler.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn find(
        &self,
        route: &DeliveryRoute,
        record: EventKey,
        marked: bool,
    ) -> Result<Option<EventEntry>, StoreError> {
        let is_idle = self.store().next_due(&route.name).is_none() && !route.has_attempts();
        if is_idle && !marked {
            return Ok(None);
        }
        self.store().find(&route.name, record).await
    }

    /// Makes a dead event pending again after a retry by its sender.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn revive(
        &self,
        route: &DeliveryRoute,
        record: EventKey,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let lasts = millis(route.options.retry.lasts);
        let expires = now.saturating_add(lasts);
        if self.store().revive(&route.name, record, now, expires).await? {
            route.wake();
            if self.0.service.has_readers()
                && let Ok(Some(entry)) = self.store().find(&route.name, record).await
            {
                self.0.service.publish(&entry);
            }
        }
        Ok(())
    }

    /// Begins a new attempt of an event, whatever its state.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn redeliver(&self, id: EventId) -> Result<Redelivery, StoreError> {
        let Some(entry) = self.store().entry(id).await? else { return Ok(Redelivery::Unknown) };
        let route = self.routes().get(&entry.route).map(|(route, _)| Arc::clone(route));
        let lasts = route.as_ref().map_or(USUAL_LASTS, |route| route.options.retry.lasts);
        let now = self.now();
        let expires = now.saturating_add(millis(lasts));
        let redelivery = self.store().redeliver(id, now, expires).await?;
        if redelivery == Redelivery::Started {
            route.iter().for_each(|route| route.wake());
            self.publish_stored(id).await;
        }
        Ok(redelivery)
    }

    /// Forgets an event's replay record in the event store, and removes the event if it is pending
    /// or dead. Returns the entry as it was. The replay guard has to forget the record too.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn forget(&self, id: EventId) -> Result<Option<EventEntry>, StoreError> {
        let forgotten = self.store().forget(id).await?;
        if let Some(entry) = &forgotten {
            // A successor in the same order may be due now.
            if let Some((route, _)) = self.routes().get(&entry.route) {
                route.wake();
            }
        }
        Ok(forgotten)
    }

    fn routes(&self) -> MutexGuard<'_, ServedRoutes> {
        self.0.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        self.0.service.now()
    }

    async fn publish_stored(&self, id: EventId) {
        if self.0.service.has_readers()
            && let Ok(Some(entry)) = self.store().entry(id).await
        {
            self.0.service.publish(&entry);
        }
    }
}

/// What is kept about a rejected request.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The scheme's ID.
    pub(crate) scheme: Arc<str>,
    /// The length of its body.
    pub(crate) bytes: u64,
    /// Why it was rejected.
    pub(crate) refusal: Refusal,
}

fn open_store(
    options: EventsOptions,
    records: &StoreOptions,
    metrics: &EventStoreMetrics,
) -> Result<Arc<dyn EventStore>, EventsError> {
    let holds_records = options.holds(records);
    let EventsOptions { store, retention, key } = options;
    match store {
        EventStoreOptions::Disk { path } => {
            let store = DiskStore::open(&path, key.as_ref(), retention, metrics.up.clone());
            Ok(Arc::new(store.map_err(|error| match error {
                DiskOpenError::Mismatch(text) => EventsError::Mismatch(text),
                DiskOpenError::Files(text) => EventsError::Unusable(text),
            })?))
        }
        EventStoreOptions::Postgres(database) => {
            let up = metrics.up.clone();
            let store = PostgresStore::open(&database, key.as_ref(), retention, holds_records, up);
            Ok(Arc::new(store.map_err(|error| match error.is_mismatch() {
                true => EventsError::Mismatch(error.to_string()),
                false => EventsError::Unusable(error.to_string()),
            })?))
        }
    }
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
