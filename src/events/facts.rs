//! What is known about an authentic event before it is stored.

use std::sync::Arc;

use http::HeaderValue;

use super::{
    delivery::DeliveryRoute,
    model::{EventEntry, EventId, EventState, OrderKey},
    request::InboundRequest,
};
use crate::{
    replay::Millis,
    scheme::{ContextPin, EventKey, Verified},
};

/// What an entry says about an authentic request. Only a [`Verified`] yields one.
#[derive(Debug)]
pub struct EventFacts {
    scheme: Arc<str>,
    key: Arc<str>,
    secret: u16,
    event_id: Option<HeaderValue>,
    record: Option<EventKey>,
    pin: ContextPin,
    received: Millis,
    order: Option<OrderKey>,
}

impl EventFacts {
    /// Returns the facts about a request that was received at `received`.
    pub(crate) fn new(
        verified: &Verified,
        received: Millis,
        route: &DeliveryRoute,
        request: &InboundRequest,
    ) -> Self {
        let order = route.options.order_by.as_ref().and_then(|source| {
            let digest = source.digest(&route.name, &request.head, &request.payload);
            digest.map(OrderKey)
        });
        EventFacts {
            scheme: Arc::clone(verified.scheme()),
            key: Arc::clone(verified.key()),
            secret: verified.secret(),
            event_id: verified.event_id().cloned(),
            record: verified.record(),
            pin: verified.pin(),
            received,
            order,
        }
    }

    /// Returns the key of the event's record.
    pub(crate) fn record(&self) -> Option<EventKey> {
        self.record
    }

    /// Returns when the request was received.
    pub(super) fn received(&self) -> Millis {
        self.received
    }

    /// Returns a pending entry without attempts, to be retried for as long as the route says.
    pub(super) fn entry(&self, id: EventId, route: &DeliveryRoute, bytes: u64) -> EventEntry {
        let event_id = self.event_id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()));
        let lasts = u64::try_from(route.options.retry.lasts.as_millis()).unwrap_or(u64::MAX);
        EventEntry {
            id,
            route: Arc::clone(&route.name),
            scheme: Arc::clone(&self.scheme),
            event_id: event_id.map(Into::into),
            key: Arc::clone(&self.key),
            secret: self.secret,
            state: EventState::Pending,
            received: self.received,
            attempts: 0,
            next_attempt: Some(self.received),
            expires: self.received.saturating_add(lasts),
            bytes,
            record: self.record,
            pin: self.pin,
            order: self.order,
            possible_duplicate: false,
            redelivery: false,
            has_request: true,
            log: Vec::new(),
            refusal: None,
        }
    }
}
