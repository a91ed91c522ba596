//! The files of the store, managed by fjall.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | a name | the version, the digest of the key, the totals |
//! | `routes` | digest of the name | the name |
//! | `entries` | ID | sequence, length of the request, entry |
//! | `requests` | ID | request |
//! | `states` | state, digest of the route, ID | what the schedule and retention need |
//! | `records` | digest of the replay record | ID |
//! | `event_ids` | digest of the sender's event ID, ID | |

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, KvSeparationOptions,
    config::CompressionPolicy,
};

use super::{
    format::{
        RouteDigest, StoredEntry, Totals, bytes_of, event_id, numbers, state_key, unreadable,
    },
    schedule::{OrderTag, Sequence, Slot},
};
use crate::{
    database::{self, DatabaseKind},
    events::{
        codec,
        model::{EventId, EventState, OrderKey, StoredRequest},
        seal::{DigestOf, Seal},
    },
    replay::Millis,
    scheme::EventKey,
};

pub(super) const KIND: DatabaseKind = DatabaseKind {
    name: "event store",
    loss: "events that are not delivered yet are then lost, although their senders got a success",
};

/// The version of the format.
const VERSION: &[u8] = b"1";

const VERSION_NAME: &str = "version";
const KEY_NAME: &str = "key";
const TOTALS_NAME: &str = "totals";

/// The open files.
pub(super) struct EventFiles {
    pub(super) database: Database,
    meta: Keyspace,
    routes: Keyspace,
    pub(super) entries: Keyspace,
    pub(super) requests: Keyspace,
    pub(super) states: Keyspace,
    pub(super) records: Keyspace,
    pub(super) event_ids: Keyspace,
    seal: Seal,
    /// The known routes.
    names: Mutex<HashMap<RouteDigest, Arc<str>>>,
    /// The number of entries and of items of the index of states that were read.
    #[cfg(test)]
    pub(super) reads: Arc<std::sync::atomic::AtomicUsize>,
}

/// The content of the files does not fit the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("it was written by a newer version of sealgate: install that version")]
    Version,
    #[error(
        "it is encrypted, and `key` is not configured: set `[events] key` to the key with which \
         it was created, or move the directory away to start with an empty store"
    )]
    MissingKey,
    #[error(
        "it is encrypted with another `key`: set `[events] key` to the key with which it was \
         created, or move the directory away to start with an empty store"
    )]
    WrongKey,
    #[error(
        "it is not encrypted, and `key` is configured: remove `[events] key`, or move the \
         directory away, once its events are delivered, to start with an empty store"
    )]
    NotEncrypted,
}

impl EventFiles {
    /// Opens the files, after dropping a last batch that was written in part.
    pub(super) fn open(path: &Path, seal: &Seal) -> fjall::Result<Self> {
        database::open(KIND, path, |builder| {
            let database = builder
                .worker_threads(1)
                .cache_size(16 << 20)
                .max_journaling_size(64 << 20)
                .open()?;
            let options = |memtable| KeyspaceCreateOptions::default().max_memtable_size(memtable);
            let small = || options(8 << 20);
            // Flushed often: until then, lists of pending events pass over the settled ones.
            let states = || options(2 << 20);
            let requests = || {
                let separated = KvSeparationOptions::default()
                    .separation_threshold(256)
                    .file_target_size(16 << 20)
                    // Files of which so much was removed are written again when compacting.
                    .staleness_threshold(0.3)
                    .age_cutoff(1.0)
                    .compression(CompressionType::None);
                KeyspaceCreateOptions::default()
                    .max_memtable_size(16 << 20)
                    .data_block_compression_policy(CompressionPolicy::disabled())
                    .with_kv_separation(Some(separated))
            };
            let files = EventFiles {
                meta: database.keyspace("meta", small)?,
                routes: database.keyspace("routes", small)?,
                entries: database.keyspace("entries", small)?,
                requests: database.keyspace("requests", requests)?,
                states: database.keyspace("states", states)?,
                records: database.keyspace("records", small)?,
                event_ids: database.keyspace("event_ids", small)?,
                database,
                seal: seal.clone(),
                names: Mutex::default(),
                #[cfg(test)]
                reads: Arc::default(),
            };
            let mut names = HashMap::new();
            for route in files.routes.iter() {
                let (digest, name) = route.into_inner()?;
                let digest = (*digest).try_into().map_err(|_| unreadable())?;
                let name = std::str::from_utf8(&name).map_err(|_| unreadable())?;
                names.insert(digest, Arc::from(name));
            }
            *files.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
            Ok(files)
        })
    }

    /// Compares version and key, and writes them to new files.
    pub(super) fn check(&self) -> fjall::Result<Result<(), Mismatch>> {
        let key = self.seal.digest(DigestOf::Key, &[]);
        let key = if self.seal.is_encrypted() { &key[..] } else { &[] };
        let Some(version) = self.meta.get(VERSION_NAME)? else {
            let mut batch = self.database.batch().durability(Some(fjall::PersistMode::SyncAll));
            batch.insert(&self.meta, VERSION_NAME, VERSION);
            batch.insert(&self.meta, KEY_NAME, key);
            batch.commit()?;
            return Ok(Ok(()));
        };
        if *version != *VERSION {
            return Ok(Err(Mismatch::Version));
        }
        let stored = self.meta.get(KEY_NAME)?.ok_or_else(unreadable)?;
        Ok(match (stored.is_empty(), key.is_empty()) {
            (false, true) => Err(Mismatch::MissingKey),
            (true, false) => Err(Mismatch::NotEncrypted),
            _ if *stored != *key => Err(Mismatch::WrongKey),
            _ => Ok(()),
        })
    }

    /// Returns the totals as of the last batch.
    pub(super) fn totals(&self) -> fjall::Result<Totals> {
        let Some(stored) = self.meta.get(TOTALS_NAME)? else { return Ok(Totals::default()) };
        let [bytes, sequence, batch] = numbers(&stored).ok_or_else(unreadable)?;
        Ok(Totals { bytes, sequence, batch })
    }

    pub(super) fn put_totals(&self, batch: &mut fjall::OwnedWriteBatch, totals: Totals) {
        batch.insert(
            &self.meta,
            TOTALS_NAME,
            bytes_of([totals.bytes, totals.sequence, totals.batch]),
        );
    }

    /// Returns the digest of a route, and adds its name to the batch if it is new.
    pub(super) fn route(&self, batch: &mut fjall::OwnedWriteBatch, name: &Arc<str>) -> RouteDigest {
        let digest = self.route_digest(name);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(digest).or_insert_with(|| {
            batch.insert(&self.routes, digest, name.as_bytes());
            Arc::clone(name)
        });
        digest
    }

    pub(super) fn route_digest(&self, name: &str) -> RouteDigest {
        let digest = self.seal.digest(DigestOf::Route, &[name.as_bytes()]);
        *digest.first_chunk().expect("16 bytes have 8 at their start")
    }

    /// Returns all routes of which events were stored.
    pub(super) fn route_digests(&self) -> Vec<RouteDigest> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Returns the name of a route.
    pub(super) fn route_name(&self, digest: RouteDigest) -> Option<Arc<str>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
    }

    pub(super) fn record_digest(&self, route: &str, record: EventKey) -> [u8; 16] {
        self.seal.digest(DigestOf::Record, &[route.as_bytes(), &record.0])
    }

    pub(super) fn event_id_digest(&self, event_id: &str) -> [u8; 16] {
        self.seal.digest(DigestOf::EventId, &[event_id.as_bytes()])
    }

    pub(super) fn order_tag(&self, route: &str, order: OrderKey) -> OrderTag {
        OrderTag(self.seal.digest(DigestOf::Order, &[route.as_bytes(), &order.0]))
    }

    /// Drops removed events from the files. This takes seconds in a large store; meanwhile, the
    /// store works as usual.
    pub(super) fn compact(&self) -> fjall::Result<()> {
        let all = [&self.requests, &self.entries, &self.states, &self.records, &self.event_ids];
        for keyspace in all {
            keyspace.rotate_memtable_and_wait()?;
            keyspace.major_compact()?;
        }
        // The first time finds which files of requests have too many gaps.
        self.requests.major_compact()
    }

    /// Returns an entry.
    pub(super) fn entry(&self, id: EventId) -> fjall::Result<Option<StoredEntry>> {
        let place = id.0.to_be_bytes();
        self.entries.get(place)?.map(|value| self.decode(id, &value)).transpose()
    }

    fn decode(&self, id: EventId, value: &[u8]) -> fjall::Result<StoredEntry> {
        #[cfg(test)]
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let decode = || {
            let (head, sealed) = value.split_first_chunk::<24>()?;
            let [sequence, request_length, since] = numbers(head)?;
            let plain = self.seal.open(&id.0.to_be_bytes(), sealed.to_vec())?;
            let entry = codec::decode_entry(&plain).filter(|entry| entry.id == id)?;
            let sequence = Sequence(sequence);
            let entry_length = value.len() as u64;
            Some(StoredEntry { entry, sequence, request_length, entry_length, since })
        };
        decode().ok_or_else(unreadable)
    }

    /// Returns the value of an entry, and notes its length.
    pub(super) fn encode(&self, stored: &mut StoredEntry) -> Vec<u8> {
        let place = stored.entry.id.0.to_be_bytes();
        let sealed = self.seal.seal(&place, codec::encode_entry(&stored.entry));
        let mut value = Vec::with_capacity(24 + sealed.len());
        value.extend(bytes_of([stored.sequence.0, stored.request_length, stored.since]));
        value.extend_from_slice(&sealed);
        stored.entry_length = value.len() as u64;
        value
    }

    /// Returns a request.
    pub(super) fn request(&self, id: EventId) -> fjall::Result<Option<StoredRequest>> {
        let place = id.0.to_be_bytes();
        let Some(sealed) = self.requests.get(place)? else { return Ok(None) };
        let plain = if self.seal.is_encrypted() {
            self.seal.open(&place, sealed.to_vec()).ok_or_else(unreadable)?.into()
        } else {
            Bytes::from_owner(sealed)
        };
        codec::decode_request(&plain).map(Some).ok_or_else(unreadable)
    }

    /// Returns the bytes of a request as those of another event.
    pub(super) fn reseal(
        &self,
        from: EventId,
        to: EventId,
        request: &[u8],
    ) -> fjall::Result<Vec<u8>> {
        if from == to || !self.seal.is_encrypted() {
            return Ok(request.to_vec());
        }
        let plain = self.seal.open(&from.0.to_be_bytes(), request.to_vec());
        Ok(self.seal.seal(&to.0.to_be_bytes(), plain.ok_or_else(unreadable)?))
    }

    /// Returns the ID of the event with a replay record.
    pub(super) fn find(&self, digest: [u8; 16]) -> fjall::Result<Option<EventId>> {
        let Some(id) = self.records.get(digest)? else { return Ok(None) };
        Ok(Some(event_id(&id).ok_or_else(unreadable)?))
    }

    /// Returns the IDs of a route's events in a state, from `first` to before `end`.
    pub(super) fn in_state(
        &self,
        state: EventState,
        route: RouteDigest,
        first: EventId,
        end: EventId,
    ) -> impl DoubleEndedIterator<Item = fjall::Result<EventId>> + use<> {
        let range = state_key(state, route, first)..state_key(state, route, end);
        #[cfg(test)]
        let reads = Arc::clone(&self.reads);
        self.states.range(range).map(move |found| {
            #[cfg(test)]
            reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let key = found.key()?;
            key.get(9..).and_then(event_id).ok_or_else(unreadable)
        })
    }

    /// Returns the same, with the time since when each event is in the state.
    pub(super) fn in_state_since(
        &self,
        state: EventState,
        route: RouteDigest,
        first: EventId,
        end: EventId,
    ) -> impl Iterator<Item = fjall::Result<(EventId, Millis)>> + use<> {
        let range = state_key(state, route, first)..state_key(state, route, end);
        self.states.range(range).map(|found| {
            let (key, value) = found.into_inner()?;
            let read = || {
                let since = u64::from_le_bytes(*value.first_chunk()?);
                Some((key.get(9..).and_then(event_id)?, since))
            };
            read().ok_or_else(unreadable)
        })
    }

    /// Returns all events in a state, with what the schedule needs.
    pub(super) fn scheduled(
        &self,
        state: EventState,
    ) -> impl Iterator<Item = fjall::Result<(RouteDigest, EventId, Slot)>> + use<> {
        self.states.prefix([state.number()]).map(move |found| {
            let (key, value) = Guard::into_inner(found)?;
            let read = || {
                let (_, route) = key.split_first_chunk::<1>()?;
                let (route, id) = route.split_first_chunk()?;
                let (head, order) = value.split_first_chunk::<16>()?;
                let [since, sequence] = numbers(head)?;
                let order = match order {
                    [] => None,
                    order => Some(OrderTag(order.try_into().ok()?)),
                };
                let slot = Slot {
                    next_attempt: (state != EventState::Delivering).then_some(since),
                    sequence: Sequence(sequence),
                    order,
                };
                Some((*route, event_id(id)?, slot))
            };
            read().ok_or_else(unreadable)
        })
    }

    /// Returns what the schedule knows about an unsettled event.
    pub(super) fn slot(&self, stored: &StoredEntry) -> Slot {
        let StoredEntry { entry, sequence, since, .. } = stored;
        Slot {
            next_attempt: (entry.state != EventState::Delivering).then_some(*since),
            sequence: *sequence,
            order: entry.order.map(|order| self.order_tag(&entry.route, order)),
        }
    }

    /// Returns the value of an event in the keyspace `states`.
    pub(super) fn state_value(&self, stored: &StoredEntry) -> Vec<u8> {
        let mut value = bytes_of([stored.since, stored.sequence.0]);
        if let Some(order) = stored.entry.order {
            value.extend(self.order_tag(&stored.entry.route, order).0);
        }
        value
    }
}
