//! Challenges: requests by which a sender tests the URL, to which the gateway responds itself.
//!
//! A response may contain a MAC under the key that authenticates events, and must not be an oracle
//! for that key. So only the MAC of a word (letters, digits, `_`, `-`) is sent, and no event's
//! signed message may be a word. Messages with fixed text that is not a word ensure this; for
//! schemes that sign the bare body, a body that is a word is rejected as an event.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, request::Parts};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    body::Payload,
    reject::{Reason, Reject},
    response::SanitizedResponse,
    scheme::{
        compiled::{
            challenge::ChallengeRule,
            template::{Template, TemplatePiece, ValueSource},
        },
        encoding::Encoding,
        form, hex,
        text::is_word,
        time::UnixMillis,
        verify::{Verifier, keys::PreparedSecret, request::RequestValues},
    },
    target,
};

/// The longest challenge that is echoed.
const MAX_CHALLENGE: usize = 1024;
/// The longest body of a challenge request; a longer one is an event, and is read only once.
pub(in crate::scheme) const MAX_CHALLENGE_BODY: usize = 16 * 1024;

/// The response to a challenge.
#[derive(Clone, Debug)]
pub struct ChallengeReply {
    /// The response.
    pub response: SanitizedResponse,
    /// The path that must be requested from the sender's host before.
    pub confirm: Option<String>,
}

impl Verifier {
    /// Returns whether the scheme has challenges.
    pub fn has_challenges(&self) -> bool {
        !self.scheme.challenges.is_empty()
    }

    /// Returns the response to a challenge; `None` if the request is not one. Call it before
    /// [`Verifier::verify`].
    ///
    /// # Errors
    /// The reason why a challenge that must be authentic is not, or that its token is wrong.
    pub fn challenge(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Option<Result<ChallengeReply, Reject>> {
        if payload.len() > MAX_CHALLENGE_BODY {
            return None;
        }
        let handshakes = self.scheme.challenges.iter().filter(|h| h.method == head.method);
        for handshake in handshakes {
            let mut request = self.request(head, payload);
            if !handshake.reader.is_empty() {
                let Ok(found) = handshake.reader.read(payload.whole()) else { continue };
                request.json = found;
            }
            let holds = |(source, expected): &(ValueSource, Box<str>)| {
                request.value(source, &[], 0).is_some_and(|value| *value == *expected.as_bytes())
            };
            let stands = |source: &ValueSource| request.value(source, &[], 0).is_some();
            if !handshake.when.iter().all(holds) || handshake.unless.iter().any(stands) {
                continue;
            }
            if !handshake.fields.is_empty() {
                let query = target::query(&head.uri);
                let form = match handshake.method {
                    Method::POST => payload.whole(),
                    _ => query.as_deref().unwrap_or_default().as_bytes(),
                };
                if !form::has_only(form, &handshake.fields) {
                    continue;
                }
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
        handshake: &ChallengeRule,
        request: &RequestValues<'_>,
        challenge: &[u8],
    ) -> Result<ChallengeReply, Reject> {
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
            let Some(PreparedSecret::Hmac(engine)) = key else {
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
        let hashed = handshake.hash.as_ref().map(|(text, slot)| {
            let mut hash = Sha256::new();
            let whole = request.feed(text, &[], 0, &mut |piece| hash.update(piece));
            (whole.then(|| hex::encode(&hash.finalize().into())), *slot)
        });
        if let Some((hash, slot)) = &hashed {
            request.items[*slot] = hash.as_ref().map(<[u8; 64]>::as_slice);
        }
        let confirm = match &handshake.confirm {
            Some(path) => Some(path_of(path, &request).ok_or(Reason::MalformedBody)?),
            None => None,
        };
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
        let body = Bytes::from(body);
        let response = SanitizedResponse { status: StatusCode::OK, headers, body };
        Ok(ChallengeReply { response, confirm })
    }
}

/// Returns a path with values of the request, none of which can be more than a part of it.
fn path_of(template: &Template, request: &RequestValues<'_>) -> Option<String> {
    let mut path = String::new();
    for piece in &template.0 {
        match piece {
            TemplatePiece::Literal(text) => path.push_str(std::str::from_utf8(text).ok()?),
            TemplatePiece::Value(value) => {
                let bytes = request.filtered(value, &[], 0)?;
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
                if bytes.is_empty() || !bytes.iter().all(plain) {
                    return None;
                }
                path.push_str(std::str::from_utf8(&bytes).ok()?);
            }
            TemplatePiece::Optional(_) => return None,
        }
    }
    Some(path)
}
