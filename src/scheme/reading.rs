//! What a request says of itself before anything is proven: for people who look at a refused one.

use std::fmt::Write;

use http::request::Parts;

use super::{
    Scheme, UnixMillis,
    event::Event,
    keys::{self, Named},
    request::Request,
    signature::Candidates,
    source::{Filter, MAX_ITEMS, Piece, Source, Template, Value},
    time::Unit,
    verify::Verifier,
};
use crate::body::Payload;

/// What a request says of itself. None of it is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The event id, control characters escaped.
    pub event_id: Option<String>,
    /// The name of the key that the request asks for, whether it is configured or not.
    pub key: Option<String>,
    /// When the sender says that it sent the request; of a token, when it was issued.
    pub timestamp: Option<UnixMillis>,
    /// The timestamp as it is written, if it is nothing but digits.
    pub digits: Option<String>,
}

impl Verifier {
    /// Reads what can be read of a request, however wrong the rest is.
    pub fn read(&self, head: &Parts, payload: &Payload) -> Reading {
        let scheme = &*self.scheme;
        let mut request = self.request(head, payload);
        self.read_items(&mut request);
        let named = scheme.choice.named(&request);
        let mut key = match named {
            Named::Global => Some("global".to_owned()),
            Named::Group(_) | Named::Unknown | Named::Missing => None,
        };
        request.json = scheme.wanted.pointers.read(payload.whole()).unwrap_or_default();
        let event_id = match &scheme.event {
            Event::Id { from, .. } => {
                let parts = from.iter().filter_map(|source| request.value(source, &[], 0));
                let parts: Vec<_> = parts.map(|part| escaped(&part)).collect();
                (!parts.is_empty()).then(|| parts.join(" "))
            }
            Event::Body | Event::None => None,
        };
        let text = scheme.timestamp.as_ref().and_then(|timestamp| {
            request.value(&timestamp.from, &[], 0).map(|text| text.into_owned())
        });
        let unit = scheme.timestamp.as_ref().map(|timestamp| timestamp.unit);
        let timestamp = match (&text, unit) {
            (Some(text), Some(Unit::Rfc3339)) => Unit::Rfc3339.parse(text),
            (Some(text), Some(Unit::Seconds | Unit::Millis | Unit::Auto)) => Unit::Auto.parse(text),
            (None, _) | (_, None) => self.issued(&request),
        };
        if let Named::Group(space) = named {
            let space = &scheme.choice.spaces()[space];
            request.json = space.reader.read(payload.whole()).unwrap_or_default();
            key = keys::index(&request, space).map(|index| format!("{}/{index}", space.name));
        }
        let digits = text.filter(|text| text.iter().all(u8::is_ascii_digit) && text.len() <= 19);
        Reading {
            event_id,
            key,
            timestamp: timestamp.map(UnixMillis),
            digits: digits.and_then(|text| String::from_utf8(text).ok()),
        }
    }

    /// Fills in the items of the signature, as far as it can be taken apart.
    fn read_items(&self, request: &mut Request<'_>) {
        let scheme = &*self.scheme;
        if scheme.token.is_some() {
            return;
        }
        for source in &scheme.signature.from {
            if let Source::Header(slot) = source
                && let Some(text) = request.header(*slot)
            {
                let mut items = [None; MAX_ITEMS];
                let mut candidates = Candidates::default();
                // What stands before the fault is kept: it is for showing only.
                let _ =
                    scheme.signature.parse(text, &scheme.wanted.items, &mut items, &mut candidates);
                request.items = items;
            }
        }
    }

    /// When a token says that it was issued.
    fn issued(&self, request: &Request<'_>) -> Option<i64> {
        let rules = self.scheme.token.as_ref()?;
        let token = self.token(request).ok()??;
        let claims = token.claims(rules).ok()?;
        super::jwt::age(rules, &claims, 0).1.map(|age| age.saturating_neg())
    }
}

/// Bytes as text that does nothing to a terminal.
fn escaped(bytes: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(bytes).escape_debug().take(200).collect();
    if text.len() == 200 {
        text.push('…');
    }
    text
}

impl Scheme {
    /// The signed message in the notation of scheme files, such as `{timestamp}.{body|sha256}`; `None`
    /// where no message is signed.
    pub fn message_notation(&self) -> Option<String> {
        let mut text = String::new();
        self.notate(&self.message, &mut text);
        (!text.is_empty()).then_some(text)
    }

    fn notate(&self, template: &Template, into: &mut String) {
        for piece in &template.0 {
            match piece {
                Piece::Literal(bytes) => into.push_str(&escaped(bytes)),
                Piece::Value(value) => self.notate_value(value, into),
                Piece::Optional(pieces) => {
                    into.push_str("[[");
                    self.notate(&Template(pieces.clone()), into);
                    into.push_str("]]");
                }
            }
        }
    }

    fn notate_value(&self, value: &Value, into: &mut String) {
        into.push('{');
        // Writing to a String cannot fail.
        let _ = match &value.source {
            Source::Body => write!(into, "body"),
            Source::Timestamp => write!(into, "timestamp"),
            Source::Url => write!(into, "url"),
            Source::Method => write!(into, "method"),
            Source::Path => write!(into, "path"),
            Source::Secret => write!(into, "secret"),
            Source::FormSorted => write!(into, "form-sorted"),
            Source::Header(slot) => write!(into, "header:{}", self.wanted.headers[*slot]),
            Source::Item(slot) => write!(into, "signature:{}", self.wanted.items[*slot]),
            Source::Json(pointer) => write!(into, "json:{}", self.wanted.pointers.name(*pointer)),
            Source::Query(name) => write!(into, "query:{name}"),
            Source::Form(name) => write!(into, "form:{name}"),
        };
        for filter in &value.filters {
            into.push_str(match filter {
                Filter::Sha256 => "|sha256",
                Filter::Lower => "|lower",
                Filter::Json => "|json",
                Filter::UrlDecode => "|urldecode",
            });
        }
        into.push('}');
    }
}
