//! The keys of a set (RFC 7517, section 4) that a signature can be verified with.
//!
//! Numbers may have leading zero bytes and `=` padding, as Java and other issuers write them.

use std::borrow::Cow;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::PublicKeyComponents,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::MAX_BYTES;
use crate::scheme::public_key::{PublicKey, PublicKeyAlgorithm};

/// The most keys that are kept of a set.
const MAX_KEYS: usize = 100;
/// The sizes of RSA keys, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The length of a coordinate on P-256, in bytes.
const COORDINATE: usize = 32;
/// The most characters of a key ID in a log line.
const MAX_SHOWN: usize = 64;

/// A key that signatures of one algorithm can be verified with.
pub(super) struct PublishedKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: PublicKeyAlgorithm,
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
    let mut used = 0;
    for (place, jwk) in document.keys.iter().enumerate() {
        match usable(jwk) {
            Ok(_) if used == MAX_KEYS => {
                skipped.push(format!("{}: only {MAX_KEYS} keys are used", name(jwk, place)));
            }
            Ok(usable) => {
                used += 1;
                keys.extend(usable);
            }
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

/// Returns the key of a JSON Web Key, which must be one of `algorithm`.
pub(super) fn one(jwk: &Value, algorithm: PublicKeyAlgorithm) -> Result<PublicKey, String> {
    let found = usable(jwk).map_err(Cow::into_owned)?;
    let fits = found.into_iter().find(|key| key.algorithm == algorithm);
    fits.map(|key| key.key).ok_or_else(|| format!("the key is not for {}", algorithm.name()))
}

/// Returns the name of a key in log lines: its ID, or its place in the set.
fn name(jwk: &Value, place: usize) -> String {
    match jwk.get("kid").and_then(Value::as_str) {
        Some(kid) => kid.chars().take(MAX_SHOWN).flat_map(char::escape_default).collect(),
        None => format!("key number {}", place + 1),
    }
}

/// Returns a key for each algorithm that it can be used with: an RSA key that names no algorithm
/// verifies PKCS#1 and PSS signatures.
fn usable(jwk: &Value) -> Result<Vec<PublishedKey>, Cow<'static, str>> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &'static str| {
        let text = text(name).ok_or(format!("`{name}` is missing"))?.trim_end_matches('=');
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        bytes.map_err(|_| format!("`{name}` is not base64url"))
    };
    let number = |name: &'static str| {
        let bytes = bytes(name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes[zeros..].to_vec())
    };
    if let Some(purpose) = text("use").filter(|purpose| *purpose != "sig") {
        return Err(format!("its use is `{}`", purpose.escape_default()).into());
    }
    let (algorithms, bytes, wrong): (&[_], _, _) = match (text("kty"), text("crv")) {
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
            (
                &[
                    ("RS256", PublicKeyAlgorithm::RsaSha256),
                    ("PS512", PublicKeyAlgorithm::RsaPssSha512),
                ],
                der.as_ref().to_vec(),
                "it is not an RSA key",
            )
        }
        (Some("EC"), Some("P-256")) => {
            let mut point = vec![4];
            for coordinate in [number("x")?, number("y")?] {
                let zeros = COORDINATE.checked_sub(coordinate.len());
                let zeros = zeros.ok_or("a coordinate is longer than 32 bytes")?;
                point.resize(point.len() + zeros, 0);
                point.extend_from_slice(&coordinate);
            }
            (&[("ES256", PublicKeyAlgorithm::EcdsaP256Fixed)], point, "it is not a point on P-256")
        }
        // RFC 8037; `Ed25519` is the name of RFC 9864.
        (Some("OKP"), Some("Ed25519")) => (
            &[("EdDSA", PublicKeyAlgorithm::Ed25519), ("Ed25519", PublicKeyAlgorithm::Ed25519)],
            bytes("x")?,
            "it is not an Ed25519 key",
        ),
        (kty, crv) => {
            let shown = |text: Option<&str>| text.unwrap_or("none").escape_default().to_string();
            let (kty, crv) = (shown(kty), shown(crv));
            return Err(format!("its type (kty `{kty}`, crv `{crv}`) is not supported").into());
        }
    };
    let named = text("alg");
    let mut keys: Vec<PublishedKey> = Vec::new();
    for (name, algorithm) in algorithms {
        if named.is_none_or(|named| named == *name)
            && keys.iter().all(|key| key.algorithm != *algorithm)
        {
            let key = PublicKey::parse(*algorithm, &bytes).map_err(|_| wrong)?;
            keys.push(PublishedKey {
                kid: text("kid").map(str::to_owned),
                algorithm: *algorithm,
                key,
            });
        }
    }
    match named {
        Some(name) if keys.is_empty() => {
            Err(format!("its algorithm is `{}`", name.escape_default()).into())
        }
        Some(_) | None => Ok(keys),
    }
}
