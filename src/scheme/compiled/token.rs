//! What a scheme requires of its JSON Web Tokens.

use crate::scheme::{encoding::Encoding, json::JsonPointers, public_key::PublicKeyAlgorithm};

/// A signature algorithm (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum TokenAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256, `r` and `s` concatenated.
    Es256,
}

impl TokenAlgorithm {
    /// Returns the name in a token's header.
    pub(in crate::scheme) fn name(self) -> &'static str {
        match self {
            TokenAlgorithm::Hs256 => "HS256",
            TokenAlgorithm::Rs256 => "RS256",
            TokenAlgorithm::Es256 => "ES256",
        }
    }

    /// Returns the algorithm of the public key; `None` if the key is a secret.
    pub(in crate::scheme) fn public(self) -> Option<PublicKeyAlgorithm> {
        match self {
            TokenAlgorithm::Hs256 => None,
            TokenAlgorithm::Rs256 => Some(PublicKeyAlgorithm::RsaSha256),
            TokenAlgorithm::Es256 => Some(PublicKeyAlgorithm::EcdsaP256Fixed),
        }
    }
}

/// The part of a request that a hash in a claim covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum HashedPart {
    /// The body.
    Body,
    /// The registered address with the request's query.
    Url,
}

/// A claim with a SHA-256.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct HashClaim {
    /// The claim's pointer, within [`TokenRules::claims`].
    pub(in crate::scheme) pointer: u16,
    /// What it covers.
    pub(in crate::scheme) of: HashedPart,
    /// Whether a token without it is accepted: senders leave out the body's hash where there is no
    /// body.
    pub(in crate::scheme) only_with_body: bool,
}

/// What a scheme requires of its tokens.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct TokenRules {
    /// The only algorithm.
    pub(in crate::scheme) algorithm: TokenAlgorithm,
    /// The claims that are read: the first ones are [`TIMES`] and [`NAMES`].
    pub(in crate::scheme) claims: JsonPointers,
    /// Whether `exp` is required.
    pub(in crate::scheme) expires: bool,
    /// How long after `iat`, which is then required, a token counts as fresh, in milliseconds.
    pub(in crate::scheme) max_age: Option<i64>,
    /// How far clocks may differ, in milliseconds.
    pub(in crate::scheme) leeway: i64,
    /// The lifetime of tokens according to the sender.
    pub(in crate::scheme) lifetime: std::time::Duration,
    /// Claims that must have one value.
    pub(in crate::scheme) fixed: Vec<(u16, Box<str>)>,
    /// Claims that are hashes.
    pub(in crate::scheme) hashes: Vec<HashClaim>,
    /// How the hashes are written.
    pub(in crate::scheme) hash_encoding: Encoding,
    /// Claims for which the operator must configure a value: `issuer`, `audience`, `subject`.
    pub(in crate::scheme) configured: Vec<Box<str>>,
}

impl TokenRules {
    /// Returns whether a claim covers this part of the request.
    pub(in crate::scheme) fn covers(&self, part: HashedPart) -> bool {
        self.hashes.iter().any(|hash| hash.of == part)
    }
}

/// Pointers to the dates that every scheme reads, in this order from 0.
pub(in crate::scheme) const TIMES: [&str; 3] = ["/exp", "/nbf", "/iat"];
/// Pointers to the names that an operator can pin, in this order after [`TIMES`].
pub(in crate::scheme) const NAMES: [&str; 4] = ["/iss", "/aud", "/aud/*", "/sub"];
