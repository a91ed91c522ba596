//! The store `postgres`: events in a PostgreSQL database, shared by all replicas.
//!
//! An event is a row of `sealgate.event` with its sealed entry, and a row of
//! `sealgate.event_request`. The columns contain what statements change without the entry: state,
//! due time, attempts and marks. Every operation is one statement; those that change the entry
//! repeat when its version has changed in the meantime.
//!
//! An attempt is a lease with a token. Its holder renews it; when the holder's process dies, the
//! lease expires by the clock of the database, and the event is due again with an unknown outcome.
//! Events are taken with `FOR UPDATE SKIP LOCKED`, so replicas do not wait for each other, and
//! those with an order under an advisory lock of that order.

mod history;
mod maintenance;
mod row;
mod schedule;
mod statements;

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
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
    maintenance::Usage,
    row::{StoredRow, column, id, natural, seal_entry, seal_request, state_of, unreadable},
    schedule::Schedule,
};
use super::{EventPage, EventStore, Operation, Redelivery, StoreError};
use crate::{
    availability::{Availability, EVENT_STORE},
    events::{
        model::{
            Acceptance, AttemptLease, Backlog, DeliveryAttempt, DueEvent, EventEntry, EventFilter,
            EventId, EventState, NewEvent, NextStep, Retention, StoredRequest,
        },
        seal::{DigestOf, InvalidKey, Seal},
    },
    postgres::{Database, DatabaseError, DatabaseOptions, Parameter},
    replay::Millis,
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
    #[error("the events in the database are encrypted, and `key` is not configured")]
    MissingKey,
    #[error("the events in the database are encrypted with another `key`")]
    WrongKey,
    #[error("the events in the database are not encrypted, and `key` is configured")]
    NotEncrypted,
}

/// The handle of the store.
pub(crate) struct PostgresStore(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    availability: Availability,
    seal: Seal,
    retention: Retention,
    schedule: Schedule,
    usage: Usage,
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
    /// database does not respond, that happens later. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The URL, the CA or the key cannot be used, or the schema is too new for this version.
    pub(crate) fn open(
        options: &DatabaseOptions,
        key: Option<&Secret>,
        retention: Retention,
        up: IntGauge,
    ) -> Result<Self, PostgresError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| DatabaseError::Failed(error.to_string()))?;
        let inner = Arc::new(Inner {
            database: Arc::new(Database::new(options, CONNECTIONS)?),
            availability: Availability::new(EVENT_STORE, up),
            seal: Seal::new(key)?,
            retention,
            schedule: Schedule::default(),
            usage: Usage::default(),
            held: Mutex::default(),
            next_token: AtomicU64::new(u64::from(u32::from_le_bytes(random)) << 31),
        });
        inner.database.prepare(async |until| inner.check_key(until).await)?;
        tokio::spawn(maintenance::check(Arc::downgrade(&inner)));
        tokio::spawn(schedule::listen(Arc::downgrade(&inner)));
        Ok(PostgresStore(inner))
    }
}

impl Inner {
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

    async fn accept(&self, event: NewEvent, until: Instant) -> Result<Acceptance, StoreError> {
        let NewEvent { mut entry, request } = event;
        entry.has_request = true;
        let token = self.tokens(1);
        let sealed_request = seal_request(&request, entry.id, &self.seal);
        let sealed_entry = seal_entry(&entry, &self.seal);
        let size = sealed_request.len() + sealed_entry.len();
        if self.usage.is_full(size, &self.retention) {
            return Err(StoreError::Full);
        }
        let record = entry.record.map(|record| self.record_digest(&entry.route, record));
        let event_id = entry.event_id.as_deref().map(|event_id| self.event_id_digest(event_id));
        let order = self.order_digest(&entry);
        let rows = self
            .call(
                statements::ACCEPT,
                &[
                    (&entry.id.0.to_be_bytes().as_slice(), Type::BYTEA),
                    (&&*entry.route, Type::TEXT),
                    (&record.as_ref().map(<[u8; 16]>::as_slice), Type::BYTEA),
                    (&event_id.as_ref().map(<[u8; 16]>::as_slice), Type::BYTEA),
                    (&order.as_ref().map(<[u8; 16]>::as_slice), Type::BYTEA),
                    (&i16::from(entry.state.number()), Type::INT2),
                    (&to_sql(entry.received), Type::INT8),
                    (&entry.next_attempt.map(to_sql), Type::INT8),
                    (&to_sql(entry.expires), Type::INT8),
                    (&attempts(&entry), Type::INT4),
                    (&entry.possible_duplicate, Type::BOOL),
                    (&sealed_entry, Type::BYTEA),
                    (&sealed_request, Type::BYTEA),
                    (&token.cast_signed(), Type::INT8),
                    (&LEASE, Type::INT8),
                ],
                until,
            )
            .await?;
        let reply = rows.first().ok_or_else(unreadable)?;
        let stored = id(reply, 1)?;
        match column::<&str>(reply, 0)? {
            "begun" => {
                self.usage.add(size);
                entry.next_attempt = None;
                let lease = self.hold(entry, 0, token);
                Ok(Acceptance::New(stored, Some(lease)))
            }
            "pending" => {
                self.usage.add(size);
                self.schedule.note(&entry.route, entry.next_attempt.unwrap_or(entry.received));
                Ok(Acceptance::New(stored, None))
            }
            "revived" => {
                self.schedule.note(&entry.route, entry.next_attempt.unwrap_or(entry.received));
                Ok(Acceptance::Revived(stored))
            }
            "known" | "replace" => self.accept_again(stored, entry, sealed_request).await,
            _ => Err(unreadable()),
        }
    }

    /// Accepts another copy of a stored event that is not dead.
    async fn accept_again(
        &self,
        stored: EventId,
        mut new: EventEntry,
        request: Vec<u8>,
    ) -> Result<Acceptance, StoreError> {
        // A stored request can be opened at the place of its event only.
        let request = self.seal.open(&new.id.0.to_be_bytes(), request).ok_or_else(unreadable)?;
        let request = self.seal.seal(&stored.0.to_be_bytes(), request);
        // An event with an order waits for its turn; the next look at what is due decides.
        if new.order.is_some() && new.state == EventState::Delivering {
            new.release();
        }
        loop {
            let Some(old) = self.row_of(stored).await? else {
                return Err(StoreError::Unavailable("the event was removed meanwhile".into()));
            };
            if !old.entry.takes_request_of(&new) {
                return Ok(Acceptance::Known(old.entry));
            }
            let mut entry = old.entry.clone();
            entry.accept_again(&new);
            entry.has_request = true;
            if entry.state == EventState::Delivering {
                entry.next_attempt = None;
            }
            let token = self.tokens(1);
            let replaced = self.replace(&old, &entry, new.received, &request, Some(token)).await?;
            if !replaced {
                continue;
            }
            if entry.state != EventState::Delivering {
                self.schedule.note(&entry.route, entry.next_attempt.unwrap_or(entry.received));
                return Ok(Acceptance::New(stored, None));
            }
            let lease = self.hold(entry, old.version + 1, token);
            return Ok(Acceptance::New(stored, Some(lease)));
        }
    }

    /// Replaces an event unless it has changed since it was read. With a token, it counts as
    /// accepted again.
    async fn replace(
        &self,
        old: &StoredRow,
        entry: &EventEntry,
        since: Millis,
        request: &[u8],
        token: Option<u64>,
    ) -> Result<bool, StoreError> {
        let sealed = seal_entry(entry, &self.seal);
        let size = i64::try_from(sealed.len() + request.len() + 500).unwrap_or(i64::MAX);
        let order = self.order_digest(entry);
        let rows = self
            .call(
                statements::REPLACE,
                &[
                    (&entry.id.0.to_be_bytes().as_slice(), Type::BYTEA),
                    (&old.version, Type::INT8),
                    (&i16::from(entry.state.number()), Type::INT2),
                    (&to_sql(since), Type::INT8),
                    (&entry.next_attempt.map(to_sql), Type::INT8),
                    (&to_sql(entry.expires), Type::INT8),
                    (&attempts(entry), Type::INT4),
                    (&entry.possible_duplicate, Type::BOOL),
                    (&entry.redelivery, Type::BOOL),
                    (&entry.has_request, Type::BOOL),
                    (&sealed, Type::BYTEA),
                    (&size, Type::INT8),
                    (&order.as_ref().map(<[u8; 16]>::as_slice), Type::BYTEA),
                    (&token.unwrap_or(old.token).cast_signed(), Type::INT8),
                    (&LEASE, Type::INT8),
                    (&token.is_some(), Type::BOOL),
                    (&request, Type::BYTEA),
                ],
                soon(),
            )
            .await?;
        Ok(!rows.is_empty())
    }

    async fn take_due(
        &self,
        route: &Arc<str>,
        now: Millis,
        limit: usize,
    ) -> Result<Vec<DueEvent>, StoreError> {
        self.schedule.ask(route, now);
        let token = self.tokens(limit);
        let rows = self
            .call(
                statements::TAKE,
                &[
                    (&&**route, Type::TEXT),
                    (&to_sql(now), Type::INT8),
                    (&i32::try_from(limit).unwrap_or(i32::MAX), Type::INT4),
                    (&token.cast_signed(), Type::INT8),
                    (&LEASE, Type::INT8),
                ],
                soon(),
            )
            .await;
        let rows = rows.inspect_err(|_| self.schedule.note(route, now))?;
        if rows.len() == limit {
            self.schedule.note(route, now);
        }
        let due: Result<Vec<_>, _> =
            rows.iter().map(|row| StoredRow::read_due(row, &self.seal)).collect();
        let hold = |(stored, due): (StoredRow, DueEvent)| {
            self.held().insert(due.lease, stored);
            due
        };
        Ok(due?.into_iter().map(hold).collect())
    }

    async fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Result<Option<EventEntry>, StoreError> {
        let mut known = self.held().get(&lease).cloned();
        loop {
            let row = match known.take() {
                Some(row) => row,
                None => match self.row_of(lease.id).await? {
                    Some(row) => row,
                    None => return Ok(None),
                },
            };
            if row.entry.state != EventState::Delivering || row.token != lease.token {
                self.held().remove(&lease);
                // A statement whose reply was lost may have recorded it.
                let is_recorded =
                    row.token == lease.token && row.entry.log.last() == Some(&attempt);
                return Ok(is_recorded.then_some(row.entry));
            }
            if let Some(entry) = self.settle_row(row, lease, &attempt, next).await? {
                self.held().remove(&lease);
                if let Some(at) = entry.next_attempt {
                    self.schedule.note(&entry.route, at);
                }
                if entry.order.is_some() {
                    self.schedule.look_again();
                }
                return Ok(Some(entry));
            }
        }
    }

    async fn renew(&self, leases: &[AttemptLease]) -> Result<(), StoreError> {
        let ids: Vec<Vec<u8>> = leases.iter().map(|l| l.id.0.to_be_bytes().to_vec()).collect();
        let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.cast_signed()).collect();
        let parameters = [
            (&ids as _, Type::BYTEA_ARRAY),
            (&tokens as _, Type::INT8_ARRAY),
            (&LEASE as _, Type::INT8),
        ];
        let renewed = self.call(statements::RENEW, &parameters, soon()).await?.len();
        if renewed < leases.len() {
            let lost = leases.len() - renewed;
            tracing::warn!(lost, "leases of attempts in flight were lost to other replicas");
        }
        Ok(())
    }

    /// Ends the attempt of an event; returns `None` if the event has changed since it was read.
    async fn settle_row(
        &self,
        row: StoredRow,
        lease: AttemptLease,
        attempt: &DeliveryAttempt,
        next: NextStep,
    ) -> Result<Option<EventEntry>, StoreError> {
        let mut entry = row.entry;
        entry.settle(attempt, next, false);
        let unknown = match next {
            NextStep::Delivered => false,
            NextStep::Retry { unknown, .. } | NextStep::Dead { unknown } => unknown,
        };
        let rows = self
            .call(
                statements::SETTLE,
                &[
                    (&lease.id.0.to_be_bytes().as_slice(), Type::BYTEA),
                    (&lease.token.cast_signed(), Type::INT8),
                    (&row.version, Type::INT8),
                    (&i16::from(entry.state.number()), Type::INT2),
                    (&entry.next_attempt.map(to_sql), Type::INT8),
                    (&unknown, Type::BOOL),
                    (&to_sql(attempt.ended()), Type::INT8),
                    (&seal_entry(&entry, &self.seal), Type::BYTEA),
                ],
                soon(),
            )
            .await?;
        let Some(after) = rows.first() else { return Ok(None) };
        entry.state = state_of(column(after, 0)?)?;
        entry.next_attempt = column::<Option<i64>>(after, 1)?.map(natural).transpose()?;
        entry.possible_duplicate = column(after, 2)?;
        entry.redelivery = column(after, 3)?;
        Ok(Some(entry))
    }
}

impl EventStore for PostgresStore {
    fn accept(&self, event: NewEvent, until: Instant) -> Operation<'_, Acceptance> {
        Box::pin(self.0.accept(event, until))
    }

    fn find(&self, route: &Arc<str>, record: EventKey) -> Operation<'_, Option<EventEntry>> {
        let digest = self.0.record_digest(route, record);
        Box::pin(async move {
            let row = self.0.row(statements::BY_RECORD, &digest).await?;
            Ok(row.map(|row| row.entry))
        })
    }

    fn revive(
        &self,
        route: &Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
    ) -> Operation<'_, bool> {
        let route = Arc::clone(route);
        Box::pin(async move {
            let digest = self.0.record_digest(&route, record);
            let parameters = [
                (&digest.as_slice() as _, Type::BYTEA),
                (&to_sql(next_attempt) as _, Type::INT8),
                (&to_sql(expires) as _, Type::INT8),
            ];
            let rows = self.0.call(statements::REVIVE, &parameters, soon()).await?;
            let revived = column(rows.first().ok_or_else(unreadable)?, 0)?;
            if revived {
                self.0.schedule.note(&route, next_attempt);
            }
            Ok(revived)
        })
    }

    fn take_due(
        &self,
        route: &Arc<str>,
        now: Millis,
        limit: usize,
    ) -> Operation<'_, Vec<DueEvent>> {
        let route = Arc::clone(route);
        Box::pin(async move { self.0.take_due(&route, now, limit).await })
    }

    fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        Some(self.0.schedule.next_due(route))
    }

    fn due_changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.schedule.changed.notified())
    }

    fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Operation<'_, Option<EventEntry>> {
        Box::pin(self.0.settle(lease, attempt, next))
    }

    fn renew<'s>(&'s self, leases: &'s [AttemptLease]) -> Operation<'s, ()> {
        Box::pin(self.0.renew(leases))
    }

    fn record(&self, events: Vec<(EventEntry, Option<StoredRequest>)>) -> Operation<'_, ()> {
        Box::pin(async move { history::record(&self.0, events).await })
    }

    fn entry(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        Box::pin(async move { Ok(self.0.row_of(id).await?.map(|row| row.entry)) })
    }

    fn request(&self, id: EventId) -> Operation<'_, Option<StoredRequest>> {
        Box::pin(async move {
            let key = id.0.to_be_bytes();
            let parameters = [(&key.as_slice() as _, Type::BYTEA)];
            let rows = self.0.call(statements::REQUEST, &parameters, soon()).await?;
            let read = |row| row::request(column(row, 0)?, id, &self.0.seal);
            rows.first().map(read).transpose()
        })
    }

    fn list<'s>(
        &'s self,
        filter: &'s EventFilter,
        cursor: Option<EventId>,
        limit: usize,
    ) -> Operation<'s, EventPage> {
        Box::pin(history::list(&self.0, filter, cursor, limit))
    }

    fn redeliver(&self, id: EventId, now: Millis, expires: Millis) -> Operation<'_, Redelivery> {
        Box::pin(async move {
            let key = id.0.to_be_bytes();
            let parameters = [
                (&key.as_slice() as _, Type::BYTEA),
                (&to_sql(now) as _, Type::INT8),
                (&to_sql(expires) as _, Type::INT8),
            ];
            let rows = self.0.call(statements::REDELIVER, &parameters, soon()).await?;
            match column(rows.first().ok_or_else(unreadable)?, 0)? {
                "started" => {
                    self.0.schedule.look_again();
                    Ok(Redelivery::Started)
                }
                "unknown" => Ok(Redelivery::Unknown),
                "not kept" => Ok(Redelivery::NotKept),
                _ => Err(unreadable()),
            }
        })
    }

    fn forget(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        Box::pin(async move {
            let Some(row) = self.0.row_of(id).await? else { return Ok(None) };
            let key = id.0.to_be_bytes();
            let parameters = [(&key.as_slice() as _, Type::BYTEA)];
            self.0.call(statements::FORGET, &parameters, soon()).await?;
            Ok(Some(row.entry))
        })
    }

    fn backlogs(&self) -> Operation<'_, HashMap<Arc<str>, Backlog>> {
        Box::pin(history::backlogs(&self.0))
    }

    fn expire(&self, now: Millis) -> Operation<'_, ()> {
        Box::pin(self.0.expire(now))
    }

    fn bytes(&self) -> u64 {
        self.0.usage.bytes()
    }

    fn is_up(&self) -> bool {
        self.0.availability.is_available()
    }

    fn flush(&self) -> Operation<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
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
