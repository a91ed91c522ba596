//! The proof that a request is authentic, and the digests by which the replay guard identifies it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;

/// The key of an event's record: the first 128 bits of a digest over the route, the name of the key
/// and what identifies the event. Only authentic requests yield one, so nobody can search for
/// collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventKey(pub [u8; 16]);

impl Hash for EventKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// A digest of what is fresh in each request: it distinguishes requests for one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestIdentity(pub [u8; 16]);

/// A digest of the context that all requests for an event must share: what the signature does not
/// cover but the upstream acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextPin(pub [u8; 16]);

/// Proof that a request is authentic. Created by [`Verifier::verify`](super::Verifier::verify)
/// only.
#[derive(Debug)]
pub struct Verified {
    pub(super) scheme: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) secret: u16,
    pub(super) event_id: Option<HeaderValue>,
    pub(super) record: Option<EventKey>,
    pub(super) identity: Option<RequestIdentity>,
    pub(super) pin: ContextPin,
    pub(super) stale: bool,
    pub(super) fresh_for: Option<i64>,
    pub(super) age: Option<i64>,
}

impl Verified {
    /// Returns the scheme's ID, for `Sealgate-Verified`.
    pub fn scheme(&self) -> &Arc<str> {
        &self.scheme
    }

    /// Returns the name of the key that verified the request: `global`, `coupon/3570`.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Returns the position of the secret in the list of its key, from 1; 0 for a key of a key set.
    pub fn secret(&self) -> u16 {
        self.secret
    }

    /// Returns the event ID, for `Sealgate-Event-Id` and the log.
    pub fn event_id(&self) -> Option<&HeaderValue> {
        self.event_id.as_ref()
    }

    /// Returns the key of the event's record; `None` where deliveries are identical on purpose.
    pub fn record(&self) -> Option<EventKey> {
        self.record
    }

    /// Returns the request's identity; `None` where the sender signs nothing fresh per request.
    /// There are no replays then, only retries.
    pub fn identity(&self) -> Option<RequestIdentity> {
        self.identity
    }

    /// Returns the digest of the unsigned context.
    pub fn pin(&self) -> ContextPin {
        self.pin
    }

    /// Returns whether the request is older than the scheme's window. Such a request is acceptable
    /// only as a retry of an event on record.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Returns for how long a copy of the request will be accepted as fresh: until it leaves the
    /// scheme's window or its token expires. `None` if it is fresh for ever.
    pub fn fresh_for(&self) -> Option<Duration> {
        let fresh_for = u64::try_from(self.fresh_for?).unwrap_or(0);
        Some(Duration::from_millis(fresh_for))
    }

    /// Returns our clock minus the request's timestamp, in milliseconds.
    pub fn age(&self) -> Option<i64> {
        self.age
    }
}
