//! The keys of a set (RFC 7517, section 4) that a signature can be verified with.
//!
//! Numbers may have leading zero bytes and `=` padding, as Java and other issuers write them.

use std::borrow::Cow;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::PublicKeyComponents,
    signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256},
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::MAX_BYTES;
use crate::scheme::{compiled::token::TokenAlgorithm, public_key::PublicKey};

/// The most keys that are kept of a set.
const MAX_KEYS: usize = 100;
/// The sizes of RSA keys, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The length of a coordinate on P-256, in bytes.
const COORDINATE: usize = 32;
/// The most characters of a key ID in a log line.
const MAX_SHOWN: usize = 64;

/// A key that signatures can be verified with.
pub(super) struct PublishedKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: TokenAlgorithm,
    pub(super) key: PublicKey,
}

#[derive(serde::Deserialize)]
struct KeySetDocument {
    keys: Vec<Value>,
}

/// Returns the usable keys of a set, and the others with their key ID and why each is not used.
///
/// # Errors
/// A text that is not a key set, or a set without any usable key.
pub(super) fn parse(text: &[u8]) -> Result<(Vec<PublishedKey>, Vec<String>), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the key set is longer than {MAX_BYTES} bytes"));
    }
    let document: KeySetDocument =
        serde_json::from_slice(text).map_err(|error| format!("this is not a key set: {error}"))?;
    let (mut keys, mut skipped) = (Vec::new(), Vec::new());
    for (place, jwk) in document.keys.iter().enumerate() {
        match key(jwk) {
            Ok(_) if keys.len() == MAX_KEYS => {
                skipped.push(format!("{}: only {MAX_KEYS} keys are used", name(jwk, place)));
            }
            Ok(key) => keys.push(key),
            Err(cause) => skipped.push(format!("{}: {cause}", name(jwk, place))),
        }
    }
    if keys.is_empty() {
        let causes = match skipped.as_slice() {
            [] => String::new(),
            skipped => format!(" ({})", skipped.join("; ")),
        };
        return Err(format!("the key set has no key to verify signatures with{causes}"));
    }
    Ok((keys, skipped))
}

/// How a log line names a key: by its ID, or by its place in the set.
fn name(jwk: &Value, place: usize) -> String {
    match jwk.get("kid").and_then(Value::as_str) {
        Some(kid) => kid.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect(),
        None => format!("key number {}", place + 1),
    }
}

fn key(jwk: &Value) -> Result<PublishedKey, Cow<'static, str>> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let number = |name: &'static str| {
        let text = text(name).ok_or(format!("`{name}` is missing"))?.trim_end_matches('=');
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| format!("`{name}` is not base64url"))?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes[zeros..].to_vec())
    };
    if let Some(purpose) = text("use").filter(|purpose| *purpose != "sig") {
        return Err(format!("its use is `{}`", purpose.escape_default()).into());
    }
    let (algorithm, key) = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let components = PublicKeyComponents { n: number("n")?, e: number("e")? };
            let zeros = components.n.first().map_or(0, |byte| byte.leading_zeros() as usize);
            let bits = components.n.len() * 8 - zeros;
            if !RSA_BITS.contains(&bits) {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                return Err(format!("it has {bits} bits, not {least} to {most}").into());
            }
            let der: Result<PublicKeyX509Der<'_>, _> = components.as_der();
            let der = der.map_err(|_| "it is not an RSA key")?;
            let key = PublicKey::parse(&RSA_PKCS1_2048_8192_SHA256, der.as_ref());
            (TokenAlgorithm::Rs256, key.map_err(|_| "it is not an RSA key")?)
        }
        (Some("EC"), Some("P-256")) => {
            let mut point = vec![4];
            for coordinate in [number("x")?, number("y")?] {
                let zeros = COORDINATE.checked_sub(coordinate.len());
                let zeros = zeros.ok_or("a coordinate is longer than 32 bytes")?;
                point.resize(point.len() + zeros, 0);
                point.extend_from_slice(&coordinate);
            }
            let key = PublicKey::parse(&ECDSA_P256_SHA256_FIXED, &point);
            (TokenAlgorithm::Es256, key.map_err(|_| "it is not a point on P-256")?)
        }
        (kty, crv) => {
            let shown = |text: Option<&str>| text.unwrap_or("none").escape_default().to_string();
            let (kty, crv) = (shown(kty), shown(crv));
            return Err(format!("its type (kty `{kty}`, crv `{crv}`) is not supported").into());
        }
    };
    match text("alg") {
        Some(name) if name != algorithm.name() => {
            Err(format!("its algorithm is `{}`", name.escape_default()).into())
        }
        Some(_) | None => Ok(PublishedKey { kid: text("kid").map(str::to_owned), algorithm, key }),
    }
}
