//! The format of the files: what is stored about an event, the keys of the keyspaces, and why files
//! cannot be opened.

use std::{fmt, io::ErrorKind, path::Path};

use super::schedule::Sequence;
use crate::{
    events::model::{EventEntry, EventId, EventState},
    replay::Millis,
};

/// The reason why the store cannot be opened, as text.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// The files do not fit the configuration.
    #[error("{0}")]
    Mismatch(String),
    /// The files cannot be used.
    #[error("{0}")]
    Files(String),
}

impl DiskOpenError {
    pub(super) fn new(error: impl fmt::Display) -> Self {
        DiskOpenError::Files(error.to_string())
    }

    pub(super) fn mismatch(path: &Path, mismatch: impl fmt::Display) -> Self {
        let path = path.display();
        DiskOpenError::Mismatch(format!("the event store at {path} cannot be used: {mismatch}"))
    }
}

/// The digest of a route's name.
pub(super) type RouteDigest = [u8; 8];

/// An entry with what else the store knows about the event.
#[derive(Clone, Debug)]
pub(super) struct StoredEntry {
    pub(super) entry: EventEntry,
    pub(super) sequence: Sequence,
    /// The length of its sealed request; 0 without one.
    pub(super) request_length: u64,
    /// The length of its sealed entry.
    pub(super) entry_length: u64,
    /// When it reached its state, or when its next attempt may begin.
    pub(super) since: Millis,
}

impl StoredEntry {
    /// What else an event takes: its keys in all keyspaces, and their share of the index blocks.
    const OVERHEAD: u64 = 256;

    /// Returns the bytes that the event takes.
    pub(super) fn cost(&self) -> u64 {
        self.entry_length + self.request_length + Self::OVERHEAD
    }
}

/// Sums that are stored with each batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// The bytes of all events.
    pub(super) bytes: u64,
    /// The last place in the order of acceptance that was assigned.
    pub(super) sequence: u64,
    /// The number of batches.
    pub(super) batch: u64,
}

/// Returns the key of an event in the keyspace `states`.
pub(super) fn state_key(state: EventState, route: RouteDigest, id: EventId) -> [u8; 25] {
    let mut key = [0; 25];
    key[0] = state.number();
    key[1..9].copy_from_slice(&route);
    key[9..].copy_from_slice(&id.0.to_be_bytes());
    key
}

/// Returns the key of an event in the keyspace `event_ids`.
pub(super) fn event_id_key(digest: [u8; 16], id: EventId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&digest);
    key[16..].copy_from_slice(&id.0.to_be_bytes());
    key
}

pub(super) fn event_id(bytes: &[u8]) -> Option<EventId> {
    Some(EventId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

pub(super) fn bytes_of<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

pub(super) fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, []) = bytes.as_chunks() else { return None };
    let chunks: &[_; N] = chunks.try_into().ok()?;
    Some(chunks.map(u64::from_le_bytes))
}

/// Returns the error for a value that cannot be decoded.
pub(super) fn unreadable() -> fjall::Error {
    fjall::Error::Io(std::io::Error::new(
        ErrorKind::InvalidData,
        "an entry was written by a newer version of sealgate, or overwritten",
    ))
}
