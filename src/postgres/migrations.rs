//! The versions of the schema `sealgate`, and the step from each to the next.
//!
//! A migration must leave the previous binary working, because both run side by side during a
//! rolling upgrade: it adds columns with defaults, and adds functions under new names instead of
//! changing what existing ones accept or return. If it cannot, it raises `oldest`.

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use super::error::DatabaseError;

/// A step to the next version of the schema.
#[derive(Debug)]
pub(super) struct Migration {
    /// The oldest version that a binary must know to use the schema after this step.
    oldest: i32,
    sql: &'static str,
}

impl Migration {
    pub(super) const fn new(oldest: i32, sql: &'static str) -> Self {
        Migration { oldest, sql }
    }
}

/// The steps; the version of the schema is the number of steps that were taken.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration::new(1, include_str!("migrations/1_replay.sql")),
    Migration::new(1, include_str!("migrations/2_events.sql")),
    Migration::new(1, include_str!("migrations/3_batches.sql")),
];

/// The key of the advisory lock under which one process at a time migrates: `sealgate` in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"sealgate");

/// The longest that a migration waits for the lock, or for a table.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The version of the schema in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SchemaVersion {
    pub(super) version: i32,
    pub(super) oldest: i32,
}

impl SchemaVersion {
    /// Checks that a binary with these migrations can use the schema.
    ///
    /// # Errors
    /// If it needs a later version.
    pub(super) fn check(self, migrations: &[Migration]) -> Result<(), DatabaseError> {
        let known = latest(migrations);
        if self.oldest > known {
            return Err(DatabaseError::Newer { found: self.version, known });
        }
        Ok(())
    }
}

/// Returns the version of the schema after these steps.
fn latest(migrations: &[Migration]) -> i32 {
    i32::try_from(migrations.len()).unwrap_or(i32::MAX)
}

/// Returns the version of the schema, or `None` if it lacks some of these steps.
pub(super) async fn complete_version(
    client: &Client,
    migrations: &[Migration],
) -> Result<Option<SchemaVersion>, tokio_postgres::Error> {
    let exists = "SELECT to_regclass('sealgate.migration') IS NOT NULL";
    if !client.query_typed_one(exists, &[]).await?.try_get(0)? {
        return Ok(None);
    }
    let Some(row) = client.query_typed_opt(VERSION, &[]).await? else { return Ok(None) };
    let found = SchemaVersion { version: row.try_get(0)?, oldest: row.try_get(1)? };
    Ok((found.version >= latest(migrations)).then_some(found))
}

/// Creates the schema, or takes the steps that it lacks.
pub(super) async fn migrate(
    client: &mut Client,
    migrations: &[Migration],
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let taken = take_steps(&transaction, migrations).await?;
    transaction.commit().await?;
    if let Some((from, to)) = taken {
        tracing::info!(from, to, "the schema sealgate was migrated");
    }
    Ok(())
}

const VERSION: &str =
    "SELECT version, oldest FROM sealgate.migration ORDER BY version DESC LIMIT 1";

/// Takes the missing steps under the lock, and returns the versions before and after.
async fn take_steps(
    transaction: &Transaction<'_>,
    migrations: &[Migration],
) -> Result<Option<(i32, i32)>, tokio_postgres::Error> {
    let lock = format!(
        "SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({LOCK})",
        LOCK_TIMEOUT.as_millis()
    );
    transaction.batch_execute(&lock).await?;
    // Creating what exists requires more privileges than finding it.
    let exists = "SELECT to_regnamespace('sealgate') IS NOT NULL";
    if !transaction.query_typed_one(exists, &[]).await?.try_get::<_, bool>(0)? {
        transaction.batch_execute("CREATE SCHEMA sealgate").await?;
    }
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS sealgate.migration (version integer PRIMARY KEY, \
             oldest integer NOT NULL, taken_at timestamptz NOT NULL DEFAULT now())",
        )
        .await?;
    let found = transaction.query_typed_opt(VERSION, &[]).await?;
    let from: i32 = found.map_or(Ok(0), |row| row.try_get(0))?;
    let (mut version, mut oldest) = (0, 0);
    for migration in migrations {
        version += 1;
        oldest = migration.oldest.max(oldest);
        if version > from {
            transaction.batch_execute(migration.sql).await?;
            let note = format!("INSERT INTO sealgate.migration VALUES ({version}, {oldest})");
            transaction.batch_execute(&note).await?;
        }
    }
    Ok((version > from).then_some((from, version)))
}
