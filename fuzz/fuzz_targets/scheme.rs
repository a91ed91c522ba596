//! The scheme compiler: no text makes it panic, every rejection has a reason, and an accepted
//! scheme can be described and never accepts a request without any proof.

#![no_main]

use bytes::Bytes;
use http::Request;
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

fuzz_target!(|text: &str| {
    let scheme = match Scheme::parse("fuzz.toml", text) {
        Ok(scheme) => scheme,
        Err(report) => {
            assert!(report.is_fatal());
            let _ = report.to_string();
            return;
        }
    };
    assert!(!scheme.describe().is_empty());
    let global = vec![Secret::new(b"a-secret-that-nobody-guesses".to_vec())];
    let public_url = Some("https://hooks.example.com/in".to_owned());
    let credentials = Credentials { global, public_url, ..Credentials::default() };
    let Ok(verifier) = Verifier::new(scheme, "fuzz", credentials) else { return };
    let (head, ()) = Request::post("/in").body(()).expect("a request").into_parts();
    let payload = Payload::from(Bytes::from_static(b"{}"));
    let now = UnixMillis(1_758_184_391_752);
    assert!(verifier.verify(&head, &payload, now).is_err());
    let _ = verifier.challenge(&head, &payload, now);
});
