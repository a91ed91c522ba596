//! Capacity of the claim map: which records leave it, and when.

use super::{
    claims::Claims,
    expiry::{Due, Lifetime, Queue, Queued},
};
use crate::replay::{
    clock::{Millis, millis},
    record::{Arrival, EventKey, Record, State, Terms},
};

/// How many records that wait in the write-behind queue are passed over when one is to be evicted.
const MAX_NEEDED: usize = 64;

impl Claims {
    /// Adds a record that a store kept over a restart, even beyond `max_entries`: nothing that is
    /// known is forgotten. The caller enqueues it.
    pub(crate) fn restore(&self, key: EventKey, record: Record, ttl: Millis) -> (Queue, Queued) {
        self.shares.restore(record.share);
        match record.state {
            State::Done { .. } => self.metrics.done.inc(),
            State::Failed { .. } => self.metrics.failed.inc(),
        }
        let queued = (queue_of(&record, ttl), Queued { key, at: record.touched });
        self.records.insert(key, record);
        queued
    }

    /// Enqueues restored records.
    pub(crate) fn enqueue_restored(&self, mut restored: Vec<(Queue, Queued)>) {
        restored.sort_unstable_by_key(|(_, entry)| entry.at);
        for (queue, entry) in restored {
            self.enqueue(queue, entry);
        }
    }

    /// Adds a record to the queue in which it waits to expire.
    pub(super) fn enqueue_record(&self, key: EventKey, record: &Record, terms: Terms) {
        let entry = Queued { key, at: record.touched };
        self.enqueue(queue_of(record, millis(terms.ttl)), entry);
    }

    fn enqueue(&self, queue: Queue, entry: Queued) {
        if let Some(expired) = self.expiry.push(queue, entry) {
            self.remove_if_due(&queue, &expired, Due::Expired, entry.at);
        }
    }

    /// Removes a record; the caller holds the lock of its shard.
    pub(super) fn remove(&self, key: &EventKey, record: &Record) {
        self.records.invalidate(key);
        if let Some(disk) = &self.disk {
            disk.forget(*key);
        }
        match record.state {
            State::Done { .. } => self.metrics.done.dec(),
            State::Failed { .. } => self.metrics.failed.dec(),
        }
        self.shares.release(record.share);
    }

    /// Evicts one record that no longer protects its event, so that there is capacity for
    /// `arrival`; returns `false` if there is no such record.
    pub(super) fn evict_one(&self, arrival: &Arrival, now: Millis) -> bool {
        let frees =
            |queue: &Queue| self.shares.frees(queue.share, arrival.share, arrival.terms.route);
        let mut needed = Vec::new();
        let mut removed = false;
        while !removed
            && needed.len() < MAX_NEEDED
            && let Some((queue, entry)) = self.expiry.take_evictable(now, frees)
        {
            match self.remove_if_due(&queue, &entry, Due::Evictable, now) {
                Removal::Removed => removed = true,
                Removal::Superseded => {}
                Removal::Needed => needed.push((queue, entry)),
            }
        }
        // Last taken, first put back: that keeps their order.
        needed.into_iter().rev().for_each(|(queue, entry)| self.expiry.put_back(queue, entry));
        removed
    }

    fn remove_if_due(&self, queue: &Queue, entry: &Queued, due: Due, now: Millis) -> Removal {
        let shard = self.shard(&entry.key);
        if shard.contains_key(&entry.key) {
            return Removal::Superseded;
        }
        let Some(record) = self.records.get(&entry.key) else { return Removal::Superseded };
        if record.is_live(now) {
            if !is_current(&record, queue, entry) {
                return Removal::Superseded;
            }
            if due == Due::Expired || record.behind {
                return Removal::Needed;
            }
        }
        self.remove(&entry.key, &record);
        Removal::Removed
    }

    /// Removes all expired records.
    pub(crate) fn remove_expired(&self, now: Millis) {
        loop {
            let expired = self.expiry.take_expired(now);
            if expired.is_empty() {
                return;
            }
            for (queue, entry) in expired {
                self.remove_if_due(&queue, &entry, Due::Expired, now);
            }
        }
    }

    /// Drops queue entries that no record uses any more, and releases memory. Takes long with many
    /// records, so it must not run on a thread that serves requests.
    pub(crate) fn compact(&self) {
        if self.expiry.len() > 2 * self.used() + 4096 {
            self.expiry.compact(|queue, entry| {
                let record = self.records.get(&entry.key);
                record.is_some_and(|record| is_current(&record, queue, entry))
            });
        }
        self.records.run_pending_tasks();
    }
}

/// Returns the queue of a record that lives for `ttl`.
fn queue_of(record: &Record, ttl: Millis) -> Queue {
    let lifetime = Lifetime { protects: record.protects, lives: ttl };
    Queue { share: record.share, lifetime }
}

/// Returns whether the record has not entered a queue again since `entry`.
fn is_current(record: &Record, queue: &Queue, entry: &Queued) -> bool {
    record.touched == entry.at && record.protects == queue.lifetime.protects
}

/// Whether a record was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    Removed,
    /// The record is gone already, or has a later entry.
    Superseded,
    Needed,
}
