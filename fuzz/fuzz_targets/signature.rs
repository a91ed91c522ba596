//! The signature header: no value makes the parser panic, and none is accepted, because a MAC
//! cannot be guessed.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let global = vec![Secret::new(b"a-secret-that-nobody-guesses".to_vec())];
    Verifier::new(scheme, "fuzz", Credentials { global, ..Credentials::default() })
        .expect("a secret is all it needs")
});

fuzz_target!(|value: &[u8]| {
    let Ok(signature) = HeaderValue::from_bytes(value) else { return };
    let request = Request::post("/")
        .header("x-vivoldi-event-id", "89365c75dae740ac8500dfc48c5014b5")
        .header("x-vivoldi-signature", signature);
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let payload = Payload::from(Bytes::from_static(b"{}"));
    assert!(VERIFIER.verify(&head, &payload, UnixMillis(1_758_184_391_752)).is_err());
});
