//! The order in which records expire and may be evicted.
//!
//! Records with the same lifetime wait in one queue, oldest first, so only the head of each queue
//! has to be examined. There are as many queues as different lifetimes in the configuration. A
//! record that is touched again enters its queue once more; its older entry is recognized by its
//! time and skipped.

use std::collections::VecDeque;

use super::sync::{Mutex, lock};
use crate::replay::{clock::Millis, record::EventKey};

/// An entry of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) key: EventKey,
    /// When the record was touched.
    pub(crate) at: Millis,
}

/// The lifetime that the records of a queue share, in milliseconds since they were touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// For how long the record must not be evicted.
    pub(crate) protects: Millis,
    /// After how long it expires.
    pub(crate) lives: Millis,
}

/// The records that are searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Expired ones.
    Expired,
    /// Expired ones and those that may be evicted.
    Evictable,
}

#[derive(Debug)]
struct ExpiryQueue {
    lifetime: Lifetime,
    entries: VecDeque<Queued>,
}

impl ExpiryQueue {
    fn take_due(&mut self, due: Due, now: Millis) -> Option<Queued> {
        let at = self.entries.front()?.at;
        let expired = at.saturating_add(self.lifetime.lives) <= now;
        let evictable = due == Due::Evictable && at.saturating_add(self.lifetime.protects) < now;
        if expired || evictable { self.entries.pop_front() } else { None }
    }
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct ExpiryQueues(Mutex<Vec<ExpiryQueue>>);

impl ExpiryQueues {
    /// Adds a record to its queue, and takes one expired entry from the head of that queue.
    pub(crate) fn push(&self, lifetime: Lifetime, entry: Queued) -> Option<Queued> {
        let mut queues = lock(&self.0);
        let index = match queues.iter().position(|queue| queue.lifetime == lifetime) {
            Some(index) => index,
            None => {
                queues.retain(|queue| !queue.entries.is_empty());
                queues.push(ExpiryQueue { lifetime, entries: VecDeque::new() });
                queues.len() - 1
            }
        };
        let queue = &mut queues[index];
        queue.entries.push_back(entry);
        queue.take_due(Due::Expired, entry.at)
    }

    /// Takes one entry that is due.
    pub(crate) fn take(&self, due: Due, now: Millis) -> Option<(Lifetime, Queued)> {
        lock(&self.0)
            .iter_mut()
            .find_map(|queue| queue.take_due(due, now).map(|entry| (queue.lifetime, entry)))
    }

    /// Puts an entry back at the head of its queue.
    pub(crate) fn put_back(&self, lifetime: Lifetime, entry: Queued) {
        let mut queues = lock(&self.0);
        match queues.iter_mut().find(|queue| queue.lifetime == lifetime) {
            Some(queue) => queue.entries.push_front(entry),
            None => queues.push(ExpiryQueue { lifetime, entries: VecDeque::from([entry]) }),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).iter().map(|queue| queue.entries.len()).sum()
    }

    /// Drops the entries that are not current. The queues are not locked meanwhile.
    pub(crate) fn compact(&self, is_current: impl Fn(&Queued) -> bool) {
        let taken: Vec<_> = lock(&self.0)
            .iter_mut()
            .map(|queue| (queue.lifetime, std::mem::take(&mut queue.entries)))
            .collect();
        for (lifetime, mut entries) in taken {
            entries.retain(&is_current);
            entries.shrink_to_fit();
            let mut queues = lock(&self.0);
            match queues.iter_mut().find(|queue| queue.lifetime == lifetime) {
                Some(queue) => {
                    entries.append(&mut queue.entries);
                    queue.entries = entries;
                }
                None => queues.push(ExpiryQueue { lifetime, entries }),
            }
        }
    }
}
