//! Accepting events, and the history of those that were forwarded synchronously.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::{
    Events,
    delivery::{
        AttemptResult, AttemptSlot, DeliveryRoute, EndedAttempt, HistoryMode, StoredDelivery,
        jitter,
    },
    facts::EventFacts,
    millis,
    model::{Acceptance, AttemptLease, EventEntry, EventState, NewEvent, NextStep},
    request::InboundRequest,
    store::{RecordedAcceptance, StoreError},
};
use crate::{
    reject::Reject,
    replay::{ClaimReply, PendingClaim},
    response::SanitizedResponse,
};

/// A synchronous attempt that was still in flight when its event was stored.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    request_id: HeaderValue,
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
        let (entry, slot) = self.first_entry(route, facts, &request, possible_duplicate);
        let new = NewEvent { entry: entry.clone(), request: request.stored() };
        let acceptance = self.0.service.accept(new, until).await?;
        Ok(self.accepted(route, acceptance, (entry, request, slot)).await)
    }

    /// Returns whether the store also contains the replay records, so that
    /// [`Events::accept_recorded`] decides about claims.
    pub(crate) fn decides_claims(&self) -> bool {
        self.store().recording().is_some()
    }

    /// Stores an event like [`Events::accept`], together with its replay record. If the event
    /// cannot be claimed, nothing is stored; the result is then the reply to the claim and the
    /// request.
    ///
    /// # Errors
    /// Those of the store, at `until` at the latest.
    pub(crate) async fn accept_recorded(
        &self,
        route: &Arc<DeliveryRoute>,
        facts: &EventFacts,
        request: InboundRequest,
        claim: &PendingClaim,
        until: Instant,
    ) -> Result<Result<bool, (ClaimReply, InboundRequest)>, StoreError> {
        let Some(store) = self.store().recording() else {
            return Err(StoreError::Unavailable("it contains no replay records".into()));
        };
        let marked = claim.possible_duplicate();
        let (mut entry, slot) = self.first_entry(route, facts, &request, marked);
        let new = NewEvent { entry: entry.clone(), request: request.stored() };
        let accepting = store.accept_recorded(new, claim.record(), until);
        match self.0.service.timed_accept(accepting).await? {
            RecordedAcceptance::Recorded { acceptance, unknown } => {
                entry.possible_duplicate |= unknown;
                Ok(Ok(self.accepted(route, acceptance, (entry, request, slot)).await))
            }
            RecordedAcceptance::Declined(reply) => Ok(Err((reply, request))),
        }
    }

    /// Returns the entry of a new event. If there is a slot for its first attempt, that begins as
    /// soon as the event is stored.
    fn first_entry(
        &self,
        route: &Arc<DeliveryRoute>,
        facts: &EventFacts,
        request: &InboundRequest,
        possible_duplicate: bool,
    ) -> (EventEntry, Option<AttemptSlot>) {
        let stopping = self.0.service.stopping.is_cancelled();
        let slot = if stopping { None } else { route.first_slot() };
        let mut entry = self.entry(route, facts, request);
        entry.possible_duplicate = possible_duplicate;
        if slot.is_some() {
            entry.state = EventState::Delivering;
            entry.next_attempt = None;
            entry.attempts = 1;
        }
        (entry, slot)
    }

    /// Begins the first attempt of an accepted event, or has it begun later. Returns whether the
    /// event was not stored before.
    async fn accepted(
        &self,
        route: &Arc<DeliveryRoute>,
        acceptance: Acceptance,
        (mut entry, request, slot): (EventEntry, InboundRequest, Option<AttemptSlot>),
    ) -> bool {
        let service = &self.0.service;
        match acceptance {
            Acceptance::New(id, Some(lease)) => {
                if id != entry.id {
                    // A failed or delivered event that takes the new request.
                    let stored = self.store().entry(id).await;
                    entry = stored.ok().flatten().unwrap_or(entry);
                }
                service.publish(&entry);
                // A lease is granted only for an entry that is delivering.
                let Some(slot) = slot else { return true };
                let delivery =
                    StoredDelivery { route: Arc::clone(route), entry, lease, request, slot };
                tokio::spawn(service.track(lease, delivery.run(Arc::clone(service))));
            }
            Acceptance::New(_, None) => {
                self.publish_pending(entry);
                route.wake();
            }
            Acceptance::Revived(id) => {
                self.publish_stored(id).await;
                route.wake();
            }
            Acceptance::Known(_) => return false,
        }
        true
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
        let ended = self.ended(first, outcome, &request.request_id);
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
        match self.0.service.accept(new, until).await? {
            Acceptance::New(id, _) | Acceptance::Revived(id) => {
                entry.id = id;
                self.publish_stored(id).await;
            }
            Acceptance::Known(known) => entry.id = known.id,
        }
        ended.note(route, &entry, next);
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
        Ok(match self.0.service.accept(new, until).await? {
            Acceptance::New(id, Some(lease)) => {
                if id != entry.id {
                    entry = self.store().entry(id).await?.unwrap_or(entry);
                }
                self.0.service.publish(&entry);
                self.0.service.note(lease);
                let request_id = request.request_id.clone();
                Some(RunningAttempt { request_id, entry, lease, slot })
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
        let RunningAttempt { request_id, entry, lease, slot } = running;
        let service = &self.0.service;
        self.ended(first, &outcome, &request_id).settle(service, route, &entry, lease).await;
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
        let ended = self.ended(first, outcome, &request.request_id);
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
        request_id: &HeaderValue,
    ) -> EndedAttempt {
        let (now, took) = (self.now(), first.began.elapsed());
        let result = AttemptResult::of(outcome, now);
        let (at, request_id) = (now.saturating_sub(millis(took)), request_id.clone());
        EndedAttempt { at, took, result, resigned: false, request_id }
    }

    fn publish_pending(&self, mut entry: EventEntry) {
        if self.0.service.has_readers() {
            entry.state = EventState::Pending;
            entry.attempts = 0;
            self.0.service.publish(&entry);
        }
    }
}
