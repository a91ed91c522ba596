//! A record as it is stored in the files.

use crate::replay::{
    clock::{Millis, millis},
    record::{ContextPin, Identities, Record, RequestIdentity, ShareId, State, Terms},
};

/// The version of the format.
const VERSION: u8 = 2;
/// The first version: without a share, and with the scheme's window in place of the protection.
const WITHOUT_SHARES: u8 = 1;
/// Version, stage, status, pin, touched, expires, ttl, protects, share.
const FIXED: usize = 1 + 1 + 2 + 16 + 5 * 8;
/// The window of a scheme without one, in the first version.
const NO_WINDOW: u64 = u64::MAX;

const CLAIMED: u8 = 0;
const FAILED: u8 = 1;
const UNKNOWN: u8 = 2;
const DONE: u8 = 3;

/// The state of an event when the entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In flight: without a later entry, the outcome is unknown.
    Claimed,
    /// The last attempt failed.
    Failed {
        /// The upstream may have acted.
        unknown: bool,
    },
    /// The upstream responded 2xx.
    Done {
        /// The status of the response.
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
    pub(crate) ttl: Millis,
    pub(crate) protects: Millis,
    pub(crate) share: ShareId,
    pub(crate) answered: Identities,
}

impl Entry {
    /// Returns the entry of a record.
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
            protects: record.protects,
            share: record.share,
            answered: record.answered.clone(),
        }
    }

    /// Returns the record, in a process that did not write it.
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
            protects: self.protects,
            share: self.share,
        }
    }

    /// Returns the bytes of the entry.
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
        for number in [self.touched, self.expires, self.ttl, self.protects, self.share.0] {
            bytes.extend(number.to_le_bytes());
        }
        self.answered.encode_into(&mut bytes);
        bytes
    }

    /// Reads an entry; returns `None` if the bytes are none of a known version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, stage], rest) = bytes.split_first_chunk()?;
        let (&status, rest) = rest.split_first_chunk()?;
        let (&pin, rest) = rest.split_first_chunk()?;
        let (touched, rest) = number(rest)?;
        let (expires, rest) = number(rest)?;
        let (ttl, rest) = number(rest)?;
        let (protects, rest) = number(rest)?;
        let (protects, share, rest) = match version {
            VERSION => {
                let (share, rest) = number(rest)?;
                (protects, ShareId(share), rest)
            }
            WITHOUT_SHARES if protects == NO_WINDOW => (ttl, ShareId::GUARD, rest),
            // A copy may have been signed for a window before or after the request came.
            WITHOUT_SHARES => (protects.saturating_mul(2).min(ttl), ShareId::GUARD, rest),
            _ => return None,
        };
        Some(Entry {
            stage: match stage {
                CLAIMED => Stage::Claimed,
                FAILED => Stage::Failed { unknown: false },
                UNKNOWN => Stage::Failed { unknown: true },
                DONE => Stage::Done { status: u16::from_le_bytes(status) },
                _ => return None,
            },
            pin: ContextPin(pin),
            touched,
            expires,
            ttl,
            protects: if stage == DONE { protects } else { ttl },
            share,
            answered: Identities::decode(rest)?,
        })
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}
