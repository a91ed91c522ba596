//! The replay guard: what may happen to an event.
//!
//! ```text
//!  absent ──claim──▶ in flight ──upstream 2xx──▶ done (until its record ends)
//!                     ▲     │
//!               claim │     └── anything else ──▶ failed (keeps the pinned context, and whether
//!                     └───────────────────────────────  the upstream may have acted)
//! ```
//!
//! An event is identified by a digest that only an authentic request produces (see [`Verified`]),
//! so nobody without a key can touch a record. Of any number of simultaneous copies, one holds the
//! [`Claim`] and forwards the event; the others join it. A success is recorded before the sender
//! gets its response, and the record outlives every retry; a failure is never stored as a response.
//! A claim that is dropped, by a panic or a cancelled task, is released as an attempt with an
//! unknown outcome.
//!
//! Limits: with the memory store, records end with the process. The order of simultaneous copies
//! with different contexts is unknown; the first one pins its context.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use self::{
    claims::Claims,
    guard::Guard,
    record::Arrival,
    store::{
        SharedStore, Store,
        disk::{Disk, queue::WriteQueue},
        lease::{RENEWAL, RENEWAL_CHECK},
        postgres::Postgres,
        redis::Redis,
    },
};
use crate::{
    metrics::Metrics,
    reject::Reject,
    scheme::{EventKey, Verified},
};

mod capacity;
mod claim;
mod claims;
mod clock;
mod decision;
mod expiry;
mod guard;
mod in_flight;
mod options;
mod record;
mod shares;
mod store;
mod sync;
mod write_behind;

#[cfg(test)]
pub(crate) use self::record::LeaseToken;
pub use self::{
    claim::{Claim, Failure, PendingClaim, Receipt},
    clock::Clock,
    decision::{Claimed, Ended, LocalDecision, Repeat, Settled},
    options::{OnStoreFailure, Options, RedisOptions, StoreOptions, Topology},
    record::{ShareId, Terms},
    store::redis::{UrlError, check_urls},
};
pub(crate) use self::{
    clock::Millis,
    record::ReplayRecord,
    store::{lease::ClaimReply, postgres::claim_reply},
};

/// The store cannot be opened; the text says which one and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

/// The guard. Clones share one guard.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Guard>);

impl Replay {
    /// Opens the store and starts its background tasks; must be called inside a Tokio runtime. An
    /// unreachable server is no error: `sealgate_store_up` reports it.
    ///
    /// # Errors
    /// If files cannot be used or are held by another process, if a URL is invalid, or if the
    /// schema of a database is too new.
    pub fn open(options: Options, clock: Clock, metrics: &Metrics) -> Result<Self, OpenError> {
        let replay = metrics.replay.clone();
        let (claims, store) = match &options.store {
            StoreOptions::Memory => {
                metrics.store_up("memory").set(1);
                (Arc::new(Claims::new(options.max_entries, false, None, replay)), Store::Memory)
            }
            StoreOptions::Disk { path } => {
                let queue = Arc::new(WriteQueue::new(options.max_entries));
                let to_disk = Some(Arc::clone(&queue));
                let claims = Arc::new(Claims::new(options.max_entries, false, to_disk, replay));
                let up = metrics.store_up("disk");
                let disk = Disk::open(path, queue, &claims, clock.now(), up)
                    .map_err(|error| OpenError(error.to_string()))?;
                (claims, Store::Disk(disk))
            }
            StoreOptions::Redis(servers) => {
                let redis = Redis::new(servers, metrics.store_up("redis"))
                    .map_err(|error| OpenError(error.to_string()))?;
                let claims = Arc::new(Claims::new(options.max_entries, true, None, replay));
                (claims, Store::Shared(SharedStore::Redis(Box::new(redis))))
            }
            StoreOptions::Postgres(database) => {
                let postgres = Postgres::open(database, metrics.store_up("postgres"))
                    .map_err(|error| OpenError(error.to_string()))?;
                let claims = Arc::new(Claims::new(options.max_entries, true, None, replay));
                (claims, Store::Shared(SharedStore::Postgres(Box::new(postgres))))
            }
        };
        let mut process = [0; 8];
        getrandom::fill(&mut process)
            .map_err(|error| OpenError(format!("the system provides no random bytes: {error}")))?;
        let mut guard = Guard::new(claims, store, clock, options.on_store_failure, process);
        guard.durations = match &options.store {
            StoreOptions::Memory => None,
            StoreOptions::Disk { .. } => Some(metrics.store_durations("disk")),
            StoreOptions::Redis(_) => Some(metrics.store_durations("redis")),
            StoreOptions::Postgres(_) => Some(metrics.store_durations("postgres")),
        };
        let guard = Arc::new(guard);
        tokio::spawn(expire_records(Arc::downgrade(&guard)));
        if let Store::Shared(_) = guard.store {
            tokio::spawn(renew_leases(Arc::downgrade(&guard)));
            for _ in 0..WRITERS {
                tokio::spawn(write_behind(Arc::downgrade(&guard)));
            }
        }
        Ok(Replay(guard))
    }

    /// Claims the event of an authentic request, if it is free. `terms` are those of its route, and
    /// the sender must have a response by `answer_by`. If the event is free in this process and
    /// there is a shared store, that is still to decide.
    ///
    /// # Errors
    /// [`Reject::NotAccepted`] as `stale` (too old, and the event is not on record) or
    /// `context_mismatch`; [`Reject::GuardFull`]; [`Reject::StoreUnavailable`];
    /// [`Reject::InFlight`] if the deadline passes while another copy waits for the store.
    pub async fn claim(
        &self,
        verified: &Verified,
        terms: Terms,
        answer_by: Instant,
    ) -> Result<LocalDecision, Reject> {
        match Arrival::new(verified, terms) {
            Some(arrival) => decision::admit_here(&self.0, arrival, answer_by).await,
            None => Ok(LocalDecision::Decided(Claimed::Won(Claim::unrecorded()))),
        }
    }

    /// Forgets an event, so that its next copy counts as new. Waits until it is not in flight.
    ///
    /// # Errors
    /// [`Reject::InFlight`] or [`Reject::StoreUnavailable`], at `until` at the latest.
    pub(crate) async fn forget(&self, key: &EventKey, until: Instant) -> Result<(), Reject> {
        self.0.forget(key, until).await
    }

    /// Divides the capacity of the guard among routes and their keys, by name. Called at start and
    /// after a reload.
    pub fn assign_shares<'a, K: Iterator<Item = &'a str>>(
        &self,
        routes: impl Iterator<Item = (&'a str, K)>,
    ) {
        let shares: Vec<_> = routes
            .map(|(route, keys)| {
                let route = ShareId::of_route(route);
                (route, keys.map(|key| route.of_key(key)).collect())
            })
            .collect();
        self.0.claims.assign_shares(&shares);
    }

    /// Removes expired records, so that the gauges are exact. This also happens once a second.
    pub fn expire(&self) {
        self.0.claims.remove_expired(self.0.clock.now());
    }

    /// Waits, at most until the deadline, until the store has every record. The last step of
    /// draining.
    pub async fn flush(&self, until: Instant) {
        let flush = async {
            match &self.0.store {
                Store::Memory => {}
                Store::Disk(disk) => disk.flush().await,
                Store::Shared(_) => {
                    while !self.0.write_behind.is_empty() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        };
        if tokio::time::timeout_at(until, flush).await.is_err() {
            tracing::error!("the process ends before the replay store has every record");
        }
    }
}

/// The number of tasks that write behind concurrently.
const WRITERS: usize = 8;

async fn expire_records(guard: Weak<Guard>) {
    let mut warned = false;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(strong) = guard.upgrade() else { return };
        if let Store::Disk(disk) = &strong.store {
            disk.check();
        }
        let (used, max_entries) = (strong.claims.used(), strong.claims.max_entries());
        // Warns at 80%, and again only after the guard was below 75%.
        if !warned && used >= max_entries / 5 * 4 {
            warned = true;
            tracing::warn!(used, max_entries, "the replay guard is nearly full");
        } else if warned && used < max_entries / 4 * 3 {
            warned = false;
        }
        // With many records this takes long, and this task shares its thread with the listener.
        let expire = tokio::task::spawn_blocking(move || {
            strong.claims.remove_expired(strong.clock.now());
            strong.claims.compact();
        });
        // An error is the panic of that thread, which was reported, or the end of the runtime.
        let _ = expire.await;
    }
}

async fn renew_leases(guard: Weak<Guard>) {
    let mut checked = None;
    loop {
        let Some(strong) = guard.upgrade() else { return };
        let Store::Shared(store) = &strong.store else { return };
        let recently = |at: Instant| at.elapsed() < Duration::from_millis(RENEWAL);
        if !store.is_available() || !checked.is_some_and(recently) {
            store.check().await;
            checked = Some(Instant::now());
        }
        // An error shows in the gauge and the log; leases that were not renewed are due again.
        let _ = strong.renew().await;
        store.next_check(RENEWAL_CHECK).await;
    }
}

/// How long updates are gathered that a store writes together.
const GATHERING: Duration = Duration::from_millis(5);

async fn write_behind(guard: Weak<Guard>) {
    const RETRY: Duration = Duration::from_millis(500);
    loop {
        let Some(guard) = guard.upgrade() else { return };
        match guard.write_behind().await {
            Some(Ok(())) => {}
            Some(Err(_)) => tokio::time::sleep(RETRY).await,
            // The timeout ends this task with the guard.
            None => {
                let added = tokio::time::timeout(RETRY, guard.write_behind.added()).await;
                if added.is_ok() && guard.writes_behind_together() {
                    tokio::time::sleep(GATHERING).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
