//! Checks of the database, and what removes old events.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use super::{
    PostgresError, PostgresEvents,
    row::{column, natural, unreadable},
    soon, statements, to_sql,
};
use crate::{
    events::{
        model::{EventState, Retention},
        seal::DigestOf,
        store::StoreError,
    },
    postgres::DatabaseError,
    replay::Millis,
};

/// How often the database is checked, and how often while it is unavailable.
const CHECK: Duration = Duration::from_secs(5);
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// The longest that a check takes.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of events that one statement removes, and the pause before the next one: few enough
/// that none takes 50 ms.
const BATCH: i64 = 100;
const BETWEEN_BATCHES: Duration = Duration::from_millis(10);

/// How much is stored: as measured last, and what this process has added since.
#[derive(Debug, Default)]
pub(super) struct Usage {
    bytes: AtomicU64,
    unsettled: AtomicU64,
}

impl Usage {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether there is no capacity for another event of this size.
    pub(super) fn is_full(&self, size: usize, retention: &Retention) -> bool {
        self.bytes().saturating_add(size as u64) > retention.max_bytes
            || self.unsettled.load(Ordering::Relaxed) >= retention.max_pending
    }

    /// Counts an event that is stored.
    pub(super) fn add(&self, size: usize) {
        self.bytes.fetch_add(size as u64, Ordering::Relaxed);
        self.unsettled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that so many bytes and unsettled events were not stored, or no longer are.
    pub(super) fn remove(&self, size: usize, unsettled: u64) {
        let subtract = |counter: &AtomicU64, number: u64| {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counted| {
                Some(counted.saturating_sub(number))
            });
        };
        subtract(&self.bytes, size as u64);
        subtract(&self.unsettled, unsettled);
    }
}

/// Checks the database regularly, and measures how much is stored.
pub(super) async fn check(inner: Weak<PostgresEvents>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let until = Instant::now() + CHECK_TIMEOUT;
        let checked = match strong.database.check(until).await {
            Ok(()) => strong.check_key(soon()).await,
            Err(error) => Err(error.into()),
        };
        match checked {
            Ok(()) => drop(strong.availability.set_available()),
            Err(error) => strong.availability.set_unavailable(&error),
        }
        // An error shows in the gauge and the log.
        let _ = strong.measure().await;
        let available = strong.availability.is_available();
        strong.availability.next_check(if available { CHECK } else { CHECK_AGAIN }).await;
    }
}

impl PostgresEvents {
    /// Checks that the events are encrypted with the configured key, or not at all without one.
    pub(super) async fn check_key(&self, until: Instant) -> Result<(), PostgresError> {
        let digest = match self.seal.is_encrypted() {
            true => self.seal.digest(DigestOf::Key, &[]).to_vec(),
            false => Vec::new(),
        };
        let rows = self.database.query(statements::KEY, &[(&digest, Type::BYTEA)], until).await?;
        let stored: Option<&[u8]> = rows.first().and_then(|row| row.try_get(0).ok());
        match (stored, digest.as_slice()) {
            (None, _) => Err(DatabaseError::Failed("no reply".to_owned()).into()),
            (Some(stored), own) if stored == own => Ok(()),
            (Some([]), _) => Err(PostgresError::NotEncrypted),
            (Some(_), []) => Err(PostgresError::MissingKey),
            (Some(_), _) => Err(PostgresError::WrongKey),
        }
    }

    pub(super) async fn measure(&self) -> Result<(), StoreError> {
        let rows = self.call(statements::USAGE, &[], soon()).await?;
        let row = rows.first().ok_or_else(unreadable)?;
        let (bytes, unsettled): (u64, u64) =
            (natural(column::<i64>(row, 0)?)?, natural(column::<i64>(row, 1)?)?);
        self.usage.bytes.store(bytes, Ordering::Relaxed);
        self.usage.unsettled.store(unsettled, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what is kept for longer than configured, and delivered events that exceed the bytes.
    pub(super) async fn expire(&self, now: Millis) -> Result<(), StoreError> {
        let before = |keep: Duration| {
            now.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX))
        };
        let Retention { keep, keep_dead, keep_refused, max_bytes, .. } = self.retention;
        for (state, keep) in [
            (EventState::Delivered, keep),
            (EventState::Refused, keep),
            (EventState::Failed, keep),
            (EventState::Dead, keep_dead),
        ] {
            self.remove(state, before(keep), u64::MAX).await?;
        }
        let excess = [(&to_sql(keep_refused) as _, Type::INT8)];
        let excess = self.call(statements::EXCESS_REFUSED, &excess, soon()).await?;
        if let Some(row) = excess.first() {
            let since: u64 = natural(column::<i64>(row, 0)?)?;
            self.remove(EventState::Refused, since + 1, u64::MAX).await?;
        }
        // What is about to be stored until this is called again needs space, too.
        let most = max_bytes - max_bytes / 10;
        let excess = self.usage.bytes().saturating_sub(most);
        if excess > 0 {
            self.remove(EventState::Delivered, u64::MAX, excess).await?;
        }
        Ok(())
    }

    /// Removes events in a state that were last changed before a time, until so many bytes are
    /// free.
    async fn remove(
        &self,
        state: EventState,
        before: Millis,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let mut left = bytes;
        loop {
            let parameters = [
                (&i16::from(state.number()) as _, Type::INT2),
                (&to_sql(before) as _, Type::INT8),
                (&BATCH as _, Type::INT8),
            ];
            let rows = self.call(statements::REMOVE, &parameters, soon()).await?;
            let row = rows.first().ok_or_else(unreadable)?;
            let (removed, freed): (i64, u64) = (column(row, 0)?, natural(column::<i64>(row, 1)?)?);
            self.usage.remove(usize::try_from(freed).unwrap_or(usize::MAX), 0);
            left = left.saturating_sub(freed);
            if removed < BATCH || left == 0 {
                return Ok(());
            }
            sleep(BETWEEN_BATCHES).await;
        }
    }
}
