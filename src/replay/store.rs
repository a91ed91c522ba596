//! The stores behind the claim map.
//!
//! `memory` is the claim map alone. `disk` writes every record to files of this machine and reads
//! them only at start. Shared stores decide between processes; each of them implements the calls of
//! [`SharedStore`], whose types are in `lease`.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use self::{
    disk::Disk,
    lease::{Attempt, ClaimReply, EventStatus, ForgetReply, Lease, Renewal, Unreachable},
    postgres::Postgres,
    redis::Redis,
};
use crate::replay::record::{Arrival, EventKey, Identities, LeaseToken};

pub(crate) mod disk;
pub(crate) mod lease;
pub(crate) mod postgres;
pub(crate) mod redis;
#[cfg(test)]
pub(crate) mod simulated;

/// Where records are kept in addition to the claim map.
#[derive(Debug)]
pub(crate) enum Store {
    Memory,
    Disk(Disk),
    Shared(SharedStore),
}

/// A store that several processes share.
#[derive(Debug)]
pub(crate) enum SharedStore {
    Redis(Box<Redis>),
    Postgres(Box<Postgres>),
    #[cfg(test)]
    Simulated(simulated::Simulated),
}

/// Futures of a store are boxed, so that a request that does not use them stays small.
impl SharedStore {
    /// Claims the event under `token`; claiming it again under the same token gives the same reply.
    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        until: Instant,
    ) -> Result<ClaimReply, Unreachable> {
        match self {
            SharedStore::Redis(redis) => Box::pin(redis.claim(arrival, token, until)).await,
            SharedStore::Postgres(postgres) => {
                Box::pin(postgres.claim(arrival, token, until)).await
            }
            #[cfg(test)]
            SharedStore::Simulated(simulated) => simulated.claim(arrival, token).await,
        }
    }

    /// Records a success, or adds requests whose 2xx was written out to the record of one.
    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        status: u16,
        answered: Option<&Identities>,
        until: Instant,
    ) -> Result<(), Unreachable> {
        match self {
            SharedStore::Redis(redis) => {
                Box::pin(redis.done(arrival, token, status, answered, until)).await
            }
            SharedStore::Postgres(postgres) => {
                Box::pin(postgres.done(arrival, status, answered, until)).await
            }
            #[cfg(test)]
            SharedStore::Simulated(simulated) => {
                simulated.done(arrival, token, status, answered).await
            }
        }
    }

    /// Returns the number of events of which [`SharedStore::answered`] can note requests in one
    /// call.
    pub(crate) fn answered_together(&self) -> usize {
        match self {
            SharedStore::Redis(_) => 1,
            SharedStore::Postgres(_) => postgres::ANSWERED,
            #[cfg(test)]
            SharedStore::Simulated(_) => 1,
        }
    }

    /// Adds requests whose 2xx was written out to the records of done events, and returns the
    /// events of which the store has such a record. The others are left to [`SharedStore::done`].
    pub(crate) async fn answered(
        &self,
        answered: &[(EventKey, Identities)],
        until: Instant,
    ) -> Result<HashSet<EventKey>, Unreachable> {
        match self {
            SharedStore::Redis(_) => Ok(HashSet::new()),
            SharedStore::Postgres(postgres) => Box::pin(postgres.answered(answered, until)).await,
            #[cfg(test)]
            SharedStore::Simulated(_) => Ok(HashSet::new()),
        }
    }

    /// Ends the lease held under `token`, if any. Copies that wait get `status`; 0 means that no
    /// attempt was made. The context and the unknown-outcome mark of an attempt are recorded in any
    /// case, because an attempt may have been made that the store never heard of.
    pub(crate) async fn failed(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        attempt: Attempt,
        status: u16,
        until: Instant,
    ) -> Result<(), Unreachable> {
        match self {
            SharedStore::Redis(redis) => {
                Box::pin(redis.failed(arrival, token, attempt, status, until)).await
            }
            SharedStore::Postgres(postgres) => {
                Box::pin(postgres.failed(arrival, token, attempt, status, until)).await
            }
            #[cfg(test)]
            SharedStore::Simulated(simulated) => {
                simulated.failed(arrival, token, attempt, status).await
            }
        }
    }

    /// Renews leases concurrently, starting with the first, and returns a result for each.
    pub(crate) async fn renew(&self, leases: &[Lease], until: Instant) -> Vec<Renewal> {
        match self {
            SharedStore::Redis(redis) => Box::pin(redis.renew(leases, until)).await,
            SharedStore::Postgres(postgres) => Box::pin(postgres.renew(leases, until)).await,
            #[cfg(test)]
            SharedStore::Simulated(simulated) => simulated.renew(leases).await,
        }
    }

    /// Returns the state of the event.
    pub(crate) async fn status(
        &self,
        arrival: &Arrival,
        until: Instant,
    ) -> Result<EventStatus, Unreachable> {
        match self {
            SharedStore::Redis(redis) => Box::pin(redis.status(arrival, until)).await,
            SharedStore::Postgres(postgres) => Box::pin(postgres.status(arrival, until)).await,
            #[cfg(test)]
            SharedStore::Simulated(simulated) => simulated.status(arrival).await,
        }
    }

    /// Forgets an event that no lease holds. Until the record would have expired or a copy claims
    /// the event, its status is [`EventStatus::Forgotten`], so that other processes forget their
    /// records too, and what processes report late about the event is ignored.
    pub(crate) async fn forget(
        &self,
        key: &EventKey,
        until: Instant,
    ) -> Result<ForgetReply, Unreachable> {
        match self {
            SharedStore::Redis(redis) => Box::pin(redis.forget(key, until)).await,
            SharedStore::Postgres(postgres) => Box::pin(postgres.forget(key, until)).await,
            #[cfg(test)]
            SharedStore::Simulated(simulated) => simulated.forget(key).await,
        }
    }

    /// Checks whether the store accepts writes, and updates its gauge.
    pub(crate) async fn check(&self) {
        match self {
            SharedStore::Redis(redis) => redis.check().await,
            SharedStore::Postgres(postgres) => postgres.check().await,
            #[cfg(test)]
            SharedStore::Simulated(_) => {}
        }
    }

    /// Returns whether the last check or call succeeded.
    pub(crate) fn is_available(&self) -> bool {
        match self {
            SharedStore::Redis(redis) => redis.is_available(),
            SharedStore::Postgres(postgres) => postgres.is_available(),
            #[cfg(test)]
            SharedStore::Simulated(_) => true,
        }
    }

    /// Waits until the next check and the next renewals are due: for `interval`, or until a store
    /// that was unavailable replies.
    pub(crate) async fn next_check(&self, interval: Duration) {
        match self {
            SharedStore::Redis(redis) => redis.next_check(interval).await,
            SharedStore::Postgres(postgres) => postgres.next_check(interval).await,
            #[cfg(test)]
            SharedStore::Simulated(_) => {}
        }
    }
}
