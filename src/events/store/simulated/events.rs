//! The events of a simulated store, and the rules for them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    events::{
        model::{
            Acceptance, AttemptLease, DueEvent, EventEntry, EventId, EventState, NewEvent,
            StoredRequest,
        },
        store::StoreError,
    },
    replay::Millis,
    scheme::EventKey,
};

/// An event and the state of its attempts.
#[derive(Clone, Debug)]
pub(super) struct SimulatedEvent {
    pub(super) entry: EventEntry,
    pub(super) request: Option<StoredRequest>,
    /// Its place in the order of acceptance.
    sequence: u64,
    /// The token of the attempt in flight.
    pub(super) token: u64,
    /// Whether an operator asked for another attempt after the one in flight.
    pub(super) again: bool,
    /// When it reached its state.
    pub(super) since: Millis,
}

/// All events of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct SimulatedEvents {
    pub(super) all: BTreeMap<EventId, SimulatedEvent>,
    last: u64,
}

impl SimulatedEvent {
    fn is_unsettled(&self) -> bool {
        matches!(self.entry.state, EventState::Pending | EventState::Delivering)
    }

    fn has_order_of(&self, other: &EventEntry) -> bool {
        self.entry.order.is_some()
            && self.entry.order == other.order
            && self.entry.route == other.route
    }
}

impl SimulatedEvents {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn find(
        &self,
        route: &Arc<str>,
        record: Option<EventKey>,
    ) -> Option<&SimulatedEvent> {
        record?;
        let mut found = self.all.values();
        found.find(|event| event.entry.record == record && event.entry.route == *route)
    }

    fn unsettled(&self) -> impl Iterator<Item = &SimulatedEvent> {
        self.all.values().filter(|event| event.is_unsettled())
    }

    /// Stores a new state of an event; a delivering one gets a lease unless it must wait.
    fn start(&mut self, mut event: SimulatedEvent) -> Option<AttemptLease> {
        let id = event.entry.id;
        if event.entry.state == EventState::Delivering {
            event.entry.next_attempt = None;
            if self.unsettled().any(|other| other.has_order_of(&event.entry)) {
                event.entry.release();
            }
        }
        event.sequence = self.next();
        event.token = self.next();
        let is_delivering = event.entry.state == EventState::Delivering;
        let lease = is_delivering.then_some(AttemptLease { id, token: event.token });
        self.all.insert(id, event);
        lease
    }

    pub(super) fn accept(
        &mut self,
        new: NewEvent,
        max_pending: u64,
    ) -> Result<Acceptance, StoreError> {
        let NewEvent { mut entry, request } = new;
        let Some(old) = self.find(&entry.route, entry.record).cloned() else {
            if self.unsettled().count() as u64 >= max_pending {
                return Err(StoreError::Full);
            }
            entry.has_request = true;
            let id = entry.id;
            let request = Some(request);
            let event =
                SimulatedEvent { entry, request, sequence: 0, token: 0, again: false, since: 0 };
            return Ok(Acceptance::New(id, self.start(event)));
        };
        let id = old.entry.id;
        if old.entry.state == EventState::Dead {
            let next_attempt = entry.next_attempt.unwrap_or(entry.received);
            let old = self.all.get_mut(&id).expect("just found");
            old.entry.revive(next_attempt, entry.expires);
            return Ok(Acceptance::Revived(id));
        }
        if !old.entry.takes_request_of(&entry) {
            return Ok(Acceptance::Known(old.entry));
        }
        let mut new = SimulatedEvent { request: Some(request), again: false, ..old };
        new.entry.accept_again(&entry);
        new.entry.has_request = true;
        Ok(Acceptance::New(id, self.start(new)))
    }

    /// Returns whether the event is the one of its order whose attempt may begin.
    fn has_turn(&self, event: &SimulatedEvent) -> bool {
        event.entry.order.is_none()
            || self.unsettled().filter(|other| other.has_order_of(&event.entry)).all(|other| {
                other.entry.state == EventState::Pending
                    && (other.sequence, other.entry.id) >= (event.sequence, event.entry.id)
            })
    }

    pub(super) fn due(&self, route: &Arc<str>) -> Vec<(Millis, EventId)> {
        let pending = self.unsettled().filter(|event| event.entry.route == *route);
        let turn = pending.filter(|event| self.has_turn(event));
        let mut due: Vec<_> =
            turn.filter_map(|event| Some((event.entry.next_attempt?, event.entry.id))).collect();
        due.sort_unstable();
        due
    }

    pub(super) fn take(&mut self, route: &Arc<str>, now: Millis, limit: usize) -> Vec<DueEvent> {
        let mut taken = Vec::new();
        for (_, id) in self.due(route).into_iter().take_while(|(at, _)| *at <= now).take(limit) {
            let token = self.next();
            let event = self.all.get_mut(&id).expect("just found");
            event.entry.begin();
            event.token = token;
            event.again = false;
            taken.push(DueEvent {
                entry: event.entry.clone(),
                request: event.request.clone().expect("events to be delivered have one"),
                lease: AttemptLease { id, token },
            });
        }
        taken
    }

    pub(super) fn record(
        &mut self,
        entry: EventEntry,
        request: Option<StoredRequest>,
        keep_refused: u64,
    ) {
        if let Some(id) = self.find(&entry.route, entry.record).map(|old| old.entry.id) {
            let old = self.all.get_mut(&id).expect("just found");
            let before = old.entry.state;
            old.entry.record_again(&entry);
            if old.entry.state != before {
                old.since = entry.last_change();
            }
            if old.request.is_none() && request.is_some() {
                old.request = request;
                old.entry.has_request = true;
            }
            return;
        }
        let since = entry.last_change();
        let mut event =
            SimulatedEvent { entry, request, sequence: 0, token: 0, again: false, since };
        event.entry.has_request = event.request.is_some();
        self.all.insert(event.entry.id, event);
        let refused = self.all.values().filter(|event| event.entry.state == EventState::Refused);
        let refused: Vec<_> = refused.map(|event| event.entry.id).collect();
        let excess = refused.len().saturating_sub(usize::try_from(keep_refused).unwrap());
        for id in &refused[..excess] {
            self.all.remove(id);
        }
    }
}
