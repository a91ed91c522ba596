//! The events that are not settled, in memory: which are due, and which wait for another one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use crate::{
    events::model::{Backlog, EventId, EventState},
    replay::Millis,
};

/// The keyed digest of an order: events with equal ones are delivered one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OrderTag(pub(super) [u8; 16]);

/// The place of an event in the order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sequence(pub(super) u64);

/// What the schedule knows about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// When its next attempt may begin; `None` while one is in flight.
    pub(super) next_attempt: Option<Millis>,
    pub(super) sequence: Sequence,
    pub(super) order: Option<OrderTag>,
}

/// The unsettled events of all routes. There may be a million of them, so that each is in as few
/// collections as possible, and what the entries contain is not repeated here.
#[derive(Debug, Default)]
pub(super) struct DiskSchedule {
    routes: HashMap<Arc<str>, DiskRouteSchedule>,
    unsettled: u64,
}

#[derive(Debug, Default)]
struct DiskRouteSchedule {
    pending: BTreeSet<EventId>,
    delivering: BTreeSet<EventId>,
    /// The events whose attempt may begin. Of those with one order, at most one.
    due: BTreeSet<DueAt>,
    /// The events with an order, by acceptance, with the times of their next attempts.
    orders: BTreeMap<(OrderTag, Sequence, EventId), Option<Millis>>,
    /// The orders with an attempt in flight.
    busy: HashSet<OrderTag>,
    dead: u64,
}

/// An event and when its attempt may begin, in 24 bytes: an aligned `u128` would make it 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DueAt([u64; 3]);

impl DueAt {
    fn new(at: Millis, EventId(id): EventId) -> Self {
        DueAt([at, (id >> 64) as u64, id as u64])
    }

    fn at(self) -> Millis {
        self.0[0]
    }

    fn id(self) -> EventId {
        let [_, high, low] = self.0;
        EventId(u128::from(high) << 64 | u128::from(low))
    }
}

impl DiskSchedule {
    /// Adds an event that is not in the schedule.
    pub(super) fn insert(&mut self, route: &Arc<str>, id: EventId, slot: Slot) {
        self.route(route).insert(id, slot);
        self.unsettled += 1;
    }

    /// Removes an event that was inserted with this slot.
    pub(super) fn remove(&mut self, route: &Arc<str>, id: EventId, slot: Slot) {
        self.route(route).remove(id, slot);
        self.unsettled -= 1;
    }

    /// Counts a dead event more or less.
    pub(super) fn count_dead(&mut self, route: &Arc<str>, change: i64) {
        let dead = &mut self.route(route).dead;
        *dead = dead.saturating_add_signed(change);
    }

    /// Returns whether an event with this order is unsettled.
    pub(super) fn has_order(&self, route: &Arc<str>, order: OrderTag) -> bool {
        self.routes.get(route).is_some_and(|route| route.first_of(order).is_some())
    }

    /// Returns the events of a route that are due at `now`, those that are due for longest first.
    pub(super) fn due(&self, route: &Arc<str>, now: Millis, limit: usize) -> Vec<EventId> {
        let Some(route) = self.routes.get(route) else { return Vec::new() };
        let due = route.due.iter().take_while(|due| due.at() <= now).take(limit);
        due.map(|due| due.id()).collect()
    }

    /// Returns when the next event of a route is due.
    pub(super) fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        self.routes.get(route)?.due.first().map(|due| due.at())
    }

    /// Returns the newest unsettled events in a range, newest first: those of one route or of all,
    /// in one state or both.
    pub(super) fn newest(
        &self,
        route: Option<&Arc<str>>,
        state: Option<EventState>,
        range: Range<EventId>,
        limit: usize,
    ) -> Vec<EventId> {
        let routes =
            self.routes.iter().filter(|(name, _)| route.is_none_or(|route| route == *name));
        let is_selected = |other| state.is_none_or(|state| state == other);
        let mut newest = Vec::new();
        for (_, route) in routes {
            for (state, ids) in
                [(EventState::Pending, &route.pending), (EventState::Delivering, &route.delivering)]
            {
                if is_selected(state) {
                    newest.extend(ids.range(range.clone()).rev().take(limit));
                }
            }
        }
        newest.sort_unstable_by_key(|id| Reverse(*id));
        newest.truncate(limit);
        newest
    }

    /// Returns the number of events that are not settled.
    pub(super) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Returns the backlog of a route.
    pub(super) fn backlog(&self, route: &Arc<str>) -> Backlog {
        let Some(route) = self.routes.get(route) else { return Backlog::default() };
        let oldest = [route.pending.first(), route.delivering.first()].into_iter().flatten().min();
        Backlog {
            pending: route.pending.len() as u64,
            delivering: route.delivering.len() as u64,
            dead: route.dead,
            oldest: oldest.map(|id| id.received()),
        }
    }

    /// Returns the names of the routes that have or had events.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.keys()
    }

    fn route(&mut self, route: &Arc<str>) -> &mut DiskRouteSchedule {
        if !self.routes.contains_key(route) {
            self.routes.insert(Arc::clone(route), DiskRouteSchedule::default());
        }
        self.routes.get_mut(route).expect("just inserted")
    }
}

impl DiskRouteSchedule {
    fn insert(&mut self, id: EventId, slot: Slot) {
        let Slot { next_attempt, sequence, order } = slot;
        let is_new = match next_attempt {
            Some(_) => self.pending.insert(id),
            None => self.delivering.insert(id),
        };
        debug_assert!(is_new, "{id} is in the schedule already");
        match order {
            None => {
                if let Some(at) = next_attempt {
                    self.due.insert(DueAt::new(at, id));
                }
            }
            Some(order) => {
                self.withdraw(order);
                if next_attempt.is_none() {
                    self.busy.insert(order);
                }
                self.orders.insert((order, sequence, id), next_attempt);
                self.offer(order);
            }
        }
    }

    fn remove(&mut self, id: EventId, slot: Slot) {
        let Slot { next_attempt, sequence, order } = slot;
        let is_removed = match next_attempt {
            Some(_) => self.pending.remove(&id),
            None => self.delivering.remove(&id),
        };
        debug_assert!(is_removed, "{id} is not in the schedule");
        match order {
            None => {
                if let Some(at) = next_attempt {
                    let is_removed = self.due.remove(&DueAt::new(at, id));
                    debug_assert!(is_removed, "{id} is due at another time than {at}");
                }
            }
            Some(order) => {
                self.withdraw(order);
                if next_attempt.is_none() {
                    self.busy.remove(&order);
                }
                let removed = self.orders.remove(&(order, sequence, id));
                debug_assert_eq!(removed, Some(next_attempt));
                self.offer(order);
            }
        }
    }

    /// Returns the event with this order that was accepted first, and when it is due.
    fn first_of(&self, order: OrderTag) -> Option<(EventId, Option<Millis>)> {
        let first = (order, Sequence(0), EventId(0));
        let last = (order, Sequence(u64::MAX), EventId(u128::MAX));
        self.orders.range(first..=last).next().map(|((.., id), at)| (*id, *at))
    }

    /// Returns when the first event with this order is due, if no other one is in flight.
    fn turn_of(&self, order: OrderTag) -> Option<DueAt> {
        if self.busy.contains(&order) {
            return None;
        }
        let (first, next_attempt) = self.first_of(order)?;
        Some(DueAt::new(next_attempt?, first))
    }

    fn withdraw(&mut self, order: OrderTag) {
        if let Some(turn) = self.turn_of(order) {
            self.due.remove(&turn);
        }
    }

    fn offer(&mut self, order: OrderTag) {
        if let Some(turn) = self.turn_of(order) {
            self.due.insert(turn);
        }
    }
}
