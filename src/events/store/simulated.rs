//! A store in memory, for tests: as simple as the interface allows, so that it can be compared with
//! the others.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::events::{SimulatedEvent, SimulatedEvents};
use super::{EventPage, EventStore, Operation, Redelivery, StoreError};
use crate::{
    events::model::{
        Acceptance, AttemptLease, Backlog, DeliveryAttempt, DueEvent, EventEntry, EventFilter,
        EventId, EventState, NewEvent, NextStep, Retention, StoredRequest,
    },
    replay::Millis,
    scheme::EventKey,
};

mod events;

/// A store in memory.
#[derive(Debug)]
pub(crate) struct SimulatedEventStore {
    events: Mutex<SimulatedEvents>,
    retention: Retention,
    changed: Notify,
    /// Returned by every operation, if set.
    failure: Mutex<Option<StoreError>>,
}

impl SimulatedEventStore {
    pub(crate) fn new(retention: Retention) -> Self {
        SimulatedEventStore {
            events: Mutex::default(),
            retention,
            changed: Notify::new(),
            failure: Mutex::default(),
        }
    }

    /// Makes every operation fail, or succeed again.
    pub(crate) fn fail(&self, failure: Option<StoreError>) {
        *self.failure.lock().unwrap() = failure;
    }

    /// Returns the state of the event with this replay record, also while operations fail.
    pub(crate) fn state(&self, record: EventKey) -> Option<EventState> {
        let events = self.lock();
        let found = events.all.values().find(|event| event.entry.record == Some(record));
        found.map(|event| event.entry.state)
    }

    /// Ends all attempts in flight, as a restart of the process does.
    pub(crate) fn restart(&self) {
        for event in self.lock().all.values_mut() {
            if event.entry.state == EventState::Delivering {
                event.entry.interrupt();
                event.since = event.entry.received;
            }
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, SimulatedEvents> {
        self.events.lock().unwrap()
    }

    fn run<'s, T: Send + 's>(
        &'s self,
        change: impl FnOnce(&mut SimulatedEvents) -> Result<T, StoreError>,
    ) -> Operation<'s, T> {
        let result = match self.failure.lock().unwrap().clone() {
            Some(failure) => Err(failure),
            None => change(&mut self.lock()),
        };
        self.changed.notify_waiters();
        Box::pin(std::future::ready(result))
    }
}

impl EventStore for SimulatedEventStore {
    fn accept(&self, event: NewEvent, _: Instant) -> Operation<'_, Acceptance> {
        self.run(|events| events.accept(event, self.retention.max_pending))
    }

    fn find(&self, route: &Arc<str>, record: EventKey) -> Operation<'_, Option<EventEntry>> {
        self.run(|events| Ok(events.find(route, Some(record)).map(|event| event.entry.clone())))
    }

    fn revive(
        &self,
        route: &Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
    ) -> Operation<'_, bool> {
        self.run(|events| {
            let Some(found) = events.find(route, Some(record)) else { return Ok(false) };
            if found.entry.state != EventState::Dead {
                return Ok(false);
            }
            let id = found.entry.id;
            let event = events.all.get_mut(&id).expect("just found");
            event.entry.revive(next_attempt, expires);
            Ok(true)
        })
    }

    fn take_due(
        &self,
        route: &Arc<str>,
        now: Millis,
        limit: usize,
    ) -> Operation<'_, Vec<DueEvent>> {
        self.run(|events| Ok(events.take(route, now, limit)))
    }

    fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        self.lock().due(route).first().map(|(at, _)| *at)
    }

    fn due_changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.changed.notified())
    }

    fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Operation<'_, Option<EventEntry>> {
        self.run(|events| {
            let Some(event) = events.all.get_mut(&lease.id) else { return Ok(None) };
            if event.entry.state != EventState::Delivering || event.token != lease.token {
                let entry = Some(event.entry.clone());
                return Ok(entry.filter(|entry| entry.has_ended(&attempt)));
            }
            event.entry.settle(&attempt, next, std::mem::take(&mut event.again));
            event.since = attempt.ended();
            Ok(Some(event.entry.clone()))
        })
    }

    fn give_up(&self, overdue: Vec<EventEntry>, now: Millis) -> Operation<'_, Vec<EventEntry>> {
        self.run(|events| {
            let mut dead = Vec::new();
            for EventEntry { id, .. } in overdue {
                let Some(event) = events.all.get_mut(&id) else { continue };
                if event.entry.is_overdue(now) {
                    event.entry.give_up();
                    event.since = now;
                    dead.push(event.entry.clone());
                }
            }
            Ok(dead)
        })
    }

    fn renew<'s>(&'s self, _: &'s [AttemptLease]) -> Operation<'s, ()> {
        self.run(|_| Ok(()))
    }

    fn record(&self, recorded: Vec<(EventEntry, Option<StoredRequest>)>) -> Operation<'_, ()> {
        self.run(|events| {
            for (entry, request) in recorded {
                events.record(entry, request, self.retention.keep_refused);
            }
            Ok(())
        })
    }

    fn entry(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        self.run(|events| Ok(events.all.get(&id).map(|event| event.entry.clone())))
    }

    fn request(&self, id: EventId) -> Operation<'_, Option<StoredRequest>> {
        self.run(|events| Ok(events.all.get(&id).and_then(|event| event.request.clone())))
    }

    fn list<'s>(
        &'s self,
        filter: &'s EventFilter,
        cursor: Option<EventId>,
        limit: usize,
    ) -> Operation<'s, EventPage> {
        self.run(|events| {
            let entries = events.all.values().rev().map(|event| &event.entry);
            let mut found = entries.filter(|entry| {
                cursor.is_none_or(|cursor| entry.id < cursor)
                    && filter.route.as_ref().is_none_or(|route| *route == entry.route)
                    && filter.state.is_none_or(|state| state == entry.state)
                    && (filter.event_id.is_none() || filter.event_id == entry.event_id)
                    && filter.since.is_none_or(|since| entry.received >= since)
                    && filter.until.is_none_or(|until| entry.received < until)
            });
            let entries: Vec<_> = found.by_ref().take(limit).cloned().collect();
            let next = found.next().and_then(|_| entries.last()).map(|entry| entry.id);
            Ok(EventPage { entries, next })
        })
    }

    fn redeliver(&self, id: EventId, now: Millis, expires: Millis) -> Operation<'_, Redelivery> {
        self.run(|events| {
            let Some(event) = events.all.get_mut(&id) else { return Ok(Redelivery::Unknown) };
            if !event.entry.can_be_redelivered() {
                return Ok(Redelivery::NotKept);
            }
            event.again |= event.entry.state == EventState::Delivering;
            event.entry.redeliver(now, expires);
            Ok(Redelivery::Started)
        })
    }

    fn forget(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        self.run(|events| {
            let Some(event) = events.all.get_mut(&id) else { return Ok(None) };
            let entry = event.entry.clone();
            event.entry.record = None;
            if matches!(entry.state, EventState::Pending | EventState::Dead) {
                events.all.remove(&id);
            }
            Ok(Some(entry))
        })
    }

    fn backlogs(&self) -> Operation<'_, HashMap<Arc<str>, Backlog>> {
        self.run(|events| {
            let mut backlogs = HashMap::<_, Backlog>::new();
            for SimulatedEvent { entry, .. } in events.all.values() {
                let mut count = |count: fn(&mut Backlog) -> &mut u64| {
                    *count(backlogs.entry(Arc::clone(&entry.route)).or_default()) += 1;
                };
                match entry.state {
                    EventState::Pending => count(|backlog| &mut backlog.pending),
                    EventState::Delivering => count(|backlog| &mut backlog.delivering),
                    EventState::Dead => count(|backlog| &mut backlog.dead),
                    _ => continue,
                }
                if entry.state != EventState::Dead {
                    let backlog = backlogs.get_mut(&entry.route).expect("just counted");
                    backlog.oldest.get_or_insert(entry.received);
                }
            }
            Ok(backlogs)
        })
    }

    fn expire(&self, now: Millis) -> Operation<'_, ()> {
        let before = |keep: Duration| now.saturating_sub(u64::try_from(keep.as_millis()).unwrap());
        let keep = before(self.retention.keep);
        let keep_dead = before(self.retention.keep_dead);
        self.run(|events| {
            events.all.retain(|_, event| match event.entry.state {
                EventState::Pending | EventState::Delivering => true,
                EventState::Dead => event.since >= keep_dead,
                _ => event.since >= keep,
            });
            Ok(())
        })
    }

    fn bytes(&self) -> u64 {
        self.lock().all.values().map(|event| event.entry.bytes + 512).sum()
    }

    fn is_up(&self) -> bool {
        self.failure.lock().unwrap().is_none()
    }

    fn flush(&self) -> Operation<'_, ()> {
        self.run(|_| Ok(()))
    }
}
