//! Details of a request for people: what it contains, verified or not, and what its signature
//! covers.

use std::borrow::Cow;

use http::request::Parts;

use crate::{
    body::Payload,
    scheme::{
        compiled::{
            event::IdRule,
            template::{Filter, MAX_ITEMS, TemplatePiece, TemplateValue, ValueSource},
        },
        text::escaped,
        time::{TimeUnit, UnixMillis},
        verify::{
            Verifier,
            keys::{self, NamedKey},
            request::RequestValues,
            signature::ClaimedSignatures,
        },
    },
};

/// What a request contains. Nothing of it is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnverifiedDetails {
    /// The event ID, control characters escaped.
    pub event_id: Option<String>,
    /// The key that the request names, whether it is configured or not.
    pub key: Option<String>,
    /// The time of sending according to the request; of a token, the time of issue.
    pub timestamp: Option<UnixMillis>,
    /// The timestamp as it is written, if it is nothing but digits.
    pub digits: Option<String>,
}

/// A part of the message that a signature covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPart {
    /// Its source in the notation of scheme files, such as `body|sha256`; empty for fixed text.
    pub source: String,
    /// Its value; `None` for the secret and for what is in the body.
    pub value: Option<String>,
}

impl Verifier {
    /// Returns the parts of the message that a request's signature covers, in order. Of several
    /// items that are signed separately, those of the first.
    pub fn signed_parts(&self, head: &Parts, payload: &Payload) -> Vec<SignedPart> {
        let scheme = &*self.scheme;
        let mut request = self.request(head, payload);
        self.read_items(&mut request);
        request.json = scheme.inputs.pointers.read(payload.whole()).unwrap_or_default();
        let timestamp = scheme.timestamp.as_ref();
        let timestamp = timestamp.and_then(|timestamp| request.value(&timestamp.from, &[], 0));
        request.timestamp = timestamp.map(|text| Cow::Owned(text.into_owned()));
        let mut parts = Vec::new();
        self.add_parts(&self.message(&request).0, &request, &mut parts);
        parts
    }

    fn add_parts(
        &self,
        pieces: &[TemplatePiece],
        request: &RequestValues<'_>,
        parts: &mut Vec<SignedPart>,
    ) {
        for piece in pieces {
            match piece {
                TemplatePiece::Literal(bytes) => {
                    parts.push(SignedPart { source: String::new(), value: Some(escaped(bytes)) });
                }
                TemplatePiece::Value(value) => {
                    let mut source = String::new();
                    self.scheme.notate_value(value, &mut source);
                    let bytes = request.filtered(value, &[], 0).filter(|_| !is_private(value));
                    parts.push(SignedPart { source, value: bytes.map(|bytes| escaped(&bytes)) });
                }
                TemplatePiece::Optional(pieces) => {
                    if request.feed_pieces(pieces, &[], 0, &mut |_: &[u8]| {}) {
                        self.add_parts(pieces, request, parts);
                    }
                }
            }
        }
    }

    /// Reads as much of a request as possible, even if the rest is malformed.
    pub fn unverified_details(&self, head: &Parts, payload: &Payload) -> UnverifiedDetails {
        let scheme = &*self.scheme;
        let mut request = self.request(head, payload);
        self.read_items(&mut request);
        let named = scheme.choice.named(&request);
        let mut key = match named {
            NamedKey::Global => Some("global".to_owned()),
            NamedKey::Group(_) | NamedKey::Unknown | NamedKey::Missing => None,
        };
        request.json = scheme.inputs.pointers.read(payload.whole()).unwrap_or_default();
        let event_id = scheme.event.id().and_then(|IdRule { from, .. }| {
            let parts = from.iter().filter_map(|source| request.value(source, &[], 0));
            let parts: Vec<_> = parts.map(|part| escaped(&part)).collect();
            (!parts.is_empty()).then(|| parts.join(" "))
        });
        let text = scheme.timestamp.as_ref().and_then(|timestamp| {
            request.value(&timestamp.from, &[], 0).map(|text| text.into_owned())
        });
        let unit = scheme.timestamp.as_ref().map(|timestamp| timestamp.unit);
        let timestamp = match (&text, unit) {
            (Some(text), Some(TimeUnit::Rfc3339)) => TimeUnit::Rfc3339.parse(text),
            (Some(text), Some(TimeUnit::Seconds | TimeUnit::Millis | TimeUnit::Auto)) => {
                TimeUnit::Auto.parse(text)
            }
            (None, _) | (_, None) => self.issued(&request),
        };
        if let NamedKey::Group(space) = named {
            let space = &scheme.choice.spaces()[space];
            request.json = space.reader.read(payload.whole()).unwrap_or_default();
            key = keys::index(&request, space).map(|index| format!("{}/{index}", space.name));
        }
        let digits = text.filter(|text| text.iter().all(u8::is_ascii_digit) && text.len() <= 19);
        UnverifiedDetails {
            event_id,
            key,
            timestamp: timestamp.map(UnixMillis),
            digits: digits.and_then(|text| String::from_utf8(text).ok()),
        }
    }

    /// Fills in the items of the signature, as far as it can be parsed.
    pub(in crate::scheme) fn read_items(&self, request: &mut RequestValues<'_>) {
        let scheme = &*self.scheme;
        if scheme.token.is_some() {
            return;
        }
        if let Some(rule) = &scheme.message_signature {
            let mut found = self.message_signatures(rule, request).unwrap_or_default();
            request.message_signature = found.drain(..).next().map(Box::new);
            return;
        }
        for source in &scheme.signature.from {
            if let ValueSource::Header(slot) = source
                && let Some(text) = request.header(*slot)
            {
                let mut items = [None; MAX_ITEMS];
                let mut candidates = ClaimedSignatures::default();
                // The items before the error are kept, because they are only shown.
                let _ =
                    scheme.signature.parse(text, &scheme.inputs.items, &mut items, &mut candidates);
                request.items = items;
            }
        }
    }

    /// Returns the time of issue according to the token.
    fn issued(&self, request: &RequestValues<'_>) -> Option<i64> {
        let rules = self.scheme.token.as_ref()?;
        let token = self.token(request).ok()??;
        let claims = token.claims(rules).ok()?;
        super::jwt::age(rules, &claims, 0).1.map(|age| age.saturating_neg())
    }
}

/// Returns whether a value is the secret, or part of the body and not only its digest.
fn is_private(value: &TemplateValue) -> bool {
    match value.source {
        ValueSource::Secret | ValueSource::Setting(_) => true,
        ValueSource::Body
        | ValueSource::FormSorted
        | ValueSource::Json(_)
        | ValueSource::Form(_)
        | ValueSource::FormData(_) => !value.filters.contains(&Filter::Sha256),
        ValueSource::Timestamp
        | ValueSource::Url
        | ValueSource::Method
        | ValueSource::Path
        | ValueSource::Pathname
        | ValueSource::QueryText
        | ValueSource::SignedHeaders
        | ValueSource::SignatureBase
        | ValueSource::Header(_)
        | ValueSource::Item(_)
        | ValueSource::Query(_) => false,
    }
}
