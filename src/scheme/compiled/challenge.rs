//! Requests by which a sender asks whether the address is ours.

use http::{HeaderName, HeaderValue, Method};

use super::template::{Template, ValueSource};

use crate::scheme::{encoding::Encoding, json::JsonPointers};

/// One kind of challenge, and the response to it.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct ChallengeRule {
    /// Its method.
    pub(in crate::scheme) method: Method,
    /// Values that distinguish it from an event.
    pub(in crate::scheme) when: Vec<(ValueSource, Box<str>)>,
    /// Values that only an event has.
    pub(in crate::scheme) unless: Vec<ValueSource>,
    /// The only fields that the form, or the query of a request without a body, may have; empty:
    /// any.
    pub(in crate::scheme) fields: Vec<Box<str>>,
    /// The source of the challenge; a request without one is no challenge.
    pub(in crate::scheme) challenge: Option<ValueSource>,
    /// The source of the token that the operator gave the sender.
    pub(in crate::scheme) verify_token: Option<ValueSource>,
    /// Whether the request must be authentic.
    pub(in crate::scheme) signed: bool,
    /// Whether the response contains a MAC of the challenge, and how it is written.
    pub(in crate::scheme) mac: Option<Encoding>,
    /// The text whose SHA-256 the response contains as `{signature:hash}`, with the slot of that.
    pub(in crate::scheme) hash: Option<(Template, usize)>,
    /// The path of the pinned host that must be requested before the response.
    pub(in crate::scheme) confirm: Option<Template>,
    /// The body of the response; `{signature:mac}` is the MAC.
    pub(in crate::scheme) reply: Template,
    /// The slot of the MAC among the items.
    pub(in crate::scheme) mac_slot: Option<usize>,
    /// The type of the response's body.
    pub(in crate::scheme) content_type: HeaderValue,
    /// A header that returns the challenge.
    pub(in crate::scheme) header: Option<HeaderName>,
    /// The members that are read from the body.
    pub(in crate::scheme) reader: JsonPointers,
}
