//! A record as it stands in the files.

use std::time::Duration;

use crate::replay::{
    clock::{Millis, millis},
    record::{ContextPin, Identities, Record, RequestIdentity, State, Terms},
};

/// The version of the format; an entry of another one is not read.
const VERSION: u8 = 1;
/// Version, state, status, pin, touched, expires, ttl, window.
const FIXED: usize = 1 + 1 + 2 + 16 + 4 * 8;
/// Stands for no window.
const NO_WINDOW: u64 = u64::MAX;

const CLAIMED: u8 = 0;
const FAILED: u8 = 1;
const UNKNOWN: u8 = 2;
const DONE: u8 = 3;

/// How an event stood when the entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In flight: if nothing follows, the outcome is unknown.
    Claimed,
    /// The last attempt failed.
    Failed {
        /// The upstream may have acted.
        unknown: bool,
    },
    /// The upstream answered 2xx.
    Done {
        /// With this status.
        status: u16,
    },
}

/// A record with everything that a later process needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stage: Stage,
    pub(crate) pin: ContextPin,
    pub(crate) touched: Millis,
    pub(crate) expires: Millis,
    /// In milliseconds.
    pub(crate) ttl: u64,
    /// In milliseconds.
    pub(crate) window: Option<u64>,
    pub(crate) answered: Identities,
}

impl Entry {
    /// The entry of a record.
    pub(crate) fn of(record: &Record, terms: Terms) -> Self {
        Entry {
            stage: match record.state {
                State::Done { status } => Stage::Done { status },
                State::Failed { unknown } => Stage::Failed { unknown },
            },
            pin: record.pin,
            touched: record.touched,
            expires: record.expires,
            ttl: millis(terms.ttl),
            window: terms.window.map(millis),
            answered: record.answered.clone(),
        }
    }

    /// The record, in a process that did not make it.
    pub(crate) fn into_record(self) -> Record {
        Record {
            state: match self.stage {
                Stage::Claimed => State::Failed { unknown: true },
                Stage::Failed { unknown } => State::Failed { unknown },
                Stage::Done { status } => State::Done { status },
            },
            behind: false,
            pin: self.pin,
            answered: self.answered,
            expires: self.expires,
            touched: self.touched,
        }
    }

    /// The times of the route that it was made for.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            window: self.window.map(Duration::from_millis),
            ttl: Duration::from_millis(self.ttl),
        }
    }

    /// The bytes of the entry.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (stage, status) = match self.stage {
            Stage::Claimed => (CLAIMED, 0),
            Stage::Failed { unknown: false } => (FAILED, 0),
            Stage::Failed { unknown: true } => (UNKNOWN, 0),
            Stage::Done { status } => (DONE, status),
        };
        let mut bytes = Vec::with_capacity(FIXED + size_of::<RequestIdentity>());
        bytes.extend([VERSION, stage]);
        bytes.extend(status.to_le_bytes());
        bytes.extend(self.pin.0);
        for number in [self.touched, self.expires, self.ttl, self.window.unwrap_or(NO_WINDOW)] {
            bytes.extend(number.to_le_bytes());
        }
        self.answered.encode_into(&mut bytes);
        bytes
    }

    /// The entry of these bytes; `None` if they are not one of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, stage], rest) = bytes.split_first_chunk()?;
        let (&status, rest) = rest.split_first_chunk()?;
        let (&pin, rest) = rest.split_first_chunk()?;
        let (&touched, rest) = rest.split_first_chunk()?;
        let (&expires, rest) = rest.split_first_chunk()?;
        let (&ttl, rest) = rest.split_first_chunk()?;
        let (&window, rest) = rest.split_first_chunk()?;
        let answered = Identities::decode(rest)?;
        if version != VERSION {
            return None;
        }
        let window = u64::from_le_bytes(window);
        Some(Entry {
            stage: match stage {
                CLAIMED => Stage::Claimed,
                FAILED => Stage::Failed { unknown: false },
                UNKNOWN => Stage::Failed { unknown: true },
                DONE => Stage::Done { status: u16::from_le_bytes(status) },
                _ => return None,
            },
            pin: ContextPin(pin),
            touched: u64::from_le_bytes(touched),
            expires: u64::from_le_bytes(expires),
            ttl: u64::from_le_bytes(ttl),
            window: (window != NO_WINDOW).then_some(window),
            answered,
        })
    }
}
