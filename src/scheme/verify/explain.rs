//! Which header or member of a rejected request is at fault, in words. Only names from the scheme
//! and the configuration are shown, nothing from the request.

use http::request::Parts;

use crate::{
    body::Payload,
    reject::Reason,
    scheme::{
        compiled::{event::IdRule, key::KeyChoice, template::ValueSource},
        verify::{
            Verifier,
            keys::{self, NamedKey},
            request::RequestValues,
        },
    },
};

impl Verifier {
    /// Returns which part of a request, rejected for `reason`, is absent or wrong. `None` if the
    /// reason is about the whole request, or the part is not found within the head and `payload`.
    pub fn explain(&self, head: &Parts, payload: &Payload, reason: Reason) -> Option<String> {
        let mut request = self.request(head, payload);
        match reason {
            Reason::MissingHeader => self.missing(&mut request),
            Reason::DuplicateHeader => self.duplicate(head),
            Reason::RequiredHeader => self.not_as_required(&request),
            Reason::MalformedBody => self.unreadable(&mut request),
            Reason::MalformedSignature => self.unusable_signature(&request),
            Reason::Inconsistent => {
                // The signature's items may be part of what must agree.
                self.read_items(&mut request);
                self.read_members(&mut request);
                if self.content_digest(&request).is_err() {
                    return Some(
                        "the body does not have the digest in `content-digest`".to_owned(),
                    );
                }
                let wrong = self.inconsistency(&request)?;
                Some(format!("{} does not agree with what is signed", self.shown(&wrong.value)))
            }
            _ => None,
        }
    }

    fn missing(&self, request: &mut RequestValues<'_>) -> Option<String> {
        let scheme = &*self.scheme;
        let absent = |slot: &usize| request.headers[*slot].is_none();
        if let (NamedKey::Missing, KeyChoice::ByHeader { header, by, .. }) =
            (scheme.choice.named(request), &scheme.choice)
        {
            let slot = if absent(header) { header } else { by };
            return Some(format!("{} is absent", self.shown(&ValueSource::Header(*slot))));
        }
        let signatures: Vec<_> = scheme.signature.from.iter().collect();
        let is_absent = |source: &&&ValueSource| match source {
            ValueSource::Header(slot) => absent(slot),
            _ => false,
        };
        if let Some(first) = signatures.first().filter(|_| signatures.iter().all(|s| is_absent(&s)))
        {
            return Some(format!("{} is absent", self.shown(first)));
        }
        if let Some(slot) = scheme.required.headers.iter().find(|slot| absent(slot)) {
            return Some(format!("{} is absent", self.shown(&ValueSource::Header(*slot))));
        }
        self.read_items(request);
        self.read_members(request);
        let IdRule { from, .. } = scheme.event.id()?;
        let missing = from.iter().find(|source| request.value(source, &[], 0).is_none())?;
        Some(match missing {
            ValueSource::Json(pointer) => {
                format!("the body has no `{}`", scheme.inputs.pointers.name(*pointer))
            }
            ValueSource::Form(name) | ValueSource::FormData(name) => {
                format!("the form has no field `{name}`")
            }
            ValueSource::Query(name) => format!("the query has no parameter `{name}`"),
            other => format!("{} is absent", self.shown(other)),
        })
    }

    /// Returns what is missing from a signature whose coverage the sender chooses.
    fn unusable_signature(&self, request: &RequestValues<'_>) -> Option<String> {
        if let Some(rule) = &self.scheme.message_signature {
            return match self.message_signatures(rule, request) {
                Err(unusable) => Some(unusable.problem),
                Ok(_) if request.payload.is_empty() => None,
                Ok(_) => Some("the signature does not cover `content-digest`".to_owned()),
            };
        }
        match self.unlisted(request) {
            Ok(Some(name)) => Some(format!("header `{name}` is not listed as signed")),
            Ok(None) | Err(()) => None,
        }
    }

    fn duplicate(&self, head: &Parts) -> Option<String> {
        let names = self.slots.names();
        let twice = names.iter().find(|name| head.headers.get_all(*name).iter().nth(1).is_some());
        if let Some(name) = twice {
            return Some(format!("header `{name}` is present twice"));
        }
        let twin = |name: &str| {
            let is_twin = |known: &str| known != name && known.replace('_', "-") == name;
            head.headers.keys().any(|known| is_twin(known.as_str()))
        };
        let name = names.iter().find(|name| twin(name.as_str()))?;
        Some(format!("header `{name}` is also present with `_` in place of `-`"))
    }

    fn not_as_required(&self, request: &RequestValues<'_>) -> Option<String> {
        self.required.iter().find_map(|(slot, values)| {
            let name = &self.slots.names()[*slot];
            match request.headers[*slot] {
                None => Some(format!("header `{name}` is absent")),
                Some(value) if values.iter().any(|known| known.as_bytes() == value.as_bytes()) => {
                    None
                }
                Some(_) => Some(format!("header `{name}` has none of the required values")),
            }
        })
    }

    fn unreadable(&self, request: &mut RequestValues<'_>) -> Option<String> {
        let scheme = &*self.scheme;
        let body = request.payload.whole();
        if let NamedKey::Group(space) = scheme.choice.named(request) {
            let space = &scheme.choice.spaces()[space];
            let Ok(found) = space.reader.read(body) else {
                return Some("the body is not valid JSON".to_owned());
            };
            request.json = found;
            let pointer = space.reader.name(space.index);
            return keys::index(request, space)
                .is_none()
                .then(|| format!("the body has no integer `{pointer}`"));
        }
        if !scheme.inputs.pointers.is_empty() {
            match scheme.inputs.pointers.read(body) {
                Ok(found) => request.json = found,
                Err(_) => return Some("the body is not valid JSON".to_owned()),
            }
        }
        let absent = |source: &&ValueSource| request.value(source, &[], 0).is_none();
        scheme.required.others.iter().find(absent).and_then(|source| match source {
            ValueSource::Json(pointer) => {
                Some(format!("the body has no `{}`", scheme.inputs.pointers.name(*pointer)))
            }
            ValueSource::Form(name) | ValueSource::FormData(name) => {
                Some(format!("the form has no field `{name}`"))
            }
            _ => None,
        })
    }

    /// Reads the members of the body, as far as it is JSON.
    fn read_members(&self, request: &mut RequestValues<'_>) {
        let pointers = &self.scheme.inputs.pointers;
        if !pointers.is_empty() {
            request.json = pointers.read(request.payload.whole()).unwrap_or_default();
        }
    }

    /// Returns a source in words.
    fn shown(&self, source: &ValueSource) -> String {
        let inputs = &self.scheme.inputs;
        match source {
            ValueSource::Header(slot) => format!("header `{}`", self.slots.names()[*slot]),
            ValueSource::Json(pointer) => {
                format!("`{}` in the body", inputs.pointers.name(*pointer))
            }
            ValueSource::Item(slot) => format!("`{}` in the signature header", inputs.items[*slot]),
            ValueSource::Query(name) => format!("`{name}` in the query"),
            ValueSource::Form(name) | ValueSource::FormData(name) => {
                format!("`{name}` in the form")
            }
            _ => "a signed value".to_owned(),
        }
    }
}
