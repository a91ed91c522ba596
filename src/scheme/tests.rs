mod algorithms;
mod boundaries;
mod catalog;
mod challenges;
mod events;
mod govalid_vivreal;
mod language;
mod message_signatures;
mod reference;
mod signing;
mod vectors;
mod vivoldi;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, request::Parts};
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    body::Payload,
    reject::{Reason, Reject},
    secret::Secret,
};

const NOW: i64 = 1_758_184_391_752;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn payload(body: &[u8]) -> Payload {
    Payload::from(Bytes::copy_from_slice(body))
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn hmac_sha256(key: &str, message: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any key");
    mac.update(message);
    hex(&mac.finalize().into_bytes())
}

/// A request head; names with capital letters or underscores are taken as they are.
fn head(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
    let request = Request::builder().method(method).uri(path).body(()).expect("a request");
    let (mut head, ()) = request.into_parts();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        head.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    head
}

fn post(headers: &[(&str, &str)]) -> Parts {
    head(Method::POST, "/webhooks/x", headers)
}

fn verifier(id: &str, credentials: Credentials) -> Verifier {
    let scheme = Scheme::builtin(id).expect("a built-in scheme");
    Verifier::new(scheme, "r", credentials).expect("fitting credentials")
}

fn global(text: &str) -> Credentials {
    Credentials { global: vec![secret(text)], ..Credentials::default() }
}

fn reason(result: Result<Verified, Reject>) -> Option<Reason> {
    match result {
        Ok(verified) if verified.is_stale() => Some(Reason::Stale),
        Ok(_) => None,
        Err(reject) => Some(reject.reason().expect("a refusal")),
    }
}
