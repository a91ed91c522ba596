//! Verification with every built-in scheme that uses a plain secret. For all headers and bodies:
//! nothing panics; an unsigned request is rejected, because a MAC cannot be guessed; a signed
//! request is never reported as wrongly signed; and its signature is not accepted for another body
//! or with another key.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, request::Parts};
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const PATH: &str = "/in?a=b";

/// The schemes that sign the fields of a form: two bodies, such as `a` and `a=`, can have the same
/// fields.
const SIGN_FIELDS: [&str; 2] = ["mandrill", "twilio"];

/// Returns each scheme twice: with the secret that signs, and with another one. Hexadecimal digits
/// are a valid key in every encoding, and with a colon before them they are a user and a password.
static VERIFIERS: LazyLock<Vec<[Verifier; 2]>> = LazyLock::new(|| {
    let ready = |scheme, secret: &str| {
        let global = vec![Secret::new(secret.as_bytes().to_vec())];
        let public_url = Some(format!("https://hooks.example.com{PATH}"));
        let credentials = Credentials { global, public_url, ..Credentials::default() };
        Verifier::new(scheme, "fuzz", credentials).ok()
    };
    let both = |id: &str| {
        let pair = ["c0ffee", "facade"].map(|digits| digits.repeat(8));
        let (right, wrong) = match Scheme::builtin(id)?.proof() {
            "user and password" => (format!("user:{}", pair[0]), format!("user:{}", pair[1])),
            _ => (pair[0].clone(), pair[1].clone()),
        };
        Some([ready(Scheme::builtin(id)?, &right)?, ready(Scheme::builtin(id)?, &wrong)?])
    };
    let all: Vec<_> = Scheme::builtin_ids().filter_map(both).collect();
    assert!(all.len() >= 50, "{}", all.len());
    all
});

fn head(headers: HeaderMap) -> Parts {
    let mut request = Request::post(PATH).body(()).expect("a request");
    *request.headers_mut() = headers;
    request.into_parts().0
}

// The first byte selects the scheme. Then follow its header values, one per line, an empty line,
// and the body.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let [verifier, other] = &VERIFIERS[usize::from(*choice) % VERIFIERS.len()];
    let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (lines, body) = input.split_at(end);
    let body = body.strip_prefix(b"\n\n").unwrap_or(body);
    let payload = Payload::from(Bytes::copy_from_slice(body));
    let values = lines.split(|byte| *byte == b'\n');
    let given = verifier.headers().iter().zip(values).filter(|(_, value)| !value.is_empty());
    let given =
        given.filter_map(|(name, v)| Some((name.clone(), HeaderValue::from_bytes(v).ok()?)));
    let given: HeaderMap = given.collect();

    let unsigned = head(given.clone());
    assert!(verifier.verify(&unsigned, &payload, NOW).is_err(), "nobody signed it");
    let _ = verifier.challenge(&unsigned, &payload, NOW);

    // Signs as the sender would, with the given headers.
    let draft = Draft { method: Method::POST, path: PATH, headers: given, body: &payload };
    let Ok(headers) = verifier.sign(None, draft, NOW) else { return };
    let signed = head(headers);
    let _ = verifier.challenge(&signed, &payload, NOW);
    match verifier.verify(&signed, &payload, NOW) {
        Ok(_) => {
            let of_another = other.verify(&signed, &payload, NOW);
            assert_eq!(of_another.err(), Some(Reject::NotAccepted(Reason::BadSignature)));
        }
        Err(reject) => {
            // A signature in the given headers is not replaced.
            let own = lines.is_empty() && reject == Reject::NotAccepted(Reason::BadSignature);
            assert!(!own, "{} does not know its own signature", verifier.scheme().id());
            return;
        }
    }
    let signs_fields = SIGN_FIELDS.contains(&verifier.scheme().id());
    if verifier.scheme().covers_body() && !signs_fields {
        let longer = Payload::from(Bytes::from([body, b" "].concat()));
        assert!(verifier.verify(&signed, &longer, NOW).is_err(), "a longer body was not signed");
        if let Some((last, rest)) = body.split_last() {
            let flipped = Payload::from(Bytes::from([rest, &[last ^ 1]].concat()));
            assert!(verifier.verify(&signed, &flipped, NOW).is_err(), "it was not signed");
            let shorter = Payload::from(Bytes::copy_from_slice(rest));
            assert!(
                verifier.verify(&signed, &shorter, NOW).is_err(),
                "a shorter one was not signed"
            );
        }
    }
});
