//! Readings of a signature header in another format than the scheme's.

use http::{HeaderName, HeaderValue, request::Parts};

use super::Hypothesis;
use crate::{
    body::Payload,
    scheme::{
        compiled::{ProofKind, signature::SignatureFormat, template::MAX_ITEMS},
        encoding::Encoding,
        mac::HashAlgorithm,
    },
};

/// Prefixes that senders write before a signature.
const PREFIXES: [&str; 12] = [
    "sha256=",
    "sha1=",
    "sha512=",
    "hmac-sha256=",
    "sha256:",
    "v0=",
    "v1=",
    "v1,",
    "Signature ",
    "HMAC ",
    "Bearer ",
    "Basic ",
];

/// The maximum number of readings of one signature.
pub(super) const MOST: usize = 32;

/// How the format of a signature deviates from the scheme's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatDeviation {
    /// The missing prefix of the signature.
    pub lacks: Option<String>,
    /// The superfluous prefix of the signature.
    pub extra: Option<&'static str>,
    /// The encoding that was used, if it is not the scheme's.
    pub encoding: Option<&'static str>,
}

impl Hypothesis {
    /// Returns every reading of the signature header as a signature in the scheme's format: the
    /// header, its value in that format, and the deviation.
    pub fn reformatted(&self, head: &Parts) -> Vec<(HeaderName, HeaderValue, FormatDeviation)> {
        let scheme = &*self.0.scheme;
        let (ProofKind::Hmac(hash) | ProofKind::Digest(hash)) = scheme.kind else {
            return Vec::new();
        };
        let Some(name) = scheme.signature_headers().find(|name| head.headers.contains_key(*name))
        else {
            return Vec::new();
        };
        let text = head.headers[name].as_bytes();
        let payload = Payload::from(bytes::Bytes::new());
        let digits = self.0.unverified_details(head, &payload).digits.or_else(|| lone_digits(text));
        let mut found = Vec::new();
        for (bare, prefix) in self.pieces(text) {
            for (label, bytes) in decoded(bare, hash, scheme.signature.encoding) {
                let deviation = FormatDeviation {
                    lacks: match prefix {
                        Prefix::Own => None,
                        Prefix::None | Prefix::Other(_) => {
                            let own = scheme.signature.prefix.to_string();
                            (!own.is_empty()).then_some(own)
                        }
                    },
                    extra: match prefix {
                        Prefix::Other(other) => Some(other),
                        Prefix::Own | Prefix::None => None,
                    },
                    encoding: label,
                };
                let value = self.0.written(&bytes, digits.as_deref(), &[None; MAX_ITEMS]);
                if let Ok(value) = HeaderValue::from_str(&value) {
                    found.push((name.clone(), value, deviation));
                }
            }
        }
        found.truncate(MOST);
        found
    }

    /// Returns the parts of a header that could be the signature, without their prefixes.
    pub(super) fn pieces<'t>(&self, text: &'t [u8]) -> Vec<(&'t [u8], Prefix)> {
        let signature = &self.0.scheme.signature;
        let items: Vec<&[u8]> = match &signature.format {
            SignatureFormat::Json(_) => vec![text],
            SignatureFormat::Raw => std::iter::once(text).chain(parted(text)).collect(),
            SignatureFormat::KeyValue { .. }
            | SignatureFormat::List { .. }
            | SignatureFormat::Tagged { .. }
            | SignatureFormat::Positional { .. } => parted(text).collect(),
        };
        let field = match &signature.format {
            SignatureFormat::KeyValue { field, .. } => format!("{field}="),
            SignatureFormat::Tagged { tag, .. } => tag.to_string(),
            SignatureFormat::Raw
            | SignatureFormat::List { .. }
            | SignatureFormat::Positional { .. }
            | SignatureFormat::Json(_) => String::new(),
        };
        let mut pieces = Vec::new();
        for item in items {
            let item = item.strip_prefix(field.as_bytes()).unwrap_or(item);
            if !signature.prefix.is_empty()
                && let Some(bare) = item.strip_prefix(signature.prefix.as_bytes())
            {
                pieces.push((bare, Prefix::Own));
                continue;
            }
            let none = if signature.prefix.is_empty() { Prefix::Own } else { Prefix::None };
            pieces.push((item, none));
            if let Some(value) = value_of_field(item) {
                pieces.push((value, none));
            }
            for prefix in PREFIXES {
                if let Some((start, bare)) = item.split_at_checked(prefix.len())
                    && start.eq_ignore_ascii_case(prefix.as_bytes())
                {
                    pieces.push((bare, Prefix::Other(prefix)));
                }
            }
        }
        pieces
    }
}

/// Returns the items of a header, split at any of the usual separators.
fn parted(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let items = text.split(|byte| b",; ".contains(byte)).filter(|item| !item.is_empty());
    // A tag may end in the separator: `v1,…` as a whole is an item too.
    items.take(16).chain(text.split(|byte| *byte == b' ').take(16))
}

/// Returns the value of an item such as `sig=…`, unless its name is one of [`PREFIXES`].
fn value_of_field(item: &[u8]) -> Option<&[u8]> {
    let end = item.iter().position(|byte| *byte == b'=').filter(|end| (1..=16).contains(end))?;
    let (name, value) = (&item[..end], &item[end + 1..]);
    let is_word = name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    let is_prefix = PREFIXES.iter().any(|known| {
        known.strip_suffix('=').is_some_and(|known| known.as_bytes().eq_ignore_ascii_case(name))
    });
    (is_word && !is_prefix && !value.is_empty()).then_some(value)
}

/// Returns the first item of a header that has the length of a time in seconds or milliseconds.
fn lone_digits(text: &[u8]) -> Option<String> {
    let value = |item: &[u8]| item.rsplit(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let is_time =
        |text: &Vec<u8>| matches!(text.len(), 10 | 13) && text.iter().all(u8::is_ascii_digit);
    let found = parted(text).filter_map(value).find(is_time)?;
    String::from_utf8(found).ok()
}

/// The prefix that was found before a signature.
#[derive(Clone, Copy)]
pub(super) enum Prefix {
    /// The scheme's own.
    Own,
    /// None, although the scheme has one.
    None,
    /// Another one.
    Other(&'static str),
}

/// Decodes a text as a MAC in every encoding in which it has the right length, with the name of the
/// encoding unless it is `own`.
fn decoded(
    text: &[u8],
    hash: HashAlgorithm,
    own: Encoding,
) -> Vec<(Option<&'static str>, Vec<u8>)> {
    let mut found = Vec::new();
    for (encoding, name) in [
        (Encoding::Hex, "hexadecimal"),
        (Encoding::Base64, "base64"),
        (Encoding::Base64Url, "base64url"),
    ] {
        let Some(bytes) = encoding.decode(text.trim_ascii()) else { continue };
        if bytes.len() == hash.length() {
            found.push(((encoding != own).then_some(name), bytes));
        } else if encoding != Encoding::Hex
            && bytes.len() == 2 * hash.length()
            && let Some(inner) = Encoding::Hex.decode(&bytes)
        {
            found.push((Some("base64 of the hexadecimal"), inner));
        }
    }
    found
}
