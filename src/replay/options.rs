//! The settings of the replay guard: the section `[replay]`.

use std::path::PathBuf;

use crate::{postgres::DatabaseOptions, secret::Secret};

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
    Redis(RedisOptions),
    /// In a PostgreSQL database, shared by all replicas.
    Postgres(DatabaseOptions),
}

/// Where the Redis servers are, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// `redis://…` or `rediss://…`; they may contain a password. They differ in host and port only.
    pub urls: Vec<Secret>,
    /// How the servers belong together.
    pub topology: Topology,
    /// The prefix of every key.
    pub prefix: String,
    /// With `rediss://`: the certificate authorities that the servers' certificates are checked
    /// against, as PEM; `None` for those of the operating system.
    pub ca: Option<Vec<u8>>,
}

/// How Redis servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server, or a name that always leads to the primary.
    Single,
    /// The URLs are those of sentinels, which know the primary by this name.
    Sentinel(String),
    /// The URLs are those of some servers of a cluster.
    Cluster,
}

/// What happens to a new event while the store is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// The response is 503, and the sender retries.
    Refuse,
    /// The event is forwarded under a claim that only this process knows.
    Local,
}
