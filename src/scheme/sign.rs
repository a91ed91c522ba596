//! Signing as the sender does, for `sealgate sign`, `send` and `demo`.

mod again;
mod body;
mod fresh;
mod message_signature;
mod token;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Request as HttpRequest, request::Parts};

use crate::{
    body::Payload,
    scheme::{
        compiled::{
            event::IdRule,
            key::KeyChoice,
            signature::SignatureFormat,
            template::{MAX_ITEMS, ValueSource},
        },
        encoding::Encoding,
        time::UnixMillis,
        verify::{
            Verifier,
            keys::{NamedKey, PreparedSecret, VerificationKey},
            request::RequestValues,
            signature::ClaimedSignatures,
        },
    },
};

/// A request to be signed.
#[derive(Debug)]
pub struct Draft<'d> {
    /// The method.
    pub method: http::Method,
    /// Path and query.
    pub path: &'d str,
    /// Given headers. They are signed as they are and not replaced.
    pub headers: HeaderMap,
    /// The body.
    pub body: &'d Payload,
}

impl Verifier {
    /// Returns the headers that the sender would send with a request, the given ones first. `key`
    /// is the name of a configured key; without it, the headers and the body select the key.
    ///
    /// # Errors
    /// Returns one sentence that says why the sender could not have created the request, or why it
    /// cannot be imitated: no such key, a header that only the sender can fill, an asymmetric
    /// signature.
    pub fn sign(
        &self,
        key: Option<&str>,
        draft: Draft<'_>,
        now: UnixMillis,
    ) -> Result<HeaderMap, String> {
        let scheme = &*self.scheme;
        let Some(ValueSource::Header(signature)) = scheme.signature.from.first() else {
            return Err(format!(
                "the scheme `{}` has its signature in the body, where `sealgate send` puts it",
                scheme.id
            ));
        };
        let mut headers = draft.headers;
        let begun = self.begun(&mut headers, &self.slots.names()[*signature]);
        if let Some(key) = key {
            self.label(&mut headers, key)?;
        }
        self.add_sender_headers(&mut headers, draft.body.whole());
        self.digest_body(&mut headers, draft.body)?;
        for slot in self.made_up() {
            give(&mut headers, &self.slots.names()[slot], &random_id())?;
        }
        let mut text = scheme.timestamp.as_ref().map(|t| t.unit.render(now.0));
        if let Some(timestamp) = &scheme.timestamp
            && let ValueSource::Header(slot) = timestamp.from
        {
            let name = &self.slots.names()[slot];
            give(&mut headers, name, text.as_deref().unwrap_or(""))?;
            text = headers[name].to_str().ok().map(str::to_owned);
        }
        let agreeing: Vec<_> = scheme
            .agree
            .iter()
            .filter_map(|agreement| match agreement.value {
                ValueSource::Header(slot) => Some((slot, &agreement.with)),
                _ => None,
            })
            .collect();
        let head = head(&draft.method, draft.path, headers.clone())?;
        let mut request = self.drafted(&head, draft.body);
        request.timestamp = text.as_deref().map(|text| Cow::Owned(text.as_bytes().to_vec()));
        for (slot, template) in agreeing {
            let mut value = Vec::new();
            request.feed(template, &[], 0, &mut |piece| value.extend_from_slice(piece));
            let value = String::from_utf8_lossy(&value);
            give(&mut headers, &self.slots.names()[slot], &value)?;
        }
        self.list_signed_headers(&mut headers)?;
        let default = self.default_list(&headers);
        let head = self::head(&draft.method, draft.path, headers.clone())?;
        let mut request = self.drafted(&head, draft.body);
        request.timestamp = text.as_deref().map(|text| Cow::Owned(text.as_bytes().to_vec()));
        let mut candidates = ClaimedSignatures::default();
        if let Some(begun) = &begun {
            let (items, names) = (&mut request.items, &scheme.inputs.items);
            // It has been parsed before.
            let _ = scheme.signature.parse(begun.as_bytes(), names, items, &mut candidates);
        }
        if let Some((slot, list)) = &default {
            request.items[*slot].get_or_insert(list.as_bytes());
        }
        self.refuse_gaps(&request)?;
        let key = match key {
            Some(name) => self.ring.iter().find(|key| &*key.name == name),
            None => self.chosen(&mut request)?,
        };
        let key = key.ok_or_else(|| {
            let known: Vec<_> = self.keys().collect();
            format!("no key for this request; the route has {}", known.join(", "))
        })?;
        if let Some(rule) = &scheme.message_signature {
            self.sign_message(rule, key, &mut request, &mut headers, now)?;
            return Ok(headers);
        }
        let value = match &scheme.token {
            Some(rules) => {
                format!("{}{}", scheme.signature.prefix, self.issue(rules, key, &request, now)?)
            }
            None => {
                let tag = self.tag(key, 0, &request, 0)?;
                self.written(&tag, text.as_deref(), &request.items)
            }
        };
        give(&mut headers, &self.slots.names()[*signature], &value)?;
        Ok(headers)
    }

    /// Removes and returns a given signature header that has items but no signature: items that
    /// only the sender knows, such as `env=master`.
    fn begun(&self, headers: &mut HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
        let signature = &self.scheme.signature;
        let given = headers.get(name)?;
        let (mut items, mut candidates) = ([None; MAX_ITEMS], ClaimedSignatures::default());
        let names = &self.scheme.inputs.items;
        signature.parse(given.as_bytes(), names, &mut items, &mut candidates).ok()?;
        let begun = candidates.iter().next().is_none() && items.iter().any(Option::is_some);
        if begun { headers.remove(name) } else { None }
    }

    fn drafted<'a>(&'a self, head: &'a Parts, payload: &'a Payload) -> RequestValues<'a> {
        let json = self.scheme.inputs.pointers.read(payload.whole()).unwrap_or_default();
        self.request(head, payload).with_json(json)
    }

    /// Sets the headers that name a key.
    fn label(&self, headers: &mut HeaderMap, key: &str) -> Result<(), String> {
        let KeyChoice::ByHeader { header, global, group, by, spaces, .. } = &self.scheme.choice
        else {
            return Ok(());
        };
        let name = |slot: usize| &self.slots.names()[slot];
        match key.split_once('/') {
            None => give(headers, name(*header), global.first().map_or("", |v| v)),
            Some((space, _)) => {
                let space = spaces.iter().find(|known| *known.name == *space);
                let space = space.ok_or_else(|| format!("the scheme has no keys `{key}`"))?;
                give(headers, name(*header), group.first().map_or("", |v| v))?;
                give(headers, name(*by), space.values.first().map_or("", |v| v))
            }
        }
    }

    /// Returns the slots of IDs that the sender generates: event ID and request ID.
    fn made_up(&self) -> Vec<usize> {
        let scheme = &*self.scheme;
        let mut slots = scheme.identity.headers.clone();
        if let Some(IdRule { from, .. }) = scheme.event.id() {
            slots.extend(from.iter().filter_map(|source| match source {
                ValueSource::Header(slot) => Some(*slot),
                _ => None,
            }));
        }
        let timestamp = scheme.timestamp.as_ref().map(|t| t.from.clone());
        slots.retain(|slot| {
            let source = ValueSource::Header(*slot);
            !scheme.signature.from.contains(&source) && timestamp.as_ref() != Some(&source)
        });
        slots
    }

    /// Rejects a request that lacks a header which only the sender can fill.
    fn refuse_gaps(&self, request: &RequestValues<'_>) -> Result<(), String> {
        let scheme = &*self.scheme;
        let signature = |slot: &usize| scheme.signature.from.contains(&ValueSource::Header(*slot));
        let gap = scheme
            .required
            .headers
            .iter()
            .find(|slot| request.headers[**slot].is_none() && !signature(slot));
        match gap {
            Some(slot) => Err(format!("give the header `{}`", self.slots.names()[*slot])),
            None => Ok(()),
        }
    }

    fn chosen(&self, request: &mut RequestValues<'_>) -> Result<Option<&VerificationKey>, String> {
        let named = self.scheme.choice.named(request);
        if let NamedKey::Group(space) = named {
            let reader = &self.scheme.choice.spaces()[space].reader;
            let found = reader.read(request.payload.whole());
            request.json = found.map_err(|_| "the body is not JSON as the sender writes it")?;
        }
        self.key(request, named).map_err(|_| "the body does not name its group".to_owned())
    }

    /// Computes the bytes of the signature with the secret at this position, from 0.
    fn tag(
        &self,
        key: &VerificationKey,
        position: usize,
        request: &RequestValues<'_>,
        item: u32,
    ) -> Result<Vec<u8>, String> {
        let secret = key.secrets.get(position).ok_or("the key has no such secret")?;
        let (engine, secret) = match secret {
            PreparedSecret::Hmac(engine) => (engine, &[] as &[u8]),
            PreparedSecret::Digest(engine, secret) => (engine, secret.expose()),
            PreparedSecret::Public(_) => {
                return Err("only the sender has the private key to sign with".to_owned());
            }
            PreparedSecret::Token(..) => {
                // This sender signs nothing: it sends the secret itself.
                let configured = key.configured.get(position).ok_or("the key has no secret")?;
                return Ok(self.scheme.key.bytes(configured)?.expose().to_vec());
            }
        };
        let message = self.message(request);
        match engine.compute(|pending| {
            request.feed(message, secret, item, &mut |piece| pending.push(piece))
        }) {
            (tag, true) => Ok(tag.bytes().to_vec()),
            (_, false) => Err(match self.scheme.inputs.items.first() {
                None => "the request lacks something that is signed".to_owned(),
                Some(_) => {
                    "the request lacks something that is signed; give the items next to the \
                             signature with --header 'Name: item=value'"
                        .to_owned()
                }
            }),
        }
    }

    /// Returns the signature as the sender writes it.
    pub(super) fn written(
        &self,
        tag: &[u8],
        timestamp: Option<&str>,
        given: &[Option<&[u8]>; MAX_ITEMS],
    ) -> String {
        let scheme = &*self.scheme;
        let signature = &scheme.signature;
        let encoded = match signature.encoding {
            Encoding::Hex => data_encoding::HEXLOWER.encode(tag),
            other => other.encode(tag),
        };
        let encoded = format!("{}{encoded}", signature.prefix);
        let item = |slot: usize| {
            let named = scheme.timestamp.as_ref().filter(|t| t.from == ValueSource::Item(slot));
            let algorithm = signature.algorithm.as_ref();
            let algorithm = algorithm.filter(|(known, _)| *known == ValueSource::Item(slot));
            match (named, algorithm) {
                (Some(_), _) => timestamp.map(str::to_owned),
                (None, Some((_, name))) => Some(name.to_string()),
                (None, None) => {
                    given[slot].map(|value| String::from_utf8_lossy(value).into_owned())
                }
            }
        };
        match &signature.format {
            // Only public keys sign in JSON, and nothing is signed for these here.
            SignatureFormat::Raw | SignatureFormat::List { .. } | SignatureFormat::Json(_) => {
                encoded
            }
            SignatureFormat::Tagged { tag, .. } => format!("{tag}{encoded}"),
            SignatureFormat::KeyValue { separator, field } => {
                let separator = char::from(*separator).to_string();
                let timestamp = scheme.timestamp.as_ref().map(|t| &t.from);
                let mut items = Vec::new();
                let mut after = Vec::new();
                for (slot, name) in scheme.inputs.items.iter().enumerate() {
                    let Some(value) = item(slot) else { continue };
                    let list = match timestamp {
                        Some(ValueSource::Item(t)) if *t == slot => &mut items,
                        _ => &mut after,
                    };
                    list.push(format!("{name}={value}"));
                }
                items.push(format!("{field}={encoded}"));
                items.append(&mut after);
                items.join(&separator)
            }
            SignatureFormat::Positional { separator, items } => {
                let separator = char::from(*separator).to_string();
                let mut parts: Vec<_> = (0..*items).map(|s| item(s).unwrap_or_default()).collect();
                parts.push(encoded);
                parts.join(&separator)
            }
        }
    }
}

/// Sets a header unless it was given.
fn give(headers: &mut HeaderMap, name: &HeaderName, value: &str) -> Result<(), String> {
    if headers.contains_key(name) {
        return Ok(());
    }
    let value = HeaderValue::from_str(value).map_err(|_| format!("`{name}` has no valid value"))?;
    headers.insert(name.clone(), value);
    Ok(())
}

fn head(method: &http::Method, path: &str, headers: HeaderMap) -> Result<Parts, String> {
    let request = HttpRequest::builder().method(method.clone()).uri(path).body(());
    let (mut head, ()) = request.map_err(|e| format!("`{path}`: {e}"))?.into_parts();
    head.headers = headers;
    Ok(head)
}

fn random_id() -> String {
    data_encoding::HEXLOWER.encode(&random_bytes::<16>())
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
