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

// Until rejected requests are kept.
#![allow(dead_code)]

pub(crate) mod codec;
mod delivery;
mod facts;
mod history;
pub(crate) mod model;
pub(crate) mod options;
mod request;
mod seal;
mod service;
pub(crate) mod store;
mod transition;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    delivery::{AttemptResult, AttemptSlot, EndedAttempt, StoredDelivery, deliver, jitter},
    history::HistoryQueue,
    model::{Acceptance, AttemptLease, EventEntry, EventId, NewEvent, NextStep},
    service::EventService,
    store::{EventStore, Redelivery, disk::DiskStore, postgres::PostgresStore},
};
pub use self::{
    delivery::{DeliveryMode, DeliveryOptions, DeliveryRoute, HistoryMode, RetryOptions},
    facts::EventFacts,
    model::{EventState, Refusal, Retention},
    options::{EventStoreOptions, EventsOptions},
    request::InboundRequest,
};
pub(crate) use self::{service::rfc3339, store::StoreError};
use crate::{
    metrics::{EventStoreMetrics, Metrics},
    reject::Reject,
    replay::{Clock, Millis},
    response::SanitizedResponse,
    scheme::EventKey,
};

/// How often the gauges are set.
const GAUGES: Duration = Duration::from_secs(1);
/// How long changes of other processes are collected; those of this one wake their routes at once.
const COALESCING: Duration = Duration::from_millis(20);
/// How often expired events are removed.
const EXPIRY: Duration = Duration::from_secs(30);
/// How often the leases of attempts in flight are renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long an event of a route that is not configured any more would be retried.
const USUAL_LASTS: Duration = Duration::from_secs(72 * 3600);

/// The store cannot be opened; the text says which one and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EventsError(pub(crate) String);

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

/// A synchronous attempt that was still in flight when its event was stored.
#[derive(Debug)]
pub struct RunningAttempt {
    entry: EventEntry,
    lease: AttemptLease,
    slot: AttemptSlot,
}

/// A synchronous attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstAttempt {
    began: Instant,
    /// Whether an earlier one may have reached the handler.
    pub(crate) possible_duplicate: bool,
}

impl FirstAttempt {
    /// Begins an attempt now.
    pub(crate) fn begin(possible_duplicate: bool) -> Self {
        FirstAttempt { began: Instant::now(), possible_duplicate }
    }
}

impl Events {
    /// Opens the store and starts its background tasks; must be called inside a Tokio runtime.
    /// Nothing is delivered before [`Events::serve`].
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn open(
        options: EventsOptions,
        clock: Clock,
        metrics: &Metrics,
    ) -> Result<Self, EventsError> {
        let store_metrics =
            metrics.event_store().map_err(|error| EventsError(error.to_string()))?;
        let max_bytes = options.retention.max_bytes;
        store_metrics.capacity.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        let keeps_refused = options.retention.keep_refused > 0;
        let store = open_store(options, &store_metrics)?;
        Self::with_store(store, clock, store_metrics, keeps_refused)
    }

    fn with_store(
        store: Arc<dyn EventStore>,
        clock: Clock,
        metrics: EventStoreMetrics,
        keeps_refused: bool,
    ) -> Result<Self, EventsError> {
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(|error| {
            EventsError(format!("the system provides no random bytes: {error}"))
        })?;
        let service = Arc::new(EventService::new(store, clock, u64::from_le_bytes(process)));
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

    /// Stores an event for delivery. When this returns, it is durable. Returns whether it was not
    /// stored before.
    ///
    /// # Errors
    /// Those of the store, at `until` at the latest.
    pub(crate) async fn accept(
        &self,
        route: &Arc<DeliveryRoute>,
        facts: &EventFacts,
        request: InboundRequest,
        possible_duplicate: bool,
        until: Instant,
    ) -> Result<bool, StoreError> {
        let service = &self.0.service;
        let stopping = service.stopping.is_cancelled();
        let slot = if stopping { None } else { route.first_slot() };
        let mut entry = self.entry(route, facts, &request);
        entry.possible_duplicate = possible_duplicate;
        if slot.is_some() {
            entry.state = EventState::Delivering;
            entry.next_attempt = None;
            entry.attempts = 1;
        }
        let new = NewEvent { entry: entry.clone(), request: request.stored() };
        match self.store().accept(new, until).await? {
            Acceptance::New(id, Some(lease)) => {
                if id != entry.id {
                    // A failed or delivered event that takes the new request.
                    entry = self.store().entry(id).await?.unwrap_or(entry);
                }
                service.publish(&entry);
                // A lease is granted only for an entry that is delivering.
                let Some(slot) = slot else { return Ok(true) };
                let delivery =
                    StoredDelivery { route: Arc::clone(route), entry, lease, request, slot };
                tokio::spawn(service.track(lease, delivery.run(Arc::clone(service))));
            }
            Acceptance::New(_, None) => {
                self.publish_pending(entry, 0);
                route.wake();
            }
            Acceptance::Revived(id) => {
                self.publish_stored(id).await;
                route.wake();
            }
            Acceptance::Known(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Stores an event whose synchronous attempt has failed, so that it is retried.
    ///
    /// # Errors
    /// Those of the store, at `until` at the latest.
    pub(crate) async fn accept_failed(
        &self,
        route: &Arc<DeliveryRoute>,
        facts: &EventFacts,
        request: &InboundRequest,
        (first, outcome): (FirstAttempt, &Result<SanitizedResponse, Reject>),
        until: Instant,
    ) -> Result<(), StoreError> {
        let mut entry = self.entry(route, facts, request);
        let ended = self.ended(first, outcome);
        let jitter = jitter(&entry);
        let next = route.options.retry.next(&entry, &ended.result, self.now(), jitter);
        entry.next_attempt = match next {
            NextStep::Retry { at, .. } => Some(at),
            // The attempt took longer than `for`: the last one follows.
            NextStep::Dead { .. } | NextStep::Delivered => Some(self.now()),
        };
        entry.possible_duplicate = first.possible_duplicate || ended.result.unknown;
        entry.attempts = 1;
        entry.log = vec![ended.logged()];
        let new = NewEvent { entry: entry.clone(), request: request.stored() };
        match self.store().accept(new, until).await? {
            Acceptance::New(..) => self.publish_pending(entry, 1),
            Acceptance::Revived(id) => self.publish_stored(id).await,
            Acceptance::Known(_) => {}
        }
        ended.count(route, next);
        route.wake();
        Ok(())
    }

    /// Stores an event whose synchronous attempt is still in flight. `None` if it was stored
    /// already.
    ///
    /// # Errors
    /// Those of the store, at `until` at the latest.
    pub(crate) async fn accept_running(
        &self,
        route: &Arc<DeliveryRoute>,
        facts: &EventFacts,
        request: &InboundRequest,
        first: FirstAttempt,
        until: Instant,
    ) -> Result<Option<RunningAttempt>, StoreError> {
        let slot = AttemptSlot::of_synchronous(route);
        let mut entry = self.entry(route, facts, request);
        entry.state = EventState::Delivering;
        entry.next_attempt = None;
        entry.attempts = 1;
        entry.possible_duplicate = first.possible_duplicate;
        let new = NewEvent { entry: entry.clone(), request: request.stored() };
        Ok(match self.store().accept(new, until).await? {
            Acceptance::New(id, Some(lease)) => {
                if id != entry.id {
                    entry = self.store().entry(id).await?.unwrap_or(entry);
                }
                self.0.service.publish(&entry);
                self.0.service.note(lease);
                Some(RunningAttempt { entry, lease, slot })
            }
            Acceptance::New(_, None) | Acceptance::Revived(_) | Acceptance::Known(_) => {
                route.wake();
                None
            }
        })
    }

    /// Settles an event by the late outcome of its synchronous attempt.
    pub(crate) async fn end_running(
        &self,
        route: &Arc<DeliveryRoute>,
        running: RunningAttempt,
        first: FirstAttempt,
        outcome: Result<SanitizedResponse, Reject>,
    ) {
        let RunningAttempt { entry, lease, slot } = running;
        let service = &self.0.service;
        self.ended(first, &outcome).settle(service, route, &entry, lease).await;
        service.untrack(lease);
        drop(slot);
    }

    /// Keeps what the history of the route should contain about an event that was forwarded
    /// synchronously.
    pub(crate) fn record(
        &self,
        route: &DeliveryRoute,
        facts: &EventFacts,
        request: &InboundRequest,
        (first, outcome): (FirstAttempt, &Result<SanitizedResponse, Reject>),
    ) {
        let keeps_request = match route.options.history {
            HistoryMode::Off => return,
            HistoryMode::Metadata => false,
            HistoryMode::Full => true,
        };
        let ended = self.ended(first, outcome);
        let is_success = ended.result.is_success();
        let mut entry = self.entry(route, facts, request);
        entry.state = if is_success { EventState::Delivered } else { EventState::Failed };
        entry.next_attempt = None;
        entry.attempts = 1;
        entry.possible_duplicate = !is_success && ended.result.unknown;
        entry.has_request = keeps_request;
        entry.log = vec![ended.logged()];
        self.0.history.add(entry, keeps_request.then(|| request.stored()));
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

    fn entry(
        &self,
        route: &DeliveryRoute,
        facts: &EventFacts,
        request: &InboundRequest,
    ) -> EventEntry {
        let id = self.0.service.id(facts.received());
        facts.entry(id, route, request.payload.len() as u64)
    }

    fn ended(
        &self,
        first: FirstAttempt,
        outcome: &Result<SanitizedResponse, Reject>,
    ) -> EndedAttempt {
        let (now, took) = (self.now(), first.began.elapsed());
        let result = AttemptResult::of(outcome, now);
        EndedAttempt { at: now.saturating_sub(millis(took)), took, result, resigned: false }
    }

    fn publish_pending(&self, mut entry: EventEntry, attempts: u32) {
        if self.0.service.has_readers() {
            entry.state = EventState::Pending;
            entry.attempts = attempts;
            self.0.service.publish(&entry);
        }
    }

    async fn publish_stored(&self, id: EventId) {
        if self.0.service.has_readers()
            && let Ok(Some(entry)) = self.store().entry(id).await
        {
            self.0.service.publish(&entry);
        }
    }

    fn start_tasks(&self, metrics: EventStoreMetrics) {
        let stop = self.0.closed.clone();
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            });
        };
        let (service, history) = (Arc::clone(&self.0.service), Arc::clone(&self.0.history));
        spawn(Box::pin(async move { history.write_batches(&service).await }));
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                let leases = service.leases_in_flight();
                if let Err(error) = service.store().renew(&leases).await {
                    tracing::warn!(%error, "cannot renew the leases of attempts");
                }
            }
        }));
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            loop {
                if let Err(error) = service.store().expire(service.now()).await {
                    tracing::warn!(%error, "cannot remove expired events");
                }
                tokio::time::sleep(EXPIRY).await;
            }
        }));
        let events = Arc::downgrade(&self.0);
        spawn(Box::pin(async move {
            while let Some(inner) = events.upgrade() {
                Events(inner).set_gauges(&metrics).await;
                tokio::time::sleep(GAUGES).await;
            }
        }));
        let events = Arc::downgrade(&self.0);
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            let mut changed = service.store().due_changed();
            loop {
                changed.await;
                // Created before the routes look, so that no later change is missed.
                changed = service.store().due_changed();
                tokio::time::sleep(COALESCING).await;
                let Some(inner) = events.upgrade() else { return };
                Events(inner).routes().values().for_each(|(route, _)| route.wake());
            }
        }));
    }

    /// Sets the gauges of the store and of the routes.
    async fn set_gauges(&self, metrics: &EventStoreMetrics) {
        metrics.up.set(self.store().is_up().into());
        metrics.bytes.set(i64::try_from(self.store().bytes()).unwrap_or(i64::MAX));
        let Ok(backlogs) = self.store().backlogs().await else { return };
        let now = self.now();
        for (name, (route, _)) in &*self.routes() {
            let backlog = backlogs.get(name).copied().unwrap_or_default();
            let age = backlog.oldest.map_or(0, |oldest| now.saturating_sub(oldest) / 1000);
            route.set_backlog(backlog, age);
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
    metrics: &EventStoreMetrics,
) -> Result<Arc<dyn EventStore>, EventsError> {
    let EventsOptions { store, retention, key } = options;
    match store {
        EventStoreOptions::Disk { path } => {
            let store = DiskStore::open(&path, key.as_ref(), retention, metrics.up.clone());
            Ok(Arc::new(store.map_err(|error| EventsError(error.to_string()))?))
        }
        EventStoreOptions::Postgres(database) => {
            let up = metrics.up.clone();
            let store = PostgresStore::open(&database, key.as_ref(), retention, up);
            Ok(Arc::new(store.map_err(|error| EventsError(error.to_string()))?))
        }
    }
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
