//! The events that are not settled, in memory: which are due, and which wait for another one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    events::model::{Backlog, EventId},
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

/// The unsettled events of all routes.
#[derive(Debug, Default)]
pub(super) struct DiskSchedule {
    routes: HashMap<Arc<str>, DiskRouteSchedule>,
    unsettled: u64,
}

#[derive(Debug, Default)]
struct DiskRouteSchedule {
    slots: BTreeMap<EventId, Slot>,
    /// The events whose attempt may begin at the given time. Of those with one order, at most one.
    due: BTreeSet<(Millis, EventId)>,
    /// The events with an order, by acceptance.
    orders: BTreeMap<(OrderTag, Sequence), EventId>,
    /// The orders with an attempt in flight.
    busy: HashSet<OrderTag>,
    delivering: u64,
    dead: u64,
}

impl DiskSchedule {
    /// Adds an event that is not in the schedule.
    pub(super) fn insert(&mut self, route: &Arc<str>, id: EventId, slot: Slot) {
        self.route(route).insert(id, slot);
        self.unsettled += 1;
    }

    /// Removes an event. Returns what was known about it.
    pub(super) fn remove(&mut self, route: &Arc<str>, id: EventId) -> Option<Slot> {
        let slot = self.routes.get_mut(route)?.remove(id)?;
        self.unsettled -= 1;
        Some(slot)
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
        let due = route.due.iter().take_while(|(at, _)| *at <= now).take(limit);
        due.map(|(_, id)| *id).collect()
    }

    /// Returns when the next event of a route is due.
    pub(super) fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        self.routes.get(route)?.due.first().map(|(at, _)| *at)
    }

    /// Returns the number of events that are not settled.
    pub(super) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Returns the backlog of a route.
    pub(super) fn backlog(&self, route: &Arc<str>) -> Backlog {
        let Some(route) = self.routes.get(route) else { return Backlog::default() };
        Backlog {
            pending: route.slots.len() as u64 - route.delivering,
            delivering: route.delivering,
            dead: route.dead,
            oldest: route.slots.first_key_value().map(|(id, _)| id.received()),
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
        let replaced = match slot.order {
            None => {
                if let Some(at) = slot.next_attempt {
                    self.due.insert((at, id));
                }
                self.slots.insert(id, slot)
            }
            Some(order) => {
                self.withdraw(order);
                if slot.next_attempt.is_none() {
                    self.busy.insert(order);
                }
                self.orders.insert((order, slot.sequence), id);
                let replaced = self.slots.insert(id, slot);
                self.offer(order);
                replaced
            }
        };
        debug_assert_eq!(replaced, None);
        self.delivering += u64::from(slot.next_attempt.is_none());
    }

    fn remove(&mut self, id: EventId) -> Option<Slot> {
        let slot = *self.slots.get(&id)?;
        match slot.order {
            None => {
                if let Some(at) = slot.next_attempt {
                    self.due.remove(&(at, id));
                }
                self.slots.remove(&id);
            }
            Some(order) => {
                self.withdraw(order);
                if slot.next_attempt.is_none() {
                    self.busy.remove(&order);
                }
                self.orders.remove(&(order, slot.sequence));
                self.slots.remove(&id);
                self.offer(order);
            }
        }
        self.delivering -= u64::from(slot.next_attempt.is_none());
        Some(slot)
    }

    /// Returns the event with this order that was accepted first.
    fn first_of(&self, order: OrderTag) -> Option<EventId> {
        let all = (order, Sequence(0))..=(order, Sequence(u64::MAX));
        self.orders.range(all).next().map(|(_, id)| *id)
    }

    /// Returns when the first event with this order is due, if no other one is in flight.
    fn turn_of(&self, order: OrderTag) -> Option<(Millis, EventId)> {
        if self.busy.contains(&order) {
            return None;
        }
        let first = self.first_of(order)?;
        Some((self.slots.get(&first)?.next_attempt?, first))
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
