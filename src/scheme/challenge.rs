//! Handshakes: requests by which a sender asks whether the address is ours, answered here.
//!
//! An answer may carry a MAC under the key that authenticates events. It must not be an oracle for
//! that key: what is answered is a word (letters, digits, `_`, `-`), and no event's signed message may
//! be one. The loader sees to it for messages with fixed text that is no word; for schemes that sign
//! the bare body, such a body is refused as an event.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request::Parts};
use subtle::ConstantTimeEq;

use super::{
    UnixMillis,
    json::Pointers,
    keys::Primed,
    request::Request,
    signature::{Encoding, is_word},
    source::{Source, Template},
    verify::Verifier,
};
use crate::{
    body::Payload,
    reject::{Reason, Reject},
    response::SanitizedResponse,
};

/// The longest challenge that is echoed.
const MAX_CHALLENGE: usize = 1024;

/// One kind of handshake.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    /// Its method.
    pub(super) method: Method,
    /// Values that tell it from an event.
    pub(super) when: Vec<(Source, Box<str>)>,
    /// Values that only an event has.
    pub(super) unless: Vec<Source>,
    /// Where the challenge stands; a request without one is no handshake.
    pub(super) challenge: Option<Source>,
    /// Where the token stands that the operator gave the sender.
    pub(super) verify_token: Option<Source>,
    /// Whether the request must be authentic.
    pub(super) signed: bool,
    /// Whether a MAC of the challenge is answered, and how it is written.
    pub(super) mac: Option<Encoding>,
    /// The body of the answer; `{signature:mac}` is the MAC.
    pub(super) reply: Template,
    /// The slot of the MAC among the items.
    pub(super) mac_slot: Option<usize>,
    /// The type of the answer's body.
    pub(super) content_type: HeaderValue,
    /// A header that is sent back with the challenge.
    pub(super) header: Option<HeaderName>,
    /// What the body is read for.
    pub(super) reader: Pointers,
}

impl Verifier {
    /// Whether the scheme has handshakes at all.
    pub fn has_challenges(&self) -> bool {
        !self.scheme.challenges.is_empty()
    }

    /// The answer to a handshake; `None` if the request is none. Ask before [`Verifier::verify`].
    ///
    /// # Errors
    /// The reason for which a handshake that must be authentic is not, or shows a wrong token.
    pub fn challenge(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Option<Result<SanitizedResponse, Reject>> {
        let handshakes = self.scheme.challenges.iter().filter(|h| h.method == head.method);
        for handshake in handshakes {
            let mut request = self.request(head, payload);
            if !handshake.reader.is_empty() {
                let Ok(found) = handshake.reader.read(payload.whole()) else { continue };
                request.json = found;
            }
            let holds = |(source, expected): &(Source, Box<str>)| {
                request.value(source, &[], 0).is_some_and(|value| *value == *expected.as_bytes())
            };
            let stands = |source: &Source| request.value(source, &[], 0).is_some();
            if !handshake.when.iter().all(holds) || handshake.unless.iter().any(stands) {
                continue;
            }
            let challenge = match &handshake.challenge {
                None => Vec::new(),
                Some(source) => match request.value(source, &[], 0) {
                    Some(value) => value.into_owned(),
                    None => continue,
                },
            };
            if handshake.signed {
                match self.verify(head, payload, now) {
                    Ok(verified) if verified.is_stale() => {
                        return Some(Err(Reason::Stale.into()));
                    }
                    Ok(_) => {}
                    Err(reject) => return Some(Err(reject)),
                }
            }
            if request.duplicate {
                return Some(Err(Reason::DuplicateHeader.into()));
            }
            return Some(self.reply(handshake, &request, &challenge));
        }
        None
    }

    fn reply(
        &self,
        handshake: &Challenge,
        request: &Request<'_>,
        challenge: &[u8],
    ) -> Result<SanitizedResponse, Reject> {
        if let (Some(source), Some(expected)) = (&handshake.verify_token, &self.verify_token) {
            let shown = request.value(source, &[], 0).unwrap_or_default();
            if !bool::from(shown.ct_eq(expected.expose())) {
                return Err(Reason::BadSignature.into());
            }
        }
        let printable = challenge.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || challenge.len() > MAX_CHALLENGE {
            return Err(Reason::MalformedSignature.into());
        }
        let mut mac = String::new();
        if let Some(encoding) = handshake.mac {
            if !is_word(challenge) {
                return Err(Reason::MalformedSignature.into());
            }
            let key = self.ring.global.as_ref().and_then(|key| key.secrets.first());
            let Some(Primed::Hmac(engine)) = key else {
                return Err(Reason::UnknownKey.into());
            };
            let tag = engine.of(challenge);
            mac = match encoding {
                Encoding::Hex => data_encoding::HEXLOWER.encode(tag.bytes()),
                other => other.encode(tag.bytes()),
            };
        }
        let mut request =
            self.request(request.head, request.payload).with_json(request.json.clone());
        if let Some(slot) = handshake.mac_slot {
            request.items[slot] = Some(mac.as_bytes());
        }
        let mut body = Vec::new();
        if !request.feed(&handshake.reply, &[], 0, &mut |piece| body.extend_from_slice(piece)) {
            return Err(Reason::MalformedBody.into());
        }
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(http::header::CONTENT_TYPE, handshake.content_type.clone());
            let nosniff = HeaderValue::from_static("nosniff");
            headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
        }
        if let Some(name) = &handshake.header
            && let Ok(value) = HeaderValue::from_bytes(challenge)
        {
            headers.insert(name.clone(), value);
        }
        Ok(SanitizedResponse { status: StatusCode::OK, headers, body: Bytes::from(body) })
    }
}
