//! Headers under other names, signatures in other spellings, messages of other parts.

use http::{HeaderName, request::Parts};

use super::{NearMiss, Trials};
use crate::scheme::Hypothesis;

/// How many headers are tried as the signature's.
const STRAY: usize = 8;

/// Headers that came under names which are nearly those of the scheme.
pub(super) fn headers(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    let present = |name: &HeaderName| case.head.headers.contains_key(name);
    let mut head = case.head.clone();
    let mut renamed = Vec::new();
    for expected in case.route.headers().iter().filter(|name| !present(name)) {
        let like = |name: &&HeaderName| {
            !case.route.headers().contains(name) && is_like(name.as_str(), expected.as_str())
        };
        if let Some(found) = case.head.headers.keys().find(like) {
            rename(&mut head, found, expected);
            renamed.push(NearMiss::HeaderName {
                expected: expected.to_string(),
                found: Some(found.to_string()),
            });
        }
    }
    // A twin beside the right one is told apart from what an attacker adds by the signature, which
    // fits in any case.
    if !renamed.is_empty() && trials.fits_with(case.route, &head, case.payload) {
        return renamed;
    }
    let Some(expected) = case.route.scheme().signature_headers().find(|name| !present(name)) else {
        return Vec::new();
    };
    let stray = case.head.headers.keys().filter(|name| {
        let words = ["sign", "hmac", "hash", "digest", "token", "auth"];
        !case.route.headers().contains(name) && words.iter().any(|w| name.as_str().contains(w))
    });
    for found in stray.take(STRAY) {
        let mut moved = head.clone();
        rename(&mut moved, found, expected);
        if fits_in_some_spelling(trials, case.route, &moved) {
            return vec![NearMiss::HeaderName { expected: expected.to_string(), found: None }];
        }
    }
    Vec::new()
}

/// Whether two names of headers are the same but for case, `_`, an `X-` or `HTTP_` before them, or a
/// slip of the pen.
fn is_like(found: &str, expected: &str) -> bool {
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

fn fits_in_some_spelling(trials: &mut Trials<'_>, route: &Hypothesis, head: &Parts) -> bool {
    if trials.fits_with(route, head, trials.case.payload) {
        return true;
    }
    route.reformatted(head).into_iter().any(|(name, value, _)| {
        let mut head = head.clone();
        head.headers.insert(name, value);
        trials.fits_with(route, &head, trials.case.payload)
    })
}

/// The right signature, written otherwise.
pub(super) fn spelling(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    for (name, value, spelling) in case.route.reformatted(case.head) {
        let mut head = case.head.clone();
        let header = name.to_string();
        head.headers.insert(name, value);
        if !trials.fits_with(case.route, &head, case.payload) {
            continue;
        }
        let mut found = Vec::new();
        if let Some(prefix) = spelling.lacks {
            found.push(NearMiss::PrefixMissing { header: header.clone(), prefix });
        }
        if let Some(prefix) = spelling.extra {
            found.push(NearMiss::PrefixExtra { header: header.clone(), prefix });
        }
        if let Some(encoding) = spelling.encoding {
            found.push(NearMiss::Encoding { header: header.clone(), encoding });
        }
        if found.is_empty() {
            found.push(NearMiss::SignatureForm { header });
        }
        return found;
    }
    Vec::new()
}

/// Seconds for milliseconds, or the other way round: in the request, or in the signed message.
pub(super) fn timestamp(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let case = trials.case;
    let Some(digits) = case.route.unverified_details(case.head, case.payload).digits else {
        return Vec::new();
    };
    let (sent, other) = match digits.len() {
        10 => ("seconds", format!("{digits}000")),
        13 => ("milliseconds", digits[..10].to_owned()),
        _ => return Vec::new(),
    };
    if trials.fits(&case.route.with_any_unit()) {
        return vec![NearMiss::TimestampUnit { sent }];
    }
    if trials.fits(&case.route.timestamp_signed_as(&other)) {
        return vec![NearMiss::TimestampSigned { sent }];
    }
    Vec::new()
}

/// The digest in the place of the body, or the body in the place of the digest.
pub(super) fn messages(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let route = trials.case.route;
    if route.digest_for_body().is_some_and(|other| trials.fits(&other)) {
        return vec![NearMiss::DigestForBody];
    }
    if route.body_for_digest().is_some_and(|other| trials.fits(&other)) {
        return vec![NearMiss::BodyForDigest];
    }
    Vec::new()
}
