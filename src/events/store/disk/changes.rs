//! The state of the store in the writer thread, and what each command changes.
//!
//! Changes are collected in a batch and visible to the commands after them. When the batch cannot
//! be written, [`Changes::load`] builds the state again from the files.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
};

use super::{
    command::{Command, Leases, Removal, SealedEvent},
    files::{Files, RouteDigest, StoredEntry, Totals, event_id_key, state_key},
    queue::CommandQueue,
    retention::Eviction,
    schedule::{Schedule, Sequence, Slot},
};
use crate::{
    events::{
        model::{
            Acceptance, AttemptLease, DeliveryAttempt, EventEntry, EventId, EventState, NextStep,
            Retention,
        },
        store::{Redelivery, StoreError},
    },
    replay::Millis,
    scheme::EventKey,
};

/// An event with an attempt in flight.
#[derive(Clone, Debug)]
struct InFlight {
    token: u64,
    stored: StoredEntry,
    /// Whether an operator asked for another attempt after this one.
    again: bool,
}

/// The state that is kept while the files are closed.
#[derive(Debug)]
pub(super) struct Kept {
    retention: Retention,
    queue: Weak<CommandQueue>,
    /// The attempts in flight before and after the last batch.
    in_flight: [HashMap<EventId, InFlight>; 2],
    last_token: u64,
    /// The number of the last batch.
    batch: u64,
}

impl Kept {
    /// Returns the state of a process that begins.
    pub(super) fn new(retention: Retention, queue: Weak<CommandQueue>) -> Self {
        Kept { retention, queue, in_flight: Default::default(), last_token: 0, batch: 0 }
    }
}

/// The state in memory, and the changes that are not in the files yet.
pub(super) struct Changes {
    pub(super) files: Arc<Files>,
    pub(super) schedule: Schedule,
    in_flight: HashMap<EventId, InFlight>,
    pub(super) totals: Totals,
    /// The bytes of all events that were removed since the files were opened.
    pub(super) removed: u64,
    last_token: u64,
    retention: Retention,
    /// The rejected requests.
    refused: BTreeSet<EventId>,
    eviction: Eviction,
    digests: HashMap<Arc<str>, RouteDigest>,
    queue: Weak<CommandQueue>,
    batch: fjall::OwnedWriteBatch,
    changed: HashMap<EventId, Option<StoredEntry>>,
    records: HashMap<[u8; 16], Option<EventId>>,
    /// The attempts that ended in this batch.
    ended: Vec<(EventId, InFlight)>,
    /// The tokens of the attempts that began in this batch.
    begun: HashSet<u64>,
    /// The routes whose schedule changed.
    pub(super) touched: HashSet<Arc<str>>,
}

impl Changes {
    /// Reads the schedule from the files. The attempts that were kept continue; the outcomes of
    /// others that were in flight are unknown. Returns whether the last batch is in the files,
    /// although writing it seemed to fail.
    ///
    /// # Errors
    /// With what was given.
    pub(super) fn load(
        files: Arc<Files>,
        kept: Kept,
    ) -> Result<(Self, bool), (Kept, fjall::Error)> {
        Changes::try_load(files, &kept).map_err(|error| (kept, error))
    }

    fn try_load(files: Arc<Files>, kept: &Kept) -> fjall::Result<(Self, bool)> {
        let totals = files.totals()?;
        let is_written = totals.batch == kept.batch;
        let in_flight = &kept.in_flight[usize::from(is_written)];
        let mut changes = Changes {
            schedule: Schedule::default(),
            in_flight: HashMap::with_capacity(in_flight.len()),
            totals,
            removed: 0,
            last_token: kept.last_token,
            retention: kept.retention,
            refused: BTreeSet::new(),
            eviction: Eviction::default(),
            digests: HashMap::new(),
            queue: Weak::clone(&kept.queue),
            batch: files.database.batch(),
            changed: HashMap::new(),
            records: HashMap::new(),
            ended: Vec::new(),
            begun: HashSet::new(),
            touched: HashSet::new(),
            files,
        };
        let files = Arc::clone(&changes.files);
        let name = |route| files.route_name(route).ok_or_else(super::files::unreadable);
        for found in files.scheduled(EventState::Pending) {
            let (route, id, slot) = found?;
            changes.schedule.insert(&name(route)?, id, slot);
        }
        for found in files.scheduled(EventState::Dead) {
            changes.schedule.count_dead(&name(found?.0)?, 1);
        }
        for found in files.scheduled(EventState::Refused) {
            changes.refused.insert(found?.1);
        }
        let mut interrupted = Vec::new();
        for found in files.scheduled(EventState::Delivering) {
            let (route, id, slot) = found?;
            changes.schedule.insert(&name(route)?, id, slot);
            if !in_flight.contains_key(&id) {
                interrupted.push(id);
            }
        }
        for (id, attempt) in in_flight {
            if let Some(stored) = files.entry(*id)? {
                changes.in_flight.insert(*id, InFlight { stored, ..*attempt });
            }
        }
        for id in interrupted {
            let Some(old) = files.entry(id)? else { continue };
            let mut new = old.clone();
            new.entry.interrupt();
            changes.write(Some(&old), new);
        }
        changes.touched.extend(changes.schedule.routes().cloned().collect::<Vec<_>>());
        changes.write_batch()?;
        changes.changed.clear();
        Ok((changes, is_written))
    }

    /// Returns what does not depend on the files, after the last batch could not be written.
    pub(super) fn keep(self) -> Kept {
        let has_begun = |attempt: &InFlight| self.begun.contains(&attempt.token);
        let mut before = self.in_flight.clone();
        before.retain(|_, attempt| !has_begun(attempt));
        before.extend(self.ended.into_iter().filter(|(_, attempt)| !has_begun(attempt)));
        Kept {
            retention: self.retention,
            queue: self.queue,
            in_flight: [before, self.in_flight],
            last_token: self.last_token,
            batch: self.totals.batch,
        }
    }

    /// Carries out a command; its result is sent after [`Changes::commit`].
    pub(super) fn run(&mut self, command: &mut Command) -> fjall::Result<()> {
        match command {
            Command::Accept(event, reply) => {
                let result = self.accept(event)?;
                reply.set(result.map(|(acceptance, lease)| {
                    (acceptance, Leases::new(lease.into_iter().collect(), &self.queue))
                }));
            }
            Command::Revive { route, record, next_attempt, expires, reply } => {
                let found = self.find(route, *record)?;
                let dead = found.filter(|found| found.entry.state == EventState::Dead);
                reply.set(Ok(dead.is_some()));
                if let Some(dead) = dead {
                    self.revive(dead, *next_attempt, *expires);
                }
            }
            Command::Take { route, now, limit, reply } => {
                let (mut entries, mut leases) = (Vec::new(), Vec::new());
                for id in self.schedule.due(route, *now, *limit) {
                    let Some(stored) = self.get(id)? else { continue };
                    let (entry, lease) = self.begin(stored, *now);
                    entries.push(entry);
                    leases.push(lease);
                }
                reply.set(Ok((entries, Leases::new(leases, &self.queue))));
            }
            Command::Settle { lease, attempt, next, reply } => {
                reply.set(Ok(self.settle(*lease, attempt, *next)?));
            }
            Command::Release(lease) => self.release(*lease),
            Command::Record(events, reply) => {
                for event in events {
                    self.record(event)?;
                }
                reply.set(Ok(()));
            }
            Command::Redeliver { id, now, expires, reply } => {
                reply.set(Ok(self.redeliver(*id, *now, *expires)?));
            }
            Command::Forget(id, reply) => reply.set(Ok(self.forget(*id)?)),
            Command::Remove(removal, reply) => {
                self.remove(removal)?;
                reply.set(Ok(()));
            }
            Command::Flush(reply) => reply.set(Ok(())),
        }
        Ok(())
    }

    /// Makes the batch durable.
    pub(super) fn commit(&mut self) -> fjall::Result<()> {
        if !self.batch.is_empty() {
            self.totals.batch += 1;
            self.write_batch()?;
        }
        self.changed.clear();
        self.records.clear();
        self.ended.clear();
        self.begun.clear();
        Ok(())
    }

    /// Counts a batch that is not written.
    #[cfg(test)]
    pub(super) fn lose_batch(&mut self) {
        self.totals.batch += 1;
    }

    fn write_batch(&mut self) -> fjall::Result<()> {
        let empty = self.files.database.batch();
        let mut batch = std::mem::replace(&mut self.batch, empty);
        if batch.is_empty() {
            return Ok(());
        }
        self.files.put_totals(&mut batch, self.totals);
        batch.durability(Some(fjall::PersistMode::SyncData)).commit()
    }

    fn accept(
        &mut self,
        event: &SealedEvent,
    ) -> fjall::Result<Result<(Acceptance, Option<AttemptLease>), StoreError>> {
        let entry = &event.entry;
        let found = match entry.record {
            Some(record) => self.find(&entry.route, record)?,
            None => None,
        };
        if let Some(old) = found {
            return self.accept_again(event, old).map(Ok);
        }
        let mut new = StoredEntry {
            entry: entry.clone(),
            sequence: Sequence(self.totals.sequence + 1),
            request_length: event.request.as_ref().map_or(0, |request| request.len() as u64),
            entry_length: 256,
            since: 0,
        };
        if self.schedule.unsettled() >= self.retention.max_pending || !self.make_room(new.cost())? {
            return Ok(Err(StoreError::Full));
        }
        self.totals.sequence += 1;
        new.entry.has_request = event.request.is_some();
        self.wait_for_turn(&mut new.entry);
        if let Some(request) = &event.request {
            self.batch.insert(&self.files.requests, entry.id.0.to_be_bytes(), request.as_slice());
        }
        let (id, new) = (entry.id, self.write(None, new));
        let lease = (new.entry.state == EventState::Delivering).then(|| self.lease(new));
        Ok(Ok((Acceptance::New(id, lease), lease)))
    }

    /// Accepts another request for a stored event.
    fn accept_again(
        &mut self,
        event: &SealedEvent,
        old: StoredEntry,
    ) -> fjall::Result<(Acceptance, Option<AttemptLease>)> {
        let (id, entry) = (old.entry.id, &event.entry);
        if old.entry.state == EventState::Dead {
            let next_attempt = entry.next_attempt.unwrap_or(entry.received);
            self.revive(old, next_attempt, entry.expires);
            return Ok((Acceptance::Revived(id), None));
        }
        if !old.entry.takes_request_of(entry) {
            return Ok((Acceptance::Known(old.entry), None));
        }
        let mut new = old.clone();
        new.entry.accept_again(entry);
        self.totals.sequence += 1;
        new.sequence = Sequence(self.totals.sequence);
        self.wait_for_turn(&mut new.entry);
        self.put_request(&mut new, entry.id, event.request.as_deref())?;
        let new = self.write(Some(&old), new);
        let lease = (new.entry.state == EventState::Delivering).then(|| self.lease(new));
        Ok((Acceptance::New(id, lease), lease))
    }

    /// Makes a new entry pending if its attempt cannot begin yet.
    fn wait_for_turn(&mut self, entry: &mut EventEntry) {
        if entry.state == EventState::Delivering {
            entry.next_attempt = None;
            if self.is_blocked(entry) {
                entry.release();
            }
        }
    }

    /// Returns whether another event with the same order is unsettled.
    fn is_blocked(&self, entry: &EventEntry) -> bool {
        entry.order.is_some_and(|order| {
            let tag = self.files.order_tag(&entry.route, order);
            self.schedule.has_order(&entry.route, tag)
        })
    }

    /// Stores a request that was sealed for the event `sealed_for`.
    fn put_request(
        &mut self,
        stored: &mut StoredEntry,
        sealed_for: EventId,
        request: Option<&[u8]>,
    ) -> fjall::Result<()> {
        let Some(request) = request else { return Ok(()) };
        let id = stored.entry.id;
        let request = self.files.reseal(sealed_for, id, request)?;
        stored.entry.has_request = true;
        stored.request_length = request.len() as u64;
        self.batch.insert(&self.files.requests, id.0.to_be_bytes(), request);
        Ok(())
    }

    fn revive(&mut self, old: StoredEntry, next_attempt: Millis, expires: Millis) {
        let mut new = old.clone();
        new.entry.revive(next_attempt, expires);
        self.write(Some(&old), new);
    }

    /// Begins an attempt of a pending event.
    fn begin(&mut self, old: StoredEntry, now: Millis) -> (EventEntry, AttemptLease) {
        let mut new = old.clone();
        new.entry.begin();
        new.since = now;
        let new = self.write(Some(&old), new);
        (new.entry.clone(), self.lease(new))
    }

    fn lease(&mut self, stored: StoredEntry) -> AttemptLease {
        self.last_token += 1;
        let (id, token) = (stored.entry.id, self.last_token);
        self.in_flight.insert(id, InFlight { token, stored, again: false });
        self.begun.insert(token);
        AttemptLease { id, token }
    }

    fn end(&mut self, lease: AttemptLease) -> Option<InFlight> {
        let in_flight = self.in_flight.get(&lease.id)?;
        if in_flight.token != lease.token {
            return None;
        }
        let in_flight = self.in_flight.remove(&lease.id)?;
        self.ended.push((lease.id, in_flight.clone()));
        Some(in_flight)
    }

    fn settle(
        &mut self,
        lease: AttemptLease,
        attempt: &DeliveryAttempt,
        next: NextStep,
    ) -> fjall::Result<Option<EventEntry>> {
        let Some(InFlight { stored: old, again, .. }) = self.end(lease) else {
            let stored = self.get(lease.id)?.map(|stored| stored.entry);
            return Ok(stored.filter(|entry| entry.has_ended(attempt)));
        };
        let mut new = old.clone();
        new.entry.settle(attempt, next, again);
        new.since = attempt.ended();
        Ok(Some(self.write(Some(&old), new).entry))
    }

    fn release(&mut self, lease: AttemptLease) {
        let Some(InFlight { stored: old, .. }) = self.end(lease) else { return };
        let mut new = old.clone();
        new.entry.release();
        self.write(Some(&old), new);
    }

    fn record(&mut self, event: &SealedEvent) -> fjall::Result<()> {
        let entry = &event.entry;
        let found = match entry.record {
            Some(record) => self.find(&entry.route, record)?,
            None => None,
        };
        let since = entry.last_change();
        let request = event.request.as_deref();
        let Some(old) = found else {
            let mut new = StoredEntry {
                entry: entry.clone(),
                sequence: Sequence(0),
                request_length: 0,
                entry_length: 256,
                since,
            };
            let length = request.map_or(0, |request| request.len() as u64);
            if !self.make_room(new.cost() + length)? {
                return Ok(());
            }
            new.entry.has_request = false;
            self.put_request(&mut new, entry.id, request)?;
            self.write(None, new);
            while self.refused.len() as u64 > self.retention.keep_refused
                && let Some(oldest) = self.refused.pop_first()
            {
                if let Some(oldest) = self.get(oldest)? {
                    self.delete(&oldest);
                }
            }
            return Ok(());
        };
        let mut new = old.clone();
        new.entry.record_again(entry);
        if new.entry.state != old.entry.state {
            new.since = since;
        }
        if old.request_length == 0 {
            self.put_request(&mut new, entry.id, request)?;
        }
        self.write(Some(&old), new);
        Ok(())
    }

    fn redeliver(
        &mut self,
        id: EventId,
        now: Millis,
        expires: Millis,
    ) -> fjall::Result<Redelivery> {
        let Some(old) = self.get(id)? else { return Ok(Redelivery::Unknown) };
        if !old.entry.can_be_redelivered() {
            return Ok(Redelivery::NotKept);
        }
        let mut new = old.clone();
        new.entry.redeliver(now, expires);
        if let Some(in_flight) = self.in_flight.get_mut(&id) {
            in_flight.again = true;
        }
        self.write(Some(&old), new);
        Ok(Redelivery::Started)
    }

    fn forget(&mut self, id: EventId) -> fjall::Result<Option<EventEntry>> {
        let Some(old) = self.get(id)? else { return Ok(None) };
        match old.entry.state {
            EventState::Pending | EventState::Dead => self.delete(&old),
            _ => {
                if let Some(record) = old.entry.record {
                    self.remove_record(&old.entry.route, record);
                    let mut new = old.clone();
                    new.entry.record = None;
                    self.write(Some(&old), new);
                }
            }
        }
        Ok(Some(old.entry))
    }

    fn remove(&mut self, removal: &Removal) -> fjall::Result<()> {
        for id in &removal.ids {
            if let Some(stored) = self.get(*id)?
                && stored.entry.state == removal.state
                && stored.since < removal.before
            {
                self.delete(&stored);
            }
        }
        Ok(())
    }

    /// Removes events that need not be kept, oldest first, until there is enough space.
    fn make_room(&mut self, bytes: u64) -> fjall::Result<bool> {
        while self.totals.bytes.saturating_add(bytes) > self.retention.max_bytes {
            let Some(id) = self.eviction.next(&self.files)? else { return Ok(false) };
            if let Some(stored) = self.get(id)?
                && Eviction::may_evict(stored.entry.state)
            {
                self.delete(&stored);
            }
        }
        Ok(true)
    }

    fn find(&self, route: &Arc<str>, record: EventKey) -> fjall::Result<Option<StoredEntry>> {
        let digest = self.files.record_digest(route, record);
        let id = match self.records.get(&digest) {
            Some(changed) => *changed,
            None => self.files.find(digest)?,
        };
        id.map_or(Ok(None), |id| self.get(id))
    }

    fn get(&self, id: EventId) -> fjall::Result<Option<StoredEntry>> {
        if let Some(changed) = self.changed.get(&id) {
            return Ok(changed.clone());
        }
        match self.in_flight.get(&id) {
            Some(in_flight) => Ok(Some(in_flight.stored.clone())),
            None => self.files.entry(id),
        }
    }

    /// Adds an entry to the batch and to the state in memory. `old` is the entry before.
    fn write(&mut self, old: Option<&StoredEntry>, mut new: StoredEntry) -> StoredEntry {
        if let Some(at) = new.entry.next_attempt {
            new.since = at;
        }
        let (id, route, state) = (new.entry.id, Arc::clone(&new.entry.route), new.entry.state);
        let digest = self.digest(&route);
        let value = self.files.encode(&mut new);
        self.batch.insert(&self.files.entries, id.0.to_be_bytes(), value);
        match old {
            Some(old) => {
                if old.entry.state != state {
                    let key = state_key(old.entry.state, digest, id);
                    self.batch.remove(&self.files.states, key);
                }
                self.count_out(old);
            }
            None => {
                if let Some(record) = new.entry.record {
                    let record = self.files.record_digest(&route, record);
                    self.batch.insert(&self.files.records, record, id.0.to_be_bytes());
                    self.records.insert(record, Some(id));
                }
                if let Some(event_id) = &new.entry.event_id {
                    let key = event_id_key(self.files.event_id_digest(event_id), id);
                    self.batch.insert(&self.files.event_ids, key, []);
                }
            }
        }
        let value = self.files.state_value(&new);
        self.batch.insert(&self.files.states, state_key(state, digest, id), value);
        self.totals.bytes = self.totals.bytes.saturating_add(new.cost());
        match state {
            EventState::Pending | EventState::Delivering => {
                let order = new.entry.order;
                let slot = Slot {
                    next_attempt: (state == EventState::Pending).then_some(new.since),
                    sequence: new.sequence,
                    order: order.map(|order| self.files.order_tag(&route, order)),
                };
                self.schedule.insert(&route, id, slot);
            }
            EventState::Dead => self.schedule.count_dead(&route, 1),
            EventState::Delivered | EventState::Failed => self.eviction.added(),
            EventState::Refused => {
                self.refused.insert(id);
                self.eviction.added();
            }
        }
        if let Some(in_flight) = self.in_flight.get_mut(&id) {
            in_flight.stored = new.clone();
        }
        self.changed.insert(id, Some(new.clone()));
        self.touched.insert(route);
        new
    }

    fn delete(&mut self, old: &StoredEntry) {
        let (entry, key) = (&old.entry, old.entry.id.0.to_be_bytes());
        let digest = self.digest(&entry.route);
        self.batch.remove(&self.files.entries, key);
        self.batch.remove(&self.files.states, state_key(entry.state, digest, entry.id));
        if old.request_length > 0 {
            self.batch.remove(&self.files.requests, key);
        }
        if let Some(event_id) = &entry.event_id {
            let key = event_id_key(self.files.event_id_digest(event_id), entry.id);
            self.batch.remove(&self.files.event_ids, key);
        }
        if let Some(record) = entry.record {
            self.remove_record(&entry.route, record);
        }
        self.count_out(old);
        self.removed += old.cost();
        self.changed.insert(entry.id, None);
        self.touched.insert(Arc::clone(&entry.route));
    }

    fn remove_record(&mut self, route: &Arc<str>, record: EventKey) {
        let digest = self.files.record_digest(route, record);
        self.batch.remove(&self.files.records, digest);
        self.records.insert(digest, None);
    }

    /// Removes an entry from the schedule and the totals.
    fn count_out(&mut self, old: &StoredEntry) {
        let entry = &old.entry;
        match entry.state {
            EventState::Pending | EventState::Delivering => {
                self.schedule.remove(&entry.route, entry.id);
            }
            EventState::Dead => self.schedule.count_dead(&entry.route, -1),
            EventState::Refused => {
                self.refused.remove(&entry.id);
            }
            EventState::Delivered | EventState::Failed => {}
        }
        self.totals.bytes = self.totals.bytes.saturating_sub(old.cost());
    }

    fn digest(&mut self, route: &Arc<str>) -> RouteDigest {
        if let Some(digest) = self.digests.get(route) {
            return *digest;
        }
        let digest = self.files.route(&mut self.batch, route);
        self.digests.insert(Arc::clone(route), digest);
        digest
    }
}
