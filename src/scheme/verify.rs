//! Judging a request, in the order in which reasons are told.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, request::Parts};

use super::{
    Scheme, UnixMillis, Verified,
    compare::{same, same_letters},
    event::Event,
    json::Pointers,
    jwt::{self, Age, Pinned, Token},
    keys::{self, Key, Named, Ring},
    keyset::KeySet,
    request::{Request, Slots, scalar},
    signature::{Candidates, is_word},
    source::{MAX_HEADERS, MAX_ITEMS, Source},
};
use crate::{
    body::Payload,
    reject::{Reason, Reject},
    secret::Secret,
};

/// A scheme with the keys of one route.
#[derive(Clone, Debug)]
pub struct Verifier {
    pub(super) scheme: Arc<Scheme>,
    pub(super) ring: Arc<Ring>,
    pub(super) slots: Slots,
    /// Slot and allowed values of each header that the operator requires.
    pub(super) required: Vec<(usize, Vec<String>)>,
    pub(super) public_url: Option<String>,
    /// How old and how new a request may be, in milliseconds.
    pub(super) window: Option<(i64, i64)>,
    /// What the operator pins of a token.
    pub(super) pinned: Pinned,
    /// The sender's published keys.
    pub(super) key_set: Option<Arc<KeySet>>,
    /// What a handshake must show.
    pub(super) verify_token: Option<Secret>,
}

/// What is found out of a request that is authentic, before it is said which event it is about.
pub(super) struct Proof<'a> {
    pub(super) key: &'a Key,
    /// The start of the MAC that fits; zeros where there is no MAC.
    pub(super) mac: [u8; 16],
    pub(super) stale: bool,
    pub(super) age: Option<i64>,
}

impl Verifier {
    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Whether the body's SHA-256 should be taken on the way in.
    pub fn wants_digest(&self) -> bool {
        self.scheme.wants_digest
    }

    /// Every security header of the route: what the scheme reads or pins, and what the operator
    /// requires.
    pub fn headers(&self) -> &[HeaderName] {
        self.slots.names()
    }

    /// How old a request may be and still count as fresh; `None` without a timestamp.
    pub fn window(&self) -> Option<Duration> {
        match &self.scheme.token {
            Some(rules) => Some(rules.lifetime),
            None => self.window.map(|(past, _)| Duration::from_millis(past.unsigned_abs())),
        }
    }

    /// The sender's published keys, which must be kept fresh while the route lives.
    pub fn key_set(&self) -> Option<&Arc<KeySet>> {
        self.key_set.as_ref()
    }

    /// The names of the configured keys: `global`, `coupon/3570`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.ring.iter().map(|key| &*key.name)
    }

    /// Judges a request. A request that is authentic but too old is given as [`Verified`] with
    /// [`Verified::is_stale`]: whether that matters depends on the record of its event.
    ///
    /// # Errors
    /// The first [`Reason`], in their order, for which the request is not authentic.
    pub fn verify(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<Verified, Reject> {
        let mut request = self.request(head, payload);
        let proof = self.judge(&mut request, now)?;
        Ok(self.name(&request, &proof))
    }

    /// As [`Verifier::verify`], without saying which event the request is about.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub fn authenticate(
        &self,
        head: &Parts,
        payload: &Payload,
        now: UnixMillis,
    ) -> Result<(), Reject> {
        self.judge(&mut self.request(head, payload), now).map(drop)
    }

    fn judge<'a>(
        &'a self,
        request: &mut Request<'a>,
        now: UnixMillis,
    ) -> Result<Proof<'a>, Reject> {
        let scheme = &*self.scheme;
        let named = scheme.choice.named(request);

        self.headers_present(request, named)?;
        if request.duplicate {
            return Err(Reason::DuplicateHeader.into());
        }
        let mut candidates = Candidates::default();
        self.signature_in_headers(request, &mut candidates)?;
        let body = self.read_body(request, named);
        if body.is_ok() {
            self.signature_in_body(request)?;
        }
        let millis = self.timestamp(request, body.is_ok())?;
        self.algorithm(request)?;
        let token = self.token(request)?;
        let claims = match (&token, &scheme.token) {
            (Some(token), Some(rules)) => token.claims(rules)?,
            _ => Vec::new(),
        };
        body?;
        self.values_present(request)?;
        let key = self.key(request, named)?;
        let judge = key.unwrap_or(&self.ring.dummy);
        let proven = match &token {
            Some(token) => self.token_proven(judge, token)?,
            None => self.proven(judge, request, &candidates),
        };
        let key = key.ok_or(Reason::UnknownKey)?;
        let mac = proven.ok_or(Reason::BadSignature)?;
        let rules = scheme.token.as_ref();
        if rules.is_some_and(|rules| !jwt::agrees(rules, &self.pinned, &claims, request)) {
            return Err(Reason::Claim.into());
        }
        self.consistent(request)?;
        let (fresh, age) = match rules {
            Some(rules) => jwt::age(rules, &claims, now.0),
            None => self.age(millis.map(|millis| now.0.saturating_sub(millis))),
        };
        let stale = match fresh {
            Age::Fresh => false,
            Age::Stale => true,
            Age::Future => return Err(Reason::Future.into()),
        };
        if !self.required_headers(request) {
            return Err(if stale { Reason::Stale } else { Reason::RequiredHeader }.into());
        }
        Ok(Proof { key, mac, stale, age })
    }

    /// A request with its headers.
    #[inline]
    pub(super) fn request<'a>(&'a self, head: &'a Parts, payload: &'a Payload) -> Request<'a> {
        let mut request = Request {
            head,
            payload,
            headers: [None; MAX_HEADERS],
            duplicate: false,
            items: [None; MAX_ITEMS],
            json: Vec::new(),
            timestamp: None,
            public_url: self.public_url.as_deref(),
        };
        request.duplicate = self.slots.gather(&head.headers, &mut request.headers);
        request
    }

    /// Every header without which the request cannot be judged.
    fn headers_present(&self, request: &Request<'_>, named: Named) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        let absent = |slot: &usize| request.headers[*slot].is_none();
        let unsigned = scheme.signature.from.iter().all(|source| match source {
            Source::Header(slot) => absent(slot),
            _ => false,
        });
        if named == Named::Missing || unsigned || scheme.needs.headers.iter().any(absent) {
            return Err(Reason::MissingHeader.into());
        }
        Ok(())
    }

    /// The signatures in headers, and the grammar of an event id in a header.
    fn signature_in_headers(
        &self,
        request: &mut Request<'_>,
        candidates: &mut Candidates,
    ) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        if scheme.token.is_some() {
            return self.event_id(request, |source| matches!(source, Source::Header(_)));
        }
        for source in &scheme.signature.from {
            if let Source::Header(slot) = source
                && let Some(text) = request.header(*slot)
            {
                let names = &scheme.wanted.items;
                let parsed = scheme.signature.parse(text, names, &mut request.items, candidates);
                parsed.map_err(|_| Reason::MalformedSignature)?;
            }
        }
        let in_header = matches!(scheme.signature.from[0], Source::Header(_));
        if in_header && candidates.iter().next().is_none() {
            return Err(Reason::MalformedSignature.into());
        }
        if scheme.needs.items.iter().any(|slot| request.items[*slot].is_none()) {
            return Err(Reason::MalformedSignature.into());
        }
        self.event_id(request, |source| matches!(source, Source::Header(_)))
    }

    /// The signatures outside of headers, and an event id in the body: its grammar and presence.
    fn signature_in_body(&self, request: &Request<'_>) -> Result<(), Reject> {
        if !matches!(self.scheme.signature.from[0], Source::Header(_)) {
            for item in 0..self.items(request) {
                self.candidates(request, item).map_err(|_| Reason::MalformedSignature)?;
            }
        }
        self.event_id(request, |source| !matches!(source, Source::Header(_)))
    }

    fn event_id(&self, request: &Request<'_>, here: fn(&Source) -> bool) -> Result<(), Reject> {
        let Event::Id { from, optional, grammar, .. } = &self.scheme.event else {
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

    /// Reads the body for what this request is judged by; most schemes need nothing of it.
    fn read_body(&self, request: &mut Request<'_>, named: Named) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        let reader: &Pointers = match named {
            Named::Group(space) => &scheme.choice.spaces()[space].reader,
            Named::Global | Named::Unknown | Named::Missing => &scheme.wanted.pointers,
        };
        if reader.is_empty() {
            return Ok(());
        }
        match reader.read(request.payload.whole()) {
            Ok(found) => request.json = found,
            Err(_) if scheme.body_may_be_other => {}
            Err(_) => return Err(Reason::MalformedBody.into()),
        }
        if let Named::Group(space) = named {
            let space = &scheme.choice.spaces()[space];
            keys::index(request, space).ok_or(Reason::MalformedBody)?;
        }
        Ok(())
    }

    /// Takes the timestamp's text and gives its instant.
    fn timestamp(&self, request: &mut Request<'_>, body_read: bool) -> Result<Option<i64>, Reject> {
        let Some(timestamp) = &self.scheme.timestamp else { return Ok(None) };
        request.timestamp = match &timestamp.from {
            Source::Header(slot) => request.header(*slot).map(Into::into),
            Source::Item(slot) => request.items[*slot].map(Into::into),
            Source::Json(pointer) if body_read => {
                let text = request.json(*pointer, 0).and_then(scalar);
                text.map(|text| text.into_owned().into())
            }
            Source::Json(_) => return Ok(None),
            other => request.value(other, &[], 0).map(|text| text.into_owned().into()),
        };
        let text = request.timestamp.as_deref().ok_or(Reason::MalformedTimestamp)?;
        let millis = timestamp.unit.parse(text).ok_or(Reason::MalformedTimestamp)?;
        Ok(Some(millis))
    }

    /// An algorithm that the sender names must be the scheme's; it never selects one.
    fn algorithm(&self, request: &Request<'_>) -> Result<(), Reject> {
        match &self.scheme.signature.algorithm {
            Some((slot, name))
                if request.items[*slot].is_some_and(|a| !same(a, name.as_bytes())) =>
            {
                Err(Reason::BadAlg.into())
            }
            _ => Ok(()),
        }
    }

    /// The token, if the scheme has tokens.
    pub(super) fn token<'a>(&self, request: &Request<'a>) -> Result<Option<Token<'a>>, Reject> {
        let Some(rules) = &self.scheme.token else { return Ok(None) };
        let prefix = self.scheme.signature.prefix.as_bytes();
        let mut found = self.scheme.signature.from.iter().filter_map(|source| match source {
            Source::Header(slot) => request.header(*slot),
            _ => None,
        });
        let text = found.next().ok_or(Reason::MissingHeader)?;
        let (scheme, token) = text.split_at_checked(prefix.len()).ok_or(Reason::MalformedToken)?;
        if !scheme.eq_ignore_ascii_case(prefix) {
            return Err(Reason::MalformedToken.into());
        }
        Ok(Some(Token::parse(token, rules.algorithm)?))
    }

    /// What the message is made of besides headers and items; and a body that a handshake would have
    /// signed for anybody is no event.
    fn values_present(&self, request: &Request<'_>) -> Result<(), Reject> {
        if self.scheme.oracle && is_word(request.payload.whole()) {
            return Err(Reason::MalformedBody.into());
        }
        if self.scheme.each.is_some() && self.items(request) == 0 {
            return Err(Reason::MalformedBody.into());
        }
        for source in &self.scheme.needs.others {
            let absent = |item| request.value(source, &[], item).is_none();
            if (0..self.items(request)).any(absent) {
                return Err(match source {
                    Source::Json(_) | Source::Form(_) => Reason::MalformedBody.into(),
                    _ => Reason::MalformedSignature.into(),
                });
            }
        }
        Ok(())
    }

    /// The key that judges; `None` if no configured key serves what the request names.
    pub(super) fn key(&self, request: &Request<'_>, named: Named) -> Result<Option<&Key>, Reject> {
        Ok(match named {
            Named::Global => self.ring.global.as_ref(),
            Named::Group(space) => {
                let of = &self.scheme.choice.spaces()[space];
                let index = keys::index(request, of).ok_or(Reason::MalformedBody)?;
                self.ring.group(space, index)
            }
            Named::Unknown | Named::Missing => None,
        })
    }

    /// What must agree with what is signed does, as far as it is there.
    fn consistent(&self, request: &Request<'_>) -> Result<(), Reject> {
        for agreement in &self.scheme.agree {
            let Some(value) = request.value(&agreement.value, &[], 0) else { continue };
            let mut rest = &value[..];
            let mut agrees = true;
            let whole = request.feed(&agreement.with, &[], 0, &mut |piece| {
                let (head, tail) = rest.split_at(piece.len().min(rest.len()));
                let equal = if agreement.ignore_case { same_letters } else { same };
                agrees &= equal(head, piece);
                rest = tail;
            });
            if !whole || !agrees || !rest.is_empty() {
                return Err(Reason::Inconsistent.into());
            }
        }
        Ok(())
    }

    fn age(&self, age: Option<i64>) -> (Age, Option<i64>) {
        let fresh = match (age, self.window) {
            (Some(age), Some((past, _))) if age > past => Age::Stale,
            (Some(age), Some((_, future))) if age < future.saturating_neg() => Age::Future,
            _ => Age::Fresh,
        };
        (fresh, age)
    }

    fn required_headers(&self, request: &Request<'_>) -> bool {
        self.required.iter().all(|(slot, values)| {
            let value = request.headers[*slot].map(HeaderValue::as_bytes);
            value.is_some_and(|value| values.iter().any(|known| known.as_bytes() == value))
        })
    }
}
