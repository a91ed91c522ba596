//! Why a request was refused, in words that a person can act on: near misses are tried until one would
//! have verified.
//!
//! A near miss is a finding and never an acceptance: it is made from [`Hypothesis`], which gives no
//! proof. The refused request is the attacker's to choose, so the work is bounded by [`Effort`]: the
//! number of attempts, the bytes that they read, and the length of bodies that are read as JSON.

mod body;
mod json;
mod near_miss;
mod shape;

use http::request::Parts;

pub use self::{
    json::{Escapes, Layout},
    near_miss::NearMiss,
};
use crate::{
    body::Payload,
    reject::Reason,
    scheme::{Hypothesis, Scheme, SecretForm, UnixMillis},
    secret::Secret,
};

/// How much work one diagnosis may be.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How many near misses are judged.
    pub attempts: u32,
    /// How many bytes of bodies are judged, all attempts together.
    pub bytes: u64,
    /// The longest body that is written anew: as JSON, compressed, decompressed.
    pub rewritten: usize,
}

impl Effort {
    /// For a running gateway, which has other things to do.
    pub const LIVE: Effort = Effort { attempts: 400, bytes: 32 << 20, rewritten: 256 << 10 };
    /// For a person who waits for an answer.
    pub const OFFLINE: Effort = Effort { attempts: 20_000, bytes: 4 << 30, rewritten: 32 << 20 };
}

/// A refused request, and what it could have been meant for.
#[derive(Clone, Copy)]
pub struct Case<'c> {
    /// Its head.
    pub head: &'c Parts,
    /// Its body.
    pub payload: &'c Payload,
    /// When it came.
    pub now: UnixMillis,
    /// Why it was refused.
    pub reason: Reason,
    /// The route that refused it.
    pub route: &'c Hypothesis,
    /// The other routes, by their names.
    pub others: &'c [(&'c str, Hypothesis)],
}

/// Whether a refusal for this reason can have a near miss.
pub fn makes_sense(reason: Reason) -> bool {
    match reason {
        Reason::MissingHeader
        | Reason::DuplicateHeader
        | Reason::MalformedSignature
        | Reason::MalformedTimestamp
        | Reason::MalformedBody
        | Reason::UnknownKey
        | Reason::BadSignature
        | Reason::Stale
        | Reason::Future => true,
        Reason::NotAllowed
        | Reason::RateLimited
        | Reason::BadAlg
        | Reason::MalformedToken
        | Reason::UnknownKid
        | Reason::Claim
        | Reason::Inconsistent
        | Reason::RequiredHeader
        | Reason::ContextMismatch => false,
    }
}

/// The near misses of a refused request: those of the first kind of which there is one. None if
/// nothing that was tried would have verified.
pub fn diagnose(case: Case<'_>, effort: Effort) -> Vec<NearMiss> {
    if !makes_sense(case.reason) {
        return Vec::new();
    }
    if matches!(case.reason, Reason::Stale | Reason::Future) {
        return clock(&case).into_iter().collect();
    }
    let mut trials = Trials { case, left: effort };
    let kinds = [
        shape::headers,
        shape::spelling,
        shape::timestamp,
        other_keys,
        secrets,
        body::bodies,
        shape::messages,
        other_routes,
        other_schemes,
    ];
    kinds.iter().map(|kind| kind(&mut trials)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// A diagnosis under way.
struct Trials<'c> {
    case: Case<'c>,
    left: Effort,
}

impl Trials<'_> {
    /// Whether the request as it came would verify under `hypothesis`.
    fn fits(&mut self, hypothesis: &Hypothesis) -> bool {
        self.fits_with(hypothesis, self.case.head, self.case.payload)
    }

    /// Whether this request would verify under `hypothesis`. No, once the effort is spent.
    fn fits_with(&mut self, hypothesis: &Hypothesis, head: &Parts, payload: &Payload) -> bool {
        let bytes = payload.len() as u64 + 1024;
        if self.left.attempts == 0 || self.left.bytes < bytes {
            return false;
        }
        self.left.attempts -= 1;
        self.left.bytes -= bytes;
        hypothesis.fits(head, payload, self.case.now)
    }
}

/// Authentic, and only the time is wrong.
fn clock(case: &Case<'_>) -> Option<NearMiss> {
    let sent = case.route.unverified_details(case.head, case.payload).timestamp?;
    Some(NearMiss::Clock { age: case.now.0.saturating_sub(sent.0) })
}

/// Another key of this route, or a key of another route.
fn other_keys(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    for (key, secret) in case.route.secrets() {
        if case.route.under(secret).is_some_and(|other| trials.fits(&other)) {
            return vec![NearMiss::OtherKey { key: key.to_owned() }];
        }
    }
    for (route, other) in case.others {
        for (key, secret) in other.secrets() {
            if case.route.under(secret).is_some_and(|other| trials.fits(&other)) {
                return vec![NearMiss::OtherRoutesKey {
                    route: (*route).to_owned(),
                    key: key.to_owned(),
                }];
            }
        }
    }
    Vec::new()
}

/// A configured secret with white space or quotes too many or too few, or read in another form.
fn secrets(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    for (key, secret) in case.route.secrets() {
        let key = || key.to_owned();
        let text = secret.expose();
        let trimmed = text.trim_ascii();
        let unquoted = match trimmed {
            [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => Some(inner),
            _ => None,
        };
        let mut tried = vec![(unquoted.map(<[u8]>::to_vec), NearMiss::SecretQuoted { key: key() })];
        if trimmed.len() < text.len() {
            tried.push((Some(trimmed.to_vec()), NearMiss::SecretHasSpace { key: key() }));
        }
        for (before, after) in
            [("", "\n"), ("", "\r\n"), ("", "\r"), ("", " "), (" ", ""), (" ", " "), ("", "\t")]
        {
            let spaced = [before.as_bytes(), text, after.as_bytes()].concat();
            tried.push((Some(spaced), NearMiss::SecretLacksSpace { key: key() }));
        }
        for (bytes, near_miss) in tried {
            let other = bytes.and_then(|bytes| case.route.under(&Secret::new(bytes)));
            if other.is_some_and(|other| trials.fits(&other)) {
                return vec![near_miss];
            }
        }
        for form in [SecretForm::Text, SecretForm::Hex, SecretForm::Base64] {
            let other = case.route.under_in_form(secret, form);
            if other.is_some_and(|other| trials.fits(&other)) {
                return vec![NearMiss::SecretForm { key: key(), form }];
            }
        }
    }
    Vec::new()
}

/// Another route, which would have taken the request as it came.
fn other_routes(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    for (route, other) in trials.case.others {
        if trials.fits(other) {
            return vec![NearMiss::OtherRoute { route: (*route).to_owned() }];
        }
    }
    Vec::new()
}

/// One of the built-in schemes, with a secret of this route.
fn other_schemes(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    let present = |scheme: &Scheme| {
        let mut headers = scheme.signature_headers();
        headers.any(|name| case.head.headers.contains_key(name))
    };
    for scheme in Scheme::builtins() {
        if scheme.id() == case.route.scheme().id() || !present(scheme) {
            continue;
        }
        for (_, secret) in case.route.secrets() {
            if case.route.of(scheme, secret).is_some_and(|other| trials.fits(&other)) {
                return vec![NearMiss::OtherScheme { scheme: scheme.id().to_owned() }];
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
