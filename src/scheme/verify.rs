//! Judging a request, in the order in which reasons are told.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, request::Parts};
use subtle::{Choice as Bit, ConstantTimeEq};

use super::{
    Scheme, UnixMillis, Verified,
    event::{self, Event},
    json::Pointers,
    keys::{self, Key, Named, Primed, Ring},
    request::{Request, Slots, scalar},
    signature::Candidates,
    source::{MAX_ITEMS, Source, Template},
};
use crate::{
    body::Payload,
    reject::{Reason, Reject},
};

/// A scheme with the keys of one route.
#[derive(Debug)]
pub struct Verifier {
    pub(super) scheme: Arc<Scheme>,
    pub(super) ring: Ring,
    pub(super) slots: Slots,
    /// Slot and allowed values of each header that the operator requires.
    pub(super) required: Vec<(usize, Vec<String>)>,
    pub(super) public_url: Option<String>,
    /// How old and how new a request may be, in milliseconds.
    pub(super) window: Option<(i64, i64)>,
}

/// What the timestamp says about a request.
enum Age {
    Fresh,
    Stale,
    Future,
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
        self.window.map(|(past, _)| Duration::from_millis(past.unsigned_abs()))
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
        let scheme = &*self.scheme;
        let gathered = self.slots.gather(&head.headers);
        let mut request = Request {
            head,
            payload,
            headers: gathered.values,
            items: [None; MAX_ITEMS],
            json: Vec::new(),
            timestamp: None,
            public_url: self.public_url.as_deref(),
        };
        let named = scheme.choice.named(&request);

        self.headers_present(&request, named)?;
        if gathered.duplicate {
            return Err(Reason::DuplicateHeader.into());
        }
        let mut candidates = Candidates::default();
        self.signature_in_headers(&mut request, &mut candidates)?;
        let body = self.read_body(&mut request, named);
        if body.is_ok() {
            self.signature_in_body(&request)?;
        }
        let millis = self.timestamp(&mut request, body.is_ok())?;
        self.algorithm(&request)?;
        body?;
        self.values_present(&request)?;
        let key = self.key(&request, named)?;
        let proven = self.proven(key.unwrap_or(&self.ring.dummy), &request, &candidates);
        let key = key.ok_or(Reason::UnknownKey)?;
        if !proven {
            return Err(Reason::BadSignature.into());
        }
        self.consistent(&request)?;
        let age = millis.map(|millis| now.0.saturating_sub(millis));
        let stale = match self.age(age) {
            Age::Fresh => false,
            Age::Stale => true,
            Age::Future => return Err(Reason::Future.into()),
        };
        if !self.required_headers(&request) {
            return Err(if stale { Reason::Stale } else { Reason::RequiredHeader }.into());
        }
        let name = scheme.event.name(&request, key);
        Ok(Verified {
            scheme: Arc::clone(&scheme.id),
            key: Arc::clone(&key.name),
            event_id: name.id,
            record: name.record,
            identity: event::identity(&request, &scheme.identity),
            pin: event::pin(&request, &scheme.pinned),
            stale,
            age,
        })
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

    /// The grammar of an event id in the body, and its presence.
    fn signature_in_body(&self, request: &Request<'_>) -> Result<(), Reject> {
        self.event_id(request, |source| !matches!(source, Source::Header(_)))
    }

    fn event_id(&self, request: &Request<'_>, here: fn(&Source) -> bool) -> Result<(), Reject> {
        let Event::Id { from, signed, optional, grammar } = &self.scheme.event else {
            return Ok(());
        };
        for source in from.iter().filter(|source| here(source)) {
            match request.value(source, &[], 0) {
                Some(id) if !grammar.accepts(&id) => {
                    return Err(Reason::MalformedSignature.into());
                }
                None if *signed && !optional => return Err(Reason::MissingHeader.into()),
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
            Some((slot, name)) if request.items[*slot].is_some_and(|a| a != name.as_bytes()) => {
                Err(Reason::BadAlg.into())
            }
            _ => Ok(()),
        }
    }

    /// What the message is made of besides headers and items.
    fn values_present(&self, request: &Request<'_>) -> Result<(), Reject> {
        for source in &self.scheme.needs.others {
            if request.value(source, &[], 0).is_none() {
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

    /// Whether one of the key's secrets makes one of the signatures. All are tried, whichever fits.
    fn proven(&self, key: &Key, request: &Request<'_>, candidates: &Candidates) -> bool {
        let message = self.message(request);
        let mut proven = Bit::from(0);
        for secret in &key.secrets {
            let (mut engine, secret) = match secret {
                Primed::Hmac(engine) => (engine.clone(), &[] as &[u8]),
                Primed::Digest(engine, secret) => (engine.clone(), secret.expose()),
                Primed::Token(engine, tag) => {
                    for candidate in candidates.iter() {
                        let mut engine = engine.clone();
                        engine.update(candidate);
                        proven |= engine.finish().bytes().ct_eq(tag.bytes());
                    }
                    continue;
                }
            };
            let whole = request.feed(message, secret, 0, &mut |piece| engine.update(piece));
            let tag = engine.finish();
            for candidate in candidates.iter() {
                proven |= candidate.ct_eq(tag.bytes()) & Bit::from(u8::from(whole));
            }
        }
        proven.into()
    }

    /// The template of the signed message that applies to this request.
    pub(super) fn message(&self, request: &Request<'_>) -> &Template {
        let scheme = &*self.scheme;
        let variant =
            scheme.variants.iter().find(|(when, _)| request.value(when, &[], 0).is_some());
        variant.map_or(&scheme.message, |(_, message)| message)
    }

    /// What must agree with what is signed does, as far as it is there.
    fn consistent(&self, request: &Request<'_>) -> Result<(), Reject> {
        for agreement in &self.scheme.agree {
            let Some(value) = request.value(&agreement.value, &[], 0) else { continue };
            let mut rest = &value[..];
            let mut agrees = true;
            let whole = request.feed(&agreement.with, &[], 0, &mut |piece| {
                let (head, tail) = rest.split_at(piece.len().min(rest.len()));
                agrees &= if agreement.ignore_case {
                    head.eq_ignore_ascii_case(piece)
                } else {
                    head == piece
                };
                rest = tail;
            });
            if !whole || !agrees || !rest.is_empty() {
                return Err(Reason::Inconsistent.into());
            }
        }
        Ok(())
    }

    fn age(&self, age: Option<i64>) -> Age {
        match (age, self.window) {
            (Some(age), Some((past, _))) if age > past => Age::Stale,
            (Some(age), Some((_, future))) if age < future.saturating_neg() => Age::Future,
            _ => Age::Fresh,
        }
    }

    fn required_headers(&self, request: &Request<'_>) -> bool {
        self.required.iter().all(|(slot, values)| {
            let value = request.headers[*slot].map(HeaderValue::as_bytes);
            value.is_some_and(|value| values.iter().any(|known| known.as_bytes() == value))
        })
    }
}
