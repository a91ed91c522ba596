//! Verification of a request, in the order of precedence of the reasons.

pub(super) mod challenge;
mod checks;
mod components;
pub(super) mod details;
mod event;
mod explain;
pub(super) mod head;
pub(super) mod jwt;
pub(super) mod keys;
pub(super) mod message_signature;
mod prove;
pub(super) mod request;
pub(super) mod signature;
mod signed_headers;
mod subject;

use std::sync::Arc;

use http::{HeaderName, request::Parts};

use crate::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{
        compiled::{
            Scheme,
            event::IdRule,
            template::{MAX_HEADERS, MAX_ITEMS, ValueSource},
        },
        json::{JsonMatches, JsonPointers},
        keyset::{KeySet, named::NamedKeys},
        time::UnixMillis,
        verified::Verified,
        verify::{
            head::{CheckedHead, HeadCheck},
            jwt::{Freshness, PinnedClaims, SignedToken},
            keys::{NamedKey, VerificationKey, VerificationKeys},
            prove::ProvingSecret,
            request::{HeaderSlots, RequestValues, scalar},
            signature::ClaimedSignatures,
        },
    },
    secret::Secret,
};

/// A scheme with the keys of one route.
#[derive(Clone, Debug)]
pub struct Verifier {
    pub(super) scheme: Arc<Scheme>,
    pub(super) ring: Arc<VerificationKeys>,
    pub(super) methods: &'static str,
    pub(super) slots: HeaderSlots,
    /// Slot and allowed values of each header that the operator requires.
    pub(super) required: Vec<(usize, Vec<String>)>,
    /// Every address that the sender may sign; the registered one first.
    pub(super) public_urls: Vec<String>,
    /// How old and how new a request may be, in milliseconds.
    pub(super) window: Option<(i64, i64)>,
    /// What the operator pins of a token.
    pub(super) pinned: PinnedClaims,
    /// The sender's published keys.
    pub(super) key_set: Option<Arc<KeySet>>,
    /// The sender's keys, fetched when requests name them.
    pub(super) named_keys: Option<Arc<NamedKeys>>,
    /// The values of each setting of the scheme.
    pub(super) settings: Vec<Vec<Secret>>,
    /// The token that a challenge must contain.
    pub(super) verify_token: Option<Secret>,
}

/// What an authentic request contains, before its event is identified.
pub(super) struct Authenticated<'a> {
    pub(super) key: &'a VerificationKey,
    /// The secret that proves the request.
    pub(super) secret: ProvingSecret,
    pub(super) stale: bool,
    /// For how long a copy is fresh, in milliseconds; `None` for ever.
    pub(super) fresh_for: Option<i64>,
    pub(super) age: Option<i64>,
}

impl Verifier {
    /// Returns the scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns the methods that the route accepts, as the value of `Allow`.
    pub fn methods(&self) -> &'static str {
        self.methods
    }

    /// Returns whether the body's SHA-256 should be computed while the body is read.
    pub fn wants_digest(&self) -> bool {
        self.scheme.wants_digest
    }

    /// Returns every header that the scheme reads or pins, or that the operator requires.
    pub fn headers(&self) -> &[HeaderName] {
        self.slots.names()
    }

    /// Returns the sender's published keys, which must be kept fresh while the route exists.
    pub fn key_set(&self) -> Option<&Arc<KeySet>> {
        self.key_set.as_ref()
    }

    /// Returns the sender's keys that are fetched when requests name them.
    pub fn named_keys(&self) -> Option<&Arc<NamedKeys>> {
        self.named_keys.as_ref()
    }

    /// Returns the names of the configured keys: `global`, `coupon/3570`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.ring.iter().map(|key| &*key.name)
    }

    /// Returns the configured keys, each with its number of secrets.
    pub fn secrets(&self) -> impl Iterator<Item = (Arc<str>, usize)> {
        self.ring.iter().map(|key| (Arc::clone(&key.name), key.secrets.len()))
    }

    /// Verifies a request. One that is authentic but too old has [`Verified::is_stale`].
    ///
    /// # Errors
    /// The first [`Reason`] in order of precedence. A token or a password in the head is checked
    /// before the body, so a body is malformed only if its head is authentic.
    pub fn verify(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<Verified, Reject> {
        self.verify_after(HeadCheck::default(), head, payload, now)
    }

    /// Verifies a request whose head [`Verifier::check_head`] has accepted, at a lower cost.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn verify_after(
        &self,
        check: HeadCheck,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<Verified, Reject> {
        let mut request = self.request(head, payload);
        let proof = self.authenticated(&mut request, check, now)?;
        Ok(self.name(&request, &proof))
    }

    /// Verifies a request as [`Verifier::verify`] does, without identifying its event.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn authenticate(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<(), Reject> {
        self.authenticated(&mut self.request(head, payload), HeadCheck::default(), now).map(drop)
    }

    /// Verifies a request by any of its signatures. The error is that of the closest one.
    fn authenticated<'a>(
        &'a self,
        request: &mut RequestValues<'a>,
        check: HeadCheck,
        now: UnixMillis,
    ) -> Result<Authenticated<'a>, Reject> {
        let mut result = self.authenticated_by(0, request, check, now);
        for number in 1..request.alternatives {
            let Err(closest) = result else { break };
            result = self.authenticated_by(number, request, check, now);
            if let Err(Reject::NotAccepted(reason)) = &result
                && !matches!(&closest, Reject::NotAccepted(other) if other < reason)
            {
                result = Err(closest);
            }
        }
        result
    }

    fn authenticated_by<'a>(
        &'a self,
        number: usize,
        request: &mut RequestValues<'a>,
        check: HeadCheck,
        now: UnixMillis,
    ) -> Result<Authenticated<'a>, Reject> {
        let scheme = &*self.scheme;
        let named = scheme.choice.named(request);

        let CheckedHead { signatures, token, check } = self.head(number, request, named, check)?;
        let body = self.read_body(request, named);
        if body.is_ok() {
            self.signature_in_body(request)?;
        }
        let millis = self.timestamp(request, body.is_ok())?;
        self.algorithm(request)?;
        body?;
        self.values_present(request)?;
        let key = self.key(request, named)?;
        let (key, secret) = match (key, check.proven) {
            (Some(key), Some(secret)) => (key, secret),
            _ => self.prove(key, request, token.as_ref(), &signatures)?,
        };
        let rules = scheme.token.as_ref();
        let claims = match (&token, rules) {
            (Some(token), Some(rules)) => token.claims(rules)?,
            _ => JsonMatches::default(),
        };
        if rules.is_some_and(|rules| !jwt::hashes_agree(rules, &claims, request)) {
            return Err(Reason::Claim.into());
        }
        self.content_digest(request)?;
        if !self.settings_agree(request) {
            return Err(Reason::Claim.into());
        }
        self.consistent(request)?;
        let (fresh, age) = match rules {
            Some(rules) => jwt::age(rules, &claims, now.0),
            None => self.age(millis.map(|millis| now.0.saturating_sub(millis))),
        };
        let stale = match fresh {
            Freshness::Fresh => false,
            Freshness::Stale => true,
            Freshness::Future => return Err(Reason::Future.into()),
        };
        let expires_in = request.expires().map(|expires| expires.saturating_sub(now.0));
        let stale = stale || expires_in.is_some_and(|left| left <= 0);
        if !self.required_headers(request) {
            return Err(if stale { Reason::Stale } else { Reason::RequiredHeader }.into());
        }
        let fresh_for = match rules {
            Some(rules) => jwt::fresh_for(rules, &claims, now.0),
            None => self.window.zip(age).map(|((past, _), age)| past.saturating_sub(age)),
        };
        let fresh_for = match (fresh_for, expires_in) {
            (Some(window), Some(left)) => Some(window.min(left)),
            (window, left) => window.or(left),
        };
        Ok(Authenticated { key, secret, stale, fresh_for, age })
    }

    /// Verifies the signature, the password, or the token with the claims that do not depend on the
    /// body, and returns the key and its secret. Without a key, the work is the same.
    fn prove<'a>(
        &'a self,
        key: Option<&'a VerificationKey>,
        request: &mut RequestValues<'a>,
        token: Option<&SignedToken<'_>>,
        signatures: &ClaimedSignatures,
    ) -> Result<(&'a VerificationKey, ProvingSecret), Reject> {
        let prover = key.unwrap_or(&self.ring.dummy);
        let mut agrees = true;
        let proven = match (token, &self.scheme.token) {
            (Some(token), Some(rules)) => {
                let claims = token.claims(rules)?;
                agrees = jwt::agrees(rules, &self.pinned, &claims);
                self.token_proven(prover, token)?
            }
            _ => match &self.named_keys {
                Some(keys) => self.proven_by_named_key(keys, request, signatures)?,
                None => match self.proven_at_any_address(prover, request, signatures) {
                    None if self.key_set.is_some() => {
                        self.proven_by_key_set(request, signatures)?
                    }
                    proven => proven,
                },
            },
        };
        let key = key.ok_or(Reason::UnknownKey)?;
        let secret = proven.ok_or(Reason::BadSignature)?;
        if agrees { Ok((key, secret)) } else { Err(Reason::Claim.into()) }
    }

    /// Returns the values of a request, with its headers collected.
    #[inline]
    pub(super) fn request<'a>(
        &'a self,
        head: &'a Parts,
        payload: &'a Payload,
    ) -> RequestValues<'a> {
        let mut request = RequestValues {
            head,
            payload,
            headers: [None; MAX_HEADERS],
            duplicate: false,
            items: [None; MAX_ITEMS],
            json: JsonMatches::default(),
            timestamp: None,
            public_url: self.public_urls.first().map(String::as_str),
            url_rule: &self.scheme.url,
            signed_headers: self.scheme.signed_headers.as_ref(),
            message_signature: None,
            alternatives: 0,
            settings: &self.settings,
        };
        request.duplicate = self.slots.gather(&head.headers, &mut request.headers);
        request
    }

    /// Checks the signatures outside of headers, and an event ID in the body.
    fn signature_in_body(&self, request: &RequestValues<'_>) -> Result<(), Reject> {
        if !matches!(self.scheme.signature.from[0], ValueSource::Header(_)) {
            for item in 0..self.items(request) {
                self.candidates(request, item).map_err(|_| Reason::MalformedSignature)?;
            }
        }
        self.event_id(request, |source| !matches!(source, ValueSource::Header(_)))
    }

    fn event_id(
        &self,
        request: &RequestValues<'_>,
        here: fn(&ValueSource) -> bool,
    ) -> Result<(), Reject> {
        let Some(IdRule { from, grammar, optional }) = self.scheme.event.id() else {
            return Ok(());
        };
        for source in from.iter().filter(|source| here(source)) {
            match request.value(source, &[], 0) {
                Some(id) if !grammar.accepts(&id) => {
                    return Err(Reason::MalformedSignature.into());
                }
                None if !optional => return Err(Reason::MissingHeader.into()),
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Reads the members of the body that verification needs; most schemes need none.
    fn read_body(&self, request: &mut RequestValues<'_>, named: NamedKey) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        let reader: &JsonPointers = match named {
            NamedKey::Group(space) => &scheme.choice.spaces()[space].reader,
            NamedKey::Global | NamedKey::Unknown | NamedKey::Missing => &scheme.inputs.pointers,
        };
        if reader.is_empty() {
            return Ok(());
        }
        match reader.read(request.payload.whole()) {
            Ok(found) => request.json = found,
            Err(_) if scheme.accepts_non_json => {}
            Err(_) => return Err(Reason::MalformedBody.into()),
        }
        if let NamedKey::Group(space) = named {
            let space = &scheme.choice.spaces()[space];
            keys::index(request, space).ok_or(Reason::MalformedBody)?;
        }
        Ok(())
    }

    /// Keeps the timestamp's text and returns its instant.
    fn timestamp(
        &self,
        request: &mut RequestValues<'_>,
        body_read: bool,
    ) -> Result<Option<i64>, Reject> {
        let Some(timestamp) = &self.scheme.timestamp else { return Ok(None) };
        request.timestamp = match &timestamp.from {
            ValueSource::Header(slot) => request.header(*slot).map(Into::into),
            ValueSource::Item(slot) if request.message_signature.is_none() => {
                request.items[*slot].map(Into::into)
            }
            ValueSource::Json(pointer) if body_read => {
                let text = request.json(*pointer, 0).and_then(scalar);
                text.map(|text| text.into_owned().into())
            }
            ValueSource::Json(_) => return Ok(None),
            other => request.value(other, &[], 0).map(|text| text.into_owned().into()),
        };
        let text = request.timestamp.as_deref().ok_or(Reason::MalformedTimestamp)?;
        let millis = timestamp.unit.parse(text).ok_or(Reason::MalformedTimestamp)?;
        Ok(Some(millis))
    }

    /// Returns the key that the request names; `None` if it is not configured.
    pub(super) fn key(
        &self,
        request: &RequestValues<'_>,
        named: NamedKey,
    ) -> Result<Option<&VerificationKey>, Reject> {
        Ok(match named {
            NamedKey::Global => self.ring.global.as_ref(),
            NamedKey::Group(space) => {
                let of = &self.scheme.choice.spaces()[space];
                let index = keys::index(request, of).ok_or(Reason::MalformedBody)?;
                self.ring.group(space, index)
            }
            NamedKey::Unknown | NamedKey::Missing => None,
        })
    }
}
