//! A token issuer: an RSA key, its public key as a JWK, and tokens that an independent library
//! signs or that are assembled by hand.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::Sha256;

/// Length of the PKCS#8 header before a 2048-bit RSA key (RFC 5208), in bytes.
const PKCS8_HEADING: usize = 26;

/// RSA key with its key ID.
pub(crate) struct Issuer {
    pub(crate) kid: String,
    pair: KeyPair,
}

fn part(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

impl Issuer {
    /// Generates a key.
    pub(crate) fn new(kid: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        Issuer { kid: kid.to_owned(), pair }
    }

    fn number(bytes: &[u8]) -> String {
        BASE64URL_NOPAD.encode(bytes)
    }

    /// Returns the public key as a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        let key = self.pair.public_key();
        let n = Self::number(key.modulus().big_endian_without_leading_zero());
        let e = Self::number(key.exponent().big_endian_without_leading_zero());
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": n, "e": e})
    }

    /// Returns the public key as DER, which an attack uses as an HMAC secret.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// Returns the private key in PKCS#8.
    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().expect("DER");
        der.as_ref().to_vec()
    }

    /// Returns the signature of a message (RSA PKCS#1 v1.5 with SHA-256).
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let made = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
        made.expect("signed");
        signature
    }

    /// Returns a token signed by the crate jsonwebtoken.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let der: Pkcs8V1Der<'_> = self.pair.as_der().expect("DER");
        let key = EncodingKey::from_rsa_der(&der.as_ref()[PKCS8_HEADING..]);
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, claims, &key).expect("a token")
    }

    /// Returns a token with any header, signed with this key whatever algorithm the header names.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&self.sign(signed.as_bytes())))
    }
}

/// Returns a token without a signature.
pub(crate) fn unsigned_token(header: &Value, claims: &Value) -> String {
    format!("{}.{}.", part(header), part(claims))
}

/// Returns a token that is signed with an HMAC with `key`.
pub(crate) fn hmac_token(header: &Value, claims: &Value, key: &[u8]) -> String {
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

/// Returns the JWK set of these keys (RFC 7517).
pub(crate) fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}
