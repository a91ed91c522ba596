//! Schemes: how a sender proves itself.
//!
//! A scheme is a TOML file. It is compiled once ([`Scheme::parse`]) into what the hot path runs; with
//! the keys of a route it makes a [`Verifier`], which judges requests. What it gives, [`Verified`], is
//! the proof that a request is authentic: nothing else makes one.

mod catalog;
mod challenge;
mod compare;
mod event;
mod form;
mod hex;
mod hypothesis;
mod json;
mod jwt;
mod keys;
mod keyset;
mod language;
mod mac;
mod pending;
mod prove;
mod public;
mod reading;
mod ready;
mod request;
mod show;
mod sign;
mod signature;
mod source;
mod subject;
mod time;
mod verify;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use self::{
    challenge::Challenge,
    event::{Event, Identity},
    keys::{Choice, KeyForm},
    mac::Hash,
    signature::Signature,
    source::{Source, Template, Wanted},
    time::Unit,
};
pub use self::{
    hypothesis::{Hypothesis, SecretForm, Spelling},
    keyset::KeySet,
    reading::Reading,
    ready::{Credentials, JwtCredentials},
    sign::Draft,
    verify::Verifier,
};

/// Milliseconds since the Unix epoch, by our clock or by a sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub i64);

/// Proof that a request is authentic. Made by [`Verifier::verify`] only.
#[derive(Debug)]
pub struct Verified {
    scheme: Arc<str>,
    key: Arc<str>,
    event_id: Option<HeaderValue>,
    record: Option<[u8; 32]>,
    identity: Option<[u8; 16]>,
    pin: [u8; 16],
    stale: bool,
    age: Option<i64>,
}

impl Verified {
    /// The scheme's id, for `Sealgate-Verified`.
    pub fn scheme(&self) -> &Arc<str> {
        &self.scheme
    }

    /// The name of the key that verified: `global`, `coupon/3570`.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// The event id, for `Sealgate-Event-Id` and the log.
    pub fn event_id(&self) -> Option<&HeaderValue> {
        self.event_id.as_ref()
    }

    /// The key of the event's record; `None` where a scheme's deliveries are alike on purpose.
    pub fn record(&self) -> Option<&[u8; 32]> {
        self.record.as_ref()
    }

    /// A digest of what is fresh in each request; `None` where nothing is (then there are no replays).
    pub fn identity(&self) -> Option<[u8; 16]> {
        self.identity
    }

    /// A digest of what the signature does not cover but the upstream acts on.
    pub fn pin(&self) -> [u8; 16] {
        self.pin
    }

    /// Whether the request is older than the scheme's window: then it is acceptable only as a retry of
    /// an event on record.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Our clock minus the request's timestamp, in milliseconds.
    pub fn age(&self) -> Option<i64> {
        self.age
    }
}

/// What proves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An HMAC of the message.
    Hmac(Hash),
    /// A plain digest of the message, which contains the secret.
    Digest(Hash),
    /// The secret itself, sent along.
    Token,
    /// User and password (RFC 7617): the secret is `user:password`.
    Basic,
    /// A signature with a private key.
    Public(public::Algorithm),
    /// A JSON Web Token.
    Jwt,
}

/// What a scheme file says about the sender's ways.
#[derive(Clone, Debug)]
struct Sender {
    answer_within: Duration,
    retries: String,
    memory: Duration,
    success: StatusCode,
    refusal: StatusCode,
    methods: &'static str,
    body: u64,
    bare_answers: bool,
}

/// The signed time of sending.
#[derive(Clone, Debug)]
struct Timestamp {
    from: Source,
    unit: Unit,
    window: Duration,
    future: Duration,
}

/// A value that, where the request has it, must be what the template gives.
#[derive(Clone, Debug)]
struct Agreement {
    value: Source,
    with: Template,
    ignore_case: bool,
}

/// What a request must have to be judged at all.
#[derive(Clone, Debug, Default)]
struct Needs {
    headers: Vec<usize>,
    items: Vec<usize>,
    others: Vec<Source>,
}

/// A compiled scheme.
#[derive(Clone, Debug)]
pub struct Scheme {
    id: Arc<str>,
    name: String,
    documents: Vec<String>,
    confirmed: bool,
    notes: Vec<String>,
    sender: Sender,
    kind: Kind,
    wanted: Wanted,
    needs: Needs,
    signature: Signature,
    message: Template,
    /// Other messages, for requests that have the value.
    variants: Vec<(Source, Template)>,
    /// The pointer to the elements, where each of them is signed by itself.
    each: Option<u16>,
    token: Option<jwt::Rules>,
    timestamp: Option<Timestamp>,
    key: KeyForm,
    choice: Choice,
    event: Event,
    identity: Identity,
    pinned: Vec<usize>,
    agree: Vec<Agreement>,
    challenges: Vec<Challenge>,
    /// Whether a handshake gives away MACs of words that could be bodies.
    oracle: bool,
    /// Whether a body that is not JSON is taken too: its members count as absent.
    body_may_be_other: bool,
    body_signed: bool,
    wants_digest: bool,
    needs_url: bool,
    spaces: Vec<(String, String)>,
}

impl Scheme {
    /// The id: the word for `scheme = "…"` and for `Sealgate-Verified`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The sender's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sender's documents that the scheme follows.
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// What a user should know about the sender, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How the sender retries, in words.
    pub fn retries(&self) -> &str {
        &self.sender.retries
    }

    /// Whether every fact that the scheme rests on is confirmed by a document, a library or a vector.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the signature covers the body.
    pub fn covers_body(&self) -> bool {
        self.body_signed
    }

    /// The status for what is not authentic: 401, Pitchpoint 403.
    pub fn refusal(&self) -> StatusCode {
        self.sender.refusal
    }

    /// The status for an acknowledged event.
    pub fn success(&self) -> StatusCode {
        self.sender.success
    }

    /// Methods, as the value of `Allow`.
    pub fn methods(&self) -> &'static str {
        self.sender.methods
    }

    /// Whether the sender takes no answer with a body or a cookie, whatever its status.
    pub fn wants_bare_answers(&self) -> bool {
        self.sender.bare_answers
    }

    /// Just under the sender's own timeout.
    pub fn answer_within(&self) -> Duration {
        self.sender.answer_within
    }

    /// How long an event must stay on record.
    pub fn memory(&self) -> Duration {
        self.sender.memory
    }

    /// The time window in which a request counts as fresh; `None` without a timestamp.
    pub fn window(&self) -> Option<Duration> {
        self.timestamp.as_ref().map(|timestamp| timestamp.window)
    }

    /// The longest body that the sender sends.
    pub fn body_limit(&self) -> u64 {
        self.sender.body
    }

    /// The headers that carry a signature; none if the body does.
    pub fn signature_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.signature.from.iter().filter_map(|source| match source {
            Source::Header(slot) => Some(&self.wanted.headers[*slot]),
            _ => None,
        })
    }

    /// Whether the operator must say whose tokens are accepted: `subject`.
    pub fn needs_subject(&self) -> bool {
        let configured = self.token.as_ref().map(|rules| rules.configured.as_slice());
        configured.unwrap_or_default().iter().any(|name| **name == *"subject")
    }

    /// Every header that the scheme reads or pins.
    pub fn headers(&self) -> &[HeaderName] {
        &self.wanted.headers
    }

    /// The key spaces of group secrets: (name, where the index stands).
    pub fn spaces(&self) -> &[(String, String)] {
        &self.spaces
    }
}

#[cfg(test)]
mod tests;
