//! Diagnoses of rejected requests: near misses are tried until one would have verified.
//!
//! A near miss is a finding, never an acceptance: it comes from a [`Hypothesis`], which produces no
//! proof. The rejected request is under the attacker's control, so a [`WorkBudget`] bounds all that
//! is done for it: verifying, parsing, rewriting and compressing.

mod address;
mod body;
mod near_miss;
mod rewrite;
mod shape;

use http::request::Parts;

pub use self::near_miss::NearMiss;
use crate::{
    body::Payload,
    reject::Reason,
    scheme::{Hypothesis, Scheme, SecretForm, UnixMillis},
    secret::Secret,
};

/// How much work one diagnosis may do.
///
/// A unit is the work of hashing one byte, about a nanosecond.
#[derive(Clone, Copy, Debug)]
pub struct WorkBudget {
    /// The units that are left.
    pub units: u64,
    /// The longest body that is rewritten (as JSON, compressed, decompressed): several copies of it
    /// are in memory at the same time.
    pub rewrite: usize,
}

impl WorkBudget {
    /// For a running gateway, which has other work to do.
    pub const LIVE: WorkBudget = WorkBudget { units: 50_000_000, rewrite: 256 << 10 };
    /// For a person who waits for the answer.
    pub const OFFLINE: WorkBudget = WorkBudget { units: 20_000_000_000, rewrite: 32 << 20 };

    /// Spends `units`; returns `false` and spends what is left if there are not as many.
    fn spend(&mut self, units: u64) -> bool {
        let left = self.units.checked_sub(units);
        self.units = left.unwrap_or(0);
        left.is_some()
    }
}

/// A rejected request, and what it could have been meant for.
#[derive(Clone, Copy)]
pub struct RejectedRequest<'c> {
    /// Its head.
    pub head: &'c Parts,
    /// Its body.
    pub payload: &'c Payload,
    /// When it arrived.
    pub now: UnixMillis,
    /// Why it was rejected.
    pub reason: Reason,
    /// The route that rejected it.
    pub route: &'c Hypothesis,
    /// The other routes, by name.
    pub others: &'c [(&'c str, Hypothesis)],
}

/// Returns whether a rejection for this reason can have a near miss.
pub fn is_useful(reason: Reason) -> bool {
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

/// Returns the near misses of a rejected request: those of the first kind that has one. The list is
/// empty if nothing that was tried within `budget` would have verified.
pub fn diagnose(request: RejectedRequest<'_>, budget: WorkBudget) -> Vec<NearMiss> {
    if !is_useful(request.reason) {
        return Vec::new();
    }
    if matches!(request.reason, Reason::Stale | Reason::Future) {
        return clock(&request).into_iter().collect();
    }
    let mut trials = Trials { request, budget };
    let kinds = [
        shape::headers,
        shape::signature,
        shape::timestamp,
        other_keys,
        address::addresses,
        secrets,
        body::bodies,
        shape::messages,
        shape::hashes,
        other_routes,
        other_schemes,
        shape::digest,
        shape::length,
    ];
    kinds.iter().map(|kind| kind(&mut trials)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// A diagnosis in progress: the request and the work that is left.
struct Trials<'c> {
    request: RejectedRequest<'c>,
    budget: WorkBudget,
}

impl Trials<'_> {
    /// Returns whether the request as it arrived would verify under `hypothesis`.
    fn fits(&mut self, hypothesis: &Hypothesis) -> bool {
        self.fits_with(hypothesis, self.request.head, self.request.payload)
    }

    /// Returns whether this request would verify under `hypothesis`; `false` once the budget is
    /// spent.
    fn fits_with(&mut self, hypothesis: &Hypothesis, head: &Parts, payload: &Payload) -> bool {
        self.budget.spend(hypothesis.work(payload.len() as u64))
            && hypothesis.fits(head, payload, self.request.now)
    }
}

/// Authentic, and only the time is wrong.
fn clock(request: &RejectedRequest<'_>) -> Option<NearMiss> {
    let sent = request.route.unverified_details(request.head, request.payload).timestamp?;
    Some(NearMiss::Clock { age: request.now.0.saturating_sub(sent.0) })
}

/// Another key of this route, or a key of another route.
fn other_keys(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    for (key, secret) in request.route.secrets() {
        if request.route.under(secret).is_some_and(|other| trials.fits(&other)) {
            return vec![NearMiss::OtherKey { key: key.to_owned() }];
        }
    }
    for (route, other) in request.others {
        for (key, secret) in other.secrets() {
            if trials.budget.units == 0 {
                return Vec::new();
            }
            if request.route.under(secret).is_some_and(|other| trials.fits(&other)) {
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
    let request = trials.request;
    for (key, secret) in request.route.secrets() {
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
            let other = bytes.and_then(|bytes| request.route.under(&Secret::new(bytes)));
            if other.is_some_and(|other| trials.fits(&other)) {
                return vec![near_miss];
            }
        }
        for form in [SecretForm::Text, SecretForm::Hex, SecretForm::Base64] {
            let other = request.route.under_in_form(secret, form);
            if other.is_some_and(|other| trials.fits(&other)) {
                return vec![NearMiss::SecretForm { key: key(), form }];
            }
        }
        if trials.budget.units == 0 {
            return Vec::new();
        }
    }
    Vec::new()
}

/// Another route, which would have accepted the request as it arrived.
fn other_routes(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    for (route, other) in trials.request.others {
        if trials.fits(other) {
            return vec![NearMiss::OtherRoute { route: (*route).to_owned() }];
        }
    }
    Vec::new()
}

/// One of the built-in schemes, with a secret of this route.
fn other_schemes(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    let present = |scheme: &Scheme| {
        let mut headers = scheme.signature_headers();
        headers.any(|name| request.head.headers.contains_key(name))
    };
    for scheme in Scheme::builtins() {
        if scheme.id() == request.route.scheme().file_id() || !present(scheme) {
            continue;
        }
        for (_, secret) in request.route.secrets() {
            if trials.budget.units == 0 {
                return Vec::new();
            }
            if request.route.of(scheme, secret).is_some_and(|other| trials.fits(&other)) {
                return vec![NearMiss::OtherScheme { scheme: scheme.id().to_owned() }];
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
