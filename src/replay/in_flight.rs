//! Claims as the claim map stores them, and what the copies that meet one wait for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{
    reject::Reject,
    replay::{
        clock::Millis,
        record::{ContextPin, EventKey, EventKeyHashers, Identities, LeaseToken, Record, ShareId},
    },
    response::SanitizedResponse,
};

/// The state of a claim, as seen by the copies that wait for it.
#[derive(Clone, Debug)]
pub(crate) enum ClaimState {
    /// A request is waiting for the shared store's reply to the claim.
    Requested,
    /// A request of this process forwards the event.
    Held,
    /// The claim was given back. Without a reason, the copy claims again.
    Withdrawn(Option<Reject>),
    /// The outcome.
    Settled(Arc<Result<SanitizedResponse, Reject>>),
}

/// The lease of a claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLease {
    pub(crate) token: LeaseToken,
    /// When it was last renewed.
    pub(crate) renewed: Millis,
}

/// A claim in the claim map.
#[derive(Debug)]
pub(crate) struct ActiveClaim {
    pub(crate) ticket: u64,
    pub(crate) pin: ContextPin,
    /// The shared store has not replied yet.
    pub(crate) requested: bool,
    /// The share that the event is charged to.
    pub(crate) share: ShareId,
    /// Its lease in a shared store.
    pub(crate) lease: Option<HeldLease>,
    /// The record of the failed attempt before this one.
    pub(crate) before: Option<Record>,
    /// Created when the first copy joins.
    pub(crate) waiters: Option<watch::Sender<ClaimState>>,
}

impl ActiveClaim {
    /// Adds a copy to those that wait for the end of the claim.
    pub(crate) fn join(&mut self) -> watch::Receiver<ClaimState> {
        let now = if self.requested { ClaimState::Requested } else { ClaimState::Held };
        self.waiters.get_or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// Notifies the copies that wait.
    pub(crate) fn notify(&self, state: impl FnOnce() -> ClaimState) {
        if let Some(waiters) = &self.waiters {
            waiters.send_replace(state());
        }
    }
}

/// What a request finds in the claim map.
#[derive(Debug)]
pub(crate) enum Found {
    /// The event was free and is now claimed by this request.
    Free {
        /// Identifies the claim.
        ticket: u64,
        /// Whether an earlier attempt may have reached the upstream.
        unknown: bool,
        /// Whether the event was on record.
        known: bool,
        /// Whether it was on record with another context. A shared store overrules this, because
        /// processes that continue without it may each have pinned their own.
        mismatch: bool,
    },
    /// Another request holds the claim.
    InFlight(watch::Receiver<ClaimState>),
    /// Another request waits for the shared store's reply; this one is decided afterwards.
    Requested(watch::Receiver<ClaimState>),
    /// The event is done.
    Done {
        /// Whether the 2xx was written out for this very request.
        answered: bool,
    },
}

/// How a claim ends.
#[derive(Debug)]
pub(crate) enum ClaimEnd {
    /// The upstream responded 2xx.
    Done {
        /// The status of the response.
        status: u16,
        /// Whether the store does not have the record yet.
        behind: bool,
        /// The requests whose 2xx the shared store has on record as sent.
        answered: Identities,
        /// The lifetime of the record.
        lasts: Millis,
    },
    /// The attempt failed; the record keeps the pin and the mark.
    Failed {
        /// The upstream may have acted.
        unknown: bool,
        /// Whether the shared store does not have the record yet.
        behind: bool,
    },
}

/// The claims on the events of one shard.
pub(crate) type ClaimShard = HashMap<EventKey, ActiveClaim, EventKeyHashers>;

/// Removes the claim with this ticket.
pub(crate) fn take(shard: &mut ClaimShard, key: &EventKey, ticket: u64) -> Option<ActiveClaim> {
    match shard.entry(*key) {
        Entry::Occupied(claim) if claim.get().ticket == ticket => Some(claim.remove()),
        Entry::Occupied(_) | Entry::Vacant(_) => None,
    }
}
