//! The queue of the store `disk`: the newest state of each record that is not in the files yet.
//!
//! An event has one entry however often it changes, so the queue is never longer than the claim map
//! has records, plus as many removals.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::replay::{
    record::{EventKey, EventKeyHashers},
    store::disk::entry::Entry,
    sync::lock,
};

/// What happens when a record is in the files.
#[derive(Debug)]
pub(crate) enum OnWritten {
    /// Nothing.
    Nothing,
    /// A request that waits is notified.
    Notify(oneshot::Sender<()>),
    /// The claim map marks the record as stored.
    MarkStored,
}

/// The newest state of a record that is not in the files yet.
#[derive(Debug, Default)]
pub(super) struct PendingWrite {
    /// `None`: the record is to be removed.
    pub(super) entry: Option<Entry>,
    pub(super) mark_stored: bool,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

/// Records to be written.
pub(super) type PendingWrites = HashMap<EventKey, PendingWrite, EventKeyHashers>;

/// What the writer thread does next.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) batch: PendingWrites,
    /// Notified when the batch is in the files.
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// The thread ends after this.
    pub(super) stop: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct WriteQueue {
    work: Mutex<Work>,
    added: Condvar,
    /// Removals are dropped beyond this length. A record that is not removed expires by itself when
    /// the files are read.
    max_removals: usize,
}

impl WriteQueue {
    pub(crate) fn new(max_entries: usize) -> Self {
        WriteQueue { work: Mutex::default(), added: Condvar::new(), max_removals: max_entries }
    }

    /// Adds the newest state of a record.
    pub(crate) fn put(&self, key: EventKey, entry: Entry, on_written: OnWritten) {
        let mut work = lock(&self.work);
        let pending = work.batch.entry(key).or_default();
        pending.entry = Some(entry);
        match on_written {
            OnWritten::Nothing => {}
            OnWritten::Notify(sender) => pending.waiting.push(sender),
            OnWritten::MarkStored => pending.mark_stored = true,
        }
        self.notify(work);
    }

    /// Removes a record.
    pub(crate) fn forget(&self, key: EventKey) {
        let mut work = lock(&self.work);
        if work.batch.len() < self.max_removals || work.batch.contains_key(&key) {
            work.batch.insert(key, PendingWrite::default());
        }
        self.notify(work);
    }

    /// Asks for a notification when everything added before this is in the files.
    pub(super) fn flush(&self, flushed: oneshot::Sender<()>) {
        let mut work = lock(&self.work);
        work.flushes.push(flushed);
        self.notify(work);
    }

    /// Ends the thread when everything added before this is in the files, or cannot be written.
    pub(super) fn stop(&self) {
        let mut work = lock(&self.work);
        work.stop = true;
        self.notify(work);
    }

    fn notify(&self, work: MutexGuard<'_, Work>) {
        drop(work);
        self.added.notify_one();
    }

    /// Waits for work and takes it. After a failure, waits for `retry` first.
    pub(super) fn take(&self, retry: Option<Duration>) -> Work {
        let idle = |work: &mut Work| work.batch.is_empty() && work.flushes.is_empty() && !work.stop;
        let work = lock(&self.work);
        let poisoned = |poisoned: std::sync::PoisonError<_>| poisoned.into_inner();
        let mut work = match retry {
            None => self.added.wait_while(work, idle).unwrap_or_else(poisoned),
            Some(retry) => {
                let wait = self.added.wait_timeout_while(work, retry, |work| !work.stop);
                wait.unwrap_or_else(|poisoned| poisoned.into_inner()).0
            }
        };
        std::mem::take(&mut *work)
    }

    /// Puts work back that could not be done; what was added since is newer.
    pub(super) fn put_back(&self, work: Work) {
        let mut newer = lock(&self.work);
        for (key, older) in work.batch {
            match newer.batch.entry(key) {
                std::collections::hash_map::Entry::Vacant(vacant) => drop(vacant.insert(older)),
                std::collections::hash_map::Entry::Occupied(mut newer) => {
                    newer.get_mut().waiting.extend(older.waiting);
                    newer.get_mut().mark_stored |= older.mark_stored;
                }
            }
        }
        newer.flushes.extend(work.flushes);
        newer.stop |= work.stop;
    }

    /// Returns the number of records that are queued.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.work).batch.len()
    }
}
