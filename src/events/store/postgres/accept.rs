//! Accepting events: new ones, and further copies of those that are stored.

use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::{
    LEASE, PostgresEvents, attempts,
    row::{StoredRow, column, id, seal_entry, seal_request, unreadable},
    soon, statements, to_sql,
};
use crate::{
    events::{
        model::{Acceptance, EventEntry, EventId, EventState, NewEvent},
        store::StoreError,
    },
    replay::Millis,
};

impl PostgresEvents {
    pub(super) async fn accept(
        &self,
        event: NewEvent,
        until: Instant,
    ) -> Result<Acceptance, StoreError> {
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
    pub(super) async fn replace(
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
}
