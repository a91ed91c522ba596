//! The attempts to deliver an event: begun, ended, and requested again.

use super::{EventChanges, InFlight};
use crate::{
    events::{
        model::{AttemptLease, DeliveryAttempt, EventEntry, EventId, NextStep},
        store::{Redelivery, disk::format::StoredEntry},
    },
    replay::Millis,
};

impl EventChanges {
    /// Begins an attempt of a pending event.
    pub(super) fn begin(&mut self, old: StoredEntry, now: Millis) -> (EventEntry, AttemptLease) {
        let mut new = old.clone();
        new.entry.begin();
        new.since = now;
        let new = self.write(Some(&old), new);
        (new.entry.clone(), self.lease(new))
    }

    pub(super) fn lease(&mut self, stored: StoredEntry) -> AttemptLease {
        self.last_token += 1;
        let (id, token) = (stored.entry.id, self.last_token);
        self.in_flight.insert(id, InFlight { token, stored, again: false });
        self.begun.insert(token);
        AttemptLease { id, token }
    }

    fn end(&mut self, lease: AttemptLease) -> Option<InFlight> {
        let in_flight = self.in_flight.get(&lease.id)?;
        if in_flight.token != lease.token {
            return None;
        }
        let in_flight = self.in_flight.remove(&lease.id)?;
        self.ended.push((lease.id, in_flight.clone()));
        Some(in_flight)
    }

    pub(super) fn settle(
        &mut self,
        lease: AttemptLease,
        attempt: &DeliveryAttempt,
        next: NextStep,
    ) -> fjall::Result<Option<EventEntry>> {
        let Some(InFlight { stored: old, again, .. }) = self.end(lease) else {
            let stored = self.get(lease.id)?.map(|stored| stored.entry);
            return Ok(stored.filter(|entry| entry.has_ended(attempt)));
        };
        let mut new = old.clone();
        new.entry.settle(attempt, next, again);
        new.since = attempt.ended();
        Ok(Some(self.write(Some(&old), new).entry))
    }

    pub(super) fn release(&mut self, lease: AttemptLease) {
        let Some(InFlight { stored: old, .. }) = self.end(lease) else { return };
        let mut new = old.clone();
        new.entry.release();
        self.write(Some(&old), new);
    }

    pub(super) fn give_up(
        &mut self,
        ids: &[EventId],
        now: Millis,
    ) -> fjall::Result<Vec<EventEntry>> {
        let mut dead = Vec::new();
        for id in ids {
            let Some(old) = self.get(*id)? else { continue };
            if old.entry.is_overdue(now) {
                let mut new = old.clone();
                new.entry.give_up();
                new.since = now;
                dead.push(self.write(Some(&old), new).entry);
            }
        }
        Ok(dead)
    }

    pub(super) fn redeliver(
        &mut self,
        id: EventId,
        now: Millis,
        expires: Millis,
    ) -> fjall::Result<Redelivery> {
        let Some(old) = self.get(id)? else { return Ok(Redelivery::Unknown) };
        if !old.entry.can_be_redelivered() {
            return Ok(Redelivery::NotKept);
        }
        let mut new = old.clone();
        new.entry.redeliver(now, expires);
        if let Some(in_flight) = self.in_flight.get_mut(&id) {
            in_flight.again = true;
        }
        self.write(Some(&old), new);
        Ok(Redelivery::Started)
    }
}
