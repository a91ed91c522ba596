//! The state of the store in the writer thread, and what each command changes.
//!
//! Changes are collected in a batch and visible to the commands after them. When the batch cannot
//! be written, [`EventChanges::load`] builds the state again from the files.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
};

use super::{
    command::StoreCommand,
    files::EventFiles,
    format::{RouteDigest, StoredEntry, Totals},
    list::{ListRequest, UnsettledIds},
    reply::{LeaseOwner, Leases},
    retention::Eviction,
    schedule::DiskSchedule,
};
use crate::events::model::{EventId, EventState, Retention};

mod acceptance;
mod attempts;
mod entries;
mod removal;

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
    lease_owner: Weak<dyn LeaseOwner>,
    /// The attempts in flight before and after the last batch.
    in_flight: [HashMap<EventId, InFlight>; 2],
    last_token: u64,
    /// The number of the last batch.
    batch: u64,
}

impl Kept {
    /// Returns the state at the start of a process.
    pub(super) fn new(retention: Retention, lease_owner: Weak<dyn LeaseOwner>) -> Self {
        Kept { retention, lease_owner, in_flight: Default::default(), last_token: 0, batch: 0 }
    }
}

/// The state in memory, and the changes that are not in the files yet.
pub(super) struct EventChanges {
    pub(super) files: Arc<EventFiles>,
    pub(super) schedule: DiskSchedule,
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
    lease_owner: Weak<dyn LeaseOwner>,
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

impl EventChanges {
    /// Reads the schedule from the files. The attempts that were kept continue; the outcomes of
    /// others that were in flight are unknown. Returns whether the last batch is in the files,
    /// although writing it seemed to fail.
    ///
    /// # Errors
    /// If the files cannot be read or written.
    pub(super) fn load(files: Arc<EventFiles>, kept: &Kept) -> fjall::Result<(Self, bool)> {
        let totals = files.totals()?;
        let is_written = totals.batch == kept.batch;
        let in_flight = &kept.in_flight[usize::from(is_written)];
        let mut changes = EventChanges {
            schedule: DiskSchedule::default(),
            in_flight: HashMap::with_capacity(in_flight.len()),
            totals,
            removed: 0,
            last_token: kept.last_token,
            retention: kept.retention,
            refused: BTreeSet::new(),
            eviction: Eviction::default(),
            digests: HashMap::new(),
            lease_owner: Weak::clone(&kept.lease_owner),
            batch: files.database.batch(),
            changed: HashMap::new(),
            records: HashMap::new(),
            ended: Vec::new(),
            begun: HashSet::new(),
            touched: HashSet::new(),
            files,
        };
        let files = Arc::clone(&changes.files);
        let name = |route| files.route_name(route).ok_or_else(super::format::unreadable);
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
            lease_owner: self.lease_owner,
            in_flight: [before, self.in_flight],
            last_token: self.last_token,
            batch: self.totals.batch,
        }
    }

    /// Carries out a command; its result is sent after [`EventChanges::commit`].
    pub(super) fn run(&mut self, command: &mut StoreCommand) -> fjall::Result<()> {
        match command {
            StoreCommand::Accept(event, reply) => {
                let result = self.accept(event)?;
                reply.set(result.map(|(acceptance, lease)| {
                    (acceptance, Leases::new(lease.into_iter().collect(), &self.lease_owner))
                }));
            }
            StoreCommand::Revive { route, record, next_attempt, expires, reply } => {
                let found = self.find(route, *record)?;
                let dead = found.filter(|found| found.entry.state == EventState::Dead);
                reply.set(Ok(dead.is_some()));
                if let Some(dead) = dead {
                    self.revive(dead, *next_attempt, *expires);
                }
            }
            StoreCommand::Take { route, now, limit, reply } => {
                let (mut entries, mut leases) = (Vec::new(), Vec::new());
                for id in self.schedule.due(route, *now, *limit) {
                    let Some(stored) = self.get(id)? else { continue };
                    let (entry, lease) = self.begin(stored, *now);
                    entries.push(entry);
                    leases.push(lease);
                }
                reply.set(Ok((entries, Leases::new(leases, &self.lease_owner))));
            }
            StoreCommand::Settle { lease, attempt, next, reply } => {
                reply.set(Ok(self.settle(*lease, attempt, *next)?));
            }
            StoreCommand::GiveUp { ids, now, reply } => {
                reply.set(Ok(self.give_up(ids, *now)?));
            }
            StoreCommand::Release(lease) => self.release(*lease),
            StoreCommand::Record(events, reply) => {
                for event in events {
                    self.record(event)?;
                }
                reply.set(Ok(()));
            }
            StoreCommand::Redeliver { id, now, expires, reply } => {
                reply.set(Ok(self.redeliver(*id, *now, *expires)?));
            }
            StoreCommand::Forget(id, reply) => reply.set(Ok(self.forget(*id)?)),
            StoreCommand::Remove(removal, reply) => {
                self.remove(removal)?;
                reply.set(Ok(()));
            }
            StoreCommand::FindUnsettled(ListRequest { filter, range, limit }, reply) => {
                let (route, range) = (filter.route.as_ref(), range.clone());
                let ids = self.schedule.newest(route, filter.state, range, *limit + 1);
                let has_more = ids.len() > *limit;
                reply.set(Ok(UnsettledIds { ids, has_more }));
            }
            StoreCommand::Flush(reply) => reply.set(Ok(())),
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
}
