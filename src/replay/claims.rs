//! The claim map: what this process knows about events, and which of them it forwards now.
//!
//! Records of events that are not in flight are in moka, without a capacity: a cache that evicts as
//! it likes would forget an event whose sender is about to retry. What leaves is decided here, by
//! the lifetimes of the records. Claims are in 64 locked maps and never expire. Every change to what
//! is known about an event happens under the lock of its map, so exactly one of any number of
//! simultaneous copies finds the event free.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, mpsc},
};

use moka::sync::Cache;

use super::{
    expiry::{ExpiryQueues, Lifetime, Queued},
    in_flight::{ActiveClaim, ClaimEnd, ClaimState, Found, Shard, take},
    sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, lock},
};
use crate::{
    metrics::ReplayMetrics,
    reject::{Reason, Reject},
    replay::{
        clock::Millis,
        record::{Arrival, EventKey, EventKeyHashers, LeaseToken, Record, RequestIdentity, State},
        store::{disk::queue::DiskOp, lease::Lease},
    },
    response::SanitizedResponse,
};

const SHARDS: usize = 64;

/// All that this process knows about events.
pub(crate) struct Claims {
    pub(super) records: Cache<EventKey, Record, EventKeyHashers>,
    pub(super) shards: Box<[Mutex<Shard>]>,
    pub(super) expiry: ExpiryQueues,
    /// Events on record or in flight.
    pub(super) used: AtomicUsize,
    pub(super) tickets: AtomicU64,
    pub(super) max_entries: usize,
    /// A shared store has every record, so any of them may be evicted.
    pub(super) evict_any: bool,
    /// The writer thread of the store `disk`, which forgets what is forgotten here.
    pub(super) disk: Option<mpsc::Sender<DiskOp>>,
    pub(super) metrics: ReplayMetrics,
}

impl Claims {
    pub(crate) fn new(
        max_entries: usize,
        evict_any: bool,
        disk: Option<mpsc::Sender<DiskOp>>,
        metrics: ReplayMetrics,
    ) -> Self {
        metrics.capacity.set(i64::try_from(max_entries).unwrap_or(i64::MAX));
        Claims {
            records: Cache::builder().build_with_hasher(EventKeyHashers::default()),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            expiry: ExpiryQueues::default(),
            used: AtomicUsize::new(0),
            tickets: AtomicU64::new(1),
            max_entries,
            evict_any,
            disk,
            metrics,
        }
    }

    /// Returns the number of events on record or in flight.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the largest number of events on record or in flight.
    pub(crate) fn max_entries(&self) -> usize {
        self.max_entries
    }

    /// Returns the number of entries in the expiry queues, outdated ones included.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.expiry.len()
    }

    pub(super) fn shard(&self, key: &EventKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(key.0[0]) % SHARDS])
    }

    /// Claims the event if it is free. With `shared`, the claim is only requested until
    /// [`Claims::confirm`] or [`Claims::withdraw`], and the shared store decides whether a stale
    /// request has a record.
    ///
    /// # Errors
    /// [`Reason::ContextMismatch`], [`Reason::Stale`] or [`Reject::GuardFull`].
    pub(crate) fn claim(
        &self,
        arrival: &Arrival,
        shared: bool,
        now: Millis,
    ) -> Result<Found, Reject> {
        loop {
            if let Some(found) = self.try_claim(arrival, shared, now)? {
                return Ok(found);
            }
            if !self.evict_one(now) {
                return Err(Reject::GuardFull);
            }
        }
    }

    /// Returns `None` where the guard is full.
    fn try_claim(
        &self,
        arrival: &Arrival,
        shared: bool,
        now: Millis,
    ) -> Result<Option<Found>, Reject> {
        let mut touched = None;
        let found = {
            let mut shard = self.shard(&arrival.key);
            match shard.entry(arrival.key) {
                Entry::Occupied(mut claim) => {
                    let claim = claim.get_mut();
                    if claim.requested {
                        Found::Requested(claim.join())
                    } else if claim.pin == arrival.pin {
                        Found::InFlight(claim.join())
                    } else {
                        return Err(Reason::ContextMismatch.into());
                    }
                }
                Entry::Vacant(vacant) => {
                    let record = self.records.get(&arrival.key).filter(|record| {
                        let live = record.is_live(now);
                        if !live {
                            self.remove(&arrival.key, record);
                        }
                        live
                    });
                    let done = record.as_ref().is_some_and(Record::is_done);
                    let mismatch = record.as_ref().is_some_and(|record| record.pin != arrival.pin);
                    let behind = record.as_ref().is_some_and(|record| record.behind);
                    if mismatch && (done || behind || !shared) {
                        return Err(Reason::ContextMismatch.into());
                    }
                    match record {
                        Some(record) if done => {
                            let answered =
                                arrival.identity.is_some_and(|id| record.answered.contains(&id));
                            touched = self.touch(arrival, record, now);
                            Found::Done { answered }
                        }
                        record => {
                            if record.is_none() && arrival.stale && !shared {
                                return Err(Reason::Stale.into());
                            }
                            if record.is_some() {
                                self.records.invalidate(&arrival.key);
                                self.metrics.failed.dec();
                            } else if !self.reserve() {
                                return Ok(None);
                            }
                            self.metrics.in_flight.inc();
                            let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
                            let known = record.is_some();
                            let unknown = record.as_ref().is_some_and(|record| {
                                record.state == State::Failed { unknown: true }
                            });
                            vacant.insert(ActiveClaim {
                                ticket,
                                pin: arrival.pin,
                                requested: shared,
                                lease: None,
                                before: record,
                                waiters: None,
                            });
                            Found::Free { ticket, unknown, known, mismatch }
                        }
                    }
                }
            }
        };
        if let Some(lifetime) = touched {
            self.enqueue(lifetime, Queued { key: arrival.key, at: now });
        }
        Ok(Some(found))
    }

    /// Extends the protection of a done event to copies of this fresh one.
    fn touch(&self, arrival: &Arrival, mut record: Record, now: Millis) -> Option<Lifetime> {
        if arrival.stale || arrival.terms.window.is_none() || record.touched >= now {
            return None;
        }
        record.touched = now;
        let lifetime = self.lifetime(&record, arrival.terms);
        self.records.insert(arrival.key, record);
        Some(lifetime)
    }

    /// Turns a requested claim into a held one.
    pub(crate) fn confirm(&self, key: &EventKey, ticket: u64, lease: Option<LeaseToken>) {
        if let Some(claim) = self.shard(key).get_mut(key).filter(|claim| claim.ticket == ticket) {
            claim.requested = false;
            claim.lease = lease;
            claim.notify(|| ClaimState::Held);
        }
    }

    /// Gives a requested claim back; the event is as it was before.
    pub(crate) fn withdraw(&self, arrival: &Arrival, ticket: u64, reason: Option<Reject>) {
        let key = arrival.key;
        let queued = {
            let mut shard = self.shard(&key);
            let Some(mut claim) = take(&mut shard, &key, ticket) else { return };
            self.metrics.in_flight.dec();
            let queued = claim.before.take().map(|before| {
                let entry = Queued { key, at: before.touched };
                let lifetime = self.lifetime(&before, arrival.terms);
                self.metrics.failed.inc();
                self.records.insert(key, before);
                (lifetime, entry)
            });
            if queued.is_none() {
                self.release_slot();
            }
            claim.notify(|| ClaimState::Withdrawn(reason));
            queued
        };
        // While the event was in flight, its queue entry may have been dropped.
        if let Some((lifetime, entry)) = queued {
            self.enqueue(lifetime, entry);
        }
    }

    /// Ends a claim: writes the record, removes the claim, then notifies the copies that wait.
    pub(crate) fn end(
        &self,
        arrival: &Arrival,
        ticket: u64,
        end: ClaimEnd,
        outcome: impl FnOnce() -> Result<SanitizedResponse, Reject>,
        now: Millis,
    ) {
        let lifetime = {
            let mut shard = self.shard(&arrival.key);
            let Some(claim) = shard.get(&arrival.key).filter(|claim| claim.ticket == ticket) else {
                return;
            };
            let record = match end {
                ClaimEnd::Done { status, behind, answered, lasts } => {
                    self.metrics.done.inc();
                    let record = Record::new(State::Done { status }, arrival, now);
                    Record { answered, behind, expires: now.saturating_add(lasts), ..record }
                }
                ClaimEnd::Failed { unknown, behind } => {
                    self.metrics.failed.inc();
                    let before = claim.before.as_ref().map(|record| record.state);
                    let unknown = unknown || before == Some(State::Failed { unknown: true });
                    Record { behind, ..Record::new(State::Failed { unknown }, arrival, now) }
                }
            };
            let lifetime = self.lifetime(&record, arrival.terms);
            self.records.insert(arrival.key, record);
            if let Some(claim) = take(&mut shard, &arrival.key, ticket) {
                self.metrics.in_flight.dec();
                claim.notify(|| ClaimState::Settled(Arc::new(outcome())));
            }
            lifetime
        };
        self.enqueue(lifetime, Queued { key: arrival.key, at: now });
    }

    /// Returns the leases of all claims.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let mut leases = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            leases.extend(
                shard
                    .iter()
                    .filter_map(|(key, claim)| Some(Lease { key: *key, token: claim.lease? })),
            );
        }
        leases
    }

    /// Notes that the 2xx was written out for a request; returns the record if that is new.
    pub(crate) fn mark_answered(
        &self,
        key: &EventKey,
        identity: RequestIdentity,
    ) -> Option<Record> {
        let _shard = self.shard(key);
        let mut record = self.records.get(key)?;
        record.answered.insert(identity).then(|| {
            self.records.insert(*key, record.clone());
            record
        })
    }

    /// Notes that the store has the record now.
    pub(crate) fn mark_stored(&self, key: &EventKey) {
        let mut shard = self.shard(key);
        if let Some(claim) = shard.get_mut(key) {
            // It is the record again if the claim is withdrawn.
            claim.before.iter_mut().for_each(|record| record.behind = false);
        } else if let Some(mut record) = self.records.get(key)
            && record.behind
        {
            record.behind = false;
            self.records.insert(*key, record);
        }
    }

    /// Returns the record of an event that is not in flight.
    pub(crate) fn record(&self, key: &EventKey) -> Option<Record> {
        self.records.get(key)
    }
}
