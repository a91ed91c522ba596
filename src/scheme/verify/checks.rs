//! Checks other than that of the signature: what must be present, and what must agree with what is
//! signed.

use http::HeaderValue;

use crate::{
    reject::{Reason, Reject},
    scheme::{
        compiled::{
            Agreement, ProofKind,
            template::{TemplatePiece, ValueSource},
        },
        form,
        json::{JsonMatch, Scalar},
        text::{is_word, same, same_letters},
        verify::{Verifier, jwt::Freshness, request::RequestValues},
    },
};

impl Verifier {
    /// Checks that an algorithm that the sender names is the scheme's; it never selects one.
    pub(super) fn algorithm(&self, request: &RequestValues<'_>) -> Result<(), Reject> {
        match &self.scheme.signature.algorithm {
            Some((source, name))
                if request.value(source, &[], 0).is_some_and(|a| !same(&a, name.as_bytes())) =>
            {
                Err(Reason::BadAlg.into())
            }
            _ => Ok(()),
        }
    }

    /// Returns whether the parts of the request that the operator pins in `[route.settings]` have
    /// one of the configured values.
    pub(super) fn settings_agree(&self, request: &RequestValues<'_>) -> bool {
        self.scheme.settings.iter().zip(&self.settings).all(|(setting, values)| {
            setting.equals.as_ref().is_none_or(|source| {
                let value = request.value(source, &[], 0);
                value.is_some_and(|value| values.iter().any(|known| known.expose() == &*value))
            })
        })
    }

    /// Checks the values of the message that are not in headers, and rejects a body that a
    /// challenge would sign for anyone.
    pub(super) fn values_present(&self, request: &RequestValues<'_>) -> Result<(), Reject> {
        if self.scheme.oracle && is_word(request.payload.whole()) {
            return Err(Reason::MalformedBody.into());
        }
        let is_form = |piece: &TemplatePiece| match piece {
            TemplatePiece::Value(value) => {
                matches!(value.source, ValueSource::Form(_) | ValueSource::FormSorted)
            }
            TemplatePiece::Literal(_) | TemplatePiece::Optional(_) => false,
        };
        if self.message(request).0.iter().any(is_form) && !form::is_bounded(request.payload.whole())
        {
            return Err(Reason::MalformedBody.into());
        }
        if self.scheme.each.is_some() && self.items(request) == 0 {
            return Err(Reason::MalformedBody.into());
        }
        if matches!(self.scheme.kind, ProofKind::Digest(_))
            && std::str::from_utf8(request.payload.whole()).is_err()
        {
            // The padding that extends a plain hash is not UTF-8.
            return Err(Reason::MalformedBody.into());
        }
        let malformed = |found: &JsonMatch<'_>| {
            let wanted =
                self.scheme.scalars.iter().filter(|(pointer, _)| *pointer == found.pointer);
            wanted.into_iter().any(|(_, without)| match &found.value {
                Scalar::Text(text) => without.is_some_and(|without| text.contains(without)),
                Scalar::Integer(_) => false,
                Scalar::Other => true,
            })
        };
        if !self.scheme.scalars.is_empty() && request.json.all().iter().any(malformed) {
            return Err(Reason::MalformedBody.into());
        }
        for (source, grammar) in &self.scheme.event.distinguish {
            if request.value(source, &[], 0).is_some_and(|value| !grammar.accepts(&value)) {
                return Err(Reason::MalformedSignature.into());
            }
        }
        for source in &self.scheme.required.others {
            let absent = |item| request.value(source, &[], item).is_none();
            if (0..self.items(request)).any(absent) {
                return Err(match source {
                    ValueSource::Json(_) | ValueSource::Form(_) | ValueSource::FormData(_) => {
                        Reason::MalformedBody.into()
                    }
                    _ => Reason::MalformedSignature.into(),
                });
            }
        }
        Ok(())
    }

    /// Checks that the values that must agree with what is signed do, as far as they are present.
    pub(super) fn consistent(&self, request: &RequestValues<'_>) -> Result<(), Reject> {
        match self.inconsistency(request) {
            Some(_) => Err(Reason::Inconsistent.into()),
            None => Ok(()),
        }
    }

    /// Returns the first value that does not agree with what is signed.
    pub(super) fn inconsistency(&self, request: &RequestValues<'_>) -> Option<&Agreement> {
        self.scheme.agree.iter().find(|agreement| {
            let Some(value) = request.value(&agreement.value, &[], 0) else { return false };
            let mut rest = &value[..];
            let mut agrees = true;
            let whole = request.feed(&agreement.with, &[], 0, &mut |piece| {
                let (head, tail) = rest.split_at(piece.len().min(rest.len()));
                let equal = if agreement.ignore_case { same_letters } else { same };
                agrees &= equal(head, piece);
                rest = tail;
            });
            !whole || !agrees || !rest.is_empty()
        })
    }

    pub(super) fn age(&self, age: Option<i64>) -> (Freshness, Option<i64>) {
        let fresh = match (age, self.window) {
            (Some(age), Some((past, _))) if age > past => Freshness::Stale,
            (Some(age), Some((_, future))) if age < future.saturating_neg() => Freshness::Future,
            _ => Freshness::Fresh,
        };
        (fresh, age)
    }

    pub(super) fn required_headers(&self, request: &RequestValues<'_>) -> bool {
        self.required.iter().all(|(slot, values)| {
            let value = request.headers[*slot].map(HeaderValue::as_bytes);
            value.is_some_and(|value| values.iter().any(|known| known.as_bytes() == value))
        })
    }
}
