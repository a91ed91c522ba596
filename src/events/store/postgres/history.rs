//! What is kept about events: recorded in batches, listed and counted.

use std::{collections::HashMap, sync::Arc};

use tokio_postgres::types::Type;

use super::{
    PostgresEvents,
    row::{StoredRow, column, id, natural, seal_entry, seal_request},
    soon, statements, to_sql,
};
use crate::events::{
    model::{Backlog, EventEntry, EventFilter, EventId, StoredRequest},
    store::{EventPage, StoreError},
};

/// Stores entries in one statement, and merges those whose event is stored already.
pub(super) async fn record(
    inner: &PostgresEvents,
    events: Vec<(EventEntry, Option<StoredRequest>)>,
) -> Result<(), StoreError> {
    let mut columns = Columns::default();
    for (entry, request) in &events {
        columns.push(inner, entry, request.as_ref());
    }
    let stored = columns.store(inner).await?;
    for (entry, request) in events {
        if !stored.contains(&entry.id) {
            merge(inner, entry, request).await?;
        }
    }
    Ok(())
}

/// Many entries, by column.
#[derive(Default)]
struct Columns {
    ids: Vec<Vec<u8>>,
    routes: Vec<String>,
    states: Vec<i16>,
    records: Vec<Option<Vec<u8>>>,
    event_ids: Vec<Option<Vec<u8>>>,
    received: Vec<i64>,
    since: Vec<i64>,
    expires: Vec<i64>,
    attempts: Vec<i32>,
    duplicates: Vec<bool>,
    entries: Vec<Vec<u8>>,
    requests: Vec<Vec<u8>>,
}

impl Columns {
    fn push(
        &mut self,
        inner: &PostgresEvents,
        entry: &EventEntry,
        request: Option<&StoredRequest>,
    ) {
        let record = entry.record.map(|record| inner.record_digest(&entry.route, record));
        let event_id = entry.event_id.as_deref().map(|id| inner.event_id_digest(id));
        self.ids.push(entry.id.0.to_be_bytes().to_vec());
        self.routes.push(entry.route.to_string());
        self.states.push(entry.state.number().into());
        self.records.push(record.map(Vec::from));
        self.event_ids.push(event_id.map(Vec::from));
        self.received.push(to_sql(entry.received));
        self.since.push(to_sql(entry.last_change()));
        self.expires.push(to_sql(entry.expires));
        self.attempts.push(super::attempts(entry));
        self.duplicates.push(entry.possible_duplicate);
        self.entries.push(seal_entry(entry, &inner.seal));
        let request = request.map(|request| seal_request(request, entry.id, &inner.seal));
        self.requests.push(request.unwrap_or_default());
    }

    /// Stores the entries, and returns the IDs of those that were not stored before.
    async fn store(&self, inner: &PostgresEvents) -> Result<Vec<EventId>, StoreError> {
        let rows = inner
            .call(
                statements::RECORD,
                &[
                    (&self.ids, Type::BYTEA_ARRAY),
                    (&self.routes, Type::TEXT_ARRAY),
                    (&self.states, Type::INT2_ARRAY),
                    (&self.records, Type::BYTEA_ARRAY),
                    (&self.event_ids, Type::BYTEA_ARRAY),
                    (&self.received, Type::INT8_ARRAY),
                    (&self.since, Type::INT8_ARRAY),
                    (&self.expires, Type::INT8_ARRAY),
                    (&self.attempts, Type::INT4_ARRAY),
                    (&self.duplicates, Type::BOOL_ARRAY),
                    (&self.entries, Type::BYTEA_ARRAY),
                    (&self.requests, Type::BYTEA_ARRAY),
                ],
                soon(),
            )
            .await?;
        rows.iter().map(|row| id(row, 0)).collect()
    }
}

/// Merges an entry into that of the same event.
async fn merge(
    inner: &PostgresEvents,
    new: EventEntry,
    request: Option<StoredRequest>,
) -> Result<(), StoreError> {
    // Without a record, only a repetition of the statement finds the entry stored.
    let Some(record) = new.record else { return Ok(()) };
    let digest = inner.record_digest(&new.route, record);
    loop {
        let Some(old) = inner.row(statements::BY_RECORD, &digest).await? else { return Ok(()) };
        if old.entry.id == new.id {
            return Ok(());
        }
        let mut entry = old.entry.clone();
        entry.record_again(&new);
        let mut sealed = Vec::new();
        if let Some(request) = &request
            && !entry.has_request
        {
            entry.has_request = true;
            sealed = seal_request(request, entry.id, &inner.seal);
        }
        if inner.replace(&old, &entry, new.last_change(), &sealed, None).await? {
            return Ok(());
        }
    }
}

/// Lists entries, newest first.
pub(super) async fn list(
    inner: &PostgresEvents,
    filter: &EventFilter,
    cursor: Option<EventId>,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let first = EventId::first_at(filter.since.unwrap_or(0));
    let mut end = filter.until.map_or(EventId(u128::MAX), EventId::first_at);
    if let Some(cursor) = cursor {
        end = end.min(cursor);
    }
    let event_id = filter.event_id.as_deref().map(|event_id| inner.event_id_digest(event_id));
    let state = filter.state.map(|state| i16::from(state.number()));
    let rows = inner
        .call(
            statements::LIST,
            &[
                (&filter.route.as_deref(), Type::TEXT),
                (&state, Type::INT2),
                (&event_id.as_ref().map(<[u8; 16]>::as_slice), Type::BYTEA),
                (&first.0.to_be_bytes().as_slice(), Type::BYTEA),
                (&end.0.to_be_bytes().as_slice(), Type::BYTEA),
                (&to_sql(limit as u64 + 1), Type::INT8),
            ],
            soon(),
        )
        .await?;
    let read = |row| StoredRow::read(row, &inner.seal).map(|row| row.entry);
    let entries: Vec<_> = rows.iter().take(limit).map(read).collect::<Result<_, _>>()?;
    let next = entries.last().filter(|_| rows.len() > limit).map(|entry| entry.id);
    Ok(EventPage { entries, next })
}

/// Counts the unsettled and dead events of each route.
pub(super) async fn backlogs(
    inner: &PostgresEvents,
) -> Result<HashMap<Arc<str>, Backlog>, StoreError> {
    let rows = inner.call(statements::BACKLOGS, &[], soon()).await?;
    let read = |row| {
        let backlog = Backlog {
            pending: natural(column::<i64>(row, 1)?)?,
            delivering: natural(column::<i64>(row, 2)?)?,
            dead: natural(column::<i64>(row, 3)?)?,
            oldest: column::<Option<i64>>(row, 4)?.map(natural).transpose()?,
        };
        Ok((Arc::from(column::<&str>(row, 0)?), backlog))
    };
    rows.iter().map(read).collect()
}
