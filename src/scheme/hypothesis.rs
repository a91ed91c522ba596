//! Hypotheses for a diagnosis: would another secret, message or scheme verify the request?
//!
//! A [`Hypothesis`] uses the code that verifies live requests, but reports only whether the
//! signature matches. It never returns [`Verified`](super::Verified), so its result cannot be
//! forwarded or recorded.

mod reformat;

use std::sync::Arc;

use http::{HeaderName, request::Parts};

use self::reformat::MOST;
use crate::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{
        compile::prepare::prepared,
        compiled::{
            ProofKind, Scheme,
            key::{KeyChoice, KeyForm},
            template::{Filter, Template, TemplatePiece, TemplateValue, ValueSource},
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
        let scheme = &*self.0.scheme;
        let is_signed = scheme.needs_url || scheme.message_signature.is_some();
        self.0.public_urls.first().map(String::as_str).filter(|_| is_signed)
    }

    /// Returns the hypothesis that another address is registered at the sender.
    pub fn at(&self, address: &str) -> Hypothesis {
        let public_urls = self.0.scheme.url.addresses(address);
        Hypothesis(Verifier { public_urls, ..self.0.clone() })
    }

    /// Returns the work of [`Hypothesis::fits`] for a body of `length` bytes, preparing the
    /// hypothesis included. A unit is the work of hashing one byte.
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

    /// Returns the scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.0.scheme
    }

    /// Returns every header that the scheme reads, and those that the operator requires.
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
}
