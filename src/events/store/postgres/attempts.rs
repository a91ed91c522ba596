//! Attempts: their beginning, their leases and their ends.

use std::{collections::HashSet, sync::Arc};

use tokio_postgres::types::Type;

use super::{
    LEASE, PostgresEvents,
    row::{StoredRow, column, id, natural, seal_entry, state_of},
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
        let rows = self
            .call(
                statements::SETTLE,
                &[
                    (&lease.id.0.to_be_bytes().as_slice(), Type::BYTEA),
                    (&lease.token.cast_signed(), Type::INT8),
                    (&row.version, Type::INT8),
                    (&i16::from(entry.state.number()), Type::INT2),
                    (&entry.next_attempt.map(to_sql), Type::INT8),
                    (&entry.possible_duplicate, Type::BOOL),
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
