//! The record of an event, and an authentic request as far as it concerns the record.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

pub(crate) use crate::scheme::{ContextPin, EventKey, RequestIdentity};
use crate::{
    replay::clock::{Millis, millis},
    scheme::Verified,
};

/// What the guard knows about a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The route's share of the guard.
    pub route: ShareId,
    /// How long a record lives, counted from the outcome.
    pub ttl: Duration,
    /// Whether a retry of a done event is forwarded again, marked as a possible duplicate.
    pub forwards_repeats: bool,
}

/// Identifies a share of the guard's capacity: that of a route, or of one of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareId(pub(crate) u64);

impl ShareId {
    /// The capacity that is guaranteed to nobody.
    pub(crate) const GUARD: ShareId = ShareId(0);

    /// Returns the share of a route.
    pub fn of_route(name: &str) -> Self {
        ShareId(0xcbf2_9ce4_8422_2325).extended(name)
    }

    /// Returns the share of one of this route's keys.
    pub fn of_key(self, name: &str) -> Self {
        self.extended("\0").extended(name)
    }

    /// FNV-1a, which is the same in every version and on every machine: shares are in the files of
    /// the store `disk`.
    fn extended(self, name: &str) -> Self {
        let next = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        ShareId(name.bytes().fold(self.0, next))
    }
}

impl Hash for ShareId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Hashes an [`EventKey`] by its last eight bytes: the key is a digest that only authentic requests
/// produce, so nobody can choose keys that collide. The first byte selects the shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventKeyHasher(u64);

impl Hasher for EventKeyHasher {
    fn write(&mut self, key: &[u8]) {
        self.0 = key.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Builds [`EventKeyHasher`]s.
pub(crate) type EventKeyHashers = BuildHasherDefault<EventKeyHasher>;

/// The fencing token of a lease in a shared store, different for every claim of every process: only
/// its holder can end or renew the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseToken(pub(crate) [u8; 16]);

/// An authentic request, reduced to what its record depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) key: EventKey,
    pub(crate) identity: Option<RequestIdentity>,
    pub(crate) pin: ContextPin,
    pub(crate) stale: bool,
    /// For how long a copy of this request is fresh; `None` if it is for ever.
    pub(crate) fresh_for: Option<Millis>,
    /// The share of the key that verified the request.
    pub(crate) share: ShareId,
    pub(crate) terms: Terms,
}

impl Arrival {
    /// Returns the arrival of `verified`; `None` where its scheme's deliveries have no record.
    pub(crate) fn new(verified: &Verified, terms: Terms) -> Option<Self> {
        let key = verified.record()?;
        Some(Arrival {
            key,
            identity: verified.identity(),
            pin: verified.pin(),
            stale: verified.is_stale(),
            fresh_for: verified.fresh_for().map(millis),
            share: terms.route.of_key(verified.key()),
            terms,
        })
    }

    /// Returns for how long the record of the event must not be evicted: as long as a copy of this
    /// request would be accepted as fresh, rounded up by at most a quarter so that records share
    /// few queues.
    pub(crate) fn protection(&self) -> Millis {
        let Some(fresh_for) = self.fresh_for else { return Millis::MAX };
        let step = fresh_for.checked_ilog2().map_or(0, |bits| bits.saturating_sub(2));
        fresh_for.div_ceil(1 << step).saturating_mul(1 << step)
    }
}

/// The claim of an event together with its success, for a store that records both in the
/// transaction in which it stores the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayRecord {
    pub(crate) key: EventKey,
    /// The token of the claim.
    pub(crate) token: LeaseToken,
    pub(crate) pin: ContextPin,
    /// Whether the event must be on record already.
    pub(crate) stale: bool,
    /// How long the record lives.
    pub(crate) lifetime: Millis,
}

/// The state of an event on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The upstream responded 2xx.
    Done {
        /// The status of the response.
        status: u16,
    },
    /// The last attempt failed.
    Failed {
        /// The upstream may have acted all the same.
        unknown: bool,
    },
}

/// The record of an event that is not in flight.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// The store does not have the record yet.
    pub(crate) behind: bool,
    pub(crate) pin: ContextPin,
    /// The requests whose 2xx was written out to the sender.
    pub(crate) answered: Identities,
    /// When the record expires.
    pub(crate) expires: Millis,
    /// The time of the outcome, or of a fresh copy after it.
    pub(crate) touched: Millis,
    /// For how long after that the record must not be evicted.
    pub(crate) protects: Millis,
    /// The share that the event is charged to.
    pub(crate) share: ShareId,
}

impl Record {
    pub(crate) fn new(state: State, arrival: &Arrival, now: Millis) -> Self {
        let lives = millis(arrival.terms.ttl);
        Record {
            state,
            behind: false,
            pin: arrival.pin,
            answered: Identities::default(),
            expires: now.saturating_add(lives),
            touched: now,
            protects: match state {
                State::Done { .. } => arrival.protection().min(lives),
                State::Failed { .. } => lives,
            },
            share: arrival.share,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done { .. })
    }

    pub(crate) fn is_live(&self, now: Millis) -> bool {
        now < self.expires
    }
}

/// The identities of answered requests, newest first. Most events have one, which needs no
/// allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    /// All zeros if there is none: a digest has this value once in 2^128.
    newest: RequestIdentity,
    older: Option<Arc<Vec<RequestIdentity>>>,
}

impl From<RequestIdentity> for Identities {
    fn from(newest: RequestIdentity) -> Self {
        Identities { newest, older: None }
    }
}

impl Identities {
    /// The number of identities that one event keeps. A sender retries some ten times; a key holder
    /// who signs more requests turns the oldest into a retry, which gets 200 and is not forwarded.
    pub(crate) const LIMIT: usize = 64;

    pub(crate) fn contains(&self, identity: &RequestIdentity) -> bool {
        self.iter().any(|known| known == identity)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &RequestIdentity> {
        let older = self.older.iter().flat_map(|older| older.iter());
        let none = RequestIdentity::default();
        std::iter::once(&self.newest).chain(older).filter(move |identity| **identity != none)
    }

    /// Adds an identity; returns `false` if it was there already.
    pub(crate) fn insert(&mut self, identity: RequestIdentity) -> bool {
        if self.contains(&identity) {
            return false;
        }
        let kept: Vec<_> = self.iter().take(Self::LIMIT - 1).copied().collect();
        self.older = (!kept.is_empty()).then(|| Arc::new(kept));
        self.newest = identity;
        true
    }

    /// Appends the identities to `bytes`, newest first.
    pub(crate) fn encode_into(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|identity| bytes.extend(identity.0));
    }

    /// Reads identities as they were encoded; returns `None` if the length does not fit.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (identities, rest) = bytes.as_chunks::<{ size_of::<RequestIdentity>() }>();
        let mut decoded = Identities::default();
        for identity in identities.iter().rev() {
            decoded.insert(RequestIdentity(*identity));
        }
        rest.is_empty().then_some(decoded)
    }
}
