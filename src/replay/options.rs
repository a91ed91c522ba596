//! The settings of the replay guard: the section `[replay]`.

use std::path::PathBuf;

use crate::secret::Secret;

/// The settings of the guard.
#[derive(Clone, Debug)]
pub struct Options {
    /// `store`, with the keys that belong to it.
    pub store: StoreOptions,
    /// The largest number of events on record or in flight in this process.
    pub max_entries: usize,
    /// What happens to new events while the store is unreachable.
    pub on_store_failure: OnStoreFailure,
}

/// Where records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOptions {
    /// In the memory of this process.
    Memory,
    /// In files on this machine; one process at a time can open them.
    Disk {
        /// The directory.
        path: PathBuf,
    },
    /// In Redis or Valkey, shared by all replicas.
    Redis {
        /// `redis://…` or `rediss://…`; it may contain a password.
        url: Secret,
        /// The prefix of every key.
        prefix: String,
        /// With `rediss://`: the certificate authorities that the server's certificate is checked
        /// against, as PEM; `None` for those of the operating system.
        ca: Option<Vec<u8>>,
    },
}

/// What happens to a new event while the store is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// The response is 503, and the sender retries.
    Refuse,
    /// The event is forwarded under a claim that only this process knows.
    Local,
}
