//! No boundary between two signed parts can be moved: bytes of one part never pass as bytes of its
//! neighbor, for any scheme.

use super::{
    vectors::{accepted, request},
    *,
};
use crate::scheme::compiled::template::{TemplatePiece, ValueSource};

/// A request whose parts can be replaced.
#[derive(Clone)]
struct Sent {
    head: Parts,
    body: Vec<u8>,
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Replaces the value of a source; `None` if a request cannot have it.
fn replace(
    sent: &Sent,
    verifier: &Verifier,
    source: &ValueSource,
    old: &[u8],
    new: &[u8],
) -> Option<Sent> {
    let (mut sent, scheme) = (sent.clone(), verifier.scheme());
    match source {
        ValueSource::Timestamp => {
            let from = &scheme.timestamp.as_ref()?.from;
            return replace(&sent, verifier, from, old, new);
        }
        ValueSource::Header(slot) => {
            let value = HeaderValue::from_bytes(new).ok()?;
            sent.head.headers.insert(scheme.inputs.headers[*slot].clone(), value);
        }
        ValueSource::Item(slot) => {
            let name = scheme.signature_headers().next()?.clone();
            let item = |value: &[u8]| {
                let value = std::str::from_utf8(value).ok()?;
                Some(format!("{}={value}", scheme.inputs.items[*slot]))
            };
            let text = sent.head.headers[&name].to_str().ok()?.replace(&item(old)?, &item(new)?);
            sent.head.headers.insert(name, HeaderValue::from_str(&text).ok()?);
        }
        ValueSource::Body => sent.body = new.to_vec(),
        ValueSource::FormSorted => sent.body = percent_encoded(new).into_bytes(),
        ValueSource::Method => sent.head.method = Method::from_bytes(new).ok()?,
        ValueSource::Url => {
            let url = std::str::from_utf8(new).ok()?;
            let base = verifier.public_urls.first()?.split('?').next()?;
            let rest = url.strip_prefix(base)?;
            sent.head.uri = format!("/webhooks/x{rest}").parse().ok()?;
        }
        ValueSource::Json(pointer) => {
            let mut json: serde_json::Value = serde_json::from_slice(&sent.body).ok()?;
            let pointer = scheme.inputs.pointers.name(*pointer).replace('*', "0");
            *json.pointer_mut(&pointer)? = std::str::from_utf8(new).ok()?.into();
            sent.body = json.to_string().into_bytes();
        }
        ValueSource::SignedHeaders => {
            // The boundary is at the end of the last value.
            let rule = scheme.signed_headers.as_ref()?;
            let payload = payload(&sent.body);
            let mut values = verifier.request(&sent.head, &payload);
            verifier.read_items(&mut values);
            let list = values.value(&rule.list, &[], 0)?.into_owned();
            let last = list.rsplit(|byte| *byte == rule.separator).next()?;
            let name = HeaderName::from_bytes(last).ok()?;
            let before = old.len() - sent.head.headers.get(&name)?.len();
            let value = HeaderValue::from_bytes(new.strip_prefix(&old[..before])?).ok()?;
            sent.head.headers.insert(name, value);
        }
        ValueSource::Secret
        | ValueSource::Path
        | ValueSource::Pathname
        | ValueSource::QueryText
        | ValueSource::SignatureBase
        | ValueSource::Query(_)
        | ValueSource::Form(_)
        | ValueSource::FormData(_)
        | ValueSource::Setting(_) => return None,
    }
    Some(sent)
}

/// Returns the pieces of a message; an optional value counts as a value.
fn flat(pieces: &[TemplatePiece]) -> Vec<&TemplatePiece> {
    let flat = pieces.iter().map(|piece| match piece {
        TemplatePiece::Optional(inner) if inner.len() == 1 => &inner[0],
        other => other,
    });
    flat.collect()
}

#[test]
fn no_boundary_between_signed_parts_can_be_moved() {
    let mut moved = std::collections::BTreeMap::new();
    for (vector, verifier) in accepted() {
        let scheme = verifier.scheme();
        let (head, body) = request(&vector);
        let now = UnixMillis(vector.now * 1000);
        let first = verifier.verify(&head, &payload(&body), now).expect("authentic");
        let sent = Sent { head, body };
        let whole = payload(&sent.body);
        let mut values = verifier.request(&sent.head, &whole);
        values.json = scheme.inputs.pointers.read(&sent.body).unwrap_or_default();
        verifier.read_items(&mut values);
        let pieces = flat(&verifier.message(&values).0);
        let text = |piece: &TemplatePiece| match piece {
            TemplatePiece::Value(value) if value.source == ValueSource::Timestamp => {
                let from = &scheme.timestamp.as_ref()?.from;
                values.value(from, &[], 0).map(|value| value.into_owned())
            }
            TemplatePiece::Value(value) => {
                values.value(&value.source, &[], 0).map(|value| value.into_owned())
            }
            TemplatePiece::Literal(_) | TemplatePiece::Optional(_) => None,
        };
        for start in 0..pieces.len() {
            let (separator, end): (&[u8], usize) = match pieces.get(start + 1) {
                Some(TemplatePiece::Literal(literal)) => (literal, start + 2),
                _ => (&[], start + 1),
            };
            let (Some(TemplatePiece::Value(left)), Some(TemplatePiece::Value(right))) =
                (pieces.get(start), pieces.get(end))
            else {
                continue;
            };
            let (Some(a), Some(b)) = (text(pieces[start]), text(pieces[end])) else { continue };
            let both = [&a[..], separator, &b[..]].concat();
            for at in 0..=both.len() - separator.len() {
                if at == a.len() || !both[at..].starts_with(separator) {
                    continue;
                }
                let (before, after) = (&both[..at], &both[at + separator.len()..]);
                let copy = replace(&sent, &verifier, &left.source, &a, before)
                    .and_then(|sent| replace(&sent, &verifier, &right.source, &b, after));
                let Some(copy) = copy else { continue };
                *moved.entry(scheme.id().to_owned()).or_insert(0) += 1;
                let verdict = verifier.verify(&copy.head, &payload(&copy.body), now);
                if let Ok(verified) = verdict {
                    panic!(
                        "{}: {:?} | {:?} is accepted, {}",
                        vector.name,
                        String::from_utf8_lossy(before),
                        String::from_utf8_lossy(after),
                        if verified.record() == first.record() { "as a copy" } else { "as new" }
                    );
                }
            }
        }
    }
    for id in ["box", "discord", "hubspot-v2", "hubspot-v3", "mailgun", "square"] {
        assert!(moved.contains_key(id), "{id} is not tested: {moved:?}");
    }
    for id in ["twilio", "twitch", "zendesk"] {
        assert!(moved.contains_key(id), "{id} is not tested: {moved:?}");
    }
}

#[test]
fn a_signed_url_is_the_registered_one() {
    let registered = "https://hooks.example.com/x?tenant=1";
    let credentials = || Credentials {
        public_url: Some(registered.to_owned()),
        ..global("a-secret-of-the-tests-0001")
    };
    for id in ["square", "trello", "hubspot-v2", "hubspot-v3", "twilio", "messagebird"] {
        let verifier = verifier(id, credentials());
        let body = match id {
            "twilio" => payload(b"Body=hello&From=1"),
            _ => payload(br#"{"event_id":"e1","action":{"id":"a1"}}"#),
        };
        let draft = Draft {
            method: Method::POST,
            path: "/x?tenant=1",
            headers: HeaderMap::new(),
            body: &body,
        };
        let mut sent = head(Method::POST, "/x?tenant=1", &[]);
        sent.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
        assert!(verifier.verify(&sent, &body, UnixMillis(NOW)).is_ok(), "{id}");
        for query in ["?tenant=2", "?tenant=1&a=b", "?a=b&tenant=1", "?", "?tenant=1&", "?tenant"] {
            let mut copy = sent.clone();
            copy.uri = format!("/x{query}").parse().expect("a target");
            assert!(verifier.verify(&copy, &body, UnixMillis(NOW)).is_err(), "{id} {query}");
        }
    }
}

#[test]
fn twilio_signs_with_and_without_port_and_userinfo() {
    use data_encoding::BASE64;
    use sha1::Sha1;
    let verdict = |registered: &str, signed: &str| {
        let credentials = Credentials {
            public_url: Some(registered.to_owned()),
            ..global("a-secret-of-the-tests-0001")
        };
        let mut mac = Hmac::<Sha1>::new_from_slice(b"a-secret-of-the-tests-0001").expect("any key");
        mac.update(format!("{signed}From1").as_bytes());
        let signature = BASE64.encode(&mac.finalize().into_bytes());
        let sent = post(&[("X-Twilio-Signature", &signature)]);
        let verifier = verifier("twilio", credentials);
        verifier.verify(&sent, &payload(b"From=1"), UnixMillis(NOW)).map(|v| v.record())
    };
    let with_port = "https://h.example:8443/x";
    let expected = verdict(with_port, with_port).expect("authentic");
    assert_eq!(verdict(with_port, "https://h.example/x").ok(), Some(expected));
    for (registered, signed, accepted) in [
        ("https://h.example/x", "https://h.example:443/x", true),
        ("https://u:p@h.example/x", "https://h.example/x", true),
        ("https://h.example/x", "https://h.example:8443/x", false),
        ("https://h.example:8443/x", "https://h.example:9443/x", false),
        ("https://h.example/x", "https://other.example/x", false),
    ] {
        assert_eq!(verdict(registered, signed).is_ok(), accepted, "{registered} {signed}");
    }
}
