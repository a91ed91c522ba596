//! The row of an event: its sealed entry, and the columns that statements change without it.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::{Row, types::FromSql};

use crate::events::{
    codec,
    model::{AttemptLease, DueEvent, EventEntry, EventId, EventState, StoredRequest},
    seal::Seal,
    store::StoreError,
};

/// The number of columns of a row; a statement may return more.
const COLUMNS: usize = 12;

/// An event as stored.
#[derive(Clone, Debug)]
pub(super) struct StoredRow {
    pub(super) entry: EventEntry,
    /// Changes with every change except the renewal of a lease.
    pub(super) version: i64,
    pub(super) token: u64,
}

impl StoredRow {
    /// Reads the columns of `columns!`.
    pub(super) fn read(row: &Row, seal: &Seal) -> Result<Self, StoreError> {
        let id = id(row, 0)?;
        let sealed: &[u8] = column(row, 11)?;
        let bytes = seal.open(&entry_place(id), sealed.to_vec()).ok_or_else(unreadable)?;
        let mut entry = codec::decode_entry(&bytes).ok_or_else(unreadable)?;
        let state: i16 = column(row, 2)?;
        entry.state = state_of(state)?;
        entry.attempts = natural(column::<i32>(row, 3)?)?;
        entry.next_attempt = column::<Option<i64>>(row, 4)?.map(natural).transpose()?;
        entry.expires = natural(column::<i64>(row, 5)?)?;
        entry.possible_duplicate = column(row, 6)?;
        entry.redelivery = column(row, 7)?;
        entry.has_request = column(row, 8)?;
        if column(row, 9)? {
            entry.record = None;
        }
        let token = column::<Option<i64>>(row, 10)?.unwrap_or(0).cast_unsigned();
        Ok(StoredRow { entry, version: column(row, 1)?, token })
    }

    /// Reads an event whose attempt begins, with its request in the last column.
    pub(super) fn read_due(row: &Row, seal: &Seal) -> Result<(Self, DueEvent), StoreError> {
        let stored = StoredRow::read(row, seal)?;
        let id = stored.entry.id;
        let request = request(column(row, COLUMNS)?, id, seal)?;
        let lease = AttemptLease { id, token: stored.token };
        let due = DueEvent { entry: stored.entry.clone(), request, lease };
        Ok((stored, due))
    }
}

/// Seals an entry.
pub(super) fn seal_entry(entry: &EventEntry, seal: &Seal) -> Vec<u8> {
    seal.seal(&entry_place(entry.id), codec::encode_entry(entry))
}

/// Seals the request of an event.
pub(super) fn seal_request(request: &StoredRequest, id: EventId, seal: &Seal) -> Vec<u8> {
    seal.seal(&id.0.to_be_bytes(), codec::encode_request(request))
}

/// Opens the request of an event.
pub(super) fn request(
    sealed: &[u8],
    id: EventId,
    seal: &Seal,
) -> Result<StoredRequest, StoreError> {
    let bytes = seal.open(&id.0.to_be_bytes(), sealed.to_vec()).ok_or_else(unreadable)?;
    codec::decode_request(&Bytes::from(bytes)).ok_or_else(unreadable)
}

/// Returns the place of an entry, which differs from that of its request.
fn entry_place(id: EventId) -> Vec<u8> {
    [b"entry".as_slice(), &id.0.to_be_bytes()].concat()
}

/// Reads the ID of an event.
pub(super) fn id(row: &Row, index: usize) -> Result<EventId, StoreError> {
    let bytes = column::<&[u8]>(row, index)?.try_into().map_err(|_| unreadable())?;
    Ok(EventId(u128::from_be_bytes(bytes)))
}

pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, StoreError> {
    row.try_get(index).map_err(|_| unreadable())
}

/// Returns a number that is never negative.
pub(super) fn natural<T, N: TryInto<T>>(number: N) -> Result<T, StoreError> {
    number.try_into().map_err(|_| unreadable())
}

pub(super) fn state_of(number: i16) -> Result<EventState, StoreError> {
    let found = EventState::ALL.into_iter().find(|state| i16::from(state.number()) == number);
    found.ok_or_else(unreadable)
}

pub(super) fn unreadable() -> StoreError {
    StoreError::Unavailable(Arc::from("it contains an event that this version cannot read"))
}
