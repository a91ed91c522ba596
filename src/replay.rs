//! The replay guard: what may happen to an event.
//!
//! ```text
//!  absent ──claim──▶ in flight ──upstream 2xx──▶ done (until its record ends)
//!                     ▲     │
//!               claim │     └── anything else ──▶ failed (keeps the pinned context, and whether
//!                     └───────────────────────────────  the upstream may have acted)
//! ```
//!
//! An event is identified by a digest that only an authentic request produces (see [`Verified`]), so
//! nobody without a key can touch a record. Of any number of simultaneous copies, one holds the
//! [`Claim`] and forwards the event; the others join it. A success is recorded before the sender gets
//! its response, and the record outlives every retry; a failure is never stored as a response. A
//! claim that is dropped, by a panic or a cancelled task, is released as an attempt with an unknown
//! outcome.
//!
//! Limits: with the memory store, records end with the process. The order of simultaneous copies
//! with different contexts is unknown; the first one pins its context.

use std::{
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use tokio::time::Instant;

use self::{
    claims::Claims,
    guard::Guard,
    record::Arrival,
    store::{SharedStore, Store, disk::Disk, lease::RENEWAL, redis::Redis},
};
use crate::{metrics::Metrics, reject::Reject, scheme::Verified};

mod claim;
mod claims;
mod clock;
mod decision;
mod eviction;
mod expiry;
mod guard;
mod in_flight;
mod options;
mod record;
mod store;
mod sync;
mod write_behind;

pub use self::{
    claim::{Claim, Failure, Receipt},
    clock::Clock,
    decision::{Claimed, Ended, Joined, Repeat, Settled},
    options::{OnStoreFailure, Options, StoreOptions},
    record::Terms,
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
    /// unreachable Redis server is no error: `sealgate_store_up` reports it.
    ///
    /// # Errors
    /// If files cannot be used or are held by another process, or if a URL is invalid.
    pub fn open(options: Options, clock: Clock, metrics: &Metrics) -> Result<Self, OpenError> {
        let replay = metrics.replay.clone();
        let (claims, store) = match &options.store {
            StoreOptions::Memory => {
                metrics.store_up("memory").set(1);
                (Arc::new(Claims::new(options.max_entries, false, None, replay)), Store::Memory)
            }
            StoreOptions::Disk { path } => {
                let (sender, receiver) = mpsc::channel();
                let ops = Some(sender.clone());
                let claims = Arc::new(Claims::new(options.max_entries, false, ops, replay));
                let up = metrics.store_up("disk");
                let disk = Disk::open(path, (sender, receiver), &claims, clock.now(), up)
                    .map_err(|error| OpenError(error.to_string()))?;
                (claims, Store::Disk(disk))
            }
            StoreOptions::Redis { url, prefix, ca } => {
                let redis = Redis::new(url, prefix, ca.as_deref(), metrics.store_up("redis"))
                    .map_err(|error| OpenError(error.to_string()))?;
                let claims = Arc::new(Claims::new(options.max_entries, true, None, replay));
                (claims, Store::Shared(SharedStore::Redis(Box::new(redis))))
            }
        };
        let mut process = [0; 8];
        getrandom::fill(&mut process)
            .map_err(|error| OpenError(format!("the system provides no random bytes: {error}")))?;
        let guard = Arc::new(Guard::new(claims, store, clock, options.on_store_failure, process));
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
    /// the sender must have a response by `answer_by`.
    ///
    /// # Errors
    /// [`Reject::NotAccepted`] as `stale` (too old, and the event is not on record) or
    /// `context_mismatch`; [`Reject::GuardFull`]; [`Reject::StoreUnavailable`]; [`Reject::InFlight`]
    /// if the deadline passes while another copy waits for the store.
    pub async fn claim(
        &self,
        verified: &Verified,
        terms: Terms,
        answer_by: Instant,
    ) -> Result<Claimed, Reject> {
        match Arrival::new(verified, terms) {
            Some(arrival) => decision::admit(&self.0, arrival, answer_by).await,
            None => Ok(Claimed::Won(Claim::unrecorded())),
        }
    }

    /// Removes expired records, so that the gauges are exact. This also happens once a second.
    pub fn tidy(&self) {
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
        let Some(guard) = guard.upgrade() else { return };
        guard.claims.remove_expired(guard.clock.now());
        let (used, max_entries) = (guard.claims.used(), guard.claims.max_entries());
        // Warns at 80%, and again only after the guard was below 75%.
        if !warned && used >= max_entries / 5 * 4 {
            warned = true;
            tracing::warn!(used, max_entries, "the replay guard is nearly full");
        } else if warned && used < max_entries / 4 * 3 {
            warned = false;
        }
    }
}

async fn renew_leases(guard: Weak<Guard>) {
    loop {
        let Some(strong) = guard.upgrade() else { return };
        if let Store::Shared(store) = &strong.store {
            store.ping().await;
        }
        // An error shows in the gauge and the log; the next round tries again.
        let _ = strong.renew().await;
        drop(strong);
        tokio::time::sleep(Duration::from_millis(RENEWAL)).await;
    }
}

async fn write_behind(guard: Weak<Guard>) {
    const RETRY: Duration = Duration::from_millis(500);
    loop {
        let Some(guard) = guard.upgrade() else { return };
        match guard.write_behind().await {
            Some(Ok(())) => {}
            Some(Err(_)) => tokio::time::sleep(RETRY).await,
            // The timeout ends this task with the guard.
            None => drop(tokio::time::timeout(RETRY, guard.write_behind.added()).await),
        }
    }
}

#[cfg(test)]
mod tests;
