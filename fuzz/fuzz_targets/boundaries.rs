//! Boundaries between the parts of a signed request. For all headers and bodies: if bytes are moved
//! from one part to another, the request is rejected or is a copy of the same event.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, request::Parts};
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const PATH: &str = "/in?a=b";

/// Every scheme that signs a message with a secret.
static VERIFIERS: LazyLock<Vec<Verifier>> = LazyLock::new(|| {
    let ready = |id: &str| {
        let scheme = Scheme::builtin(id)?;
        if scheme.takes_tokens() || matches!(scheme.proof(), "static token" | "user and password") {
            return None;
        }
        let credentials = Credentials {
            global: vec![Secret::new("c0ffee".repeat(8).into_bytes())],
            public_url: Some(format!("https://hooks.example.com{PATH}")),
            ..Credentials::default()
        };
        Verifier::new(scheme, "fuzz", credentials).ok()
    };
    let all: Vec<_> = Scheme::builtin_ids().filter_map(ready).collect();
    assert!(all.len() >= 40, "{}", all.len());
    all
});

/// Reads and replaces a part: the query, the body or a header.
fn part(head: &Parts, body: &[u8], verifier: &Verifier, place: usize) -> Option<Vec<u8>> {
    match place {
        0 => Some(body.to_vec()),
        1 => head.uri.query().map(|query| query.as_bytes().to_vec()),
        _ => {
            let name = verifier.headers().get(place - 2)?;
            head.headers.get(name).map(|value| value.as_bytes().to_vec())
        }
    }
}

fn replace(
    head: &mut Parts,
    body: &mut Vec<u8>,
    verifier: &Verifier,
    place: usize,
    new: Vec<u8>,
) -> Option<()> {
    match place {
        0 => *body = new,
        1 => head.uri = format!("/in?{}", String::from_utf8(new).ok()?).parse::<Uri>().ok()?,
        _ => {
            let name = verifier.headers().get(place - 2)?.clone();
            head.headers.insert(name, HeaderValue::from_bytes(&new).ok()?);
        }
    }
    Some(())
}

// The first bytes select the scheme, the two parts, the end of the first part and the number of
// bytes to move. Then follow header values, one per line, an empty line, and the body.
fuzz_target!(|input: &[u8]| {
    let Some(([choice, from, to, count], input)) = input.split_first_chunk::<4>() else { return };
    let verifier = &VERIFIERS[usize::from(*choice) % VERIFIERS.len()];
    let places = verifier.headers().len() + 2;
    let (from, to) = (usize::from(*from) % places, usize::from(*to) % places);
    let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (lines, body) = input.split_at(end);
    let mut body = body.strip_prefix(b"\n\n").unwrap_or(body).to_vec();
    let values = lines.split(|byte| *byte == b'\n');
    let given = verifier.headers().iter().zip(values).filter(|(_, value)| !value.is_empty());
    let given: HeaderMap = given
        .filter_map(|(name, v)| Some((name.clone(), HeaderValue::from_bytes(v).ok()?)))
        .collect();

    let payload = Payload::from(Bytes::from(body.clone()));
    let draft = Draft { method: Method::POST, path: PATH, headers: given, body: &payload };
    let Ok(headers) = verifier.sign(None, draft, NOW) else { return };
    let mut request = Request::post(PATH).body(()).expect("a request");
    *request.headers_mut() = headers;
    let (mut head, ()) = request.into_parts();
    let Ok(first) = verifier.verify(&head, &payload, NOW) else { return };

    let (Some(mut left), Some(mut right)) =
        (part(&head, &body, verifier, from), part(&head, &body, verifier, to))
    else {
        return;
    };
    let count = usize::from(*count / 2).min(left.len());
    if from == to || count == 0 {
        return;
    }
    if *choice & 1 == 0 {
        let tail = left.split_off(left.len() - count);
        right.splice(0..0, tail);
    } else {
        right.extend(left.drain(..count));
    }
    let replaced = replace(&mut head, &mut body, verifier, from, left)
        .and_then(|()| replace(&mut head, &mut body, verifier, to, right));
    if replaced.is_none() {
        return;
    }
    // A scheme may declare unsigned headers that distinguish events.
    let replayable = verifier.scheme().replayable();
    let distinguishes = |place: usize| {
        let name = place.checked_sub(2).and_then(|slot| verifier.headers().get(slot));
        name.is_some_and(|name| replayable.contains(&format!("`{name}` (")))
    };
    if let Ok(copy) = verifier.verify(&head, &Payload::from(Bytes::from(body)), NOW) {
        let same = copy.record() == first.record();
        let id = verifier.scheme().id();
        assert!(same || distinguishes(from) || distinguishes(to), "{id} accepts a moved boundary");
    }
});
