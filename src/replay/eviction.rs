//! Capacity of the claim map: which records leave it, and when.

use super::{
    claims::Claims,
    expiry::{Due, Lifetime, Queued},
    sync::Ordering,
};
use crate::replay::{
    clock::{Millis, millis},
    record::{EventKey, Record, State, Terms},
    store::disk::queue::DiskOp,
};

impl Claims {
    /// Adds a record that a store kept over a restart, even beyond `max_entries`: nothing that is
    /// known is forgotten. The caller enqueues it.
    pub(crate) fn restore(
        &self,
        key: EventKey,
        record: Record,
        terms: Terms,
    ) -> (Lifetime, Queued) {
        self.used.fetch_add(1, Ordering::Relaxed);
        match record.state {
            State::Done { .. } => self.metrics.done.inc(),
            State::Failed { .. } => self.metrics.failed.inc(),
        }
        let queued = (self.lifetime(&record, terms), Queued { key, at: record.touched });
        self.records.insert(key, record);
        queued
    }

    /// Enqueues restored records.
    pub(crate) fn enqueue_restored(&self, mut restored: Vec<(Lifetime, Queued)>) {
        restored.sort_unstable_by_key(|(_, entry)| entry.at);
        for (lifetime, entry) in restored {
            self.enqueue(lifetime, entry);
        }
    }

    /// Returns how long a record protects its event, and how long it lives.
    pub(super) fn lifetime(&self, record: &Record, terms: Terms) -> Lifetime {
        let lives = millis(terms.ttl);
        let protects = match record.state {
            State::Done { .. } | State::Failed { .. } if self.evict_any => 0,
            State::Done { .. } => {
                terms.window.map_or(lives, |window| millis(window).saturating_mul(2).min(lives))
            }
            State::Failed { .. } => lives,
        };
        Lifetime { protects, lives }
    }

    /// Adds a record to its queue.
    pub(super) fn enqueue(&self, lifetime: Lifetime, entry: Queued) {
        if let Some(expired) = self.expiry.push(lifetime, entry) {
            self.remove_if_due(&expired, Due::Expired, entry.at);
        }
    }

    /// Takes a slot for one more event; returns `false` if there is none.
    pub(super) fn reserve(&self) -> bool {
        let next = |used| (used < self.max_entries).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Gives a slot back.
    pub(super) fn release_slot(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Removes a record; the caller holds the lock of its shard.
    pub(super) fn remove(&self, key: &EventKey, record: &Record) {
        self.records.invalidate(key);
        if let Some(disk) = &self.disk {
            // An error means that the writer thread is gone and the process about to end.
            let _ = disk.send(DiskOp::Forget(*key));
        }
        match record.state {
            State::Done { .. } => self.metrics.done.dec(),
            State::Failed { .. } => self.metrics.failed.dec(),
        }
        self.release_slot();
    }

    /// Evicts one record that no longer protects its event; returns `false` if there is none.
    pub(super) fn evict_one(&self, now: Millis) -> bool {
        while let Some((lifetime, entry)) = self.expiry.take(Due::Evictable, now) {
            match self.remove_if_due(&entry, Due::Evictable, now) {
                Removal::Removed => return true,
                Removal::Superseded => {}
                Removal::Needed => {
                    self.expiry.put_back(lifetime, entry);
                    return false;
                }
            }
        }
        false
    }

    fn remove_if_due(&self, entry: &Queued, due: Due, now: Millis) -> Removal {
        let shard = self.shard(&entry.key);
        if shard.contains_key(&entry.key) {
            return Removal::Superseded;
        }
        let Some(record) = self.records.get(&entry.key) else { return Removal::Superseded };
        if record.is_live(now) {
            if record.touched != entry.at {
                return Removal::Superseded;
            }
            if due == Due::Expired || record.behind {
                return Removal::Needed;
            }
        }
        self.remove(&entry.key, &record);
        Removal::Removed
    }

    /// Removes all expired records, and the queue entries that no record uses any more.
    pub(crate) fn remove_expired(&self, now: Millis) {
        while let Some((_, entry)) = self.expiry.take(Due::Expired, now) {
            self.remove_if_due(&entry, Due::Expired, now);
        }
        if self.expiry.len() > 2 * self.used() + 4096 {
            self.expiry.compact(|entry| {
                self.records.get(&entry.key).is_some_and(|record| record.touched == entry.at)
            });
        }
        self.records.run_pending_tasks();
    }
}

/// Whether a record was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    Removed,
    /// The record is gone already, or a later entry stands for it.
    Superseded,
    Needed,
}
