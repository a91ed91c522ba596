//! What a sender puts into every request: fixed headers, and an event ID in the body.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::scheme::{
    compiled::{
        event::{IdRule, Identification},
        template::ValueSource,
    },
    json::{JsonPointers, Scalar},
    sign::{body::put, random_bytes, random_id},
    time::UnixMillis,
    verify::Verifier,
};

impl Verifier {
    /// Adds the headers that the sender always sends and that are not given: those that the
    /// operator requires, those of the scheme's `[sender.headers]`, and `Content-Type`.
    pub fn add_sender_headers(&self, headers: &mut HeaderMap, body: &[u8]) {
        let mut give = |name: &HeaderName, value: &str| {
            if !headers.contains_key(name)
                && let Ok(value) = HeaderValue::from_str(value)
            {
                headers.insert(name.clone(), value);
            }
        };
        for (slot, values) in &self.required {
            give(&self.slots.names()[*slot], values.first().map_or("", |v| v));
        }
        for (name, value) in &self.scheme.sender.headers {
            give(name, value);
        }
        if let Some(media_type) = media_type(body) {
            give(&CONTENT_TYPE, media_type);
        }
    }

    /// Returns a body with the event ID that the sender always puts there. A body that has one, or
    /// whose sender has none there, is returned as it is.
    ///
    /// # Errors
    /// The body is not JSON, or has no place for the ID.
    pub fn completed_body(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut body = body.to_vec();
        if self.scheme.event.id().is_some_and(|id| id.optional) {
            return Ok(body);
        }
        for pointer in self.id_pointers() {
            if find(&pointer, &body).is_none() {
                body = with_member(&body, &pointer, &Value::from(random_id()))?;
            }
        }
        Ok(body)
    }

    /// Returns a body for another event: with a fresh event ID and the current time where the
    /// sender puts them, or, if the bytes of the body identify the event, with a difference that
    /// parsers ignore.
    ///
    /// # Errors
    /// The body has no place for the ID.
    pub fn fresh_body(&self, body: &[u8], now: UnixMillis) -> Result<Vec<u8>, String> {
        let mut fresh = self.completed_body(body)?;
        let mut renewed = false;
        for pointer in self.id_pointers() {
            let value = match find(&pointer, &fresh) {
                Some(Value::Number(_)) => Value::from(random_number()),
                Some(Value::String(text)) => Value::from(renew(&text)),
                _ => continue,
            };
            fresh = with_member(&fresh, &pointer, &value)?;
            renewed = true;
        }
        if let Some(timestamp) = &self.scheme.timestamp
            && let ValueSource::Json(number) = timestamp.from
        {
            let (pointer, text) = (self.pointer(number), timestamp.unit.render(now.0));
            match find(&pointer, &fresh) {
                Some(Value::Number(_)) => {
                    let number: i64 = text.parse().map_err(|_| "the timestamp is no number")?;
                    fresh = with_member(&fresh, &pointer, &Value::from(number))?;
                }
                Some(Value::String(_)) => {
                    fresh = with_member(&fresh, &pointer, &Value::from(text))?;
                }
                _ => {}
            }
        }
        let by_body = match &self.scheme.event.identified_by {
            Identification::SignedParts | Identification::LabelAndBody => true,
            Identification::SignedId(id) => {
                id.optional && !id.from.iter().any(|from| matches!(from, ValueSource::Header(_)))
            }
            Identification::None | Identification::Label => false,
        };
        Ok(if by_body && !renewed { varied(fresh) } else { fresh })
    }

    /// Returns the headers that a retry shares with an earlier request for the event: all but the
    /// signature, the timestamp and what is fresh in each request.
    pub fn retry_headers(&self, headers: &HeaderMap) -> HeaderMap {
        let scheme = &*self.scheme;
        let of_id = |slot: &usize| {
            let from = scheme.event.id().map(|id| id.from.as_slice()).unwrap_or_default();
            from.contains(&ValueSource::Header(*slot))
        };
        let signature = scheme.signature.from.iter();
        let timestamp = scheme.timestamp.iter().map(|timestamp| &timestamp.from);
        let agreeing = scheme.agree.iter().map(|agreement| &agreement.value);
        let replaced =
            signature.chain(timestamp).chain(agreeing).filter_map(|source| match source {
                ValueSource::Header(slot) => Some(*slot),
                _ => None,
            });
        let described = scheme.message_signature.iter().flat_map(|rule| [rule.input, rule.digest]);
        let listed = scheme.signed_headers.iter().filter_map(|rule| match rule.list {
            ValueSource::Header(slot) => Some(slot),
            _ => None,
        });
        let replaced = replaced.chain(described).chain(listed);
        let fresh = scheme.identity.headers.iter().copied().filter(|slot| !of_id(slot));
        let mut kept = headers.clone();
        for slot in replaced.chain(fresh) {
            kept.remove(&self.slots.names()[slot]);
        }
        kept
    }

    fn pointer(&self, number: u16) -> String {
        self.scheme.inputs.pointers.name(number).to_owned()
    }

    /// Returns the pointers to the parts of an event ID in the body, of a sender whose bodies are
    /// JSON. Those of a list's elements (`*`) are left out.
    fn id_pointers(&self) -> Vec<String> {
        let Some(IdRule { from, .. }) = self.scheme.event.id() else { return Vec::new() };
        let pointers = from.iter().filter_map(|source| match source {
            ValueSource::Json(number) => Some(self.pointer(*number)),
            _ => None,
        });
        pointers.filter(|pointer| !pointer.contains('*')).collect()
    }
}

/// Returns the media type that a body has by its first bytes; `None` for an empty body.
fn media_type(body: &[u8]) -> Option<&'static str> {
    Some(match body.trim_ascii_start().first()? {
        b'{' | b'[' => "application/json",
        b'<' => "application/xml",
        _ if body.contains(&b'=') => "application/x-www-form-urlencoded",
        _ => "text/plain",
    })
}

/// Returns the value that a pointer leads to.
fn find(pointer: &str, body: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(body).ok()?.pointer(pointer).cloned()
}

/// Returns a JSON body with another value of a member. The other bytes stay the same, if the value
/// is a plain string or the member is a new one of the outermost object.
fn with_member(body: &[u8], pointer: &str, value: &Value) -> Result<Vec<u8>, String> {
    let literal = value.to_string();
    let mut pointers = JsonPointers::default();
    if pointers.add(pointer).is_ok()
        && let Ok(found) = pointers.read(body)
        && let Some(Scalar::Text(std::borrow::Cow::Borrowed(text))) = found.only(0, 0)
    {
        let start = text.as_ptr().addr() - body.as_ptr().addr();
        let quoted = start - 1..start + text.len() + 1;
        return Ok([&body[..quoted.start], literal.as_bytes(), &body[quoted.end..]].concat());
    }
    let mut json: Value = serde_json::from_slice(body)
        .map_err(|_| format!("the body is not JSON, so it has no place for `{pointer}`"))?;
    if let Some(place) = json.pointer_mut(pointer) {
        *place = value.clone();
        return Ok(json.to_string().into_bytes());
    }
    let name = &pointer[1..];
    if let (Value::Object(members), false) = (&json, name.contains(['/', '~'])) {
        let open = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
        let comma = if members.is_empty() { "" } else { ", " };
        let member = format!("{}: {literal}{comma}", Value::from(name));
        return Ok([&body[..open], member.as_bytes(), &body[open..]].concat());
    }
    put(&mut json, pointer, || value.as_str().unwrap_or(&literal).to_owned())?;
    Ok(json.to_string().into_bytes())
}

/// Returns another ID of the same kind: `evt_1` becomes `evt_` and 32 hex digits, a UUID another
/// UUID.
fn renew(id: &str) -> String {
    let random = random_id();
    if id.len() == 36 && id.bytes().filter(|byte| *byte == b'-').count() == 4 {
        let (a, b, c, d) = (&random[..8], &random[8..12], &random[13..16], &random[17..20]);
        return format!("{a}-{b}-4{c}-8{d}-{}", &random[20..]);
    }
    let prefix = id.rfind('_').map_or("", |at| &id[..=at]);
    format!("{prefix}{random}")
}

/// Returns a random integer that every JSON parser reads exactly.
fn random_number() -> u64 {
    (u64::from_ne_bytes(random_bytes()) >> 12) | 1 << 50
}

/// Returns a body that differs in bytes that parsers ignore: white space after JSON, an additional
/// field of a form.
fn varied(mut body: Vec<u8>) -> Vec<u8> {
    let random = u64::from_ne_bytes(random_bytes());
    if serde_json::from_slice::<IgnoredAny>(&body).is_ok() {
        body.extend((0..64).map(|bit| if random >> bit & 1 == 0 { b' ' } else { b'\t' }));
    } else if media_type(&body) == Some("application/x-www-form-urlencoded") {
        body.truncate(body.trim_ascii_end().len());
        body.extend_from_slice(format!("&sealgate={random:x}").as_bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_of_the_body_stay_the_same() {
        let with = |body: &str, pointer: &str, value: Value| {
            let body = with_member(body.as_bytes(), pointer, &value).expect("a place");
            String::from_utf8(body).expect("text")
        };
        assert_eq!(
            with("{ \"id\" : \"a\",  \"b\": 1 }\n", "/id", "x".into()),
            "{ \"id\" : \"x\",  \"b\": 1 }\n"
        );
        assert_eq!(with("{\"b\":{\"id\":\"a\"}}", "/b/id", "x".into()), "{\"b\":{\"id\":\"x\"}}");
        assert_eq!(with("{\"b\": 1}", "/id", "x".into()), "{\"id\": \"x\", \"b\": 1}");
        assert_eq!(with(" {}", "/id", "x".into()), " {\"id\": \"x\"}");
        assert_eq!(with("{\"id\":7}", "/id", 8.into()), "{\"id\":8}");
        assert_eq!(with("{\"b\":1}", "/a/id", "x".into()), "{\"a\":{\"id\":\"x\"},\"b\":1}");
        assert!(with_member(b"a=b", "/id", &Value::from("x")).is_err());
    }

    #[test]
    fn ids_keep_their_kind() {
        assert!(renew("evt_1").starts_with("evt_") && renew("evt_1").len() == 36);
        assert_eq!(renew("7").len(), 32);
        let uuid = renew("0191d9a2-4b1e-7c35-9f6e-2f1f4f2f7a10");
        assert!(uuid.len() == 36 && uuid.as_bytes()[14] == b'4', "{uuid}");
    }
}
