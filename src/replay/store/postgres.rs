//! The store `postgres`: a table in a PostgreSQL database, shared by all replicas.
//!
//! Each event is a row of `sealgate.replay` with its state, pin, lease and mark. Every call is one
//! statement and one round trip; what has to be decided is decided by a function in the database,
//! with the database's clock. The functions are in `src/postgres/migrations`.
//!
//! A claim gives the same reply under the same token, and the other calls record facts. A call
//! whose reply is lost is therefore repeated within its deadline. A reply means that the change is
//! durable, except where requests whose 2xx was written out are added to the record of a success.
//! If a crash of the database loses them, a replay counts as a retry.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::{Instant, sleep};
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use crate::{
    availability::{Availability, REPLAY_STORE},
    postgres::{Database, DatabaseError, DatabaseOptions, Parameter},
    reject::Reason,
    replay::{
        clock::millis,
        record::{Arrival, EventKey, Identities, LeaseToken},
        store::lease::{
            Attempt, ClaimReply, DoneEvent, EventStatus, FORGOTTEN, ForgetReply, LEASE, Lease,
            Renewal, Unreachable,
        },
    },
};

/// The number of connections of a process. Every claim is a commit, and the database writes the
/// commits of different connections to the disk together.
const CONNECTIONS: usize = 16;

/// A call that had less time than this does not show that the store is unavailable.
const CONCLUSIVE: Duration = Duration::from_millis(400);

/// The number of leases that one statement renews.
const CHUNK: usize = 1_000;

/// The most events of which one statement notes answered requests.
pub(crate) const ANSWERED: usize = 256;

/// The number of expired records that one statement removes, and the pauses between statements: few
/// enough that none takes 50 ms.
const BATCH: i64 = 500;
const BETWEEN_BATCHES: Duration = Duration::from_millis(20);
const BETWEEN_SWEEPS: Duration = Duration::from_secs(30);

const CLAIM: &str = "SELECT reply, unknown, status, lasts, answered \
     FROM sealgate.replay_claim($1, $2, $3, $4, $5, $6)";
const DONE: &str = "SELECT sealgate.replay_done($1, $2, $3, $4, $5)";
const ANSWERED_STATEMENT: &str = "SELECT sealgate.replay_answered($1, $2)";
const FAILED: &str = "SELECT sealgate.replay_failed($1, $2, $3, $4, $5, $6)";
const FORGET: &str = "SELECT sealgate.replay_forget($1, $2)";
const RENEW: &str = "UPDATE sealgate.replay r SET lease_ends = sealgate.after($3) \
     FROM unnest($1, $2) AS lease(key, token) \
     WHERE r.key = lease.key AND r.token = lease.token AND r.state = 0 RETURNING r.key";
const STATUS: &str = "SELECT state, pin, COALESCE(lease_ends > clock_timestamp(), false), status, \
     (1000 * extract(epoch FROM expires - clock_timestamp()))::bigint, answered \
     FROM sealgate.replay WHERE key = $1 AND expires > clock_timestamp()";
const SWEEP: &str = "WITH removed AS (DELETE FROM sealgate.replay WHERE key IN ( \
         SELECT key FROM sealgate.replay \
         WHERE expiry_hour < sealgate.hour_of(clock_timestamp()) \
         ORDER BY expiry_hour LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING 1) \
     SELECT count(*) FROM removed";

/// The store.
#[derive(Debug)]
pub(crate) struct Postgres {
    database: Arc<Database>,
    availability: Availability,
}

impl Postgres {
    /// Connects to the database and migrates its schema; if the database does not respond, that
    /// happens later. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The URL or the CA cannot be used, or the schema is too new for this version.
    pub(crate) fn open(options: &DatabaseOptions, gauge: IntGauge) -> Result<Self, DatabaseError> {
        let database = Arc::new(Database::new(options, CONNECTIONS)?);
        database.prepare(async |_| Ok::<_, DatabaseError>(()))?;
        tokio::spawn(remove_expired(Arc::downgrade(&database)));
        Ok(Postgres { database, availability: Availability::new(REPLAY_STORE, gauge) })
    }

    #[cfg(test)]
    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        until: Instant,
    ) -> Result<ClaimReply, Unreachable> {
        let rows = self
            .call(
                CLAIM,
                &[
                    (&arrival.key.0.as_slice(), Type::BYTEA),
                    (&token.0.as_slice(), Type::BYTEA),
                    (&arrival.pin.0.as_slice(), Type::BYTEA),
                    (&arrival.stale, Type::BOOL),
                    (&to_sql(LEASE), Type::INT8),
                    (&record_lifetime(arrival), Type::INT8),
                ],
                until,
            )
            .await?;
        claim_reply(rows.first().ok_or(Unreachable)?, [0, 1, 2, 3, 4])
    }

    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        status: u16,
        answered: Option<&Identities>,
        until: Instant,
    ) -> Result<(), Unreachable> {
        let mut identities = Vec::new();
        answered.into_iter().for_each(|answered| answered.encode_into(&mut identities));
        let rows = self
            .call(
                DONE,
                &[
                    (&arrival.key.0.as_slice(), Type::BYTEA),
                    (&arrival.pin.0.as_slice(), Type::BYTEA),
                    (&i32::from(status), Type::INT4),
                    (&record_lifetime(arrival), Type::INT8),
                    (&identities, Type::BYTEA),
                ],
                until,
            )
            .await;
        rows.map(drop)
    }

    /// Notes answered requests of many done events in one statement; returns the events that are
    /// done.
    pub(crate) async fn answered(
        &self,
        answered: &[(EventKey, Identities)],
        until: Instant,
    ) -> Result<HashSet<EventKey>, Unreachable> {
        let keys: Vec<&[u8]> = answered.iter().map(|(key, _)| key.0.as_slice()).collect();
        let encoded = answered.iter().map(|(_, identities)| {
            let mut bytes = Vec::new();
            identities.encode_into(&mut bytes);
            bytes
        });
        let encoded: Vec<Vec<u8>> = encoded.collect();
        let parameters: [Parameter<'_>; 2] =
            [(&keys, Type::BYTEA_ARRAY), (&encoded, Type::BYTEA_ARRAY)];
        let rows = self.call(ANSWERED_STATEMENT, &parameters, until).await?;
        let read = |row| {
            let key = column::<&[u8]>(row, 0)?.try_into().map_err(|_| unreadable())?;
            Ok(EventKey(key))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn failed(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        attempt: Attempt,
        status: u16,
        until: Instant,
    ) -> Result<(), Unreachable> {
        let attempt: i16 = match attempt {
            Attempt::None => 0,
            Attempt::Failed => 1,
            Attempt::Unknown => 2,
        };
        let rows = self
            .call(
                FAILED,
                &[
                    (&arrival.key.0.as_slice(), Type::BYTEA),
                    (&token.0.as_slice(), Type::BYTEA),
                    (&arrival.pin.0.as_slice(), Type::BYTEA),
                    (&attempt, Type::INT2),
                    (&i32::from(status), Type::INT4),
                    (&record_lifetime(arrival), Type::INT8),
                ],
                until,
            )
            .await;
        rows.map(drop)
    }

    /// Renews leases in the order given, many in one statement, and returns a result for each.
    pub(crate) async fn renew(&self, leases: &[Lease], until: Instant) -> Vec<Renewal> {
        let mut renewals = Vec::with_capacity(leases.len());
        for chunk in leases.chunks(CHUNK) {
            let keys: Vec<&[u8]> = chunk.iter().map(|lease| lease.key.0.as_slice()).collect();
            let tokens: Vec<&[u8]> = chunk.iter().map(|lease| lease.token.0.as_slice()).collect();
            let rows = self
                .call(
                    RENEW,
                    &[
                        (&keys, Type::BYTEA_ARRAY),
                        (&tokens, Type::BYTEA_ARRAY),
                        (&to_sql(LEASE), Type::INT8),
                    ],
                    until,
                )
                .await;
            let Ok(rows) = rows else {
                renewals.resize(leases.len(), Renewal::Unreachable);
                return renewals;
            };
            let renewed: HashSet<&[u8]> =
                rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
            renewals.extend(keys.iter().map(|key| match renewed.contains(key) {
                true => Renewal::Renewed,
                false => Renewal::Lost,
            }));
        }
        renewals
    }

    pub(crate) async fn status(
        &self,
        arrival: &Arrival,
        until: Instant,
    ) -> Result<EventStatus, Unreachable> {
        let key = (&arrival.key.0.as_slice() as _, Type::BYTEA);
        let rows = self.call(STATUS, &[key], until).await?;
        let Some(row) = rows.first() else { return Ok(EventStatus::Open) };
        let state: i16 = column(row, 0)?;
        if state == 3 {
            return Ok(EventStatus::Forgotten);
        }
        if column::<&[u8]>(row, 1)? != arrival.pin.0.as_slice() {
            return Ok(EventStatus::Mismatch);
        }
        match (state, column::<bool>(row, 2)?) {
            (0, true) => Ok(EventStatus::InFlight),
            (0, false) => Ok(EventStatus::Open),
            (1, _) => Ok(match status(row, 3)? {
                0 => EventStatus::Open,
                status => EventStatus::Failed(status),
            }),
            (2, _) => done(row, [3, 4, 5]).map(EventStatus::Done),
            _ => Err(unreadable()),
        }
    }

    pub(crate) async fn forget(
        &self,
        key: &EventKey,
        until: Instant,
    ) -> Result<ForgetReply, Unreachable> {
        let parameters: [Parameter<'_>; 2] =
            [(&key.0.as_slice(), Type::BYTEA), (&to_sql(FORGOTTEN), Type::INT8)];
        let rows = self.call(FORGET, &parameters, until).await?;
        Ok(match column(rows.first().ok_or(Unreachable)?, 0)? {
            true => ForgetReply::Forgotten,
            false => ForgetReply::Busy,
        })
    }

    /// Checks whether the store accepts writes, and sets the gauge.
    pub(crate) async fn check(&self) {
        match self.database.check(Instant::now() + Duration::from_secs(1)).await {
            Ok(()) => drop(self.availability.set_available()),
            Err(error) => self.availability.set_unavailable(&error),
        }
    }

    /// Returns whether the last check or call succeeded.
    pub(crate) fn is_available(&self) -> bool {
        self.availability.is_available()
    }

    /// Waits for `interval`, or until a store that was unavailable replies.
    pub(crate) async fn next_check(&self, interval: Duration) {
        self.availability.next_check(interval).await;
    }

    /// Runs a statement, and records what its result says about the store's availability.
    async fn call(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Vec<Row>, Unreachable> {
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
                Err(Unreachable)
            }
        }
    }
}

/// Removes records that have expired, as long as the store exists.
async fn remove_expired(database: Weak<Database>) {
    while database.strong_count() > 0 {
        sleep(BETWEEN_SWEEPS).await;
        sweep(&database).await;
    }
}

/// Removes the records that expired before the current hour, in small batches.
pub(crate) async fn sweep(database: &Weak<Database>) {
    while let Some(database) = database.upgrade() {
        let until = Instant::now() + Duration::from_secs(5);
        let removed = database.query(SWEEP, &[(&BATCH, Type::INT8)], until).await;
        // An error shows in the gauge and the log, by the checks.
        let removed = removed.ok().and_then(|rows| rows.first()?.try_get(0).ok());
        if removed.unwrap_or(0) < BATCH {
            return;
        }
        sleep(BETWEEN_BATCHES).await;
    }
}

fn to_sql(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// Returns the lifetime of a record in milliseconds, at most 300 years.
fn record_lifetime(arrival: &Arrival) -> i64 {
    to_sql(millis(arrival.terms.ttl)).min(1 << 43)
}

fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, Unreachable> {
    row.try_get(index).map_err(|_| unreadable())
}

fn status(row: &Row, index: usize) -> Result<u16, Unreachable> {
    u16::try_from(column::<i32>(row, index)?).map_err(|_| unreadable())
}

/// Reads the reply to a claim from the columns of its name, the mark, and the status, remaining
/// lifetime and requests of a done event.
pub(crate) fn claim_reply(row: &Row, columns: [usize; 5]) -> Result<ClaimReply, Unreachable> {
    let [name, unknown, done_columns @ ..] = columns;
    match column::<&str>(row, name)? {
        "won" => Ok(ClaimReply::Won { unknown: column(row, unknown)? }),
        "busy" => Ok(ClaimReply::Busy),
        "stale" => Ok(ClaimReply::Rejected(Reason::Stale)),
        "mismatch" => Ok(ClaimReply::Rejected(Reason::ContextMismatch)),
        "done" => done(row, done_columns).map(ClaimReply::Done),
        _ => Err(unreadable()),
    }
}

/// Reads a done event from the columns of its status, remaining lifetime and requests.
fn done(row: &Row, columns: [usize; 3]) -> Result<DoneEvent, Unreachable> {
    let lasts: i64 = column(row, columns[1])?;
    Ok(DoneEvent {
        status: status(row, columns[0])?,
        answered: Identities::decode(column(row, columns[2])?).ok_or_else(unreadable)?,
        lasts: lasts.max(0).unsigned_abs(),
    })
}

fn unreadable() -> Unreachable {
    tracing::error!("the replay store contains a record that this version cannot read");
    Unreachable
}
