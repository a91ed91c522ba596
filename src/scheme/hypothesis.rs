//! Hypotheses for a diagnosis: would another secret, message or scheme verify the request?
//!
//! A [`Hypothesis`] uses the code that verifies live requests, but reports only whether the
//! signature matches. It never returns [`Verified`](super::Verified), so its result cannot be
//! forwarded or recorded.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, request::Parts};

use crate::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{
        compile::prepare::prepared,
        compiled::{
            ProofKind, Scheme,
            key::{KeyChoice, KeyForm},
            signature::SignatureFormat,
            template::{Filter, MAX_ITEMS, Template, TemplatePiece, TemplateValue, ValueSource},
        },
        encoding::{Encoding, SecretForm},
        mac::HashAlgorithm,
        time::{TimeUnit, UnixMillis},
        verify::{
            Verifier,
            keys::{VerificationKey, VerificationKeys},
            request::HeaderSlots,
        },
    },
    secret::Secret,
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
const MOST: usize = 32;

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

/// A verifier with a changed secret, message or scheme.
#[derive(Clone, Debug)]
pub struct Hypothesis(Verifier);

impl Verifier {
    /// Returns the hypothesis that everything is as configured.
    pub fn hypothesis(&self) -> Hypothesis {
        Hypothesis(self.clone())
    }
}

impl Hypothesis {
    /// Returns whether the signature of a request matches, even if it would be rejected for another
    /// reason.
    pub fn fits(&self, head: &Parts, payload: &Payload, now: UnixMillis) -> bool {
        match self.0.authenticate(head, payload, now) {
            Ok(()) => true,
            Err(Reject::NotAccepted(reason)) => reason > Reason::BadSignature,
            Err(_) => false,
        }
    }

    /// Returns the registered address, if the scheme signs it.
    pub fn public_url(&self) -> Option<&str> {
        self.0.public_urls.first().map(String::as_str).filter(|_| self.0.scheme.needs_url)
    }

    /// Returns the hypothesis that another address is registered at the sender.
    pub fn at(&self, address: &str) -> Hypothesis {
        let public_urls = self.0.scheme.url.addresses(address);
        Hypothesis(Verifier { public_urls, ..self.0.clone() })
    }

    /// The work of [`Hypothesis::fits`] for a body of `length` bytes, preparing the hypothesis
    /// included. A unit is the work of hashing one byte.
    pub fn work(&self, length: u64) -> u64 {
        let scheme = &*self.0.scheme;
        let fixed = if scheme.takes_public_key() { 100_000 } else { 10_000 };
        let is_form = |(value, _): &(&TemplateValue, bool)| {
            matches!(value.source, ValueSource::Form(_) | ValueSource::FormSorted)
        };
        let is_hashed_only = scheme.inputs.pointers.is_empty()
            && scheme.choice.spaces().is_empty()
            && !scheme.message.values().iter().any(is_form);
        fixed + if is_hashed_only { length } else { 4 * length }
    }

    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.0.scheme
    }

    /// Every header that the scheme reads, and those that the operator requires.
    pub fn headers(&self) -> &[HeaderName] {
        self.0.slots.names()
    }

    /// Returns what the request contains, unverified.
    pub fn unverified_details(&self, head: &Parts, payload: &Payload) -> super::UnverifiedDetails {
        self.0.unverified_details(head, payload)
    }

    /// Returns the configured secrets with the names of their keys.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.ring.iter().flat_map(|key| key.configured.iter().map(|secret| (&*key.name, secret)))
    }

    /// Assumes that this secret signs every request. `None` if the scheme has no secret, or if this
    /// one cannot be its key.
    pub fn under(&self, secret: &Secret) -> Option<Hypothesis> {
        self.with(secret, |_| ())
    }

    /// Assumes that this secret signs in another form than the scheme's. `None` if it is the
    /// scheme's form, or if the secret is not in this form.
    pub fn under_in_form(&self, secret: &Secret, form: SecretForm) -> Option<Hypothesis> {
        let encoding = match form {
            SecretForm::Text => Encoding::Text,
            SecretForm::Hex => Encoding::Hex,
            SecretForm::Base64 => Encoding::Base64,
        };
        let own = &self.0.scheme.key;
        if own.encoding == encoding && own.strip.is_empty() {
            return None;
        }
        let strip = match form {
            SecretForm::Text => Vec::new(),
            SecretForm::Hex | SecretForm::Base64 => vec!["whsec_".into()],
        };
        self.with(secret, |scheme| scheme.key = KeyForm { encoding, strip })
    }

    /// Assumes that this secret signs according to another scheme. `None` if that is impossible.
    pub fn of(&self, scheme: &Arc<Scheme>, secret: &Secret) -> Option<Hypothesis> {
        if scheme.needs_url && self.0.public_urls.is_empty() {
            return None;
        }
        let mut other = self.clone();
        other.0.scheme = Arc::clone(scheme);
        other.0.slots = HeaderSlots::new(&scheme.inputs.headers);
        other.0.required = Vec::new();
        other.0.window = None;
        other.under(secret)
    }

    fn with(&self, secret: &Secret, change: impl FnOnce(&mut Scheme)) -> Option<Hypothesis> {
        if matches!(self.0.scheme.kind, ProofKind::PublicKey(_)) || self.0.scheme.takes_public_key()
        {
            return None;
        }
        let mut other = self.changed(|scheme| {
            scheme.choice = KeyChoice::Global;
            change(scheme);
        });
        let key = |secret: Secret| -> Option<VerificationKey> {
            let prepared = prepared(&other.0.scheme, &secret).ok()?;
            Some(VerificationKey::new("", "", vec![prepared], vec![secret]))
        };
        let ring = VerificationKeys {
            global: Some(key(secret.clone())?),
            groups: Vec::new(),
            dummy: key(secret.clone())?,
        };
        other.0.ring = Arc::new(ring);
        Some(other)
    }

    fn changed(&self, change: impl FnOnce(&mut Scheme)) -> Hypothesis {
        let mut scheme = (*self.0.scheme).clone();
        change(&mut scheme);
        let mut other = self.clone();
        other.0.scheme = Arc::new(scheme);
        other
    }

    /// Assumes that the body itself is signed instead of its digest. `None` if the scheme does not
    /// sign the digest.
    pub fn body_for_digest(&self) -> Option<Hypothesis> {
        self.body_signed(&[Filter::Sha256], &[])
    }

    /// Assumes that the hexadecimal SHA-256 of the body is signed instead of the body. `None` if
    /// the scheme does not sign the body.
    pub fn digest_for_body(&self) -> Option<Hypothesis> {
        self.body_signed(&[], &[Filter::Sha256])
    }

    fn body_signed(&self, filters: &[Filter], instead: &[Filter]) -> Option<Hypothesis> {
        let mut found = false;
        let other = self.exchanged(|value| {
            let hit = value.source == ValueSource::Body && value.filters == filters;
            found |= hit;
            let value = TemplateValue { source: ValueSource::Body, filters: instead.to_vec() };
            hit.then_some(TemplatePiece::Value(value))
        });
        found.then_some(other)
    }

    /// Assumes, for each other hash function, that a secret of the route signs with it. Returns the
    /// name of the hash function as well.
    pub fn with_other_hashes(&self) -> Vec<(&'static str, Hypothesis)> {
        let (own, kind): (HashAlgorithm, fn(HashAlgorithm) -> ProofKind) = match self.0.scheme.kind
        {
            ProofKind::Hmac(own) => (own, ProofKind::Hmac),
            ProofKind::Digest(own) => (own, ProofKind::Digest),
            _ => return Vec::new(),
        };
        let others = || HashAlgorithm::ALL.into_iter().filter(move |other| *other != own);
        let under = |(_, secret): (&str, &Secret)| {
            others()
                .filter_map(|hash| {
                    let other = self.with(secret, |scheme| {
                        scheme.kind = kind(hash);
                        scheme.signature.length = Some(hash.length());
                    })?;
                    Some((hash.name(), other))
                })
                .collect::<Vec<_>>()
        };
        self.secrets().take(MOST).flat_map(under).collect()
    }

    /// Returns the header of a signature that has the length of another hash function's, its length
    /// in bytes and the name of the hash function.
    pub fn signature_of_other_length(
        &self,
        head: &Parts,
    ) -> Option<(HeaderName, usize, &'static str)> {
        let scheme = &*self.0.scheme;
        let (ProofKind::Hmac(own) | ProofKind::Digest(own)) = scheme.kind else { return None };
        let name = scheme.signature_headers().find(|name| head.headers.contains_key(*name))?;
        for (bare, _) in self.pieces(head.headers[name].as_bytes()) {
            let Some(bytes) = scheme.signature.encoding.decode(bare.trim_ascii()) else { continue };
            let fits = |hash: &HashAlgorithm| hash.length() == bytes.len();
            if let Some(hash) = HashAlgorithm::ALL.iter().find(|hash| fits(hash) && **hash != own) {
                return Some((name.clone(), bytes.len(), hash.name()));
            }
        }
        None
    }

    /// Returns where a request names the SHA-256 of its body, and the digest as it is written
    /// there. `None` if the scheme does not sign the digest.
    pub fn named_digest(&self, head: &Parts, payload: &Payload) -> Option<(String, Vec<u8>)> {
        self.digest_signed_as(b"")?;
        let scheme = &*self.0.scheme;
        let request = self.0.request(head, payload);
        scheme.agree.iter().find_map(|agreement| {
            let [TemplatePiece::Value(value)] = agreement.with.0.as_slice() else { return None };
            if value.source != ValueSource::Body || value.filters != [Filter::Sha256] {
                return None;
            }
            let place = match &agreement.value {
                ValueSource::Header(slot) => format!("`{}`", self.0.slots.names()[*slot]),
                ValueSource::Query(name) => format!("the parameter `{name}`"),
                _ => return None,
            };
            Some((place, request.value(&agreement.value, &[], 0)?.into_owned()))
        })
    }

    /// Assumes that this digest of the body is signed, whatever the body is. `None` if the scheme
    /// does not sign the digest.
    pub fn digest_signed_as(&self, digest: &[u8]) -> Option<Hypothesis> {
        let mut found = false;
        let other = self.exchanged(|value| {
            let hit = value.source == ValueSource::Body && value.filters == [Filter::Sha256];
            found |= hit;
            hit.then(|| TemplatePiece::Literal(digest.into()))
        });
        found.then_some(other)
    }

    /// Assumes that the timestamp is signed as this text, whatever the request contains.
    pub fn timestamp_signed_as(&self, text: &str) -> Hypothesis {
        let other = self.exchanged(|value| {
            let hit = value.source == ValueSource::Timestamp;
            hit.then(|| TemplatePiece::Literal(text.as_bytes().into()))
        });
        other.with_any_unit()
    }

    /// Assumes that the sender may write its time in seconds or milliseconds. RFC 3339 is
    /// unchanged.
    pub fn with_any_unit(&self) -> Hypothesis {
        self.changed(|scheme| match &mut scheme.timestamp {
            Some(timestamp) if timestamp.unit != TimeUnit::Rfc3339 => {
                timestamp.unit = TimeUnit::Auto
            }
            Some(_) | None => {}
        })
    }

    /// Returns a hypothesis with another message: each value for which `exchange` returns a piece
    /// becomes that piece.
    fn exchanged(
        &self,
        mut exchange: impl FnMut(&TemplateValue) -> Option<TemplatePiece>,
    ) -> Hypothesis {
        self.changed(|scheme| {
            let variants = scheme.variants.iter_mut().map(|(_, message)| message);
            for Template(pieces) in std::iter::once(&mut scheme.message).chain(variants) {
                let nested = pieces.iter_mut().flat_map(|piece| match piece {
                    TemplatePiece::Optional(pieces) => pieces.as_mut_slice(),
                    other => std::slice::from_mut(other),
                });
                for piece in nested {
                    if let TemplatePiece::Value(value) = piece
                        && let Some(other) = exchange(value)
                    {
                        *piece = other;
                    }
                }
            }
        })
    }

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
    fn pieces<'t>(&self, text: &'t [u8]) -> Vec<(&'t [u8], Prefix)> {
        let signature = &self.0.scheme.signature;
        let items: Vec<&[u8]> = match &signature.format {
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
            | SignatureFormat::Positional { .. } => String::new(),
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
enum Prefix {
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
