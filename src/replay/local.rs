//! The claim map: what this process knows about events, and which of them it forwards now.
//!
//! Records of events at rest stand in moka, without a capacity, since a cache that evicts as it
//! likes would forget an event that a sender is still to retry: what leaves is decided here, by
//! the records' times. Claims stand in 64 locked maps and never expire. Every change to what is
//! known about an event happens under the lock of its map, so that of any number of simultaneous
//! copies exactly one finds the event free.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, mpsc},
};

use moka::sync::Cache;

use super::{
    flight::{Claims, End, Flight, Found, Held, take},
    lines::{Lines, Place, Times},
    sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, lock},
};
use crate::{
    metrics::ReplayMetrics,
    reject::{Reason, Reject},
    replay::{
        clock::Millis,
        disk::Note,
        record::{Arrival, Identity, Key, KeyHashers, Record, State, Token},
    },
    response::SanitizedResponse,
};

const SHARDS: usize = 64;

/// All that this process knows about events.
pub(crate) struct Local {
    pub(super) records: Cache<Key, Record, KeyHashers>,
    pub(super) shards: Box<[Mutex<Claims>]>,
    pub(super) lines: Lines,
    /// Events on record or in flight.
    pub(super) used: AtomicUsize,
    pub(super) tickets: AtomicU64,
    pub(super) max_entries: usize,
    /// A store behind has every record: any of them may leave when room is needed.
    pub(super) spare_all: bool,
    /// The thread of the store `disk`, which forgets what is forgotten here.
    pub(super) departures: Option<mpsc::Sender<Note>>,
    pub(super) metrics: ReplayMetrics,
}

impl Local {
    pub(crate) fn new(
        max_entries: usize,
        spare_all: bool,
        departures: Option<mpsc::Sender<Note>>,
        metrics: ReplayMetrics,
    ) -> Self {
        metrics.capacity.set(i64::try_from(max_entries).unwrap_or(i64::MAX));
        Local {
            records: Cache::builder().build_with_hasher(KeyHashers::default()),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            lines: Lines::default(),
            used: AtomicUsize::new(0),
            tickets: AtomicU64::new(1),
            max_entries,
            spare_all,
            departures,
            metrics,
        }
    }

    /// Events on record or in flight.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most events on record or in flight.
    pub(crate) fn max_entries(&self) -> usize {
        self.max_entries
    }

    /// Places in line, those of records that left included.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn shard(&self, key: &Key) -> MutexGuard<'_, Claims> {
        lock(&self.shards[usize::from(key[0]) % SHARDS])
    }

    /// Claims the event if it is free. With `asking`, the claim is held back until
    /// [`Local::confirm`] or [`Local::withdraw`], and whether a stale request has a record is left
    /// to the store behind.
    ///
    /// # Errors
    /// [`Reason::ContextMismatch`], [`Reason::Stale`] or [`Reject::GuardFull`].
    pub(crate) fn claim(
        &self,
        arrival: &Arrival,
        asking: bool,
        now: Millis,
    ) -> Result<Found, Reject> {
        loop {
            if let Some(found) = self.try_claim(arrival, asking, now)? {
                return Ok(found);
            }
            if !self.make_room(now) {
                return Err(Reject::GuardFull);
            }
        }
    }

    /// `None` where the guard is full.
    fn try_claim(
        &self,
        arrival: &Arrival,
        asking: bool,
        now: Millis,
    ) -> Result<Option<Found>, Reject> {
        let mut touched = None;
        let found = {
            let mut shard = self.shard(&arrival.key);
            match shard.entry(arrival.key) {
                Entry::Occupied(mut held) => {
                    let held = held.get_mut();
                    if held.asking {
                        Found::Asked(held.join())
                    } else if held.pin == arrival.pin {
                        Found::Taken(held.join())
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
                    if mismatch && (done || behind || !asking) {
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
                            if record.is_none() && arrival.stale && !asking {
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
                            vacant.insert(Held {
                                ticket,
                                pin: arrival.pin,
                                asking,
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
        if let Some(times) = touched {
            self.enqueue(times, Place { key: arrival.key, at: now });
        }
        Ok(Some(found))
    }

    /// A fresh copy of a done event can itself be copied as long as it is fresh: from now on the
    /// record protects against those.
    fn touch(&self, arrival: &Arrival, mut record: Record, now: Millis) -> Option<Times> {
        if arrival.stale || arrival.terms.window.is_none() || record.touched >= now {
            return None;
        }
        record.touched = now;
        let times = self.times(&record, arrival.terms);
        self.records.insert(arrival.key, record);
        Some(times)
    }

    /// The claim that was asked for is held.
    pub(crate) fn confirm(&self, key: &Key, ticket: u64, lease: Option<Token>) {
        if let Some(held) = self.shard(key).get_mut(key).filter(|held| held.ticket == ticket) {
            held.asking = false;
            held.lease = lease;
            held.tell(|| Flight::Held);
        }
    }

    /// The claim that was asked for is not held: everything is as before.
    pub(crate) fn withdraw(&self, arrival: &Arrival, ticket: u64, why: Option<Reject>) {
        let key = arrival.key;
        let place = {
            let mut shard = self.shard(&key);
            let Some(mut held) = take(&mut shard, &key, ticket) else { return };
            self.metrics.in_flight.dec();
            let place = held.before.take().map(|before| {
                let place = Place { key, at: before.touched };
                let times = self.times(&before, arrival.terms);
                self.metrics.failed.inc();
                self.records.insert(key, before);
                (times, place)
            });
            if place.is_none() {
                self.release_slot();
            }
            held.tell(|| Flight::Withdrawn(why));
            place
        };
        // While the record was away its place in line may have been passed over.
        if let Some((times, place)) = place {
            self.enqueue(times, place);
        }
    }

    /// Ends a claim: the record first, then the claim, then those who wait.
    pub(crate) fn end(
        &self,
        arrival: &Arrival,
        ticket: u64,
        end: End,
        outcome: impl FnOnce() -> Result<SanitizedResponse, Reject>,
        now: Millis,
    ) {
        let times = {
            let mut shard = self.shard(&arrival.key);
            let Some(held) = shard.get(&arrival.key).filter(|held| held.ticket == ticket) else {
                return;
            };
            let record = match end {
                End::Done { status, behind, answered, lasts } => {
                    self.metrics.done.inc();
                    let record = Record::new(State::Done { status }, arrival, now);
                    Record { answered, behind, expires: now.saturating_add(lasts), ..record }
                }
                End::Failed { unknown, behind } => {
                    self.metrics.failed.inc();
                    let before = held.before.as_ref().map(|record| record.state);
                    let unknown = unknown || before == Some(State::Failed { unknown: true });
                    Record { behind, ..Record::new(State::Failed { unknown }, arrival, now) }
                }
            };
            let times = self.times(&record, arrival.terms);
            self.records.insert(arrival.key, record);
            if let Some(held) = take(&mut shard, &arrival.key, ticket) {
                self.metrics.in_flight.dec();
                held.tell(|| Flight::Settled(Arc::new(outcome())));
            }
            times
        };
        self.enqueue(times, Place { key: arrival.key, at: now });
    }

    /// The leases of all claims.
    pub(crate) fn leases(&self) -> Vec<(Key, Token)> {
        let mut leases = Vec::new();
        for shard in &self.shards {
            leases.extend(lock(shard).iter().filter_map(|(key, held)| Some((*key, held.lease?))));
        }
        leases
    }

    /// The 2xx was written out for this request. The record, if that was news.
    pub(crate) fn answered(&self, key: &Key, identity: Identity) -> Option<Record> {
        let _shard = self.shard(key);
        let mut record = self.records.get(key)?;
        record.answered.insert(identity).then(|| {
            self.records.insert(*key, record.clone());
            record
        })
    }

    /// The store behind has the record now.
    pub(crate) fn stored(&self, key: &Key) {
        let mut shard = self.shard(key);
        if let Some(held) = shard.get_mut(key) {
            // It stands again if the claim is withdrawn.
            held.before.iter_mut().for_each(|record| record.behind = false);
        } else if let Some(mut record) = self.records.get(key)
            && record.behind
        {
            record.behind = false;
            self.records.insert(*key, record);
        }
    }

    /// The record of an event that is not in flight.
    pub(crate) fn record(&self, key: &Key) -> Option<Record> {
        self.records.get(key)
    }
}
