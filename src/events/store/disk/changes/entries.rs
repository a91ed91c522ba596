//! The entries as of the current batch, and the indexes, totals and schedule that follow them.

use std::sync::Arc;

use super::EventChanges;
use crate::{
    events::{
        model::{EventId, EventState},
        store::disk::format::{RouteDigest, StoredEntry, event_id_key, state_key},
    },
    scheme::EventKey,
};

impl EventChanges {
    pub(super) fn find(
        &self,
        route: &Arc<str>,
        record: EventKey,
    ) -> fjall::Result<Option<StoredEntry>> {
        let digest = self.files.record_digest(route, record);
        let id = match self.records.get(&digest) {
            Some(changed) => *changed,
            None => self.files.find(digest)?,
        };
        id.map_or(Ok(None), |id| self.get(id))
    }

    pub(super) fn get(&self, id: EventId) -> fjall::Result<Option<StoredEntry>> {
        if let Some(changed) = self.changed.get(&id) {
            return Ok(changed.clone());
        }
        match self.in_flight.get(&id) {
            Some(in_flight) => Ok(Some(in_flight.stored.clone())),
            None => self.files.entry(id),
        }
    }

    /// Adds an entry to the batch and to the state in memory. `old` is the entry before.
    pub(super) fn write(&mut self, old: Option<&StoredEntry>, mut new: StoredEntry) -> StoredEntry {
        if let Some(at) = new.entry.next_attempt {
            new.since = at;
        }
        let (id, route, state) = (new.entry.id, Arc::clone(&new.entry.route), new.entry.state);
        let digest = self.digest(&route);
        let value = self.files.encode(&mut new);
        self.batch.insert(&self.files.entries, id.0.to_be_bytes(), value);
        match old {
            Some(old) => {
                if old.entry.state != state {
                    let key = state_key(old.entry.state, digest, id);
                    self.batch.remove(&self.files.states, key);
                }
                self.count_out(old);
            }
            None => {
                if let Some(record) = new.entry.record {
                    let record = self.files.record_digest(&route, record);
                    self.batch.insert(&self.files.records, record, id.0.to_be_bytes());
                    self.records.insert(record, Some(id));
                }
                if let Some(event_id) = &new.entry.event_id {
                    let key = event_id_key(self.files.event_id_digest(event_id), id);
                    self.batch.insert(&self.files.event_ids, key, []);
                }
            }
        }
        let value = self.files.state_value(&new);
        self.batch.insert(&self.files.states, state_key(state, digest, id), value);
        self.totals.bytes = self.totals.bytes.saturating_add(new.cost());
        match state {
            EventState::Pending | EventState::Delivering => {
                self.schedule.insert(&route, id, self.files.slot(&new));
            }
            EventState::Dead => self.schedule.count_dead(&route, 1),
            EventState::Delivered | EventState::Failed => self.eviction.added(),
            EventState::Refused => {
                self.refused.insert(id);
                self.eviction.added();
            }
        }
        if let Some(in_flight) = self.in_flight.get_mut(&id) {
            in_flight.stored = new.clone();
        }
        self.changed.insert(id, Some(new.clone()));
        self.touched.insert(route);
        new
    }

    pub(super) fn delete(&mut self, old: &StoredEntry) {
        let (entry, key) = (&old.entry, old.entry.id.0.to_be_bytes());
        let digest = self.digest(&entry.route);
        self.batch.remove(&self.files.entries, key);
        self.batch.remove(&self.files.states, state_key(entry.state, digest, entry.id));
        if old.request_length > 0 {
            self.batch.remove(&self.files.requests, key);
        }
        if let Some(event_id) = &entry.event_id {
            let key = event_id_key(self.files.event_id_digest(event_id), entry.id);
            self.batch.remove(&self.files.event_ids, key);
        }
        if let Some(record) = entry.record {
            self.remove_record(&entry.route, record);
        }
        self.count_out(old);
        self.removed += old.cost();
        self.changed.insert(entry.id, None);
        self.touched.insert(Arc::clone(&entry.route));
    }

    pub(super) fn remove_record(&mut self, route: &Arc<str>, record: EventKey) {
        let digest = self.files.record_digest(route, record);
        self.batch.remove(&self.files.records, digest);
        self.records.insert(digest, None);
    }

    /// Removes an entry from the schedule and the totals.
    fn count_out(&mut self, old: &StoredEntry) {
        let entry = &old.entry;
        match entry.state {
            EventState::Pending | EventState::Delivering => {
                self.schedule.remove(&entry.route, entry.id, self.files.slot(old));
            }
            EventState::Dead => self.schedule.count_dead(&entry.route, -1),
            EventState::Refused => {
                self.refused.remove(&entry.id);
            }
            EventState::Delivered | EventState::Failed => {}
        }
        self.totals.bytes = self.totals.bytes.saturating_sub(old.cost());
    }

    fn digest(&mut self, route: &Arc<str>) -> RouteDigest {
        if let Some(digest) = self.digests.get(route) {
            return *digest;
        }
        let digest = self.files.route(&mut self.batch, route);
        self.digests.insert(Arc::clone(route), digest);
        digest
    }
}
