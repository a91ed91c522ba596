//! The invariants of stored events (I12–I18 of the delivery contract), over random schedules.
//!
//! A schedule is a list of numbers. They select which sender calls on which kind of route,
//! what the handler does, when the process crashes, what the store and the clock do, and what the
//! operator asks for. The world keeps the ledgers of the senders and of the handler, and compares
//! them with the store. It decides with the shipped code when an attempt is repeated; the store is
//! the simulated one, with which the tests of the others compare theirs.

use std::{
    collections::HashMap,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderValue, Method, StatusCode};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::time::Instant;

use super::entry;
use crate::{
    events::{
        delivery::{AttemptResult, RetryOptions},
        model::{
            Acceptance, AttemptLease, DeliveryAttempt, EventEntry, EventFilter, EventId,
            EventState, NewEvent, OrderKey, Retention, StoredRequest,
        },
        store::{EventStore, Redelivery, StoreError, simulated::SimulatedEventStore},
    },
    reject::Reject,
    replay::Millis,
    response::SanitizedResponse,
    scheme::EventKey,
};

/// The schedules of each test, 102,000 in all.
const SCHEDULES: u32 = 34_000;
const EVENTS: u8 = 4;
const POLICY: RetryOptions = RetryOptions {
    first: Duration::from_secs(5),
    max: Duration::from_secs(20),
    lasts: Duration::from_secs(60),
};
const RETENTION: Retention = Retention {
    keep: Duration::from_secs(600),
    keep_dead: Duration::from_secs(600),
    keep_refused: 1,
    max_bytes: 1 << 30,
    max_pending: 3,
};

/// Returns the output of a future that needs nothing to happen.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the simulated store does not wait"),
    }
}

/// What the handler does with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handler {
    Success,
    Failure,
    Gone,
    /// Acts, but its response is lost.
    ActsAndResets,
    Unreachable,
}

impl Handler {
    fn of(code: u8) -> Self {
        use Handler::{ActsAndResets, Failure, Gone, Success, Unreachable};
        [Success, Success, Failure, Unreachable, ActsAndResets, Gone][usize::from(code % 6)]
    }

    fn acts(self) -> bool {
        matches!(self, Handler::Success | Handler::ActsAndResets)
    }

    fn result(self, at: Millis) -> AttemptResult {
        let status = |status| Ok(SanitizedResponse::empty(status));
        let outcome = match self {
            Handler::Success => status(StatusCode::OK),
            Handler::Failure => status(StatusCode::INTERNAL_SERVER_ERROR),
            Handler::Gone => status(StatusCode::GONE),
            Handler::ActsAndResets => Err(Reject::UpstreamReset),
            Handler::Unreachable => Err(Reject::UpstreamConnect),
        };
        AttemptResult::of(&outcome, at)
    }
}

/// An attempt in flight.
#[derive(Debug)]
struct InFlight {
    event: u8,
    entry: EventEntry,
    lease: AttemptLease,
    at: Millis,
}

/// What is known about an event outside of the gateway.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// The sender got a success for it.
    acknowledged: bool,
    /// The handler acted on it at least once.
    acted: bool,
    /// It was stored at least once.
    stored: bool,
    /// It acted on an attempt that the store knows. The replay guard of this model is in memory, so
    /// a crash forgets the others.
    acted_on_stored: bool,
    /// The replay guard knows it as done; lost in a crash.
    done: bool,
    /// The replay guard knows that an attempt may have reached the handler; lost in a crash.
    marked: bool,
}

struct World {
    store: SimulatedEventStore,
    route: Arc<str>,
    ordered: bool,
    clock: Millis,
    facts: [Facts; EVENTS as usize],
    flights: Vec<InFlight>,
    ids: HashMap<u8, EventId>,
    next_id: u128,
    wrong: Vec<String>,
    /// The entry and the request of which all others are copies.
    entry: EventEntry,
    request: StoredRequest,
}

impl World {
    fn new(ordered: bool) -> Self {
        let entry = entry("a");
        let request = StoredRequest {
            method: Method::POST,
            target: "/".into(),
            is_http2: false,
            headers: Vec::new(),
            body: bytes::Bytes::new(),
            peer: [127, 0, 0, 1].into(),
            tls: false,
            client: None,
            request_id: HeaderValue::from_static("id"),
        };
        World {
            store: SimulatedEventStore::new(RETENTION),
            route: Arc::clone(&entry.route),
            ordered,
            clock: 1_000_000,
            facts: Default::default(),
            flights: Vec::new(),
            ids: HashMap::new(),
            next_id: 0,
            wrong: Vec::new(),
            entry,
            request,
        }
    }

    fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            self.wrong.push(what.to_owned());
        }
    }

    fn record(event: u8) -> EventKey {
        EventKey([event + 1; 16])
    }

    fn fresh(&mut self, event: u8) -> EventEntry {
        self.next_id += 1;
        EventEntry {
            id: EventId::new(self.clock, self.next_id),
            record: Some(Self::record(event)),
            received: self.clock,
            next_attempt: Some(self.clock),
            expires: self.clock + 60_000,
            // Two events share an order, and the others have none.
            order: (self.ordered && event < 2).then_some(OrderKey([7; 16])),
            possible_duplicate: self.facts[usize::from(event)].marked,
            ..self.entry.clone()
        }
    }

    /// Returns the state of an event in the store, also while the store fails.
    fn state(&self, event: u8) -> Option<EventState> {
        self.store.state(Self::record(event))
    }

    /// Notes that an attempt begins: it must be the only one, in turn, and marked if need be.
    fn begin(&mut self, event: u8, entry: &EventEntry, lease: AttemptLease) {
        self.check(self.flights.iter().all(|flight| flight.event != event), "I13: two attempts");
        if entry.order.is_some() {
            let overlap = self.flights.iter().any(|flight| flight.entry.order == entry.order);
            self.check(!overlap, "I14: attempts of one order overlap");
        }
        let acted = self.facts[usize::from(event)].acted_on_stored;
        let is_marked = entry.possible_duplicate || entry.redelivery;
        self.check(!acted || is_marked, "I18: delivered again without a mark");
        let (entry, at) = (entry.clone(), self.clock);
        self.flights.push(InFlight { event, entry, lease, at });
    }

    /// Accepts an event into the store. Returns whether it is there.
    fn accept(&mut self, event: u8, new: EventEntry) -> bool {
        let request = self.request.clone();
        let accepted = now(self.store.accept(NewEvent { entry: new, request }, Instant::now()));
        match accepted {
            Ok(Acceptance::New(id, lease)) => {
                self.ids.insert(event, id);
                self.facts[usize::from(event)].stored = true;
                if let Some(lease) = lease
                    && let Ok(Some(entry)) = now(self.store.entry(id))
                {
                    self.begin(event, &entry, lease);
                }
                true
            }
            Ok(Acceptance::Known(_) | Acceptance::Revived(_)) => true,
            Err(StoreError::Full | StoreError::Unavailable(_)) => false,
        }
    }

    /// Handles a copy of an event that the replay guard knows.
    fn repeat(&mut self, event: u8) {
        let (record, expires) = (Self::record(event), self.clock + 60_000);
        // An error changes nothing: the event is acknowledged already.
        let _ = now(self.store.revive(&self.route, record, self.clock, expires));
    }

    fn acknowledge(&mut self, event: u8) {
        let facts = &mut self.facts[usize::from(event)];
        (facts.acknowledged, facts.done, facts.marked) = (true, true, false);
    }

    /// A request on a route with `delivery = "async"`.
    fn send_async(&mut self, event: u8, has_slot: bool) {
        if self.facts[usize::from(event)].done {
            return self.repeat(event);
        }
        let mut new = self.fresh(event);
        if has_slot {
            (new.state, new.next_attempt, new.attempts) = (EventState::Delivering, None, 1);
        }
        if self.accept(event, new) {
            self.acknowledge(event);
        }
    }

    /// A request on a route with `delivery = "fallback"`.
    fn send_fallback(&mut self, event: u8, handler: Handler, is_late: bool) {
        if self.facts[usize::from(event)].done {
            return self.repeat(event);
        }
        let Ok(found) = now(self.store.find(&self.route, Self::record(event))) else { return };
        if let Some(entry) = found {
            if entry.state == EventState::Dead {
                self.repeat(event);
            }
            return self.acknowledge(event);
        }
        let mut new = self.fresh(event);
        new.attempts = 1;
        if is_late {
            (new.state, new.next_attempt) = (EventState::Delivering, None);
            if self.accept(event, new) {
                self.acknowledge(event);
            } else {
                let facts = &mut self.facts[usize::from(event)];
                (facts.acted, facts.marked) = (facts.acted || handler.acts(), true);
            }
            return;
        }
        self.facts[usize::from(event)].acted |= handler.acts();
        let result = handler.result(self.clock);
        if result.is_success() {
            return self.acknowledge(event);
        }
        if result.is_gone() {
            return;
        }
        new.possible_duplicate |= result.unknown;
        new.next_attempt = Some(self.clock + 5000);
        new.log = vec![attempt(self.clock, &result)];
        if self.accept(event, new) {
            self.facts[usize::from(event)].acted_on_stored |= handler.acts();
            self.acknowledge(event);
        } else {
            self.facts[usize::from(event)].marked |= result.unknown;
        }
    }

    fn take(&mut self, limit: usize) {
        let Ok(due) = now(self.store.take_due(&self.route, self.clock, limit)) else { return };
        for taken in due {
            let record = taken.entry.record;
            let event = (0..EVENTS).find(|event| record == Some(Self::record(*event)));
            let event = event.expect("no event is forgotten here");
            self.begin(event, &taken.entry, taken.lease);
        }
    }

    /// Makes the events dead whose time is over.
    fn give_up(&mut self) {
        let pending = EventFilter { state: Some(EventState::Pending), ..EventFilter::default() };
        let Ok(page) = now(self.store.list(&pending, None, 100)) else { return };
        let overdue = page.entries.iter().filter(|entry| entry.is_overdue(self.clock)).count();
        let dead = now(self.store.give_up(page.entries, self.clock)).unwrap_or_default();
        let is_dead = dead.iter().all(|entry| entry.state == EventState::Dead);
        self.check(is_dead && dead.len() == overdue, "an event is not dead after its time");
    }

    fn finish(&mut self, which: u8, handler: Handler) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.remove(usize::from(which) % self.flights.len());
        self.act(flight.event, handler);
        let result = handler.result(self.clock);
        let next = POLICY.next(&flight.entry, &result, self.clock, f64::from(which) / 255.0);
        let ended = attempt(flight.at, &result);
        if now(self.store.settle(flight.lease, ended.clone(), next)).is_err() {
            // The gateway tries again until the store works.
            self.store.fail(None);
            let again = now(self.store.settle(flight.lease, ended, next));
            self.check(matches!(again, Ok(Some(_))), "the lease of an attempt was lost");
        }
    }

    /// The handler receives an attempt of a stored event.
    fn act(&mut self, event: u8, handler: Handler) {
        let facts = &mut self.facts[usize::from(event)];
        facts.acted |= handler.acts();
        facts.acted_on_stored |= handler.acts();
    }

    /// The process ends; attempts in flight may have reached the handler.
    fn crash(&mut self, handler: Handler) {
        for flight in std::mem::take(&mut self.flights) {
            self.act(flight.event, handler);
        }
        self.store.restart();
        for facts in &mut self.facts {
            (facts.done, facts.marked) = (false, false);
        }
    }

    fn step(&mut self, step: u32) {
        let [action, event, more, _] = step.to_le_bytes();
        let event = event % EVENTS;
        match action % 16 {
            0..=2 => self.send_async(event, more % 2 == 0),
            3..=5 => self.send_fallback(event, Handler::of(more), more >= 192),
            6 | 7 => self.take(usize::from(more % 4)),
            8..=10 => self.finish(event, Handler::of(more)),
            11 => self.clock += u64::from(more) * 100,
            12 => self.crash(Handler::of(more)),
            13 => self.store.fail(match more % 3 {
                0 => None,
                1 => Some(StoreError::Full),
                _ => Some(StoreError::Unavailable("simulated".into())),
            }),
            14 => {
                if let Some(id) = self.ids.get(&event).copied() {
                    let expires = self.clock + 60_000;
                    let started = now(self.store.redeliver(id, self.clock, expires));
                    self.check(started != Ok(Redelivery::NotKept), "a request was lost");
                }
            }
            _ => {
                drop(now(self.store.expire(self.clock)));
                self.give_up();
            }
        }
        for event in 0..EVENTS {
            let facts = self.facts[usize::from(event)];
            if !facts.stored && !facts.acknowledged {
                continue;
            }
            let is_kept = self.state(event).is_some();
            // Delivered events may expire; no schedule is that long.
            self.check(!facts.stored || is_kept, "I12, I16: a stored event is gone");
            let is_safe = is_kept || facts.acted;
            self.check(!facts.acknowledged || is_safe, "I12: an acknowledged event is gone");
        }
    }

    /// The store and the handler work again: every acknowledged event arrives.
    fn settle_everything(&mut self) {
        self.store.fail(None);
        for _ in 0..200 {
            self.take(8);
            while !self.flights.is_empty() {
                self.finish(0, Handler::Success);
            }
            let Some(due) = self.store.next_due(&self.route) else { break };
            self.clock = self.clock.max(due);
        }
        for event in 0..EVENTS {
            let (facts, state) = (self.facts[usize::from(event)], self.state(event));
            let is_settled = matches!(state, None | Some(EventState::Delivered | EventState::Dead));
            self.check(is_settled, "an event is never settled");
            let is_delivered = facts.acted || state == Some(EventState::Dead);
            self.check(!facts.acknowledged || is_delivered, "I12: it was never delivered");
        }
    }
}

fn attempt(at: Millis, result: &AttemptResult) -> DeliveryAttempt {
    let error = result.error.map(Into::into);
    DeliveryAttempt { at, status: result.status, error, duration_ms: 1, resigned: false }
}

fn run(ordered: bool, length: std::ops::Range<usize>) {
    let config =
        ProptestConfig { cases: SCHEDULES, failure_persistence: None, ..Default::default() };
    let schedules = prop::collection::vec(any::<u32>(), length);
    let result = TestRunner::new(config).run(&schedules, |schedule| {
        let mut world = World::new(ordered);
        for step in &schedule {
            world.step(*step);
            prop_assert!(world.wrong.is_empty(), "{:?}", world.wrong);
        }
        world.settle_everything();
        prop_assert!(world.wrong.is_empty(), "{:?}", world.wrong);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn short_schedules_keep_the_invariants() {
    run(false, 1..16);
}

#[test]
fn long_schedules_keep_the_invariants() {
    run(false, 16..48);
}

#[test]
fn ordered_schedules_keep_the_invariants() {
    run(true, 4..32);
}
