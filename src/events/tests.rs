//! Tests of the delivery of stored events, and their helpers.

mod model;

use super::model::{EventEntry, EventId, EventState};
use crate::scheme::{ContextPin, EventKey};

/// Returns a pending entry of a route.
pub(super) fn entry(route: &str) -> EventEntry {
    EventEntry {
        id: EventId(1),
        route: route.into(),
        scheme: "vivoldi".into(),
        event_id: None,
        key: "global".into(),
        secret: 1,
        state: EventState::Pending,
        received: 0,
        attempts: 0,
        next_attempt: Some(0),
        expires: 0,
        bytes: 0,
        record: Some(EventKey([1; 16])),
        pin: ContextPin([0; 16]),
        order: None,
        possible_duplicate: false,
        redelivery: false,
        has_request: true,
        log: Vec::new(),
        refusal: None,
    }
}
