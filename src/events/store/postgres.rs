//! The store `postgres`: events in a PostgreSQL database, shared by all replicas.
//!
//! An event is a row of `sealgate.event` with its sealed entry, and a row of
//! `sealgate.event_request`. The columns contain what statements change without the entry: state,
//! due time, attempts and marks. Every operation is one statement; those that change the entry
//! repeat when its version has changed in the meantime. New events that arrive together, and
//! attempts that end together, share a statement (`batch`). If the replay records are in the same
//! database, the statement that stores an event also claims it and records its success.
//!
//! An attempt is a lease with a token. Its holder renews it; when the holder's process dies, the
//! lease expires by the clock of the database, and the event is due again with an unknown outcome.
//! Events are taken with `FOR UPDATE SKIP LOCKED`, so replicas do not wait for each other, and
//! those with an order under an advisory lock of that order.

mod accept;
mod attempts;
mod batch;
mod history;
mod interface;
mod maintenance;
mod row;
mod schedule;
mod statements;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

use self::{
    accept::{NewReply, NewRow},
    attempts::{EndedReply, EndedRow},
    batch::Batches,
    maintenance::Usage,
    row::StoredRow,
    schedule::DueTimes,
};
use super::StoreError;
use crate::{
    availability::{Availability, EVENT_STORE},
    events::{
        model::{AttemptLease, EventEntry, EventId, Retention},
        seal::{DigestOf, InvalidKey, Seal},
    },
    postgres::{Database, DatabaseError, DatabaseOptions, Parameter},
    scheme::EventKey,
    secret::Secret,
};

/// The number of connections of a process, without the one that listens.
const CONNECTIONS: usize = 16;

/// How long callers wait for an operation without a deadline.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);

/// An operation that had less time than this does not show that the store is unavailable.
const CONCLUSIVE: Duration = Duration::from_millis(400);

/// The lifetime of a lease in milliseconds. Leases are renewed every five seconds.
const LEASE: i64 = 15_000;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(
        "the events in the database are encrypted, and `key` is not configured: set `[events] \
         key` to the key with which they were stored"
    )]
    MissingKey,
    #[error(
        "the events in the database are encrypted with another `key`: set `[events] key` to the \
         key with which they were stored"
    )]
    WrongKey,
    #[error(
        "the events in the database are not encrypted, and `key` is configured: remove `[events] \
         key`"
    )]
    NotEncrypted,
}

impl PostgresError {
    /// Returns whether the stored events do not fit the configured key.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(
            self,
            PostgresError::MissingKey | PostgresError::WrongKey | PostgresError::NotEncrypted
        )
    }
}

/// The handle of the store.
pub(crate) struct PostgresStore(Arc<PostgresEvents>);

/// What the handle and the background tasks share.
struct PostgresEvents {
    database: Arc<Database>,
    availability: Availability,
    seal: Seal,
    retention: Retention,
    schedule: DueTimes,
    usage: Usage,
    accepting: Arc<Batches<NewRow, NewReply>>,
    settling: Arc<Batches<EndedRow, EndedReply>>,
    /// Whether the database also contains the replay records.
    holds_records: bool,
    /// The events whose leases this process holds, as they were when the attempts began.
    held: Mutex<HashMap<AttemptLease, StoredRow>>,
    next_token: AtomicU64,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("database", &self.0.database).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database, migrates its schema and starts the background tasks. If the
    /// database does not respond, that happens later. `holds_records`: the replay records are in
    /// the same database. Must be called inside a Tokio runtime, which must live as long as the
    /// store.
    ///
    /// # Errors
    /// The URL, the CA or the key cannot be used, or the schema is too new for this version.
    pub(crate) fn open(
        options: &DatabaseOptions,
        key: Option<&Secret>,
        retention: Retention,
        holds_records: bool,
        up: IntGauge,
    ) -> Result<Self, PostgresError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| DatabaseError::Failed(error.to_string()))?;
        let inner = Arc::new(PostgresEvents {
            database: Arc::new(Database::new(options, CONNECTIONS)?),
            availability: Availability::new(EVENT_STORE, up),
            seal: Seal::new(key)?,
            retention,
            schedule: DueTimes::default(),
            usage: Usage::default(),
            accepting: Batches::new(),
            settling: Batches::new(),
            holds_records,
            held: Mutex::default(),
            next_token: AtomicU64::new(u64::from(u32::from_le_bytes(random)) << 31),
        });
        inner.database.prepare(async |until| inner.check_key(until).await)?;
        tokio::spawn(maintenance::check(Arc::downgrade(&inner)));
        tokio::spawn(schedule::listen(Arc::downgrade(&inner)));
        Ok(PostgresStore(inner))
    }
}

impl PostgresEvents {
    /// Runs a statement, and records what its result says about the store's availability.
    async fn call(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Vec<Row>, StoreError> {
        let start = Instant::now();
        match self.database.query(statement, parameters, until).await {
            Ok(rows) => {
                self.availability.replied();
                Ok(rows)
            }
            Err(error) => {
                if until - start >= CONCLUSIVE {
                    self.availability.set_unavailable(&error);
                }
                Err(StoreError::Unavailable(error.to_string().into()))
            }
        }
    }

    /// Runs an operation as part of a batch. Its caller may give up before the statement does.
    async fn batched<T>(
        &self,
        until: Instant,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        operation.await.inspect_err(|error| {
            if let StoreError::Unavailable(reason) = error
                && until - start >= CONCLUSIVE
            {
                self.availability.set_unavailable(reason);
            }
        })
    }

    /// Reads the event that a statement selects by one value.
    async fn row(&self, statement: &str, value: &[u8]) -> Result<Option<StoredRow>, StoreError> {
        let rows = self.call(statement, &[(&value, Type::BYTEA)], soon()).await?;
        rows.first().map(|row| StoredRow::read(row, &self.seal)).transpose()
    }

    async fn row_of(&self, id: EventId) -> Result<Option<StoredRow>, StoreError> {
        self.row(statements::BY_ID, &id.0.to_be_bytes()).await
    }

    fn record_digest(&self, route: &str, record: EventKey) -> [u8; 16] {
        self.seal.digest(DigestOf::Record, &[route.as_bytes(), &record.0])
    }

    fn event_id_digest(&self, event_id: &str) -> [u8; 16] {
        self.seal.digest(DigestOf::EventId, &[event_id.as_bytes()])
    }

    fn order_digest(&self, entry: &EventEntry) -> Option<[u8; 16]> {
        let order = entry.order?;
        Some(self.seal.digest(DigestOf::Order, &[entry.route.as_bytes(), &order.0]))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<AttemptLease, StoredRow>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first of so many tokens that no other attempt has.
    fn tokens(&self, count: usize) -> u64 {
        self.next_token.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// Notes that this process holds the lease of an event.
    fn hold(&self, entry: EventEntry, version: i64, token: u64) -> AttemptLease {
        let lease = AttemptLease { id: entry.id, token };
        self.held().insert(lease, StoredRow { entry, version, token });
        lease
    }
}

fn soon() -> Instant {
    Instant::now() + OPERATION_TIMEOUT
}

fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn attempts(entry: &EventEntry) -> i32 {
    i32::try_from(entry.attempts).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
