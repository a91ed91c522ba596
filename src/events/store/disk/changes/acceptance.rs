//! The events that requests add or change: accepted, accepted again, or recorded.

use super::EventChanges;
use crate::{
    events::{
        model::{Acceptance, AttemptLease, EventEntry, EventId, EventState},
        store::{
            StoreError,
            disk::{command::SealedEvent, format::StoredEntry, schedule::Sequence},
        },
    },
    replay::Millis,
};

impl EventChanges {
    pub(super) fn accept(
        &mut self,
        event: &SealedEvent,
    ) -> fjall::Result<Result<(Acceptance, Option<AttemptLease>), StoreError>> {
        let entry = &event.entry;
        let found = match entry.record {
            Some(record) => self.find(&entry.route, record)?,
            None => None,
        };
        if let Some(old) = found {
            return self.accept_again(event, old).map(Ok);
        }
        let mut new = StoredEntry {
            entry: entry.clone(),
            sequence: Sequence(self.totals.sequence + 1),
            request_length: event.request.as_ref().map_or(0, |request| request.len() as u64),
            entry_length: 256,
            since: 0,
        };
        if self.schedule.unsettled() >= self.retention.max_pending || !self.make_room(new.cost())? {
            return Ok(Err(StoreError::Full));
        }
        self.totals.sequence += 1;
        new.entry.has_request = event.request.is_some();
        self.wait_for_turn(&mut new.entry);
        if let Some(request) = &event.request {
            self.batch.insert(&self.files.requests, entry.id.0.to_be_bytes(), request.as_slice());
        }
        let (id, new) = (entry.id, self.write(None, new));
        let lease = (new.entry.state == EventState::Delivering).then(|| self.lease(new));
        Ok(Ok((Acceptance::New(id, lease), lease)))
    }

    /// Accepts another request for a stored event.
    fn accept_again(
        &mut self,
        event: &SealedEvent,
        old: StoredEntry,
    ) -> fjall::Result<(Acceptance, Option<AttemptLease>)> {
        let (id, entry) = (old.entry.id, &event.entry);
        if old.entry.state == EventState::Dead {
            let next_attempt = entry.next_attempt.unwrap_or(entry.received);
            self.revive(old, next_attempt, entry.expires);
            return Ok((Acceptance::Revived(id), None));
        }
        if !old.entry.takes_request_of(entry) {
            return Ok((Acceptance::Known(old.entry), None));
        }
        let mut new = old.clone();
        new.entry.accept_again(entry);
        self.totals.sequence += 1;
        new.sequence = Sequence(self.totals.sequence);
        self.wait_for_turn(&mut new.entry);
        self.put_request(&mut new, entry.id, event.request.as_deref())?;
        let new = self.write(Some(&old), new);
        let lease = (new.entry.state == EventState::Delivering).then(|| self.lease(new));
        Ok((Acceptance::New(id, lease), lease))
    }

    /// Makes a new entry pending if its attempt cannot begin yet.
    fn wait_for_turn(&mut self, entry: &mut EventEntry) {
        if entry.state == EventState::Delivering {
            entry.next_attempt = None;
            if self.is_blocked(entry) {
                entry.release();
            }
        }
    }

    /// Returns whether another event with the same order is unsettled.
    fn is_blocked(&self, entry: &EventEntry) -> bool {
        entry.order.is_some_and(|order| {
            let tag = self.files.order_tag(&entry.route, order);
            self.schedule.has_order(&entry.route, tag)
        })
    }

    /// Stores a request that was sealed for the event `sealed_for`.
    fn put_request(
        &mut self,
        stored: &mut StoredEntry,
        sealed_for: EventId,
        request: Option<&[u8]>,
    ) -> fjall::Result<()> {
        let Some(request) = request else { return Ok(()) };
        let id = stored.entry.id;
        let request = self.files.reseal(sealed_for, id, request)?;
        stored.entry.has_request = true;
        stored.request_length = request.len() as u64;
        self.batch.insert(&self.files.requests, id.0.to_be_bytes(), request);
        Ok(())
    }

    pub(super) fn revive(&mut self, old: StoredEntry, next_attempt: Millis, expires: Millis) {
        let mut new = old.clone();
        new.entry.revive(next_attempt, expires);
        self.write(Some(&old), new);
    }

    pub(super) fn record(&mut self, event: &SealedEvent) -> fjall::Result<()> {
        let entry = &event.entry;
        let found = match entry.record {
            Some(record) => self.find(&entry.route, record)?,
            None => None,
        };
        let since = entry.last_change();
        let request = event.request.as_deref();
        let Some(old) = found else {
            let mut new = StoredEntry {
                entry: entry.clone(),
                sequence: Sequence(0),
                request_length: 0,
                entry_length: 256,
                since,
            };
            let length = request.map_or(0, |request| request.len() as u64);
            if !self.make_room(new.cost() + length)? {
                return Ok(());
            }
            new.entry.has_request = false;
            self.put_request(&mut new, entry.id, request)?;
            self.write(None, new);
            while self.refused.len() as u64 > self.retention.keep_refused
                && let Some(oldest) = self.refused.pop_first()
            {
                if let Some(oldest) = self.get(oldest)? {
                    self.delete(&oldest);
                }
            }
            return Ok(());
        };
        let mut new = old.clone();
        new.entry.record_again(entry);
        if new.entry.state != old.entry.state {
            new.since = since;
        }
        if old.request_length == 0 {
            self.put_request(&mut new, entry.id, request)?;
        }
        self.write(Some(&old), new);
        Ok(())
    }
}
