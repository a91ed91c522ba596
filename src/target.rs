//! Request targets: one grammar for HTTP/1.1 and HTTP/2, and their text.
//!
//! A path has the characters of RFC 3986. A query may also have the characters that many senders do
//! not encode (`|`, `{`, `}`, `^`, `` ` ``, `\`, `"`, `<`, `>`), because senders that sign their
//! URL sign these as they are. Everything else is rejected: control characters, spaces, fragments,
//! and bytes that are not ASCII.
//!
//! [`Uri`] cannot hold `"`, `<` and `>` in a query. The connection replaces each of them by the
//! character that is [`OFFSET`] above it, which no valid target contains, and [`path_and_query`]
//! and [`query`] restore them. Limit: HTTP/2 has no such step, so hyper resets a stream with one of
//! these three in `:path`, and cuts a fragment off.

use std::borrow::Cow;

use http::{Method, Uri};

/// The difference between a character that [`Uri`] cannot hold and its substitute.
const OFFSET: u8 = 0x80;

/// Returns whether `target` is a path with or without a query.
pub(crate) fn is_origin_form(target: &[u8]) -> bool {
    let (path, query) = split(target);
    target.starts_with(b"/") && are_in(&PATH, path) && are_in(&QUERY, query)
}

/// Returns whether `target` is valid after an authority: a path, a query, both or nothing.
pub(crate) fn is_after_authority(target: &[u8]) -> bool {
    target.is_empty()
        || target.starts_with(b"?") && are_in(&QUERY, split(target).1)
        || is_origin_form(target)
}

/// Returns whether the target of an HTTP/2 request (`:path`) is valid: a path, or `*` of `OPTIONS`.
pub(crate) fn is_http2_path(method: &Method, uri: &Uri) -> bool {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    is_origin_form(target.as_bytes()) || (target == "*" && *method == Method::OPTIONS)
}

/// Returns a target in which every character that [`Uri`] cannot hold is substituted, or `None` if
/// there is no such character.
pub(crate) fn substituted(target: &[u8]) -> Option<Vec<u8>> {
    let (path, query) = split(target);
    if !query.iter().any(|byte| is_unholdable(*byte)) {
        return None;
    }
    let mut text = path.to_vec();
    for byte in query {
        if is_unholdable(*byte) {
            let mut character = [0; 2];
            let substitute = char::from(byte + OFFSET).encode_utf8(&mut character);
            text.extend_from_slice(substitute.as_bytes());
        } else {
            text.push(*byte);
        }
    }
    Some(text)
}

/// Returns the path and the query of a request as they arrived.
pub(crate) fn path_and_query(uri: &Uri) -> Option<Cow<'_, str>> {
    uri.path_and_query().map(|target| restored(target.as_str()))
}

/// Returns the query of a request as it arrived.
pub(crate) fn query(uri: &Uri) -> Option<Cow<'_, str>> {
    uri.query().map(restored)
}

fn restored(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let restore = |character: char| match u8::try_from(character) {
        Ok(byte) if byte >= OFFSET && is_unholdable(byte - OFFSET) => char::from(byte - OFFSET),
        _ => character,
    };
    Cow::Owned(text.chars().map(restore).collect())
}

fn is_unholdable(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>')
}

/// Splits a target before its `?`.
fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    target.split_at(end)
}

fn are_in(table: &[bool; 256], bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| table[usize::from(*byte)])
}

/// The characters of RFC 3986, by byte. Brackets belong to IPv6 addresses, but hosts accept them.
const PATH: [bool; 256] = letters_digits_and(b"-._~:/[]@!$&'()*+,;=%");

/// The characters of a query, by byte.
const QUERY: [bool; 256] = letters_digits_and(b"-._~:/?[]@!$&'()*+,;=%|{}^`\\\"<>");

const fn letters_digits_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        table[others[other] as usize] = true;
        other += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the grammar accepts, a [`Uri`] holds, and its text is the one that arrived.
        #[test]
        fn a_valid_target_is_restored_byte_for_byte(query in "[!-\"$-~]{0,40}") {
            let target = format!("/hook?{query}");
            prop_assert!(is_origin_form(target.as_bytes()));
            let held = substituted(target.as_bytes()).unwrap_or(target.clone().into_bytes());
            let uri = Uri::try_from(held.as_slice()).expect("a target that a Uri holds");
            prop_assert_eq!(path_and_query(&uri).expect("a target"), target.as_str());
            prop_assert_eq!(super::query(&uri).expect("a query"), query.as_str());
        }
    }

    #[test]
    fn rejects_what_is_not_a_target() {
        for bad in [
            &b""[..],
            b"hook",
            b"?x",
            b"/a b",
            b"/a?b c",
            b"/a#b",
            b"/a?b#c",
            b"/a\"",
            b"/a|",
            b"/{a}",
            b"/\xc3\xb6",
            b"/?\xc3\xb6",
            b"/?\x7f",
            b"/?\x01",
            b"/\\",
        ] {
            assert!(!is_origin_form(bad), "{}", bad.escape_ascii());
        }
        assert!(
            is_after_authority(b"") && is_after_authority(b"?a|b") && is_after_authority(b"/a")
        );
        assert!(!is_after_authority(b"a") && !is_after_authority(b"?a#b"));
    }
}
