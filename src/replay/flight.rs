//! A claim in the claim map, and what is told to those who come across it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    reject::Reject,
    replay::{
        clock::Millis,
        record::{Identities, Key, KeyHashers, Pin, Record, Token},
    },
    response::SanitizedResponse,
};

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
    Settled(Arc<Result<SanitizedResponse, Reject>>),
}

/// A claim, as the map holds it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) ticket: u64,
    pub(crate) pin: Pin,
    pub(crate) asking: bool,
    /// The name of the lease that a shared store gave for it.
    pub(crate) lease: Option<Token>,
    /// The record of the failed attempt before this one.
    pub(crate) before: Option<Record>,
    /// Made when somebody joins.
    pub(crate) waiters: Option<watch::Sender<Flight>>,
}

impl Held {
    /// Takes a copy among those who wait for the claim's end.
    pub(crate) fn join(&mut self) -> watch::Receiver<Flight> {
        let now = if self.asking { Flight::Asking } else { Flight::Held };
        self.waiters.get_or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// Tells those who wait.
    pub(crate) fn tell(&self, flight: impl FnOnce() -> Flight) {
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

/// The claims on some of the events.
pub(crate) type Claims = HashMap<Key, Held, KeyHashers>;

/// Takes the claim of this name out of its map.
pub(crate) fn take(shard: &mut Claims, key: &Key, ticket: u64) -> Option<Held> {
    match shard.entry(*key) {
        Entry::Occupied(held) if held.get().ticket == ticket => Some(held.remove()),
        Entry::Occupied(_) | Entry::Vacant(_) => None,
    }
}
