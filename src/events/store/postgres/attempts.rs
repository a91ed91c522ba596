//! Attempts: their beginning, their leases and their ends.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio_postgres::{Row, types::Type};

use super::{
    LEASE, PostgresEvents,
    batch::{BatchItem, latest},
    row::{StoredRow, column, id, natural, seal_entry, state_of, unreadable},
    soon, statements, to_sql,
};
use crate::{
    events::{
        model::{
            AttemptLease, DeliveryAttempt, DueEvent, EventEntry, EventId, EventState, NextStep,
        },
        store::StoreError,
    },
    replay::Millis,
};

/// The end of an attempt, as the row of its event will be.
pub(super) struct EndedRow {
    lease: AttemptLease,
    version: i64,
    state: i16,
    next_attempt: Option<i64>,
    possible_duplicate: bool,
    ended: i64,
    entry: Vec<u8>,
}

/// The columns of an event whose attempt was ended; `None` if the event has changed since it was
/// read.
pub(super) type EndedReply = Option<SettledColumns>;

/// What the database decides about an event whose attempt ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettledColumns {
    state: EventState,
    next_attempt: Option<Millis>,
    possible_duplicate: bool,
    redelivery: bool,
}

impl PostgresEvents {
    pub(super) async fn take_due(
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

    pub(super) async fn settle(
        self: &Arc<Self>,
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

    pub(super) async fn give_up(
        &self,
        mut overdue: Vec<EventEntry>,
        now: Millis,
    ) -> Result<Vec<EventEntry>, StoreError> {
        overdue.iter_mut().for_each(EventEntry::give_up);
        let ids: Vec<Vec<u8>> = overdue.iter().map(|e| e.id.0.to_be_bytes().to_vec()).collect();
        let marks: Vec<bool> = overdue.iter().map(|entry| entry.possible_duplicate).collect();
        let parameters = [
            (&ids as _, Type::BYTEA_ARRAY),
            (&marks as _, Type::BOOL_ARRAY),
            (&to_sql(now) as _, Type::INT8),
        ];
        let rows = self.call(statements::GIVE_UP, &parameters, soon()).await?;
        let dead: HashSet<EventId> = rows.iter().map(|row| id(row, 0)).collect::<Result<_, _>>()?;
        overdue.retain(|entry| dead.contains(&entry.id));
        if overdue.iter().any(|entry| entry.order.is_some()) {
            self.schedule.look_again();
        }
        Ok(overdue)
    }

    pub(super) async fn renew(&self, leases: &[AttemptLease]) -> Result<(), StoreError> {
        let ids: Vec<Vec<u8>> = leases.iter().map(|l| l.id.0.to_be_bytes().to_vec()).collect();
        let tokens: Vec<i64> = leases.iter().map(|lease| lease.token.cast_signed()).collect();
        let parameters = [
            (&ids as _, Type::BYTEA_ARRAY),
            (&tokens as _, Type::INT8_ARRAY),
            (&LEASE as _, Type::INT8),
        ];
        let rows = self.call(statements::RENEW, &parameters, soon()).await?;
        let lost: i64 = column(rows.first().ok_or_else(unreadable)?, 0)?;
        if lost > 0 {
            tracing::warn!(lost, "leases of attempts in flight were lost to other replicas");
        }
        Ok(())
    }

    /// Ends the attempt of an event; returns `None` if the event has changed since it was read.
    async fn settle_row(
        self: &Arc<Self>,
        row: StoredRow,
        lease: AttemptLease,
        attempt: &DeliveryAttempt,
        next: NextStep,
    ) -> Result<Option<EventEntry>, StoreError> {
        let mut entry = row.entry;
        entry.settle(attempt, next, false);
        let ended = EndedRow {
            lease,
            version: row.version,
            state: i16::from(entry.state.number()),
            next_attempt: entry.next_attempt.map(to_sql),
            possible_duplicate: entry.possible_duplicate,
            ended: to_sql(attempt.ended()),
            entry: seal_entry(&entry, &self.seal),
        };
        let (size, inner) = (ended.entry.len(), Arc::clone(self));
        let write = move |rows| {
            let inner = Arc::clone(&inner);
            async move { inner.settle_rows(rows).await }
        };
        let until = soon();
        let settling = self.settling.run((ended, size), until, write);
        let Some(after) = self.batched(until, settling).await? else { return Ok(None) };
        entry.state = after.state;
        entry.next_attempt = after.next_attempt;
        entry.possible_duplicate = after.possible_duplicate;
        entry.redelivery = after.redelivery;
        Ok(Some(entry))
    }

    /// Ends attempts in one statement.
    async fn settle_rows(&self, ended: Vec<BatchItem<EndedRow, EndedReply>>) {
        let Some(until) = latest(&ended) else { return };
        let rows = || ended.iter().map(|queued| &queued.item);
        let ids: Vec<_> = rows().map(|row| row.lease.id.0.to_be_bytes().to_vec()).collect();
        let tokens: Vec<i64> = rows().map(|row| row.lease.token.cast_signed()).collect();
        let versions: Vec<i64> = rows().map(|row| row.version).collect();
        let states: Vec<i16> = rows().map(|row| row.state).collect();
        let next_attempts: Vec<_> = rows().map(|row| row.next_attempt).collect();
        let duplicates: Vec<bool> = rows().map(|row| row.possible_duplicate).collect();
        let times: Vec<i64> = rows().map(|row| row.ended).collect();
        let entries: Vec<&[u8]> = rows().map(|row| row.entry.as_slice()).collect();
        let settled = self
            .call(
                statements::SETTLE,
                &[
                    (&ids, Type::BYTEA_ARRAY),
                    (&tokens, Type::INT8_ARRAY),
                    (&versions, Type::INT8_ARRAY),
                    (&states, Type::INT2_ARRAY),
                    (&next_attempts, Type::INT8_ARRAY),
                    (&duplicates, Type::BOOL_ARRAY),
                    (&times, Type::INT8_ARRAY),
                    (&entries, Type::BYTEA_ARRAY),
                ],
                until,
            )
            .await;
        let replies: Result<HashMap<u64, SettledColumns>, StoreError> =
            settled.and_then(|rows| rows.iter().map(settled_columns).collect());
        for queued in ended {
            let token = queued.item.lease.token;
            queued
                .finish(replies.as_ref().map(|all| all.get(&token).copied()).map_err(Clone::clone));
        }
    }
}

/// Reads a row about an attempt that was ended: its token and what was decided.
fn settled_columns(row: &Row) -> Result<(u64, SettledColumns), StoreError> {
    let columns = SettledColumns {
        state: state_of(column(row, 1)?)?,
        next_attempt: column::<Option<i64>>(row, 2)?.map(natural).transpose()?,
        possible_duplicate: column(row, 3)?,
        redelivery: column(row, 4)?,
    };
    Ok((column::<i64>(row, 0)?.cast_unsigned(), columns))
}
