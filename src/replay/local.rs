//! The claim map: what this process knows about events, and which of them it forwards now.
//!
//! Records of events at rest stand in moka, without a capacity, since a cache that evicts as it
//! likes would forget an event that a sender is still to retry: what leaves is decided here, by
//! the records' times. Claims stand in 64 locked maps and never expire. Every change to what is
//! known about an event happens under the lock of its map, so that of any number of simultaneous
//! copies exactly one finds the event free.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, mpsc},
};

use moka::sync::Cache;
use tokio::sync::watch;

use super::{
    lines::{Lines, Place, Times, Wanted},
    sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, lock},
};
use crate::{
    answer::Answer,
    metrics::ReplayMetrics,
    reject::{Reason, Reject},
    replay::{
        clock::{Millis, millis},
        disk::Note,
        record::{Arrival, Identities, Identity, Key, Pin, Record, State, Terms, Token},
    },
};

const SHARDS: usize = 64;

/// What the copies of an event in flight wait for.
#[derive(Clone, Debug)]
pub(crate) enum Flight {
    /// The store behind is being asked whether the event is free.
    Asking,
    /// A request of this process forwards the event.
    Held,
    /// The event was not free: ask again; or nobody can know whether it is.
    Withdrawn(Option<Reject>),
    /// The outcome.
    Settled(Arc<Result<Answer, Reject>>),
}

/// A claim, as the map holds it.
#[derive(Debug)]
struct Held {
    ticket: u64,
    pin: Pin,
    asking: bool,
    /// The name of the lease that a shared store gave for it.
    lease: Option<Token>,
    /// The record of the failed attempt before this one.
    before: Option<Record>,
    /// Made when somebody joins.
    waiters: Option<watch::Sender<Flight>>,
}

impl Held {
    fn join(&mut self) -> watch::Receiver<Flight> {
        let now = if self.asking { Flight::Asking } else { Flight::Held };
        self.waiters.get_or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    fn tell(&self, flight: impl FnOnce() -> Flight) {
        if let Some(waiters) = &self.waiters {
            waiters.send_replace(flight());
        }
    }
}

/// What a request finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// The event was free and is now claimed by this request.
    Free {
        /// Names the claim.
        ticket: u64,
        /// Whether an earlier attempt may have reached the upstream.
        unknown: bool,
        /// Whether the event was on record.
        known: bool,
        /// Whether its context was another one. What the store behind knows of that takes
        /// precedence, since processes that go on without it may each have pinned their own.
        mismatch: bool,
    },
    /// Another request holds the claim.
    Taken(watch::Receiver<Flight>),
    /// Another request asks the store behind for the claim; afterwards this one must look again.
    Asked(watch::Receiver<Flight>),
    /// The event is done.
    Done {
        /// Whether the 2xx was written out for this very request.
        answered: bool,
    },
}

/// How a claim ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The upstream answered 2xx.
    Done {
        /// With this status.
        status: u16,
        /// Whether the store behind is still to be told.
        behind: bool,
        /// Requests that the store behind knows as answered.
        answered: Identities,
        /// How long the record lasts.
        lasts: Millis,
    },
    /// The attempt failed; the record keeps pin and mark.
    Failed {
        /// The upstream may have acted.
        unknown: bool,
        /// Whether a shared store is still to be told.
        behind: bool,
    },
}

/// All that this process knows about events.
pub(crate) struct Local {
    records: Cache<Key, Record>,
    shards: Box<[Mutex<HashMap<Key, Held>>]>,
    lines: Lines,
    /// Events on record or in flight.
    used: AtomicUsize,
    tickets: AtomicU64,
    max_entries: usize,
    /// A store behind has every record: any of them may leave when room is needed.
    spare_all: bool,
    /// The thread of the store `disk`, which forgets what is forgotten here.
    departures: Option<mpsc::Sender<Note>>,
    metrics: ReplayMetrics,
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
            records: Cache::builder().build(),
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

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Held>> {
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
        outcome: impl FnOnce() -> Result<Answer, Reject>,
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

    /// Takes up a record that a store kept over a restart, even where that makes more of them than
    /// there may be: what is known is not forgotten. Its place in line is the caller's.
    pub(crate) fn restore(&self, key: Key, record: Record, terms: Terms) -> (Times, Place) {
        self.used.fetch_add(1, Ordering::Relaxed);
        match record.state {
            State::Done { .. } => self.metrics.done.inc(),
            State::Failed { .. } => self.metrics.failed.inc(),
        }
        let place = (self.times(&record, terms), Place { key, at: record.touched });
        self.records.insert(key, record);
        place
    }

    /// Puts restored records into their lines.
    pub(crate) fn line_up(&self, mut places: Vec<(Times, Place)>) {
        places.sort_unstable_by_key(|(_, place)| place.at);
        for (times, place) in places {
            self.enqueue(times, place);
        }
    }

    fn times(&self, record: &Record, terms: Terms) -> Times {
        let lives = millis(terms.ttl);
        let protects = match record.state {
            State::Done { .. } | State::Failed { .. } if self.spare_all => 0,
            State::Done { .. } => {
                terms.window.map_or(lives, |window| millis(window).saturating_mul(2).min(lives))
            }
            State::Failed { .. } => lives,
        };
        Times { protects, lives }
    }

    fn enqueue(&self, times: Times, place: Place) {
        if let Some(over) = self.lines.push(times, place) {
            self.let_go(&over, Wanted::Over, place.at);
        }
    }

    fn reserve(&self) -> bool {
        let room = |used| (used < self.max_entries).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    fn release_slot(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a record out; the caller holds the lock of its shard.
    fn remove(&self, key: &Key, record: &Record) {
        self.records.invalidate(key);
        if let Some(departures) = &self.departures {
            // An error means that the thread is gone, and the process about to end.
            let _ = departures.send(Note::Forget(*key));
        }
        match record.state {
            State::Done { .. } => self.metrics.done.dec(),
            State::Failed { .. } => self.metrics.failed.dec(),
        }
        self.release_slot();
    }

    /// Gives up one record that protects nothing any more; `false` if there is none.
    fn make_room(&self, now: Millis) -> bool {
        while let Some((times, place)) = self.lines.take(Wanted::Spare, now) {
            match self.let_go(&place, Wanted::Spare, now) {
                Left::Gone => return true,
                Left::Superseded => {}
                Left::Needed => {
                    self.lines.put_back(times, place);
                    return false;
                }
            }
        }
        false
    }

    fn let_go(&self, place: &Place, wanted: Wanted, now: Millis) -> Left {
        let shard = self.shard(&place.key);
        if shard.contains_key(&place.key) {
            return Left::Superseded;
        }
        let Some(record) = self.records.get(&place.key) else { return Left::Superseded };
        if record.is_live(now) {
            if record.touched != place.at {
                return Left::Superseded;
            }
            if wanted == Wanted::Over || record.behind {
                return Left::Needed;
            }
        }
        self.remove(&place.key, &record);
        Left::Gone
    }

    /// Lets all records go that are over, and the places in line that no record has any more.
    pub(crate) fn tidy(&self, now: Millis) {
        while let Some((_, place)) = self.lines.take(Wanted::Over, now) {
            self.let_go(&place, Wanted::Over, now);
        }
        if self.lines.len() > 2 * self.used() + 4096 {
            self.lines.compact(|place| {
                self.records.get(&place.key).is_some_and(|record| record.touched == place.at)
            });
        }
        self.records.run_pending_tasks();
    }
}

/// Whether a record left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Gone,
    /// The record is gone already, or stands in line elsewhere.
    Superseded,
    Needed,
}

fn take(shard: &mut HashMap<Key, Held>, key: &Key, ticket: u64) -> Option<Held> {
    match shard.entry(*key) {
        Entry::Occupied(held) if held.get().ticket == ticket => Some(held.remove()),
        Entry::Occupied(_) | Entry::Vacant(_) => None,
    }
}
