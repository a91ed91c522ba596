//! `application/x-www-form-urlencoded` (WHATWG URL, section 5): queries and form bodies.
//!
//! The cost is linear in the text. At most [`MAX_FIELDS`] fields are read: a text with more has
//! none.

use memchr::{memchr_iter, memchr2};

/// The most fields of a form. Senders' forms have fewer than a hundred.
pub(super) const MAX_FIELDS: usize = 1000;

/// Returns whether a text has at most [`MAX_FIELDS`] fields, empty ones included.
pub(super) fn is_bounded(text: &[u8]) -> bool {
    memchr_iter(b'&', text).take(MAX_FIELDS).count() < MAX_FIELDS
}

/// Returns the fields in their order, decoded: `+` is a space, `%XX` a byte; a broken escape stays
/// as it is.
pub(crate) fn fields(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    let text = if is_bounded(text) { text } else { &[] };
    text.split(|byte| *byte == b'&').filter(|field| !field.is_empty()).map(|field| {
        let mut halves = field.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default();
        (decode(name), decode(halves.next().unwrap_or_default()))
    })
}

/// Returns the value of the only field called `name`; `None` if there is none or more than one.
pub(super) fn only(text: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut values = fields(text).filter(|(field, _)| field == name.as_bytes());
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Returns Twilio's normal form: fields sorted by name, each value once and sorted, names and
/// values concatenated. `None` if there are too many fields, or if a name does not begin with a
/// letter, digit or `_`: the text could then continue the signed address, which precedes it.
pub(super) fn sorted(text: &[u8]) -> Option<Vec<u8>> {
    if !is_bounded(text) {
        return None;
    }
    let mut fields: Vec<_> = fields(text).collect();
    fields.sort();
    fields.dedup();
    let mut sorted = Vec::with_capacity(text.len());
    for (name, value) in fields {
        let first = name.first()?;
        if !first.is_ascii_alphanumeric() && *first != b'_' {
            return None;
        }
        sorted.extend_from_slice(&name);
        sorted.extend_from_slice(&value);
    }
    Some(sorted)
}

/// Returns whether the only fields are `names`, each at most once.
pub(super) fn has_only(text: &[u8], names: &[Box<str>]) -> bool {
    let mut seen = vec![false; names.len()];
    is_bounded(text)
        && fields(text).all(|(field, _)| {
            let position = names.iter().position(|name| name.as_bytes() == field);
            position.is_some_and(|position| !std::mem::replace(&mut seen[position], true))
        })
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr2(b'+', b'%', rest) {
        decoded.extend_from_slice(&rest[..at]);
        let (escaped, length) = match &rest[at..] {
            [b'%', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, 3),
                _ => (b'%', 1),
            },
            [b'+', ..] => (b' ', 1),
            _ => (b'%', 1),
        };
        decoded.push(escaped);
        rest = &rest[at + length..];
    }
    decoded.extend_from_slice(rest);
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The characters other than letters and digits that ECMAScript's `encodeURI` keeps.
pub(super) const ENCODE_URI: &[u8] = b";,/?:@&=+$-_.!~*'()#";
/// The characters other than letters and digits that ECMAScript's `encodeURIComponent` keeps.
pub(super) const ENCODE_COMPONENT: &[u8] = b"-_.!~*'()";

/// Returns a text with `%XX` for every byte that is no letter, digit or one of `kept`.
pub(super) fn encoded(text: &[u8], kept: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            encoded.push(*byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

/// Returns a name or value as RFC 9421 signs a query parameter (section 2.2.8): a space is `%20`.
pub(super) fn percent_encoded(text: &[u8]) -> Vec<u8> {
    encoded(text, b"*-._")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_field_has_a_value() {
        let text = b"a=1&b=%2B1+x&b=2&c=%zz%4&&d";
        assert_eq!(only(text, "a"), Some(b"1".to_vec()));
        assert_eq!(only(text, "b"), None);
        assert_eq!(only(text, "c"), Some(b"%zz%4".to_vec()));
        assert_eq!(only(text, "d"), Some(Vec::new()));
        assert_eq!(only(text, "e"), None);
    }

    #[test]
    fn sorting_removes_duplicates() {
        let text = b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234";
        let expected = b"Digits1234Digits5678SidCA123SidAccountAC123";
        assert_eq!(sorted(text).as_deref(), Some(expected.as_slice()));
        assert_eq!(sorted(b"%3FFrom=1"), None);
        assert_eq!(sorted(b"=1"), None);
    }

    #[test]
    fn a_form_with_too_many_fields_is_not_read() {
        let most = "a=1&".repeat(MAX_FIELDS - 1) + "b=2";
        assert_eq!(only(most.as_bytes(), "b"), Some(b"2".to_vec()));
        assert_eq!(sorted(most.as_bytes()), Some(b"a1b2".to_vec()));
        let more = most + "&";
        assert_eq!(only(more.as_bytes(), "b"), None);
        assert_eq!(sorted(more.as_bytes()), None);
    }
}
