//! Reading the index in a body that is not yet authentic: no body makes it panic, and the reason is
//! one of those that a body can have.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::Request;
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{Credentials, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let secret = || vec![Secret::new(b"a-secret-that-nobody-guesses".to_vec())];
    let groups = vec![("coupon".to_owned(), 574, secret()), ("coupon".to_owned(), 0, secret())];
    Verifier::new(scheme, "fuzz", Credentials { groups, ..Credentials::default() })
        .expect("group secrets are all it needs")
});

fuzz_target!(|body: &[u8]| {
    let zeros = "0".repeat(64);
    let request = Request::post("/")
        .header("x-vivoldi-event-id", "89365c75dae740ac8500dfc48c5014b5")
        .header("x-vivoldi-webhook-type", "GROUP")
        .header("x-vivoldi-resource-type", "COUPON")
        .header("x-vivoldi-signature", format!("t=1758184391752,v1={zeros}"));
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let payload = Payload::from(Bytes::copy_from_slice(body));
    let judged = VERIFIER.verify(&head, &payload, UnixMillis(1_758_184_391_752));
    let reason = judged.err().as_ref().and_then(Reject::reason);
    let expected = [Reason::MalformedBody, Reason::UnknownKey, Reason::BadSignature];
    assert!(reason.is_some_and(|reason| expected.contains(&reason)), "{reason:?}");
});
