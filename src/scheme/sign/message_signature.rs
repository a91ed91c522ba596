//! Message signatures (RFC 9421) and lists of signed headers, as a sender writes them.

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST, request::Parts};
use sfv::{BareItem, FieldType, Integer, List, ListEntry, Parser};

use crate::{
    body::Payload,
    scheme::{
        compiled::{
            event::IdRule,
            message_signature::{Component, MessageSignatureRule},
            template::ValueSource,
        },
        encoding::Encoding,
        sign::{give, random_id},
        time::UnixMillis,
        verify::{
            Verifier, keys::VerificationKey, message_signature::MessageSignature,
            request::RequestValues,
        },
    },
    target,
};

/// The label of a signature if the scheme does not name one.
const LABEL: &str = "sig1";
/// How long a signature lasts whose sender lets it expire, in seconds.
const LIFETIME: i64 = 300;

impl Verifier {
    /// Returns whether the sender signs the host of the address that it sends to.
    pub fn signs_authority(&self) -> bool {
        let rule = self.scheme.message_signature.as_ref();
        rule.is_some_and(|rule| rule.covers(&Component::Authority))
    }

    /// Adds the digest of a body, if the sender signs it.
    pub(super) fn digest_body(
        &self,
        headers: &mut HeaderMap,
        body: &Payload,
    ) -> Result<(), String> {
        let Some(rule) = &self.scheme.message_signature else { return Ok(()) };
        let digest = Component::Field(HeaderName::from_static("content-digest"));
        if body.is_empty() && !rule.covers(&digest) {
            return Ok(());
        }
        let digest = Encoding::Base64.encode(body.sha256());
        give(headers, &self.slots.names()[rule.digest], &format!("sha-256=:{digest}:"))
    }

    /// Adds the signature of a request, and the description of what it covers: the components that
    /// the scheme requires, the event's ID, and the digest of the body.
    pub(super) fn sign_message(
        &self,
        rule: &MessageSignatureRule,
        key: &VerificationKey,
        request: &mut RequestValues<'_>,
        headers: &mut HeaderMap,
        now: UnixMillis,
    ) -> Result<(), String> {
        if self.signs_authority()
            && request.public_url.is_none()
            && request.head.uri.authority().is_none()
            && !request.head.headers.contains_key(HOST)
        {
            let help = "give the header `host`, or configure `public_url`";
            return Err(format!("the scheme `{}` signs the host: {help}", self.scheme.id));
        }
        let has_query = target::query(&request.head.uri).is_some();
        let mut components: Vec<Component> = rule.cover.clone();
        components.retain(|component| *component != Component::Query || has_query);
        if let Some(IdRule { from, .. }) = self.scheme.event.id() {
            let fields = from.iter().filter_map(|source| match source {
                ValueSource::Header(slot) => Some(self.slots.names()[*slot].clone()),
                _ => None,
            });
            components.extend(fields.map(Component::Field));
        }
        if request.header(rule.digest).is_some() {
            components.push(Component::Field(HeaderName::from_static("content-digest")));
        }
        let mut covered: Vec<(String, Component)> = Vec::new();
        for component in components {
            let identifier = component.identifier();
            if covered.iter().all(|(known, _)| *known != identifier) {
                covered.push((identifier, component));
            }
        }
        let wants = |name: &str| self.scheme.inputs.items.iter().any(|item| **item == *name);
        let seconds = now.0.div_euclid(1000);
        let mut parameters = vec![format!("created={seconds}")];
        if wants("expires") {
            parameters.push(format!("expires={}", seconds.saturating_add(LIFETIME)));
        }
        if wants("nonce") {
            parameters.push(format!("nonce=\"{}\"", random_id()));
        }
        parameters.push(format!("keyid=\"{}\"", key.name));
        parameters.push(format!("alg=\"{}\"", rule.algorithm));
        if let Some(tag) = &rule.tag {
            parameters.push(format!("tag=\"{tag}\""));
        }
        let identifiers: Vec<_> = covered.iter().map(|(text, _)| text.as_str()).collect();
        let label = rule.label.as_deref().unwrap_or(LABEL).to_owned();
        let parameters = format!("({});{}", identifiers.join(" "), parameters.join(";"));
        let signature = MessageSignature {
            label,
            components: covered,
            parameters,
            items: Vec::new(),
            key_id: None,
            created: Some(seconds),
            expires: None,
            signature: Vec::new(),
        };
        for (name, value) in self.signed_message(rule, key, 0, request, signature)? {
            let value = value.to_str().map_err(|_| "the signature is no header value")?;
            give(headers, &name, value)?;
        }
        Ok(())
    }

    /// Signs a verified message again, as of `now`: with the same components and parameters, but
    /// with a fresh `created`, `expires` and `nonce`. Returns the headers whose values change.
    pub(super) fn resign_message(
        &self,
        rule: &MessageSignatureRule,
        key: &VerificationKey,
        position: usize,
        (head, payload): (&Parts, &Payload),
        now: UnixMillis,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut request = self.drafted(head, payload);
        let found = self.message_signatures(rule, &request);
        let found = found.map_err(|unusable| unusable.problem)?;
        for signature in found {
            request.message_signature = Some(Box::new(signature.clone()));
            if self.tag(key, position, &request, 0)? == signature.signature {
                let fresh = renewed(&signature, now).ok_or("a parameter cannot be written")?;
                return self.signed_message(rule, key, position, &mut request, fresh);
            }
        }
        Err("the key did not make a signature of the request".to_owned())
    }

    /// Returns the two headers of a signature.
    fn signed_message(
        &self,
        rule: &MessageSignatureRule,
        key: &VerificationKey,
        position: usize,
        request: &mut RequestValues<'_>,
        signature: MessageSignature,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let (label, parameters) = (signature.label.clone(), signature.parameters.clone());
        request.message_signature = Some(Box::new(signature));
        let tag = self.tag(key, position, request, 0)?;
        let input = format!("{label}={parameters}");
        let signature = format!("{label}=:{}:", Encoding::Base64.encode(&tag));
        let header = |slot: usize, text: &str| {
            let value = HeaderValue::from_str(text);
            let value = value.map_err(|_| "the signature is no header value".to_owned())?;
            Ok::<_, String>((self.slots.names()[slot].clone(), value))
        };
        let slot = self.scheme.signature.slot().unwrap_or(rule.input);
        Ok(vec![header(rule.input, &input)?, header(slot, &signature)?])
    }

    /// Adds the header that lists the signed headers, if the sender has one and it is not given.
    pub(super) fn list_signed_headers(&self, headers: &mut HeaderMap) -> Result<(), String> {
        let Some(rule) = &self.scheme.signed_headers else { return Ok(()) };
        match rule.list {
            ValueSource::Header(slot) => {
                let list = self.listed_for(headers, rule.separator);
                give(headers, &self.slots.names()[slot], &list)
            }
            _ => Ok(()),
        }
    }

    /// Returns the list of signed headers and its slot, if it is an item of the signature.
    pub(super) fn default_list(&self, headers: &HeaderMap) -> Option<(usize, String)> {
        let rule = self.scheme.signed_headers.as_ref()?;
        match rule.list {
            ValueSource::Item(slot) => Some((slot, self.listed_for(headers, rule.separator))),
            _ => None,
        }
    }

    /// Returns the list of the headers that must be signed and of the event's ID, sorted.
    fn listed_for(&self, headers: &HeaderMap, separator: u8) -> String {
        let required = self.scheme.signed_headers.iter().flat_map(|rule| &rule.required);
        let mut names: Vec<_> = required.map(|slot| self.slots.names()[*slot].as_str()).collect();
        if let Some(IdRule { from, .. }) = self.scheme.event.id() {
            names.extend(from.iter().filter_map(|source| match source {
                ValueSource::Header(slot) => Some(self.slots.names()[*slot].as_str()),
                _ => None,
            }));
        }
        // The list itself is added after the other headers.
        names.retain(|name| headers.contains_key(*name) || self.is_list(name));
        if names.is_empty() {
            names.push("content-type");
        }
        names.sort_unstable();
        names.dedup();
        names.join(&char::from(separator).to_string())
    }

    fn is_list(&self, name: &str) -> bool {
        self.scheme.signed_headers.as_ref().is_some_and(|rule| match rule.list {
            ValueSource::Header(slot) => self.slots.names()[slot] == name,
            _ => false,
        })
    }
}

/// Returns a signature with the same components and parameters as of `now`; `None` if a parameter
/// cannot be written.
fn renewed(signature: &MessageSignature, now: UnixMillis) -> Option<MessageSignature> {
    let seconds = now.0.div_euclid(1000);
    let lasting = match (signature.created, signature.expires) {
        (Some(created), Some(expires)) => expires.saturating_sub(created),
        _ => LIFETIME,
    };
    let mut list: List = Parser::new(signature.parameters.as_str()).parse().ok()?;
    let Some(ListEntry::InnerList(inner)) = list.first_mut() else { return None };
    for (name, value) in &mut inner.params {
        let integer = |seconds: i64| Some(BareItem::Integer(Integer::try_from(seconds).ok()?));
        match name.as_str() {
            "created" => *value = integer(seconds)?,
            "expires" => *value = integer(seconds.saturating_add(lasting))?,
            "nonce" => *value = BareItem::String(sfv::String::from_string(random_id()).ok()?),
            _ => {}
        }
    }
    Some(MessageSignature { parameters: list.serialize()?, ..signature.clone() })
}
