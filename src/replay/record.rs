//! What is known about an event, and what a request brings to it.

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::Duration,
};

use crate::{
    replay::clock::{Millis, millis},
    scheme::Verified,
};

/// The times of a route that the guard goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The scheme's window: an older request is stale. `None` where a request has no timestamp.
    pub window: Option<Duration>,
    /// How long an event stays on record, counted from its outcome.
    pub ttl: Duration,
}

/// The first half of a [`EventKey`](crate::scheme::RecordKey). 128 bits are enough to tell events apart, whoever names them, and
/// a million of them take 30 MB less.
pub(crate) type Key = [u8; 16];

/// Hashes a [`Key`] by its last eight bytes: it is a digest already, and only authentic requests make
/// one, so that nobody can choose keys that collide. The first byte chooses the shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, key: &[u8]) {
        self.0 = key.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
    }

    /// The length of a key, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Makes [`KeyHasher`]s.
pub(crate) type KeyHashers = BuildHasherDefault<KeyHasher>;

/// A digest that tells one request for an event from another.
pub(crate) type Identity = [u8; 16];

/// A digest of the context that an event's copies must share.
pub(crate) type Pin = [u8; 16];

/// The name of a lease in a shared store, different for every claim of every process: who does not
/// have it cannot end or prolong the lease.
pub(crate) type Token = [u8; 16];

/// An authentic request, reduced to what decides about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) key: Key,
    pub(crate) identity: Option<Identity>,
    pub(crate) pin: Pin,
    pub(crate) stale: bool,
    pub(crate) terms: Terms,
}

impl Arrival {
    /// What `verified` brings; `None` where its scheme's deliveries have no record.
    pub(crate) fn new(verified: &Verified, terms: Terms) -> Option<Self> {
        let (key, _) = verified.record()?.split_first_chunk()?;
        Some(Arrival {
            key: *key,
            identity: verified.identity(),
            pin: verified.pin(),
            stale: verified.is_stale(),
            terms,
        })
    }
}

/// How an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The upstream answered 2xx.
    Done {
        /// The status of that answer.
        status: u16,
    },
    /// The last attempt failed.
    Failed {
        /// The upstream may have acted all the same.
        unknown: bool,
    },
}

/// The record of an event that nobody holds a claim on.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// The store behind does not have it yet.
    pub(crate) behind: bool,
    pub(crate) pin: Pin,
    /// The requests whose 2xx was written out to the sender.
    pub(crate) answered: Identities,
    /// When the record ends.
    pub(crate) expires: Millis,
    /// When the outcome came, or the last fresh copy after it.
    pub(crate) touched: Millis,
}

impl Record {
    pub(crate) fn new(state: State, arrival: &Arrival, now: Millis) -> Self {
        Record {
            state,
            behind: false,
            pin: arrival.pin,
            answered: Identities::default(),
            expires: now.saturating_add(millis(arrival.terms.ttl)),
            touched: now,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done { .. })
    }

    pub(crate) fn is_live(&self, now: Millis) -> bool {
        now < self.expires
    }
}

/// The identities of answered requests, newest first. Few events have more than one, so that one
/// needs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    /// All zeroes where there is none: a digest is that once in 2^128.
    newest: Identity,
    older: Option<Arc<Vec<Identity>>>,
}

impl From<Identity> for Identities {
    fn from(newest: Identity) -> Self {
        Identities { newest, older: None }
    }
}

impl Identities {
    /// As many as one event keeps. A sender retries some ten times; a holder of the key who signs
    /// more of them makes his own oldest request count as a retry, which is answered 200 and not
    /// forwarded.
    pub(crate) const LIMIT: usize = 64;

    pub(crate) fn contains(&self, identity: &Identity) -> bool {
        self.iter().any(|known| known == identity)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Identity> {
        let older = self.older.iter().flat_map(|older| older.iter());
        std::iter::once(&self.newest).chain(older).filter(|identity| **identity != [0; 16])
    }

    /// Adds an identity; `false` if it was there.
    pub(crate) fn insert(&mut self, identity: Identity) -> bool {
        if self.contains(&identity) {
            return false;
        }
        let kept: Vec<_> = self.iter().take(Self::LIMIT - 1).copied().collect();
        self.older = (!kept.is_empty()).then(|| Arc::new(kept));
        self.newest = identity;
        true
    }
}
