//! The interface of an event store, implemented by the statements of this one.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::{
    PostgresStore, history,
    row::{self, column, unreadable},
    soon, statements, to_sql,
};
use crate::{
    events::{
        model::{
            Acceptance, AttemptLease, Backlog, DeliveryAttempt, DueEvent, EventEntry, EventFilter,
            EventId, NewEvent, NextStep, StoredRequest,
        },
        store::{EventPage, EventStore, Operation, RecordedAcceptance, RecordingStore, Redelivery},
    },
    replay::{Millis, ReplayRecord},
    scheme::EventKey,
};
impl EventStore for PostgresStore {
    fn accept(&self, event: NewEvent, until: Instant) -> Operation<'_, Acceptance> {
        Box::pin(async move {
            match self.0.accept(event, None, until).await? {
                RecordedAcceptance::Recorded { acceptance, .. } => Ok(acceptance),
                RecordedAcceptance::Declined(_) => Err(unreadable()),
            }
        })
    }

    fn recording(&self) -> Option<&dyn RecordingStore> {
        self.0.holds_records.then_some(self)
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

    fn give_up(&self, overdue: Vec<EventEntry>, now: Millis) -> Operation<'_, Vec<EventEntry>> {
        Box::pin(self.0.give_up(overdue, now))
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

impl RecordingStore for PostgresStore {
    fn accept_recorded(
        &self,
        event: NewEvent,
        record: ReplayRecord,
        until: Instant,
    ) -> Operation<'_, RecordedAcceptance> {
        Box::pin(self.0.accept(event, Some(record), until))
    }
}
