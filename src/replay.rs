//! The replay guard: what may happen to an event.
//!
//! ```text
//!  absent ──claim──▶ in flight ──upstream 2xx──▶ done (until its record ends)
//!                     ▲     │
//!               claim │     └── anything else ──▶ failed (keeps the pinned context, and whether
//!                     └───────────────────────────────  the upstream may have acted)
//! ```
//!
//! An event is named by route, key and event id; the name is a digest that only an authentic
//! request has (see [`Verified`]), so that nobody without a key can touch a record. Of any number of
//! simultaneous copies one holds the [`Claim`] and forwards; the others join it. A success is
//! recorded before the sender hears of it, and the record outlasts every retry; a failure is never
//! remembered as an answer. A claim that is dropped, by a panic or a cancelled task, is released as
//! an attempt with an unknown outcome.
//!
//! Limits: with the memory store, records end with the process. The wire is not ordered: which of
//! two simultaneous copies with a different context comes first is not ours to say, the first pins.

use std::{
    path::PathBuf,
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    metrics::Metrics,
    reject::Reject,
    replay::{
        disk::Disk,
        guard::{Backend, Guard},
        local::Local,
        record::Arrival,
        redis::Redis,
        shared::{RENEWAL, Shared},
    },
    scheme::Verified,
    secret::Secret,
};

mod claim;
mod clock;
mod disk;
mod flight;
mod guard;
mod lines;
mod local;
mod record;
mod redis;
mod room;
mod shared;
mod sync;

pub use self::{
    claim::{Claim, Ended, Failure, Joined, Receipt, Settled},
    clock::Clock,
    record::Terms,
};

/// How the guard is set up: the section `[replay]`.
#[derive(Clone, Debug)]
pub struct Options {
    /// `store`, with what belongs to it.
    pub store: Store,
    /// The most events on record and in flight at one time, in this process.
    pub max_entries: usize,
    /// What happens while the store cannot be asked.
    pub on_store_failure: OnStoreFailure,
}

/// Where records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this process.
    Memory,
    /// In files of this machine, which one process at a time may hold.
    Disk {
        /// The directory.
        path: PathBuf,
    },
    /// In Redis or Valkey, shared by all replicas.
    Redis {
        /// `redis://…` or `rediss://…`; it may hold a password.
        url: Secret,
        /// What every key begins with.
        prefix: String,
        /// With `rediss://`: the authorities that vouch for the server, PEM; `None` for the machine's.
        ca: Option<Vec<u8>>,
    },
}

/// What happens to a new event while the store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// 503: the sender comes again.
    Refuse,
    /// It is forwarded by what this process knows.
    Local,
}

/// The store cannot be opened; the text says which one and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

/// The guard. A handle: its clones share one guard.
#[derive(Clone, Debug)]
pub struct Replay(Arc<Guard>);

/// What a request may do.
#[derive(Debug)]
pub enum Claimed {
    /// Forward the event.
    Won(Claim),
    /// Wait for the outcome of the copy that forwards it.
    InFlight(Joined),
    /// Nothing: the event is done.
    Done(Repeat),
}

/// Which repetition of a done event a request is.
#[derive(Debug)]
pub enum Repeat {
    /// Another request for it, or one that has not got its answer: it is acknowledged, and once that
    /// is written out the receipt says so.
    Retry(Receipt),
    /// The same request once more, after its 2xx was written out.
    Replay,
}

impl Replay {
    /// Opens the store, and starts what keeps it in order; call it inside a Tokio runtime. A Redis
    /// server that does not answer is no error: it shows in `sealgate_store_up`.
    ///
    /// # Errors
    /// When files cannot be used or are held by another process, and when a URL is none.
    pub fn open(options: Options, clock: Clock, metrics: &Metrics) -> Result<Self, OpenError> {
        let replay = metrics.replay.clone();
        let (local, backend) = match &options.store {
            Store::Memory => {
                metrics.store_up("memory").set(1);
                (Arc::new(Local::new(options.max_entries, false, None, replay)), Backend::None)
            }
            Store::Disk { path } => {
                let (sender, receiver) = mpsc::channel();
                let departures = Some(sender.clone());
                let local = Arc::new(Local::new(options.max_entries, false, departures, replay));
                let up = metrics.store_up("disk");
                let disk = Disk::open(path, (sender, receiver), &local, clock.now(), up)
                    .map_err(|error| OpenError(error.to_string()))?;
                (local, Backend::Disk(disk))
            }
            Store::Redis { url, prefix, ca } => {
                let redis = Redis::new(url, prefix, ca.as_deref(), metrics.store_up("redis"))
                    .map_err(|error| OpenError(error.to_string()))?;
                let local = Arc::new(Local::new(options.max_entries, true, None, replay));
                (local, Backend::Shared(Shared::Redis(Box::new(redis))))
            }
        };
        let mut process = [0; 8];
        getrandom::fill(&mut process)
            .map_err(|error| OpenError(format!("the system gives no random bytes: {error}")))?;
        let guard = Arc::new(Guard::new(local, backend, clock, options.on_store_failure, process));
        tokio::spawn(keep_tidy(Arc::downgrade(&guard)));
        if let Backend::Shared(_) = guard.backend {
            tokio::spawn(keep_leases(Arc::downgrade(&guard)));
            for _ in 0..PAYERS {
                tokio::spawn(keep_paying(Arc::downgrade(&guard)));
            }
        }
        Ok(Replay(guard))
    }

    /// Claims the event of an authentic request, if it is free. `terms` are its route's, and the
    /// sender is to have an answer by `answer_by`.
    ///
    /// # Errors
    /// [`Reject::NotAccepted`] as `stale` (too old, and the event is not on record) or `context_mismatch`;
    /// [`Reject::GuardFull`]; [`Reject::StoreUnavailable`]; [`Reject::InFlight`] when the deadline passes
    /// while another copy is asking the store.
    pub async fn claim(
        &self,
        verified: &Verified,
        terms: Terms,
        answer_by: Instant,
    ) -> Result<Claimed, Reject> {
        match Arrival::new(verified, terms) {
            Some(arrival) => self.0.admit(arrival, answer_by).await,
            None => Ok(Claimed::Won(Claim::unrecorded())),
        }
    }

    /// Lets records go that are over, so that the gauges are exact. It happens once a second by
    /// itself.
    pub fn tidy(&self) {
        self.0.local.tidy(self.0.clock.now());
    }

    /// Waits until everything that is kept for writing behind is in the store, at most until then.
    /// The last step of draining.
    pub async fn flush(&self, until: Instant) {
        let flush = async {
            match &self.0.backend {
                Backend::None => {}
                Backend::Disk(disk) => disk.flush().await,
                Backend::Shared(_) => {
                    while self.0.owes() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        };
        if tokio::time::timeout_at(until, flush).await.is_err() {
            tracing::error!("the replay store did not take everything before the process ends");
        }
    }
}

/// So many records are written behind at one time.
const PAYERS: usize = 8;

async fn keep_tidy(guard: Weak<Guard>) {
    let mut alert = false;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(guard) = guard.upgrade() else { return };
        guard.local.tidy(guard.clock.now());
        let (used, most) = (guard.local.used(), guard.local.max_entries());
        // 80 %, and below 75 % before it is told again.
        if !alert && used >= most / 5 * 4 {
            alert = true;
            tracing::warn!(used, max_entries = most, "the replay guard is nearly full");
        } else if alert && used < most / 4 * 3 {
            alert = false;
        }
    }
}

async fn keep_leases(guard: Weak<Guard>) {
    loop {
        let Some(strong) = guard.upgrade() else { return };
        if let Backend::Shared(Shared::Redis(redis)) = &strong.backend {
            redis.ping().await;
        }
        // An error shows in the gauge and the log; the next round tries again.
        let _ = strong.renew().await;
        drop(strong);
        tokio::time::sleep(Duration::from_millis(RENEWAL)).await;
    }
}

async fn keep_paying(guard: Weak<Guard>) {
    const RETRY: Duration = Duration::from_millis(500);
    loop {
        let Some(guard) = guard.upgrade() else { return };
        match guard.pay().await {
            Some(Ok(())) => {}
            Some(Err(_)) => tokio::time::sleep(RETRY).await,
            // Looking up now and then ends this task with the guard.
            None => drop(tokio::time::timeout(RETRY, guard.owing()).await),
        }
    }
}

#[cfg(test)]
mod tests;
