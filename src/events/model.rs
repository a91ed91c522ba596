//! Events as they are stored: one entry per event, however many attempts it takes.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method};

use crate::{
    replay::Millis,
    scheme::{ContextPin, EventKey},
};

/// The store's own ID of an event: 48 bits of the time of receipt in milliseconds and 80 random
/// bits. Written as 26 characters of Crockford's base 32, which sort as the IDs do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u128);

/// The alphabet of Crockford's base 32, in order.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// The length of an ID as text.
const ID_LENGTH: usize = 26;
/// The bits of an ID that are not the time.
const RANDOM_BITS: u32 = 80;

impl EventId {
    /// Returns the ID of an event received at `received`; 80 bits of `random` are used.
    pub fn new(received: Millis, random: u128) -> Self {
        let random = random & ((1 << RANDOM_BITS) - 1);
        EventId(u128::from(received) << RANDOM_BITS | random)
    }

    /// Returns when the event was received.
    pub(crate) fn received(self) -> Millis {
        u64::try_from(self.0 >> RANDOM_BITS).expect("48 bits")
    }

    /// Returns the first ID that an event received at `received` can have.
    pub(crate) fn first_at(received: Millis) -> Self {
        EventId(u128::from(received) << RANDOM_BITS)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; ID_LENGTH];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = ALPHABET[(self.0 >> (5 * place) & 31) as usize];
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the ID of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the ID of a stored event")]
pub struct InvalidEventId;

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        if text.len() != ID_LENGTH || text.as_bytes()[0] > b'7' {
            return Err(InvalidEventId);
        }
        let mut id = 0;
        for byte in text.bytes() {
            let byte = byte.to_ascii_uppercase();
            let digit = ALPHABET.iter().position(|known| *known == byte).ok_or(InvalidEventId)?;
            id = id << 5 | digit as u128;
        }
        Ok(EventId(id))
    }
}

/// The states of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventState {
    /// It waits for its next attempt.
    Pending,
    /// An attempt is in flight.
    Delivering,
    /// The handler responded 2xx.
    Delivered,
    /// No further attempt is made, unless an operator or the sender asks for one.
    Dead,
    /// The request was rejected; nothing is delivered.
    Refused,
    /// The last attempt of a synchronous event failed; the sender will retry.
    Failed,
}

impl EventState {
    /// All states.
    pub const ALL: [EventState; 6] = [
        EventState::Pending,
        EventState::Delivering,
        EventState::Delivered,
        EventState::Dead,
        EventState::Refused,
        EventState::Failed,
    ];

    /// Returns the word in the API, the metrics and the log.
    pub const fn label(self) -> &'static str {
        match self {
            EventState::Pending => "pending",
            EventState::Delivering => "delivering",
            EventState::Delivered => "delivered",
            EventState::Dead => "dead",
            EventState::Refused => "refused",
            EventState::Failed => "failed",
        }
    }
}

/// The end of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// When it began.
    pub at: Millis,
    /// The handler's status, if it responded.
    pub status: Option<u16>,
    /// Why there is no response, in a few words from a fixed list: `timeout`, `connect`, `reset` …
    pub error: Option<Arc<str>>,
    /// How long it took, in milliseconds.
    pub duration_ms: u32,
    /// Whether the request was signed again.
    pub resigned: bool,
}

/// The digest of a route and the value that its `order_by` selects: events with equal keys are
/// delivered one at a time, in the order in which they were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey(pub [u8; 16]);

/// Everything about an event except its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEntry {
    /// The store's own ID.
    pub id: EventId,
    /// The route's name.
    pub route: Arc<str>,
    /// The scheme's name, as configured.
    pub scheme: Arc<str>,
    /// The sender's event ID.
    pub event_id: Option<Arc<str>>,
    /// The name of the key that verified it; empty for a rejected request without one.
    pub key: Arc<str>,
    /// The position of the secret in its list, from 1; 0 if unknown.
    pub secret: u16,
    /// Its state.
    pub state: EventState,
    /// When it was received.
    pub received: Millis,
    /// The number of attempts that have begun.
    pub attempts: u32,
    /// When its next attempt may begin; `None` unless it is pending.
    pub next_attempt: Option<Millis>,
    /// When it becomes dead if it is not delivered.
    pub expires: Millis,
    /// The length of its body.
    pub bytes: u64,
    /// The key of its replay record; `None` where deliveries are identical on purpose, for rejected
    /// requests, and after an operator made the gateway forget it.
    pub record: Option<EventKey>,
    /// The digest of its unsigned context.
    pub pin: ContextPin,
    /// Its order, with `order_by`.
    pub order: Option<OrderKey>,
    /// Whether an attempt may have reached the handler without a response. Stays until the event is
    /// delivered.
    pub possible_duplicate: bool,
    /// Whether an operator asked for the current attempts.
    pub redelivery: bool,
    /// Whether the request is kept, so that it can be delivered again.
    pub has_request: bool,
    /// The newest attempts, oldest first, at most `MAX_LOG`.
    pub log: Vec<DeliveryAttempt>,
    /// Why the request was rejected; only for [`EventState::Refused`].
    pub refusal: Option<Refusal>,
}

/// The most attempts of which an entry keeps the details.
pub const MAX_LOG: usize = 50;

impl EventEntry {
    /// Returns the status of the newest attempt that got one.
    pub fn last_status(&self) -> Option<u16> {
        self.log.last().and_then(|attempt| attempt.status)
    }

    /// Returns the error of the newest attempt.
    pub fn last_error(&self) -> Option<&str> {
        self.log.last().and_then(|attempt| attempt.error.as_deref())
    }
}

/// Why a request was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rejection reason, as in the metrics.
    pub reason: Arc<str>,
    /// Which part of the request is at fault and what would have verified, in words, as far as that
    /// is known.
    pub diagnosis: Option<Arc<str>>,
    /// The client's network: /24 of IPv4, /48 of IPv6.
    pub network: Arc<str>,
}

/// A verified request, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Arc<str>,
    /// Whether it arrived over HTTP/2, where header names are lower-case.
    pub is_http2: bool,
    /// The header lines in the order in which they arrived, with the names as written.
    pub headers: Vec<(Box<str>, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether the connection used TLS.
    pub tls: bool,
    /// The client, and its position in `X-Forwarded-For` from the right; `None` if the peer is not
    /// a trusted proxy.
    pub client: Option<(IpAddr, u32)>,
    /// The request ID.
    pub request_id: HeaderValue,
}

/// An event to be stored for delivery.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its entry: pending, or delivering if its first attempt has begun or begins at once.
    pub entry: EventEntry,
    /// Its request.
    pub request: StoredRequest,
}

/// The right to end one attempt of an event: a fencing token. An attempt whose lease was lost
/// cannot change the event any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptLease {
    /// The event.
    pub id: EventId,
    /// Different for every attempt.
    pub token: u64,
}

/// An event whose attempt has begun.
#[derive(Clone, Debug)]
pub struct DueEvent {
    /// Its entry, delivering, with this attempt counted.
    pub entry: EventEntry,
    /// Its request.
    pub request: StoredRequest,
    /// The right to end the attempt.
    pub lease: AttemptLease,
}

/// What happens to an event after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// It is delivered.
    Delivered,
    /// It waits for the next attempt.
    Retry {
        /// When the next attempt may begin.
        at: Millis,
        /// Whether this attempt may have reached the handler.
        unknown: bool,
    },
    /// It is dead. `unknown` as above.
    Dead {
        /// Whether this attempt may have reached the handler.
        unknown: bool,
    },
}

/// What [`EventStore::accept`](super::store::EventStore::accept) did.
#[derive(Clone, Debug)]
pub enum Acceptance {
    /// The event is durable. With a lease if its first attempt begins at once.
    New(EventId, Option<AttemptLease>),
    /// The event is stored already and not dead; nothing changed.
    Known(EventEntry),
    /// The event was dead and is pending again.
    Revived(EventId),
}

/// Selects entries. Empty fields select everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The state.
    pub state: Option<EventState>,
    /// The sender's event ID.
    pub event_id: Option<Arc<str>>,
    /// Received at this time or later.
    pub since: Option<Millis>,
    /// Received before this time.
    pub until: Option<Millis>,
}

/// The events of one route that are not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that wait for an attempt.
    pub pending: u64,
    /// Events with an attempt in flight.
    pub delivering: u64,
    /// Dead events.
    pub dead: u64,
    /// When the oldest event that is pending or delivering was received.
    pub oldest: Option<Millis>,
}

/// The bounds of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long delivered, failed and rejected events are kept.
    pub keep: Duration,
    /// How long dead events are kept.
    pub keep_dead: Duration,
    /// The number of rejected requests that are kept.
    pub keep_refused: u64,
    /// The most bytes that everything in the store may take.
    pub max_bytes: u64,
    /// The most events that may be pending or delivering.
    pub max_pending: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for id in [EventId(0), EventId(u128::MAX), EventId::new(1_764_500_000_000, u128::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        }
        for text in ["", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0000000000000000000000000U", "0"] {
            assert_eq!(text.parse::<EventId>(), Err(InvalidEventId), "{text}");
        }
    }

    #[test]
    fn ids_sort_by_time_as_text_too() {
        let (older, newer) = (EventId::new(99, u128::MAX), EventId::new(100, 0));
        assert!(older < newer && older.to_string() < newer.to_string());
        assert!(EventId::first_at(99) <= older && older < EventId::first_at(100));
    }
}
