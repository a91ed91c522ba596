//! A store that several processes share: what it is asked, and what it answers.
//!
//! A claim in such a store is a lease with a name. Whoever holds it prolongs it while the forward
//! is under way; when its process dies, the lease ends, and the next copy takes the event over as
//! one whose last outcome is unknown. A failure ends a lease only under its name, so that a process
//! that comes back to life cannot release what another holds by now. A success is recorded under any
//! name: it is a fact about the event, whoever holds the lease, and from then on nobody may forward it.

use tokio::time::Instant;

use crate::{
    reject::Reason,
    replay::{
        clock::Millis,
        record::{Arrival, Identities, Key, Token},
        redis::Redis,
    },
};

#[cfg(test)]
pub(crate) mod simulated;

/// How long a lease lasts, and how often it is prolonged, in milliseconds.
pub(crate) const LEASE: Millis = 15_000;
/// See [`LEASE`].
pub(crate) const RENEWAL: Millis = 5_000;

/// The store did not answer, or not with what can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The lease is held.
    Won {
        /// An earlier attempt may have reached the upstream.
        unknown: bool,
    },
    /// Another claim holds it.
    Busy,
    /// The event is done.
    Done(Done),
    /// The event's context is another one, or the request is stale and the event not on record.
    Refused(Reason),
}

/// What became of the attempt for which a lease was held; of several, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attempt {
    /// There was none.
    None,
    /// It failed.
    Failed,
    /// Its outcome is unknown.
    Unknown,
}

impl Attempt {
    /// A failed attempt.
    pub(crate) fn failed(unknown: bool) -> Self {
        if unknown { Attempt::Unknown } else { Attempt::Failed }
    }
}

/// A done event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The status of the upstream's answer.
    pub(crate) status: u16,
    /// The requests whose 2xx was written out.
    pub(crate) answered: Identities,
    /// How long the record will still last.
    pub(crate) lasts: Millis,
}

/// How an event stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not on record, or was given back without an attempt, or is in flight without anybody to
    /// bring it to an end.
    Open,
    /// A claim holds it.
    InFlight,
    /// The last attempt failed, with this status for the sender.
    Failed(u16),
    /// It is done.
    Done(Done),
    /// It is on record in another context.
    Mismatch,
}

/// The store.
#[derive(Debug)]
pub(crate) enum Shared {
    Redis(Box<Redis>),
    #[cfg(test)]
    Simulated(simulated::Simulated),
}

/// What is asked of Redis waits in a box, so that a request that asks nothing of it is small.
impl Shared {
    /// Asks for a lease called `token`; asking again under the same name gives the same answer.
    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: Token,
        until: Instant,
    ) -> Result<Verdict, Unreachable> {
        match self {
            Shared::Redis(redis) => Box::pin(redis.claim(arrival, token, until)).await,
            #[cfg(test)]
            Shared::Simulated(simulated) => simulated.claim(arrival, token).await,
        }
    }

    /// Records a success, or adds requests whose 2xx was written out to the record of one.
    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        token: Token,
        status: u16,
        answered: Option<&Identities>,
        until: Instant,
    ) -> Result<(), Unreachable> {
        match self {
            Shared::Redis(redis) => {
                Box::pin(redis.done(arrival, token, status, answered, until)).await
            }
            #[cfg(test)]
            Shared::Simulated(simulated) => simulated.done(arrival, token, status, answered).await,
        }
    }

    /// Ends the lease called `token`, if it is held under that name, with the `status` for those who
    /// wait, which is 0 if there was no attempt. Pin and mark of an attempt are on
    /// record afterwards, whoever holds the lease: one that the store never heard of can have been made.
    pub(crate) async fn failed(
        &self,
        arrival: &Arrival,
        token: Token,
        attempt: Attempt,
        status: u16,
        until: Instant,
    ) -> Result<(), Unreachable> {
        match self {
            Shared::Redis(redis) => {
                Box::pin(redis.failed(arrival, token, attempt, status, until)).await
            }
            #[cfg(test)]
            Shared::Simulated(simulated) => simulated.failed(arrival, token, attempt, status).await,
        }
    }

    /// Prolongs the lease called `token`, if it is held under that name.
    pub(crate) async fn renew(
        &self,
        key: &Key,
        token: Token,
        until: Instant,
    ) -> Result<(), Unreachable> {
        match self {
            Shared::Redis(redis) => Box::pin(redis.renew(key, token, until)).await,
            #[cfg(test)]
            Shared::Simulated(simulated) => simulated.renew(key, token).await,
        }
    }

    /// How the event stands.
    pub(crate) async fn look(
        &self,
        arrival: &Arrival,
        until: Instant,
    ) -> Result<Standing, Unreachable> {
        match self {
            Shared::Redis(redis) => Box::pin(redis.look(arrival, until)).await,
            #[cfg(test)]
            Shared::Simulated(simulated) => simulated.look(arrival).await,
        }
    }
}
