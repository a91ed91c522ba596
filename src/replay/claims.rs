//! The claim map: what this process knows about events, and which of them it forwards now.
//!
//! Records of events that are not in flight are in moka, without a capacity: a cache that evicts as
//! it likes would forget an event whose sender is about to retry. Removal is decided here, by the
//! lifetimes of the records. Claims are in 64 locked maps and never expire. Every change to what is
//! known about an event happens under the lock of its map, so exactly one of any number of
//! simultaneous copies finds the event free.

use std::{collections::hash_map::Entry, sync::Arc};

use moka::sync::Cache;
use prometheus::IntGauge;
use tokio::sync::watch;

use super::{
    expiry::ExpiryQueues,
    in_flight::{ActiveClaim, ClaimEnd, ClaimShard, ClaimState, Found, HeldLease, take},
    shares::{RouteKeys, Shares},
    sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock},
};
use crate::{
    metrics::ReplayMetrics,
    reject::{Reason, Reject},
    replay::{
        clock::Millis,
        record::{Arrival, EventKey, EventKeyHashers, LeaseToken, Record, RequestIdentity, State},
        store::{
            disk::queue::WriteQueue,
            lease::{Lease, RENEWAL},
        },
    },
    response::SanitizedResponse,
};

const SHARDS: usize = 64;

/// All that this process knows about events.
pub(crate) struct Claims {
    pub(super) records: Cache<EventKey, Record, EventKeyHashers>,
    pub(super) shards: Box<[Mutex<ClaimShard>]>,
    pub(super) expiry: ExpiryQueues,
    pub(super) shares: Shares,
    tickets: AtomicU64,
    /// A shared store has every record, so any of them may be evicted.
    pub(super) evict_any: bool,
    /// The queue of the store `disk`, which removes the records that are removed here.
    pub(super) disk: Option<Arc<WriteQueue>>,
    pub(super) metrics: ReplayMetrics,
}

impl Claims {
    pub(crate) fn new(
        max_entries: usize,
        evict_any: bool,
        disk: Option<Arc<WriteQueue>>,
        metrics: ReplayMetrics,
    ) -> Self {
        metrics.capacity.set(i64::try_from(max_entries).unwrap_or(i64::MAX));
        Claims {
            records: Cache::builder().build_with_hasher(EventKeyHashers::default()),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            expiry: ExpiryQueues::default(),
            shares: Shares::new(max_entries),
            tickets: AtomicU64::new(1),
            evict_any,
            disk,
            metrics,
        }
    }

    /// Returns the number of events on record or in flight.
    pub(crate) fn used(&self) -> usize {
        self.shares.used()
    }

    /// Returns the largest number of events on record or in flight.
    pub(crate) fn max_entries(&self) -> usize {
        self.shares.max_entries()
    }

    /// Divides the capacity among routes and their keys.
    pub(crate) fn assign_shares(&self, routes: &[RouteKeys]) {
        self.shares.assign(routes);
    }

    /// Returns the number of entries in the expiry queues, outdated ones included.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.expiry.len()
    }

    pub(super) fn shard(&self, key: &EventKey) -> MutexGuard<'_, ClaimShard> {
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
            if !self.evict_one(arrival, now) {
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
                        Some(record)
                            if answered(&record, arrival)
                                || (done && !arrival.terms.forwards_repeats) =>
                        {
                            let answered = answered(&record, arrival);
                            touched = self.touch(arrival, record, now);
                            Found::Done { answered }
                        }
                        record => {
                            if record.is_none() && arrival.stale && !shared {
                                return Err(Reason::Stale.into());
                            }
                            let share = match &record {
                                Some(record) => {
                                    self.records.invalidate(&arrival.key);
                                    self.gauge(record).dec();
                                    record.share
                                }
                                None => {
                                    let route = arrival.terms.route;
                                    match self.shares.acquire(arrival.share, route) {
                                        Some(share) => share,
                                        None => return Ok(None),
                                    }
                                }
                            };
                            self.metrics.in_flight.inc();
                            let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
                            let known = record.is_some();
                            let unknown = record.as_ref().is_some_and(|record| {
                                record.state != State::Failed { unknown: false }
                            });
                            vacant.insert(ActiveClaim {
                                ticket,
                                pin: arrival.pin,
                                requested: shared,
                                share,
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
        if let Some(record) = touched {
            self.enqueue_record(arrival.key, &record, arrival.terms);
        }
        Ok(Some(found))
    }

    fn gauge(&self, record: &Record) -> &IntGauge {
        if record.is_done() { &self.metrics.done } else { &self.metrics.failed }
    }

    /// Extends the protection of a done event to copies of this fresh one; returns the record if
    /// that made a difference.
    fn touch(&self, arrival: &Arrival, mut record: Record, now: Millis) -> Option<Record> {
        let fresh_until = now.saturating_add(arrival.fresh_for?);
        let protected_until = record.touched.saturating_add(record.protects);
        if arrival.stale || self.evict_any || fresh_until <= protected_until {
            return None;
        }
        record.touched = now;
        record.protects = arrival.protection();
        self.records.insert(arrival.key, record.clone());
        Some(record)
    }

    /// Turns a requested claim into a held one, whose lease started at `since` at the earliest.
    pub(crate) fn confirm(&self, key: &EventKey, ticket: u64, lease: LeaseToken, since: Millis) {
        if let Some(claim) = self.shard(key).get_mut(key).filter(|claim| claim.ticket == ticket) {
            claim.requested = false;
            claim.lease = Some(HeldLease { token: lease, renewed: since });
            claim.notify(|| ClaimState::Held);
        }
    }

    /// Turns a requested claim into a held one of an event that is done in the shared store.
    pub(crate) fn confirm_without_lease(&self, key: &EventKey, ticket: u64) {
        if let Some(claim) = self.shard(key).get_mut(key).filter(|claim| claim.ticket == ticket) {
            claim.requested = false;
            claim.notify(|| ClaimState::Held);
        }
    }

    /// Gives a requested claim back; the event is as it was before.
    pub(crate) fn withdraw(&self, arrival: &Arrival, ticket: u64, reason: Option<Reject>) {
        let key = arrival.key;
        let before = {
            let mut shard = self.shard(&key);
            let Some(mut claim) = take(&mut shard, &key, ticket) else { return };
            self.metrics.in_flight.dec();
            match &claim.before {
                Some(before) => {
                    self.gauge(before).inc();
                    self.records.insert(key, before.clone());
                }
                None => self.shares.release(claim.share),
            }
            claim.notify(|| ClaimState::Withdrawn(reason));
            claim.before.take()
        };
        // While the event was in flight, its queue entry may have been dropped.
        if let Some(record) = before {
            self.enqueue_record(key, &record, arrival.terms);
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
        let record = {
            let mut shard = self.shard(&arrival.key);
            let Some(claim) = shard.get(&arrival.key).filter(|claim| claim.ticket == ticket) else {
                return;
            };
            let mut record = match end {
                ClaimEnd::Done { status, behind, answered, lasts } => {
                    self.metrics.done.inc();
                    let record = Record::new(State::Done { status }, arrival, now);
                    Record { answered, behind, expires: now.saturating_add(lasts), ..record }
                }
                ClaimEnd::Failed { unknown, behind } => {
                    self.metrics.failed.inc();
                    let before = claim.before.as_ref().map(|record| record.state);
                    let unknown = unknown
                        || before.is_some_and(|state| state != State::Failed { unknown: false });
                    Record { behind, ..Record::new(State::Failed { unknown }, arrival, now) }
                }
            };
            record.share = claim.share;
            if let Some(before) = &claim.before {
                // Otherwise, a copy of an earlier request would count as a retry.
                let mut answered = before.answered.clone();
                for identity in record.answered.iter() {
                    answered.insert(*identity);
                }
                record.answered = answered;
            }
            if self.evict_any {
                record.protects = 0;
            }
            self.records.insert(arrival.key, record.clone());
            if let Some(claim) = take(&mut shard, &arrival.key, ticket) {
                self.metrics.in_flight.dec();
                claim.notify(|| ClaimState::Settled(Arc::new(outcome())));
            }
            record
        };
        self.enqueue_record(arrival.key, &record, arrival.terms);
    }

    /// Returns the leases that have not been renewed for [`RENEWAL`], those that expire first
    /// first.
    pub(crate) fn leases_due(&self, now: Millis) -> Vec<Lease> {
        let mut due = Vec::new();
        for shard in &self.shards {
            for (key, claim) in lock(shard).iter() {
                if let Some(HeldLease { token, renewed }) = claim.lease
                    && now >= renewed.saturating_add(RENEWAL)
                {
                    due.push((renewed, Lease { key: *key, token }));
                }
            }
        }
        due.sort_unstable_by_key(|(renewed, _)| *renewed);
        due.into_iter().map(|(_, lease)| lease).collect()
    }

    /// Notes that a lease was renewed.
    pub(crate) fn mark_renewed(&self, lease: &Lease, now: Millis) {
        if let Some(claim) = self.shard(&lease.key).get_mut(&lease.key)
            && let Some(held) = &mut claim.lease
            && held.token == lease.token
        {
            held.renewed = now;
        }
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

    /// Removes the record of an event. If the event is in flight, nothing changes, and the end of
    /// its claim can be waited for.
    pub(crate) fn forget(&self, key: &EventKey) -> Option<watch::Receiver<ClaimState>> {
        let mut shard = self.shard(key);
        if let Some(claim) = shard.get_mut(key) {
            return Some(claim.join());
        }
        if let Some(record) = self.records.get(key) {
            self.remove(key, &record);
        }
        None
    }

    /// Returns the record of an event that is not in flight.
    pub(crate) fn record(&self, key: &EventKey) -> Option<Record> {
        self.records.get(key)
    }
}

/// Returns whether the 2xx was written out for this very request.
fn answered(record: &Record, arrival: &Arrival) -> bool {
    arrival.identity.is_some_and(|identity| record.answered.contains(&identity))
}
