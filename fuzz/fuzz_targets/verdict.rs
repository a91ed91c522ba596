//! From request to verdict, for every built-in scheme that takes a plain secret: no request panics, and
//! none is accepted, since nobody guesses a MAC.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use sealgate::{
    body::Payload,
    scheme::{Credentials, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

static VERIFIERS: LazyLock<Vec<Verifier>> = LazyLock::new(|| {
    Scheme::builtin_ids()
        .filter_map(Scheme::builtin)
        .filter_map(|scheme| {
            let global = vec![Secret::new(b"user:a-secret-that-nobody-guesses".to_vec())];
            let public_url = Some("https://hooks.example.com/in".to_owned());
            let credentials = Credentials { global, public_url, ..Credentials::default() };
            Verifier::new(scheme, "fuzz", credentials).ok()
        })
        .collect()
});

// The first byte chooses the scheme; then one value a line for its headers; after an empty line, the body.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let verifier = &VERIFIERS[usize::from(*choice) % VERIFIERS.len()];
    let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (lines, body) = input.split_at(end);
    let mut request = Request::post("/in?a=b");
    let values = lines.split(|byte| *byte == b'\n');
    for (name, value) in verifier.headers().iter().zip(values) {
        let name: &HeaderName = name;
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request = request.header(name, value);
        }
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let body = body.strip_prefix(b"\n\n").unwrap_or(body);
    let payload = Payload::from(Bytes::copy_from_slice(body));
    assert!(verifier.verify(&head, &payload, UnixMillis(1_758_184_391_752)).is_err());
    let _ = verifier.handshake(&head, &payload, UnixMillis(1_758_184_391_752));
});
