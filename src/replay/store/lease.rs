//! Leases in a store that several processes share: the requests and replies that every such store
//! has in common.
//!
//! A claim in a shared store is a lease with a token. Its holder renews it while the event is being
//! forwarded. When the holder's process dies, the lease expires, and the next copy takes the event
//! over as one with an unknown outcome. A failure ends a lease only under its token, so a process
//! that was suspended cannot release what another process holds by now. A success is recorded under
//! any token, because it is a fact about the event.

use std::time::Duration;

use crate::{
    reject::Reason,
    replay::{
        clock::Millis,
        record::{EventKey, Identities, LeaseToken},
    },
};

/// The time that a request waits for the store to accept a record or a claim.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// The lifetime of a lease, in milliseconds.
pub(crate) const LEASE: Millis = 15_000;

/// The interval at which leases are renewed, in milliseconds.
pub(crate) const RENEWAL: Millis = 5_000;

/// How often leases are checked for renewal.
pub(crate) const RENEWAL_CHECK: Duration = Duration::from_secs(1);

/// The lifetime of the mark of a forgotten event that was not on record, in milliseconds: that of
/// the usual record.
pub(crate) const FORGOTTEN: Millis = 24 * 60 * 60 * 1000;

/// The store did not respond, or its reply cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// A lease to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) key: EventKey,
    pub(crate) token: LeaseToken,
}

/// The result of renewing one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The lease lasts for another [`LEASE`].
    Renewed,
    /// The lease expired and is gone, or another process holds the event.
    Lost,
    /// The store did not reply; the lease may or may not have been renewed.
    Unreachable,
}

/// The reply to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimReply {
    /// The lease is held.
    Won {
        /// An earlier attempt may have reached the upstream.
        unknown: bool,
    },
    /// Another claim holds the lease.
    Busy,
    /// The event is done.
    Done(DoneEvent),
    /// The event was pinned to another context, or the request is stale and its event is not on
    /// record.
    Rejected(Reason),
}

/// The outcome of the attempt for which a lease was held; of several, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attempt {
    /// No attempt was made.
    None,
    /// It failed.
    Failed,
    /// Its outcome is unknown.
    Unknown,
}

impl Attempt {
    /// Returns the outcome of a failed attempt.
    pub(crate) fn failed(unknown: bool) -> Self {
        if unknown { Attempt::Unknown } else { Attempt::Failed }
    }
}

/// A done event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneEvent {
    /// The status of the upstream's response.
    pub(crate) status: u16,
    /// The requests whose 2xx was written out.
    pub(crate) answered: Identities,
    /// The remaining lifetime of the record.
    pub(crate) lasts: Millis,
}

/// The state of an event in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventStatus {
    /// The event is not on record, was released without an attempt, or its lease expired.
    Open,
    /// A claim holds it.
    InFlight,
    /// The last attempt failed, with this status for the sender.
    Failed(u16),
    /// It is done.
    Done(DoneEvent),
    /// It is on record with another context.
    Mismatch,
    /// An operator had it forgotten, and no copy has claimed it since.
    Forgotten,
}

/// The reply to a request to forget an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForgetReply {
    /// The next copy counts as new.
    Forgotten,
    /// A claim holds the event; nothing changed.
    Busy,
}
