//! The settings of the event store: the section `[events]`.

use std::path::PathBuf;

use super::model::Retention;
use crate::{postgres::DatabaseOptions, replay::StoreOptions, secret::Secret};

/// The settings of the event store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsOptions {
    /// `store`, with the keys that belong to it.
    pub store: EventStoreOptions,
    /// How much is kept, and for how long.
    pub retention: Retention,
    /// The key with which requests are encrypted at rest.
    pub key: Option<Secret>,
}

impl EventsOptions {
    /// Returns whether the database also contains these replay records, so that an event and its
    /// record can be written in one transaction.
    pub(crate) fn holds(&self, records: &StoreOptions) -> bool {
        match (&self.store, records) {
            (EventStoreOptions::Postgres(events), StoreOptions::Postgres(records)) => {
                events == records
            }
            _ => false,
        }
    }
}

/// Where events are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStoreOptions {
    /// In files on this machine; one process at a time can open them.
    Disk {
        /// The directory.
        path: PathBuf,
    },
    /// In PostgreSQL, shared by all replicas.
    Postgres(DatabaseOptions),
}
