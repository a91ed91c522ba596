//! Headers under other names, signatures in other formats, and messages with other parts.

use http::{HeaderName, request::Parts};

use super::{NearMiss, Trials};
use crate::{reject::Reason, scheme::Hypothesis};

/// How many headers are tried in place of the signature's.
const MAX_STRAY: usize = 8;
/// How many headers of a request are compared with the expected names.
const MAX_COMPARED: usize = 64;
/// The work of comparing two names, in the units of [`WorkBudget`](super::WorkBudget).
const COMPARE: u64 = 2_000;

/// Headers that arrived under names similar to those of the scheme.
pub(super) fn headers(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    let present = |name: &HeaderName| request.head.headers.contains_key(name);
    let mut head = request.head.clone();
    let mut renamed = Vec::new();
    let unknown = |name: &&HeaderName| !request.route.headers().contains(name);
    let unknown: Vec<_> = request.head.headers.keys().filter(unknown).take(MAX_COMPARED).collect();
    for expected in request.route.headers().iter().filter(|name| !present(name)) {
        if !trials.budget.spend(COMPARE * unknown.len() as u64) {
            return Vec::new();
        }
        let similar = |name: &&&HeaderName| is_similar(name.as_str(), expected.as_str());
        if let Some(found) = unknown.iter().find(similar) {
            rename(&mut head, found, expected);
            renamed.push(NearMiss::HeaderName {
                expected: expected.to_string(),
                found: Some(found.to_string()),
            });
        }
    }
    // Only a signature that fits makes this a near miss, so it does not matter who added the twin.
    if !renamed.is_empty() && trials.fits_with(request.route, &head, request.payload) {
        return renamed;
    }
    let Some(expected) = request.route.scheme().signature_headers().find(|name| !present(name))
    else {
        return Vec::new();
    };
    let stray = request.head.headers.keys().filter(|name| {
        let words = ["sig", "mac", "hash", "digest", "token", "auth"];
        !request.route.headers().contains(name) && words.iter().any(|w| name.as_str().contains(w))
    });
    for found in stray.take(MAX_STRAY) {
        let mut moved = head.clone();
        rename(&mut moved, found, expected);
        if fits_in_some_format(trials, request.route, &moved) {
            return vec![NearMiss::HeaderName { expected: expected.to_string(), found: None }];
        }
    }
    Vec::new()
}

/// Returns whether two header names differ only in case, in `_` and `-`, in an `X-` or `HTTP_`
/// prefix, or by a typing error.
fn is_similar(found: &str, expected: &str) -> bool {
    // Prefixes and dashes account for a few characters, the typing error for two.
    if found.len().abs_diff(expected.len()) > 16 {
        return false;
    }
    let plain = |name: &str| {
        let name = name.to_ascii_lowercase().replace('_', "-");
        let name = name.strip_prefix("http-").unwrap_or(&name);
        name.strip_prefix("x-").unwrap_or(name).replace('-', "")
    };
    let (found, expected) = (plain(found), plain(expected));
    found == expected || (expected.len() > 8 && strsim::damerau_levenshtein(&found, &expected) <= 2)
}

fn rename(head: &mut Parts, found: &HeaderName, expected: &HeaderName) {
    if let Some(value) = head.headers.remove(found) {
        head.headers.insert(expected.clone(), value);
    }
}

fn fits_in_some_format(trials: &mut Trials<'_>, route: &Hypothesis, head: &Parts) -> bool {
    if trials.fits_with(route, head, trials.request.payload) {
        return true;
    }
    route.reformatted(head).into_iter().any(|(name, value, _)| {
        let mut head = head.clone();
        head.headers.insert(name, value);
        trials.fits_with(route, &head, trials.request.payload)
    })
}

/// The right signature in another encoding, with another prefix or in another format.
pub(super) fn signature(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    for (name, value, deviation) in request.route.reformatted(request.head) {
        let mut head = request.head.clone();
        let header = name.to_string();
        head.headers.insert(name, value);
        if !trials.fits_with(request.route, &head, request.payload) {
            continue;
        }
        let mut found = Vec::new();
        if let Some(prefix) = deviation.lacks {
            found.push(NearMiss::PrefixMissing { header: header.clone(), prefix });
        }
        if let Some(prefix) = deviation.extra {
            found.push(NearMiss::PrefixExtra { header: header.clone(), prefix });
        }
        if let Some(encoding) = deviation.encoding {
            found.push(NearMiss::Encoding { header: header.clone(), encoding });
        }
        if found.is_empty() {
            found.push(NearMiss::SignatureForm { header });
        }
        return found;
    }
    Vec::new()
}

/// Seconds in place of milliseconds or the reverse, in the request or in the signed message.
pub(super) fn timestamp(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    let Some(digits) = request.route.unverified_details(request.head, request.payload).digits
    else {
        return Vec::new();
    };
    let (sent, other) = match digits.len() {
        10 => ("seconds", format!("{digits}000")),
        13 => ("milliseconds", digits[..10].to_owned()),
        _ => return Vec::new(),
    };
    if trials.fits(&request.route.with_any_unit()) {
        return vec![NearMiss::TimestampUnit { sent }];
    }
    if trials.fits(&request.route.timestamp_signed_as(&other)) {
        return vec![NearMiss::TimestampSigned { sent }];
    }
    Vec::new()
}

/// The digest in place of the body, or the body in place of the digest.
pub(super) fn messages(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let route = trials.request.route;
    if route.digest_for_body().is_some_and(|other| trials.fits(&other)) {
        return vec![NearMiss::DigestForBody];
    }
    if route.body_for_digest().is_some_and(|other| trials.fits(&other)) {
        return vec![NearMiss::BodyForDigest];
    }
    Vec::new()
}

/// Another hash function than the scheme's, with a secret of the route, in any format.
pub(super) fn hashes(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let route = trials.request.route;
    for (hash, other) in route.with_other_hashes() {
        if fits_in_some_format(trials, &other, trials.request.head) {
            return vec![NearMiss::OtherHash { hash }];
        }
    }
    Vec::new()
}

/// A signature that has the length of another hash function's.
pub(super) fn length(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    if !matches!(request.reason, Reason::BadSignature | Reason::MalformedSignature) {
        return Vec::new();
    }
    let found = request.route.signature_of_other_length(request.head);
    let found = found.map(|(header, length, hash)| NearMiss::SignatureLength {
        header: header.to_string(),
        length,
        hash,
    });
    found.into_iter().collect()
}

/// The digest that the request names shows whether the secret or the body is at fault.
pub(super) fn digest(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    if request.reason != Reason::BadSignature {
        return Vec::new();
    }
    let Some((place, digest)) = request.route.named_digest(request.head, request.payload) else {
        return Vec::new();
    };
    let is_own = digest
        .eq_ignore_ascii_case(data_encoding::HEXLOWER.encode(request.payload.sha256()).as_bytes());
    if is_own {
        return vec![NearMiss::OtherSecret { place }];
    }
    let signed = request.route.digest_signed_as(&digest.to_ascii_lowercase());
    if signed.is_some_and(|signed| trials.fits(&signed)) {
        return vec![NearMiss::BodyChanged { place }];
    }
    Vec::new()
}
