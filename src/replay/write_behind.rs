//! The write-behind queue of a shared store: updates that it did not accept, and those that no
//! request waits for.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

use crate::replay::{
    claims::Claims,
    record::{Arrival, EventKey, Identities, LeaseToken, Record, State},
    store::{
        SharedStore,
        lease::{Attempt, STORE_TIMEOUT, Unreachable},
    },
    sync::lock,
};

/// The number of lease tokens kept for an event that is claimed again and again while the store is
/// unreachable; older leases expire by themselves.
const MAX_TOKENS: usize = 8;

/// The token of no lease.
const NO_LEASE: LeaseToken = LeaseToken([0; 16]);

/// The queue, with at most one update per event.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    pending: Mutex<BTreeMap<EventKey, PendingUpdate>>,
    /// The number of updates that are being written at the moment.
    writing: AtomicUsize,
    added: Notify,
}

/// What a shared store does not know yet about an event.
#[derive(Clone, Debug)]
pub(crate) struct PendingUpdate {
    pub(crate) arrival: Arrival,
    /// The tokens of the leases that may be held for it, newest first.
    pub(crate) tokens: Vec<LeaseToken>,
    pub(crate) attempt: Attempt,
    pub(crate) status: u16,
    /// Requests whose 2xx was written out, in addition to those on record here.
    pub(crate) answered: Identities,
}

impl WriteBehind {
    /// Waits until an update is added.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Adds an update, merged with an older one of the same event.
    pub(crate) fn push(&self, mut update: PendingUpdate) {
        let mut pending = lock(&self.pending);
        if let Some(older) = pending.remove(&update.arrival.key) {
            if update.tokens.is_empty() {
                update.status = older.status;
            }
            update.attempt = update.attempt.max(older.attempt);
            update.tokens.extend(older.tokens);
            update.tokens.truncate(MAX_TOKENS);
            older.answered.iter().for_each(|identity| {
                update.answered.insert(*identity);
            });
        }
        pending.insert(update.arrival.key, update);
        self.added.notify_one();
    }

    /// Returns whether no update is queued or being written.
    pub(crate) fn is_empty(&self) -> bool {
        self.writing.load(Ordering::Relaxed) == 0 && lock(&self.pending).is_empty()
    }

    /// Writes the first update, together with others if the store can note answered requests of
    /// many events in one call. Returns `None` if none is queued.
    pub(crate) async fn write_next(
        &self,
        store: &SharedStore,
        claims: &Claims,
    ) -> Option<Result<(), Unreachable>> {
        let (updates, most) = {
            let mut pending = lock(&self.pending);
            let (_, first) = pending.pop_first()?;
            let most = if first.only_answers() { store.answered_together() } else { 1 };
            let others = pending.values().filter(|update| update.only_answers());
            let others: Vec<_> = others.take(most - 1).map(|update| update.arrival.key).collect();
            let others = others.iter().filter_map(|key| pending.remove(key));
            let updates: Vec<_> = std::iter::once(first).chain(others).collect();
            self.writing.fetch_add(1, Ordering::Relaxed);
            (updates, most)
        };
        let mut written = Ok(());
        let noted = match most {
            1 => HashSet::new(),
            _ => note_answered(store, claims, &updates).await.unwrap_or_default(),
        };
        for update in updates {
            let key = update.arrival.key;
            if noted.contains(&key) {
                continue;
            }
            // After an error, the others would only wait for theirs.
            if written.is_ok() {
                written = write(store, claims, &update).await;
                if written.is_ok() {
                    continue;
                }
            }
            // Updates that were added meanwhile are newer.
            let newer = lock(&self.pending).remove(&key);
            self.push(update);
            newer.into_iter().for_each(|newer| self.push(newer));
        }
        self.writing.fetch_sub(1, Ordering::Relaxed);
        Some(written)
    }
}

impl PendingUpdate {
    /// Returns whether the update only adds answered requests.
    fn only_answers(&self) -> bool {
        self.tokens.is_empty() && self.attempt == Attempt::None
    }

    /// Returns the answered requests of the update and of the record.
    fn answered_with(&self, record: Option<Record>) -> Identities {
        let mut known = record.map(|record| record.answered).unwrap_or_default();
        self.answered.iter().for_each(|identity| {
            known.insert(*identity);
        });
        known
    }
}

/// Adds answered requests to the records of done events in one call; returns the events that are
/// done in the store.
async fn note_answered(
    store: &SharedStore,
    claims: &Claims,
    updates: &[PendingUpdate],
) -> Result<HashSet<EventKey>, Unreachable> {
    let answered = updates.iter().map(|update| {
        let key = update.arrival.key;
        (key, update.answered_with(claims.record(&key).filter(Record::is_done)))
    });
    let answered: Vec<_> = answered.collect();
    store.answered(&answered, Instant::now() + STORE_TIMEOUT).await
}

async fn write(
    store: &SharedStore,
    claims: &Claims,
    update: &PendingUpdate,
) -> Result<(), Unreachable> {
    let until = Instant::now() + STORE_TIMEOUT;
    let PendingUpdate { arrival, tokens, attempt, status, answered } = update;
    let newest = tokens.first().copied().unwrap_or(NO_LEASE);
    if let Some(record) = claims.record(&arrival.key)
        && let State::Done { status } = record.state
    {
        let known = update.answered_with(Some(record));
        store.done(arrival, newest, status, Some(&known), until).await?;
        claims.mark_stored(&arrival.key);
    } else if *answered != Identities::default() {
        // Another process forwarded the event.
        store.done(arrival, newest, *status, Some(answered), until).await?;
    } else {
        // Without an attempt, the copies that wait make one.
        let status = if *attempt == Attempt::None { 0 } else { *status };
        for token in tokens {
            store.failed(arrival, *token, *attempt, status, until).await?;
        }
        claims.mark_stored(&arrival.key);
    }
    Ok(())
}
