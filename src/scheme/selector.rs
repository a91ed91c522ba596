//! One value of a request, selected by the configuration and not by a scheme.

use http::request::Parts;
use sha2::{Digest, Sha256};

use crate::{
    body::Payload,
    scheme::{
        compiled::{
            template::{Inputs, MAX_HEADERS, MAX_ITEMS, ValueSource},
            url::UrlRule,
        },
        json::JsonMatches,
        verify::request::{HeaderSlots, RequestValues},
    },
};

/// A source of a value, such as `json:/cardIdx` or `header:X-Card`.
#[derive(Clone, Debug)]
pub struct ValueSelector {
    inputs: Inputs,
    slots: HeaderSlots,
    source: ValueSource,
    url: UrlRule,
}

impl ValueSelector {
    /// Parses a source.
    ///
    /// # Errors
    /// What is wrong, and a suggestion if there is one.
    pub fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        let mut inputs = Inputs::default();
        let source = inputs.source(text)?;
        match source {
            ValueSource::Header(_)
            | ValueSource::Json(_)
            | ValueSource::Query(_)
            | ValueSource::Form(_) => {}
            _ => {
                let help = "json:/cardIdx, header:X-Card, query:card or form:card".to_owned();
                return Err((format!("`{text}` does not select one value"), Some(help)));
            }
        }
        let slots = HeaderSlots::new(&inputs.headers);
        Ok(ValueSelector { inputs, slots, source, url: UrlRule::default() })
    }

    /// Returns a digest of `scope` and the value; `None` if the request does not have the value.
    pub fn digest(&self, scope: &str, head: &Parts, payload: &Payload) -> Option<[u8; 16]> {
        let mut request = RequestValues {
            head,
            payload,
            headers: [None; MAX_HEADERS],
            duplicate: false,
            items: [None; MAX_ITEMS],
            json: JsonMatches::default(),
            timestamp: None,
            public_url: None,
            url_rule: &self.url,
            signed_headers: None,
            message_signature: None,
            alternatives: 0,
            settings: &[],
        };
        request.duplicate = self.slots.gather(&head.headers, &mut request.headers);
        if !self.inputs.pointers.is_empty() {
            request.json = self.inputs.pointers.read(payload.whole()).ok()?;
        }
        if request.duplicate {
            return None;
        }
        let value = request.value(&self.source, &[], 0)?;
        let mut digest = Sha256::new();
        for part in [scope.as_bytes(), &value] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;

    use super::*;

    fn digest(source: &str, scope: &str, body: &'static str) -> Option<[u8; 16]> {
        let request = Request::post("/hooks?card=7").header("x-card", "7");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let selector = ValueSelector::parse(source).expect("a source");
        selector.digest(scope, &head, &Payload::from(Bytes::from_static(body.as_bytes())))
    }

    #[test]
    fn equal_values_of_a_route_have_equal_digests() {
        let card = digest("json:/card", "a", r#"{"card":7,"n":1}"#);
        assert!(card.is_some());
        assert_eq!(card, digest("json:/card", "a", r#"{"n":2,"card":7}"#));
        assert_ne!(card, digest("json:/card", "b", r#"{"card":7}"#));
        assert_ne!(card, digest("json:/card", "a", r#"{"card":8}"#));
        for source in ["header:X-Card", "query:card"] {
            assert_eq!(digest(source, "a", ""), card, "{source}");
        }
        assert_eq!(digest("form:card", "a", "n=1&card=7"), card);
    }

    #[test]
    fn requests_without_the_value_have_no_digest() {
        for (source, body) in [
            ("json:/card", "{}"),
            ("json:/card", "card"),
            ("json:/card", r#"{"card":{}}"#),
            ("header:x-other", ""),
            ("query:other", ""),
        ] {
            assert_eq!(digest(source, "a", body), None, "{source} {body}");
        }
    }

    #[test]
    fn other_sources_are_rejected() {
        for source in ["body", "secret", "json:card", "cookie:card", ""] {
            assert!(ValueSelector::parse(source).is_err(), "{source}");
        }
    }
}
