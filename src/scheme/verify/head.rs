//! What the head of a request decides, before the body is read.

use bytes::Bytes;
use http::{header::CONTENT_LENGTH, request::Parts};

use crate::{
    body::Payload,
    reject::{Reason, Reject},
    scheme::{
        compiled::template::ValueSource,
        verify::{
            Verifier, challenge::MAX_CHALLENGE_BODY, jwt::SignedToken, keys::NamedKey,
            prove::ProvingSecret, request::RequestValues, signature::ClaimedSignatures,
        },
    },
};

/// What [`Verifier::check_head`] has established about one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadCheck {
    /// The secret that proves the request, if the head alone does and has been verified.
    pub(super) proven: Option<ProvingSecret>,
}

/// A head that was checked: what it contains, and what that proves.
pub(super) struct CheckedHead<'a> {
    pub(super) signatures: ClaimedSignatures,
    pub(super) token: Option<SignedToken<'a>>,
    pub(super) check: HeadCheck,
}

impl Verifier {
    /// Checks whatever the head of a request decides, before its body is read. Heads of possible
    /// challenges are accepted.
    ///
    /// # Errors
    /// The reason that [`Verifier::verify`] would report, whatever the body is.
    pub fn check_head(&self, head: &Parts) -> Result<HeadCheck, Reject> {
        if self.may_be_challenge(head) {
            return Ok(HeadCheck::default());
        }
        let no_body = Payload::from(Bytes::new());
        let mut request = self.request(head, &no_body);
        let named = self.scheme.choice.named(&request);
        self.head(0, &mut request, named, HeadCheck::default()).map(|head| head.check)
    }

    /// Checks what does not depend on the body: the presence and the grammar of headers, and the
    /// whole proof where the head contains it.
    pub(super) fn head<'a>(
        &'a self,
        number: usize,
        request: &mut RequestValues<'a>,
        named: NamedKey,
        mut check: HeadCheck,
    ) -> Result<CheckedHead<'a>, Reject> {
        self.headers_present(request, named)?;
        if request.duplicate {
            return Err(Reason::DuplicateHeader.into());
        }
        let mut signatures = ClaimedSignatures::default();
        self.signature_in_headers(number, request, &mut signatures)?;
        let token = self.token(request)?;
        if named == NamedKey::Global && check.proven.is_none() && self.scheme.is_proven_by_head() {
            let key = self.ring.global.as_ref();
            let (_, secret) = self.prove(key, request, token.as_ref(), &signatures)?;
            check.proven = Some(secret);
        }
        Ok(CheckedHead { signatures, token, check })
    }

    /// Checks that every header is present without which the request cannot be verified.
    fn headers_present(&self, request: &RequestValues<'_>, named: NamedKey) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        let absent = |slot: &usize| request.headers[*slot].is_none();
        let unsigned = scheme.signature.from.iter().all(|source| match source {
            ValueSource::Header(slot) => absent(slot),
            _ => false,
        });
        if named == NamedKey::Missing || unsigned || scheme.required.headers.iter().any(absent) {
            return Err(Reason::MissingHeader.into());
        }
        Ok(())
    }

    /// Checks the signatures in headers, and the grammar of an event ID in a header.
    fn signature_in_headers(
        &self,
        number: usize,
        request: &mut RequestValues<'_>,
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), Reject> {
        let scheme = &*self.scheme;
        if scheme.token.is_some() {
            return self.event_id(request, |source| matches!(source, ValueSource::Header(_)));
        }
        if scheme.message_signature.is_some() {
            self.message_signature(request, number, candidates)?;
            return self.items_present(request);
        }
        for source in &scheme.signature.from {
            if let ValueSource::Header(slot) = source
                && let Some(text) = request.header(*slot)
            {
                let names = &scheme.inputs.items;
                let parsed = scheme.signature.parse(text, names, &mut request.items, candidates);
                parsed.map_err(|_| Reason::MalformedSignature)?;
            }
        }
        let in_header = matches!(scheme.signature.from[0], ValueSource::Header(_));
        if in_header && candidates.iter().next().is_none() {
            return Err(Reason::MalformedSignature.into());
        }
        if candidates.names_other_algorithm() {
            return Err(Reason::BadAlg.into());
        }
        if self.unlisted(request) != Ok(None) {
            return Err(Reason::MalformedSignature.into());
        }
        self.items_present(request)
    }

    /// Checks the items next to the signature, and the grammar of an event ID in a header.
    fn items_present(&self, request: &RequestValues<'_>) -> Result<(), Reject> {
        let required = &self.scheme.required.items;
        if required.iter().any(|slot| request.item(*slot).is_none()) {
            return Err(Reason::MalformedSignature.into());
        }
        self.event_id(request, |source| matches!(source, ValueSource::Header(_)))
    }

    /// Checks the token, if the scheme has tokens.
    pub(in crate::scheme) fn token<'a>(
        &self,
        request: &RequestValues<'a>,
    ) -> Result<Option<SignedToken<'a>>, Reject> {
        let Some(rules) = &self.scheme.token else { return Ok(None) };
        let prefix = self.scheme.signature.prefix.as_bytes();
        let mut found = self.scheme.signature.from.iter().filter_map(|source| match source {
            ValueSource::Header(slot) => request.header(*slot),
            _ => None,
        });
        let text = found.next().ok_or(Reason::MissingHeader)?;
        let (scheme, token) = text.split_at_checked(prefix.len()).ok_or(Reason::MalformedToken)?;
        if !scheme.eq_ignore_ascii_case(prefix) {
            return Err(Reason::MalformedToken.into());
        }
        Ok(Some(SignedToken::parse(token, rules.algorithm)?))
    }

    /// Returns whether a request can be an unsigned challenge, as far as its head shows.
    fn may_be_challenge(&self, head: &Parts) -> bool {
        let length =
            head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > MAX_CHALLENGE_BODY) {
            return false;
        }
        let mut rules = self.scheme.challenges.iter().filter(|rule| rule.method == head.method);
        rules.any(|rule| {
            let no_body = Payload::from(Bytes::new());
            let request = self.request(head, &no_body);
            let value = |source: &ValueSource| request.value(source, &[], 0);
            let fits = |(source, expected): &(ValueSource, Box<str>)| {
                !source.is_in_head() || value(source).is_some_and(|v| *v == *expected.as_bytes())
            };
            let has = |source: &ValueSource| !source.is_in_head() || value(source).is_some();
            !rule.signed && rule.when.iter().all(fits) && rule.challenge.iter().all(has)
        })
    }
}
