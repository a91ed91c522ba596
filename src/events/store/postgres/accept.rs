//! Accepting events: new ones, and further copies of those that are stored.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

use super::{
    LEASE, PostgresEvents, attempts,
    batch::{BatchItem, latest},
    row::{StoredRow, column, id, seal_entry, seal_request, unreadable},
    soon, statements, to_sql,
};
use crate::{
    events::{
        model::{Acceptance, EventEntry, EventId, EventState, NewEvent},
        store::{RecordedAcceptance, StoreError},
    },
    replay::{ClaimReply, Millis, ReplayRecord, claim_reply},
};

/// The lifetime of the lease of a claim, in milliseconds.
const CLAIM_LEASE: i64 = 15_000;

/// An event to be stored, as its row will be.
pub(super) struct NewRow {
    id: [u8; 16],
    route: Arc<str>,
    record: Option<[u8; 16]>,
    event_id: Option<[u8; 16]>,
    order: Option<[u8; 16]>,
    state: i16,
    received: i64,
    next_attempt: Option<i64>,
    expires: i64,
    attempts: i32,
    possible_duplicate: bool,
    entry: Vec<u8>,
    request: Vec<u8>,
    token: u64,
    replay: Option<ReplayRecord>,
}

/// What the database did with a new event.
#[derive(Clone, Copy, Debug)]
pub(super) enum AcceptResult {
    /// The first attempt begins.
    Begun,
    Pending,
    Revived,
    /// It is stored already; whether it takes the new request is to be decided.
    Known,
}

/// The reply about a new event: what was done and with which event, or why it was not claimed. The
/// mark is that of its replay record.
pub(super) type NewReply = Result<(AcceptResult, EventId, bool), ClaimReply>;

impl PostgresEvents {
    pub(super) async fn accept(
        self: &Arc<Self>,
        event: NewEvent,
        replay: Option<ReplayRecord>,
        until: Instant,
    ) -> Result<RecordedAcceptance, StoreError> {
        let NewEvent { mut entry, request } = event;
        entry.has_request = true;
        let row = self.new_row(&entry, seal_request(&request, entry.id, &self.seal), replay);
        let size = row.request.len() + row.entry.len();
        if self.usage.is_full(size, &self.retention) {
            return Err(StoreError::Full);
        }
        // Before the database counts it, so that it is not counted twice.
        self.usage.add(size);
        let token = row.token;
        let inner = Arc::clone(self);
        let write = move |rows| {
            let inner = Arc::clone(&inner);
            async move { inner.store(rows).await }
        };
        let reply = self.batched(until, self.accepting.run((row, size), until, write)).await;
        if !matches!(reply, Ok(Ok((AcceptResult::Begun | AcceptResult::Pending, ..)))) {
            self.usage.remove(size, 1);
        }
        let (stored, id, unknown) = match reply? {
            Ok(reply) => reply,
            Err(declined) => return Ok(RecordedAcceptance::Declined(declined)),
        };
        entry.possible_duplicate |= unknown;
        let due = entry.next_attempt.unwrap_or(entry.received);
        let acceptance = match stored {
            AcceptResult::Begun => {
                entry.next_attempt = None;
                Acceptance::New(id, Some(self.hold(entry, 0, token)))
            }
            AcceptResult::Pending => {
                self.schedule.note(&entry.route, due);
                Acceptance::New(id, None)
            }
            AcceptResult::Revived => {
                self.schedule.note(&entry.route, due);
                Acceptance::Revived(id)
            }
            AcceptResult::Known => {
                let request = seal_request(&request, id, &self.seal);
                self.accept_again(id, entry, request, replay).await?
            }
        };
        Ok(RecordedAcceptance::Recorded { acceptance, unknown })
    }

    fn new_row(
        &self,
        entry: &EventEntry,
        request: Vec<u8>,
        replay: Option<ReplayRecord>,
    ) -> NewRow {
        NewRow {
            id: entry.id.0.to_be_bytes(),
            route: Arc::clone(&entry.route),
            record: entry.record.map(|record| self.record_digest(&entry.route, record)),
            event_id: entry.event_id.as_deref().map(|event_id| self.event_id_digest(event_id)),
            order: self.order_digest(entry),
            state: i16::from(entry.state.number()),
            received: to_sql(entry.received),
            next_attempt: entry.next_attempt.map(to_sql),
            expires: to_sql(entry.expires),
            attempts: attempts(entry),
            possible_duplicate: entry.possible_duplicate,
            entry: seal_entry(entry, &self.seal),
            request,
            token: self.tokens(1),
            replay,
        }
    }

    /// Stores new events in one statement.
    async fn store(&self, new: Vec<BatchItem<NewRow, NewReply>>) {
        let Some(until) = latest(&new) else { return };
        let rows = || new.iter().map(|queued| &queued.item);
        let replay = || rows().map(|row| row.replay.as_ref());
        let ids: Vec<&[u8]> = rows().map(|row| row.id.as_slice()).collect();
        let routes: Vec<&str> = rows().map(|row| &*row.route).collect();
        let records: Vec<_> = rows().map(|row| row.record.as_ref().map(as_bytes)).collect();
        let event_ids: Vec<_> = rows().map(|row| row.event_id.as_ref().map(as_bytes)).collect();
        let orders: Vec<_> = rows().map(|row| row.order.as_ref().map(as_bytes)).collect();
        let states: Vec<i16> = rows().map(|row| row.state).collect();
        let received: Vec<i64> = rows().map(|row| row.received).collect();
        let next_attempts: Vec<_> = rows().map(|row| row.next_attempt).collect();
        let expires: Vec<i64> = rows().map(|row| row.expires).collect();
        let attempts: Vec<i32> = rows().map(|row| row.attempts).collect();
        let duplicates: Vec<bool> = rows().map(|row| row.possible_duplicate).collect();
        let entries: Vec<&[u8]> = rows().map(|row| row.entry.as_slice()).collect();
        let requests: Vec<&[u8]> = rows().map(|row| row.request.as_slice()).collect();
        let tokens: Vec<i64> = rows().map(|row| row.token.cast_signed()).collect();
        let keys: Vec<_> = replay().map(|replay| replay.map(|r| r.key.0.as_slice())).collect();
        let claims: Vec<_> = replay().map(|replay| replay.map(|r| r.token.0.as_slice())).collect();
        let pins: Vec<_> = replay().map(|replay| replay.map(|r| r.pin.0.as_slice())).collect();
        let stale: Vec<bool> = replay().map(|replay| replay.is_some_and(|r| r.stale)).collect();
        let lifetimes: Vec<_> = replay().map(|replay| replay.map(record_lifetime)).collect();
        let replies = self
            .call(
                statements::ACCEPT,
                &[
                    (&ids, Type::BYTEA_ARRAY),
                    (&routes, Type::TEXT_ARRAY),
                    (&records, Type::BYTEA_ARRAY),
                    (&event_ids, Type::BYTEA_ARRAY),
                    (&orders, Type::BYTEA_ARRAY),
                    (&states, Type::INT2_ARRAY),
                    (&received, Type::INT8_ARRAY),
                    (&next_attempts, Type::INT8_ARRAY),
                    (&expires, Type::INT8_ARRAY),
                    (&attempts, Type::INT4_ARRAY),
                    (&duplicates, Type::BOOL_ARRAY),
                    (&entries, Type::BYTEA_ARRAY),
                    (&requests, Type::BYTEA_ARRAY),
                    (&tokens, Type::INT8_ARRAY),
                    (&LEASE, Type::INT8),
                    (&keys, Type::BYTEA_ARRAY),
                    (&claims, Type::BYTEA_ARRAY),
                    (&pins, Type::BYTEA_ARRAY),
                    (&stale, Type::BOOL_ARRAY),
                    (&lifetimes, Type::INT8_ARRAY),
                    (&CLAIM_LEASE, Type::INT8),
                ],
                until,
            )
            .await;
        let mut results: Vec<Option<Result<NewReply, StoreError>>> = Vec::new();
        results.resize_with(new.len(), || None);
        match &replies {
            Ok(rows) => {
                for row in rows {
                    let place: i32 = column(row, 0).unwrap_or(0);
                    let place = usize::try_from(place).unwrap_or(0).wrapping_sub(1);
                    if let Some(result) = results.get_mut(place) {
                        *result = Some(read_reply(row));
                    }
                }
            }
            Err(error) => results.fill_with(|| Some(Err(error.clone()))),
        }
        for (queued, result) in new.into_iter().zip(results) {
            queued.finish(result.unwrap_or_else(|| Err(unreadable())));
        }
    }

    /// Accepts another copy of a stored event that is not dead, with its sealed request.
    async fn accept_again(
        &self,
        stored: EventId,
        mut new: EventEntry,
        request: Vec<u8>,
        replay: Option<ReplayRecord>,
    ) -> Result<Acceptance, StoreError> {
        // An event with an order waits for its predecessors; the next query for due events finds
        // it.
        if new.order.is_some() && new.state == EventState::Delivering {
            new.release();
        }
        loop {
            let Some(old) = self.row_of(stored).await? else {
                return Err(StoreError::Unavailable("the event was removed meanwhile".into()));
            };
            if !old.entry.takes_request_of(&new) {
                self.record(replay).await?;
                return Ok(Acceptance::Known(old.entry));
            }
            let mut entry = old.entry.clone();
            entry.accept_again(&new);
            entry.has_request = true;
            if entry.state == EventState::Delivering {
                entry.next_attempt = None;
            }
            let token = self.tokens(1);
            let accepted = Some((token, replay));
            let replaced = self.replace(&old, &entry, new.received, &request, accepted).await?;
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

    /// Records that an event is done, if it has a replay record in this database.
    async fn record(&self, replay: Option<ReplayRecord>) -> Result<(), StoreError> {
        let Some(replay) = replay else { return Ok(()) };
        let parameters = [
            (&replay.key.0.as_slice() as _, Type::BYTEA),
            (&replay.pin.0.as_slice() as _, Type::BYTEA),
            (&record_lifetime(&replay) as _, Type::INT8),
        ];
        self.call(statements::REPLAY_DONE, &parameters, soon()).await.map(drop)
    }

    /// Replaces an event unless it has changed since it was read. With a token, it counts as
    /// accepted again, and its replay record, if there is one, says that it is done.
    pub(super) async fn replace(
        &self,
        old: &StoredRow,
        entry: &EventEntry,
        since: Millis,
        request: &[u8],
        accepted: Option<(u64, Option<ReplayRecord>)>,
    ) -> Result<bool, StoreError> {
        let sealed = seal_entry(entry, &self.seal);
        let size = i64::try_from(sealed.len() + request.len() + 500).unwrap_or(i64::MAX);
        let order = self.order_digest(entry);
        let token = accepted.map_or(old.token, |(token, _)| token);
        let replay = accepted.and_then(|(_, replay)| replay);
        let key = replay.as_ref().map(|replay| replay.key.0.as_slice());
        let pin = replay.as_ref().map(|replay| replay.pin.0.as_slice());
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
                    (&token.cast_signed(), Type::INT8),
                    (&LEASE, Type::INT8),
                    (&accepted.is_some(), Type::BOOL),
                    (&request, Type::BYTEA),
                    (&key, Type::BYTEA),
                    (&pin, Type::BYTEA),
                    (&replay.as_ref().map(record_lifetime), Type::INT8),
                ],
                soon(),
            )
            .await?;
        Ok(!rows.is_empty())
    }
}

fn as_bytes(digest: &[u8; 16]) -> &[u8] {
    digest
}

/// Returns the lifetime of a replay record in milliseconds, at most 300 years.
fn record_lifetime(replay: &ReplayRecord) -> i64 {
    to_sql(replay.lifetime).min(1 << 43)
}

/// Reads the reply about one event.
fn read_reply(row: &Row) -> Result<NewReply, StoreError> {
    let unknown = match claim_reply(row, [1, 4, 5, 6, 7]).map_err(|_| unreadable())? {
        ClaimReply::Won { unknown } => unknown,
        declined => return Ok(Err(declined)),
    };
    let stored = match column::<&str>(row, 2)? {
        "begun" => AcceptResult::Begun,
        "pending" => AcceptResult::Pending,
        "revived" => AcceptResult::Revived,
        "known" | "replace" => AcceptResult::Known,
        _ => return Err(unreadable()),
    };
    Ok(Ok((stored, id(row, 3)?, unknown)))
}
