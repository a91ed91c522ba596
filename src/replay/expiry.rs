//! The order in which records expire and may be evicted.
//!
//! Records with the same share and lifetime wait in one queue, oldest first, so only the head of
//! each queue has to be examined. Protection times are rounded up, so there are few queues for each
//! share. A record that is touched again enters a queue once more; its older entry is recognized by
//! its time and skipped.

use std::collections::{HashMap, VecDeque};

use super::sync::{Mutex, lock};
use crate::replay::{
    clock::Millis,
    record::{EventKey, ShareId},
};

/// The number of expired entries that are taken under one lock.
const CHUNK: usize = 1024;

/// An entry of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) key: EventKey,
    /// When the record was touched.
    pub(crate) at: Millis,
}

/// The lifetime of a record, in milliseconds since it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lifetime {
    /// For how long the record must not be evicted.
    pub(crate) protects: Millis,
    /// After how long it expires.
    pub(crate) lives: Millis,
}

/// Identifies a queue: what its records have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    pub(crate) share: ShareId,
    pub(crate) lifetime: Lifetime,
}

impl Queue {
    fn take_due(&self, entries: &mut VecDeque<Queued>, due: Due, now: Millis) -> Option<Queued> {
        let at = entries.front()?.at;
        let expired = at.saturating_add(self.lifetime.lives) <= now;
        let evictable = due == Due::Evictable && at.saturating_add(self.lifetime.protects) < now;
        if expired || evictable { entries.pop_front() } else { None }
    }
}

/// The records that are searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Expired ones.
    Expired,
    /// Expired ones and those that may be evicted.
    Evictable,
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct ExpiryQueues(Mutex<HashMap<Queue, VecDeque<Queued>>>);

impl ExpiryQueues {
    /// Adds a record to its queue, and takes one expired entry from the head of that queue.
    pub(crate) fn push(&self, queue: Queue, entry: Queued) -> Option<Queued> {
        let mut queues = lock(&self.0);
        let entries = queues.entry(queue).or_default();
        entries.push_back(entry);
        queue.take_due(entries, Due::Expired, entry.at)
    }

    /// Takes some of the expired entries; none if there are no more.
    pub(crate) fn take_expired(&self, now: Millis) -> Vec<(Queue, Queued)> {
        let mut expired = Vec::new();
        lock(&self.0).retain(|queue, entries| {
            while expired.len() < CHUNK
                && let Some(entry) = queue.take_due(entries, Due::Expired, now)
            {
                expired.push((*queue, entry));
            }
            !entries.is_empty()
        });
        expired
    }

    /// Takes one entry that is expired or may be evicted, of a queue that is `wanted`.
    pub(crate) fn take_evictable(
        &self,
        now: Millis,
        wanted: impl Fn(&Queue) -> bool,
    ) -> Option<(Queue, Queued)> {
        lock(&self.0).iter_mut().find_map(|(queue, entries)| {
            let entry = queue.take_due(entries, Due::Evictable, now)?;
            if wanted(queue) {
                return Some((*queue, entry));
            }
            entries.push_front(entry);
            None
        })
    }

    /// Puts an entry back at the head of its queue.
    pub(crate) fn put_back(&self, queue: Queue, entry: Queued) {
        lock(&self.0).entry(queue).or_default().push_front(entry);
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).values().map(VecDeque::len).sum()
    }

    /// Drops the entries that are not current. The queues are not locked meanwhile.
    pub(crate) fn compact(&self, is_current: impl Fn(&Queue, &Queued) -> bool) {
        let taken = std::mem::take(&mut *lock(&self.0));
        for (queue, mut entries) in taken {
            entries.retain(|entry| is_current(&queue, entry));
            entries.shrink_to_fit();
            let mut queues = lock(&self.0);
            let added = queues.entry(queue).or_default();
            entries.append(added);
            *added = entries;
        }
    }
}
