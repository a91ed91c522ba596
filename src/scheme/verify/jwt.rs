//! Tokens: JWS in compact form (RFC 7515) with the claims of RFC 7519.
//!
//! The scheme pins one algorithm. Nothing in the token selects an algorithm, a key or an address: a
//! token with `crit` is rejected, and `jku`, `jwk`, `x5u` and `x5c` are ignored. Base64url is
//! accepted only without padding. A token often does not cover the body; the scheme declares
//! whether it does.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use crate::{
    reject::Reason,
    scheme::{
        compiled::token::{HashClaim, HashedPart, TIMES, TokenAlgorithm, TokenRules},
        json::{JsonMatches, JsonPointers, Scalar},
        verify::request::RequestValues,
    },
};

/// The longest token that is parsed.
const MAX_LENGTH: usize = 16 * 1024;

/// The values that the operator pins.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct PinnedClaims {
    /// `issuer`: `iss` must be one of these. Empty: not pinned.
    pub(in crate::scheme) issuer: Vec<String>,
    /// `audience`: `aud` must be or contain one of these.
    pub(in crate::scheme) audience: Vec<String>,
    /// `subject`: `sub` must be one of these.
    pub(in crate::scheme) subject: Vec<String>,
}

/// A parsed token.
pub(in crate::scheme) struct SignedToken<'a> {
    /// What is signed: header and payload as they came.
    pub(in crate::scheme) signed: &'a [u8],
    /// The signature's bytes.
    pub(in crate::scheme) signature: Vec<u8>,
    /// The key ID.
    pub(in crate::scheme) kid: Option<String>,
    payload: Vec<u8>,
}

/// The age of a token according to its claims.
pub(in crate::scheme) enum Freshness {
    /// Within its time.
    Fresh,
    /// Past its time.
    Stale,
    /// Before its time.
    Future,
}

fn one<'f, 'a>(found: &'f JsonMatches<'a>, pointer: u16) -> Option<&'f Scalar<'a>> {
    found.of(pointer).first().map(|found| &found.value)
}

impl<'a> SignedToken<'a> {
    /// Parses a token.
    ///
    /// # Errors
    /// [`Reason::BadAlg`] if its header names another algorithm, [`Reason::MalformedToken`] if it
    /// is not well-formed otherwise.
    pub(in crate::scheme) fn parse(
        text: &'a [u8],
        algorithm: TokenAlgorithm,
    ) -> Result<SignedToken<'a>, Reason> {
        const BAD: Reason = Reason::MalformedToken;
        if text.len() > MAX_LENGTH {
            return Err(BAD);
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BAD);
        };
        let mut pointers = JsonPointers::default();
        let [alg, kid, crit] =
            ["/alg", "/kid", "/crit"].map(|pointer| pointers.add(pointer).map_err(|_| BAD));
        let (alg, kid, crit) = (alg?, kid?, crit?);
        let bytes = BASE64URL_NOPAD.decode(header).map_err(|_| BAD)?;
        let found = pointers.read(&bytes).map_err(|_| BAD)?;
        match one(&found, alg) {
            Some(Scalar::Text(name)) if name == algorithm.name() => {}
            Some(Scalar::Text(_)) => return Err(Reason::BadAlg),
            Some(Scalar::Integer(_) | Scalar::Other) | None => return Err(BAD),
        }
        let kid = match one(&found, kid) {
            None => None,
            Some(Scalar::Text(kid)) => Some(kid.to_string()),
            Some(Scalar::Integer(_) | Scalar::Other) => return Err(BAD),
        };
        if one(&found, crit).is_some() {
            return Err(BAD);
        }
        Ok(SignedToken {
            signed: &text[..header.len() + 1 + payload.len()],
            signature: BASE64URL_NOPAD.decode(signature).map_err(|_| BAD)?,
            kid,
            payload: BASE64URL_NOPAD.decode(payload).map_err(|_| BAD)?,
        })
    }

    /// Returns the claims that `rules` read.
    ///
    /// # Errors
    /// [`Reason::MalformedToken`] if the payload is not JSON, or a date is not an integer.
    pub(in crate::scheme) fn claims(&self, rules: &TokenRules) -> Result<JsonMatches<'_>, Reason> {
        let found = rules.claims.read(&self.payload).map_err(|_| Reason::MalformedToken)?;
        for date in 0..TIMES.len() as u16 {
            match one(&found, date) {
                None | Some(Scalar::Integer(0..=99_999_999_999)) => {}
                Some(_) => return Err(Reason::MalformedToken),
            }
        }
        Ok(found)
    }
}

/// Returns whether the claims are those that the scheme and the operator require, hashes aside.
pub(in crate::scheme) fn agrees(
    rules: &TokenRules,
    pinned: &PinnedClaims,
    found: &JsonMatches<'_>,
) -> bool {
    let names = |pointer: usize, allowed: &[String]| {
        let pointer = (TIMES.len() + pointer) as u16;
        found.of(pointer).iter().any(|found| match &found.value {
            Scalar::Text(text) => allowed.iter().any(|known| known == text),
            Scalar::Integer(_) | Scalar::Other => false,
        })
    };
    let issuer = pinned.issuer.is_empty() || names(0, &pinned.issuer);
    let audience =
        pinned.audience.is_empty() || names(1, &pinned.audience) || names(2, &pinned.audience);
    let subject = pinned.subject.is_empty() || names(3, &pinned.subject);
    let fixed = rules.fixed.iter().all(|(pointer, value)| {
        matches!(one(found, *pointer), Some(Scalar::Text(text)) if **text == **value)
    });
    let dates = (!rules.expires || one(found, 0).is_some())
        && (rules.max_age.is_none() || one(found, 2).is_some());
    issuer && audience && subject && fixed && dates
}

/// Returns the hash that a claim must have; `None` if the request does not have the registered
/// address.
pub(in crate::scheme) fn hashed(
    claim: &HashClaim,
    request: &RequestValues<'_>,
) -> Option<[u8; 32]> {
    match claim.of {
        HashedPart::Body => Some(*request.payload.sha256()),
        HashedPart::Url => request.url().map(|url| Sha256::digest(url.as_bytes()).into()),
    }
}

/// Returns whether the hashes in claims are those of the request.
pub(in crate::scheme) fn hashes_agree(
    rules: &TokenRules,
    found: &JsonMatches<'_>,
    request: &RequestValues<'_>,
) -> bool {
    rules.hashes.iter().all(|hash| {
        let Some(digest) = hashed(hash, request) else { return false };
        match one(found, hash.pointer) {
            Some(Scalar::Text(text)) => {
                rules.hash_encoding.decode(text.as_bytes()).is_some_and(|hash| hash == digest)
            }
            Some(Scalar::Integer(_) | Scalar::Other) => false,
            None => hash.only_with_body && request.payload.is_empty(),
        }
    })
}

/// Returns a date of the claims, in milliseconds since the Unix epoch.
fn date(found: &JsonMatches<'_>, pointer: u16) -> Option<i64> {
    match one(found, pointer) {
        // In range: claims() admits no date that overflows in milliseconds.
        Some(Scalar::Integer(seconds)) => Some(seconds * 1000),
        _ => None,
    }
}

/// Returns for how long after `now` the token is accepted, in milliseconds; `None` if it never
/// expires.
pub(in crate::scheme) fn fresh_for(
    rules: &TokenRules,
    found: &JsonMatches<'_>,
    now: i64,
) -> Option<i64> {
    let expires = date(found, 0).map(|exp| exp.saturating_add(rules.leeway));
    let ages = rules.max_age.zip(date(found, 2)).map(|(limit, iat)| iat.saturating_add(limit));
    let until = expires.into_iter().chain(ages).min()?;
    Some(until.saturating_sub(now))
}

/// Returns what the dates mean at `now`, in milliseconds, and how long ago the token was issued.
pub(in crate::scheme) fn age(
    rules: &TokenRules,
    found: &JsonMatches<'_>,
    now: i64,
) -> (Freshness, Option<i64>) {
    let (exp, nbf, iat) = (date(found, 0), date(found, 1), date(found, 2));
    let age = iat.map(|iat| now.saturating_sub(iat));
    let expired = exp.is_some_and(|exp| now.saturating_sub(exp) > rules.leeway);
    let old = rules.max_age.zip(age).is_some_and(|(limit, age)| age > limit);
    let early = |date: i64| date.saturating_sub(now) > rules.leeway;
    if expired || old {
        (Freshness::Stale, age)
    } else if nbf.is_some_and(early) || iat.is_some_and(early) {
        (Freshness::Future, age)
    } else {
        (Freshness::Fresh, age)
    }
}
