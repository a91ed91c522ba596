//! The comparison of signatures: whether one of the key's secrets yields one of them.

use subtle::{Choice as Bit, ConditionallySelectable};

use crate::{
    reject::{Reason, Reject},
    scheme::{
        compiled::template::{Template, ValueSource},
        keyset::{KeyLookup, KeySet, named::NamedKeys},
        public_key::{PublicKey, PublicKeyAlgorithm},
        verify::{
            Verifier,
            jwt::SignedToken,
            keys::{PreparedSecret, VerificationKey},
            request::RequestValues,
            signature::{ClaimedSignatures, MalformedSignature},
        },
    },
};

/// Returns the published keys that a token or a signature may be made with.
fn published(
    set: &KeySet,
    kid: Option<&str>,
    algorithm: PublicKeyAlgorithm,
) -> Result<Vec<PublicKey>, Reject> {
    match set.find(kid, algorithm) {
        KeyLookup::Found(keys) => Ok(keys),
        KeyLookup::Unknown => Err(Reason::UnknownKid.into()),
        KeyLookup::Pending => Err(Reject::KeyPending(None)),
        KeyLookup::Unavailable => Err(Reject::KeysUnavailable),
    }
}

/// The secret that proves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) struct ProvingSecret {
    /// The start of the MAC that fits; zeros where there is no MAC.
    pub(in crate::scheme) mac: [u8; 16],
    /// The position of the secret in the list of its key, from 1; 0 for a key of a key set.
    pub(in crate::scheme) position: u16,
}

/// Returns the key with this name.
fn named(keys: &NamedKeys, name: &str) -> Result<PublicKey, Reject> {
    match keys.find(name) {
        KeyLookup::Found(found) => found.into_iter().next().ok_or(Reject::KeysUnavailable),
        KeyLookup::Unknown => Err(Reason::UnknownKid.into()),
        KeyLookup::Pending => Err(Reject::KeyPending(Some(name.into()))),
        KeyLookup::Unavailable => Err(Reject::KeysUnavailable),
    }
}

impl Verifier {
    /// Returns which of the key's secrets makes one of the signatures of each item; of several
    /// items, the first item's. All secrets are tried, whichever fits.
    pub(in crate::scheme) fn proven(
        &self,
        key: &VerificationKey,
        request: &RequestValues<'_>,
        candidates: &ClaimedSignatures,
    ) -> Option<ProvingSecret> {
        if let Some(ValueSource::Header(_)) = self.scheme.signature.from.first()
            && self.scheme.each.is_none()
        {
            return self.item_proven(key, request, candidates, 0);
        }
        let mut first = None;
        for item in 0..self.items(request) {
            let Ok(candidates) = self.candidates(request, item) else { return None };
            let proven = self.item_proven(key, request, &candidates, item)?;
            first.get_or_insert(ProvingSecret { mac: [0; 16], ..proven });
        }
        first
    }

    /// Does the same as [`Verifier::proven`] for every address that the sender may sign.
    pub(super) fn proven_at_any_address<'a>(
        &'a self,
        key: &VerificationKey,
        request: &mut RequestValues<'a>,
        candidates: &ClaimedSignatures,
    ) -> Option<ProvingSecret> {
        let mut proven = self.proven(key, request, candidates);
        let registered = request.public_url;
        for address in self.public_urls.iter().skip(1) {
            if proven.is_some() {
                break;
            }
            request.public_url = Some(address);
            proven = self.proven(key, request, candidates);
        }
        request.public_url = registered;
        proven
    }

    fn item_proven(
        &self,
        key: &VerificationKey,
        request: &RequestValues<'_>,
        candidates: &ClaimedSignatures,
        item: u32,
    ) -> Option<ProvingSecret> {
        let message = self.message(request);
        let mut proven = Bit::from(0);
        let (mut mac, mut position) = (0u128, 0u16);
        for (secret, number) in key.secrets.iter().zip(1..) {
            let mut fits = Bit::from(0);
            let (engine, secret) = match secret {
                PreparedSecret::Hmac(engine) => (engine, &[] as &[u8]),
                PreparedSecret::Digest(engine, secret) => (engine, secret.expose()),
                PreparedSecret::Token(engine, tag) => {
                    for candidate in candidates.iter() {
                        fits |= tag.is(engine.of(candidate).bytes());
                    }
                    position.conditional_assign(&number, fits & !proven);
                    proven |= fits;
                    continue;
                }
                PreparedSecret::Public(public) => {
                    let mut bytes = Vec::with_capacity(request.payload.len() + 128);
                    let whole = request
                        .feed(message, &[], item, &mut |piece| bytes.extend_from_slice(piece));
                    let valid = whole && candidates.iter().any(|c| public.verifies(&bytes, c));
                    fits |= Bit::from(u8::from(valid));
                    position.conditional_assign(&number, fits & !proven);
                    proven |= fits;
                    continue;
                }
            };
            let (tag, whole) = engine.compute(|pending| {
                request.feed(message, secret, item, &mut |piece| pending.push(piece))
            });
            for candidate in candidates.iter() {
                fits |= tag.is(candidate) & Bit::from(u8::from(whole));
            }
            mac.conditional_assign(&tag.start(), fits);
            position.conditional_assign(&number, fits & !proven);
            proven |= fits;
        }
        bool::from(proven).then_some(ProvingSecret { mac: mac.to_ne_bytes(), position })
    }

    /// Returns whether the token is signed with one of the keys that it may be signed with.
    pub(in crate::scheme) fn token_proven(
        &self,
        key: &VerificationKey,
        token: &SignedToken<'_>,
    ) -> Result<Option<ProvingSecret>, Reject> {
        let (mut proven, mut position) = (Bit::from(0), 0u16);
        for (secret, number) in key.secrets.iter().zip(1..) {
            let fits = match secret {
                PreparedSecret::Hmac(engine) => engine.of(token.signed).is(&token.signature),
                PreparedSecret::Public(public) => {
                    Bit::from(u8::from(public.verifies(token.signed, &token.signature)))
                }
                PreparedSecret::Digest(..) | PreparedSecret::Token(..) => Bit::from(0),
            };
            position.conditional_assign(&number, fits & !proven);
            proven |= fits;
        }
        if let (Some(set), Some(algorithm)) = (&self.key_set, self.scheme.public_key_algorithm()) {
            let keys = published(set, token.kid.as_deref(), algorithm)?;
            let valid = keys.iter().any(|key| key.verifies(token.signed, &token.signature));
            proven |= Bit::from(u8::from(valid));
        }
        if let Some(keys) = &self.named_keys {
            let name = token.kid.as_deref().ok_or(Reason::MalformedToken)?;
            let key = named(keys, name)?;
            proven |= Bit::from(u8::from(key.verifies(token.signed, &token.signature)));
        }
        Ok(bool::from(proven).then_some(ProvingSecret { mac: [0; 16], position }))
    }

    /// Returns whether one of the sender's published keys makes the message signature, which names
    /// its key in `keyid`.
    pub(super) fn proven_by_key_set(
        &self,
        request: &RequestValues<'_>,
        candidates: &ClaimedSignatures,
    ) -> Result<Option<ProvingSecret>, Reject> {
        let (Some(set), Some(algorithm), Some(signature)) =
            (&self.key_set, self.scheme.public_key_algorithm(), &request.message_signature)
        else {
            return Ok(None);
        };
        let keys = published(set, signature.key_id.as_deref(), algorithm)?;
        let Some(base) = request.signature_base() else { return Ok(None) };
        let verifies =
            |key: &PublicKey| candidates.iter().any(|claimed| key.verifies(&base, claimed));
        let proven = keys.iter().any(verifies);
        Ok(proven.then_some(ProvingSecret { mac: [0; 16], position: 0 }))
    }

    /// Returns whether the key that the request names signed the message.
    pub(in crate::scheme) fn proven_by_named_key(
        &self,
        keys: &NamedKeys,
        request: &RequestValues<'_>,
        signatures: &ClaimedSignatures,
    ) -> Result<Option<ProvingSecret>, Reject> {
        let address = self.scheme.fetched.as_ref().and_then(|fetched| fetched.address.as_ref());
        let address = address.map(|source| request.value(source, &[], 0).unwrap_or_default());
        let name = match &address {
            Some(address) => keys.name_in(address),
            None => signatures.key_name(),
        };
        let key = match named(keys, name.ok_or(Reason::UnknownKid)?) {
            // Nothing is fetched for a request that is for someone else.
            Err(Reject::KeyPending(_)) if !self.settings_agree(request) => {
                return Err(Reason::Claim.into());
            }
            key => key?,
        };
        let in_body;
        let signatures = match self.scheme.signature.from.first() {
            Some(ValueSource::Header(_)) => signatures,
            _ => {
                in_body = self.candidates(request, 0).map_err(|_| Reason::MalformedSignature)?;
                &in_body
            }
        };
        let mut message = Vec::with_capacity(request.payload.len() + 128);
        let template = self.message(request);
        let whole = request.feed(template, &[], 0, &mut |piece| message.extend_from_slice(piece));
        let valid = whole && signatures.iter().any(|signature| key.verifies(&message, signature));
        Ok(valid.then_some(ProvingSecret { mac: [0; 16], position: 0 }))
    }

    /// Returns the signatures of one item that are not in headers.
    pub(in crate::scheme) fn candidates(
        &self,
        request: &RequestValues<'_>,
        item: u32,
    ) -> Result<ClaimedSignatures, MalformedSignature> {
        let scheme = &*self.scheme;
        let mut candidates = ClaimedSignatures::default();
        for source in &scheme.signature.from {
            if let Some(text) = request.value(source, &[], item) {
                scheme.signature.parse_raw(&text, &mut candidates)?;
            }
        }
        let any = candidates.iter().next().is_some();
        if any { Ok(candidates) } else { Err(MalformedSignature) }
    }

    /// Returns the number of items that must be proven: the elements of `each`, or the request as a
    /// whole.
    pub(in crate::scheme) fn items(&self, request: &RequestValues<'_>) -> u32 {
        match self.scheme.each {
            None => 1,
            Some(pointer) => {
                u32::try_from(request.json.of(pointer).len()).expect("at most MAX_ITEMS elements")
            }
        }
    }

    /// Returns the template of the signed message that applies to this request.
    pub(in crate::scheme) fn message(&self, request: &RequestValues<'_>) -> &Template {
        let scheme = &*self.scheme;
        let variant =
            scheme.variants.iter().find(|(when, _)| request.value(when, &[], 0).is_some());
        variant.map_or(&scheme.message, |(_, message)| message)
    }
}
