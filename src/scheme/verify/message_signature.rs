//! HTTP Message Signatures (RFC 9421) with `Content-Digest` (RFC 9530).
//!
//! The signature headers are read strictly: apart from white space they must be in canonical form,
//! so that they have no duplicate member and nothing else that a reader could interpret in two
//! ways. The scheme decides which components must be covered; the algorithm is the scheme's, and
//! the parameter `alg` must agree with it.

use http::HeaderName;
use sfv::{
    BareItem, Dictionary, FieldType, InnerList, ItemSerializer, ListEntry, ListSerializer, Parser,
};
use sha2::{Digest, Sha512};

use crate::{
    reject::{Reason, Reject},
    scheme::{
        compiled::message_signature::{Component, MessageSignatureRule},
        encoding::Encoding,
        form,
        text::{Likeness, likeness},
        verify::{
            Verifier,
            request::RequestValues,
            signature::{ClaimedSignatures, MAX_SIGNATURES},
        },
    },
    target,
};

/// The most components that one signature may cover.
const MAX_COMPONENTS: usize = 64;

/// One signature of a request, with what it covers.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct MessageSignature {
    pub(in crate::scheme) label: String,
    /// The covered components in order, each with its identifier.
    pub(in crate::scheme) components: Vec<(String, Component)>,
    /// The value of `@signature-params`: the list of the identifiers with its parameters.
    pub(in crate::scheme) parameters: String,
    /// The parameters that the scheme reads, by the slots of its items.
    pub(in crate::scheme) items: Vec<Option<Box<[u8]>>>,
    /// The parameter `keyid`.
    pub(in crate::scheme) key_id: Option<String>,
    /// The parameter `created`, in Unix seconds.
    pub(in crate::scheme) created: Option<i64>,
    /// The parameter `expires`, in Unix seconds.
    pub(in crate::scheme) expires: Option<i64>,
    /// The bytes of the signature.
    pub(in crate::scheme) signature: Vec<u8>,
}

/// Why no signature of a request is usable.
pub(in crate::scheme) struct UnusableSignature {
    pub(in crate::scheme) reason: Reason,
    /// What is wrong, without anything from the request.
    pub(in crate::scheme) problem: String,
}

fn malformed(problem: impl Into<String>) -> UnusableSignature {
    UnusableSignature { reason: Reason::MalformedSignature, problem: problem.into() }
}

impl MessageSignature {
    /// Returns the names of the covered components whose values identify an event: all but the
    /// time.
    fn is_time(component: &Component) -> bool {
        matches!(component, Component::Field(name) if *name == http::header::DATE)
    }

    /// Returns whether the signature covers a component.
    pub(in crate::scheme) fn covers(&self, component: &Component) -> bool {
        self.components.iter().any(|(_, covered)| covered.includes(component))
    }
}

/// Parses a dictionary in canonical form; white space may differ.
pub(in crate::scheme) fn dictionary(text: &[u8]) -> Option<Dictionary> {
    let parsed: Dictionary = Parser::new(text).parse().ok()?;
    let canonical = parsed.serialize().unwrap_or_default();
    let dense = |text: &[u8]| -> Vec<u8> {
        text.iter().copied().filter(|byte| !matches!(byte, b' ' | b'\t')).collect()
    };
    (dense(text) == dense(canonical.as_bytes())).then_some(parsed)
}

impl MessageSignatureRule {
    /// Reads the signatures of a request that have the scheme's label and tag and cover what they
    /// must, as far as the head shows it. `names` are the items' names by slot.
    pub(in crate::scheme) fn read(
        &self,
        request: &RequestValues<'_>,
        signature: usize,
        names: &[Box<str>],
    ) -> Result<Vec<MessageSignature>, UnusableSignature> {
        let field = |slot: usize, name: &str| {
            let text = request.header(slot).ok_or_else(|| UnusableSignature {
                reason: Reason::MissingHeader,
                problem: format!("`{name}` is absent"),
            })?;
            dictionary(text)
                .ok_or_else(|| malformed(format!("`{name}` is malformed or has a duplicate")))
        };
        let inputs = field(self.input, "signature-input")?;
        let signatures = field(signature, "signature")?;
        if inputs.len().max(signatures.len()) > MAX_SIGNATURES {
            return Err(malformed(format!("there are more than {MAX_SIGNATURES} signatures")));
        }
        let (mut usable, mut problem) = (Vec::new(), None);
        for (label, input) in &inputs {
            let label = label.as_str();
            let ListEntry::InnerList(list) = input else {
                return Err(malformed("`signature-input` has a member that is no list"));
            };
            let tag = list.params.get("tag").and_then(|tag| tag.as_string());
            let is_tagged = self
                .tag
                .as_ref()
                .is_none_or(|wanted| tag.is_some_and(|tag| tag.as_str() == &**wanted));
            if !is_tagged || self.label.as_ref().is_some_and(|wanted| **wanted != *label) {
                continue;
            }
            let bytes = match signatures.get(label) {
                Some(ListEntry::Item(item)) => item.bare_item.as_byte_sequence(),
                Some(ListEntry::InnerList(_)) | None => None,
            };
            match self.check(request, list, names) {
                Ok(found) => match bytes {
                    Some(bytes) => usable.push(MessageSignature {
                        label: label.to_owned(),
                        signature: bytes.to_vec(),
                        ..found
                    }),
                    None => {
                        let missing = "`signature` lacks the signature that is described";
                        problem.get_or_insert(malformed(missing));
                    }
                },
                Err(unusable) => {
                    problem.get_or_insert(unusable);
                }
            }
        }
        match problem {
            _ if !usable.is_empty() => Ok(usable),
            Some(problem) => Err(problem),
            None => Err(malformed("no signature has the sender's label and tag")),
        }
    }

    /// Checks one entry of `Signature-Input`.
    fn check(
        &self,
        request: &RequestValues<'_>,
        list: &InnerList,
        names: &[Box<str>],
    ) -> Result<MessageSignature, UnusableSignature> {
        let mut components: Vec<(String, Component)> = Vec::new();
        if list.items.len() > MAX_COMPONENTS {
            return Err(malformed(format!("it covers more than {MAX_COMPONENTS} components")));
        }
        for item in &list.items {
            let component = Component::read(item).ok_or_else(|| {
                malformed("it covers a component that is not supported or is no part of a request")
            })?;
            let identifier =
                ItemSerializer::new().bare_item(&item.bare_item).parameters(&item.params).finish();
            if components.iter().any(|(known, _)| *known == identifier) {
                return Err(malformed("it covers a component twice"));
            }
            components.push((identifier, component));
        }
        let covers = |required: &Component| {
            (*required == Component::Query && target::query(&request.head.uri).is_none())
                || components.iter().any(|(_, covered)| covered.includes(required))
        };
        if let Some(required) = self.cover.iter().find(|required| !covers(required)) {
            let identifier = required.identifier();
            return Err(malformed(format!("the signature does not cover {identifier}")));
        }
        let parameter = |name: &str| list.params.get(name);
        let text = |name: &'static str| match parameter(name) {
            None => Ok(None),
            Some(BareItem::String(text)) => Ok(Some(text.as_str().to_owned())),
            Some(_) => Err(malformed(format!("the parameter `{name}` is no string"))),
        };
        let seconds = |name: &'static str| match parameter(name) {
            None => Ok(None),
            Some(BareItem::Integer(seconds)) => Ok(Some(i64::from(*seconds))),
            Some(_) => Err(malformed(format!("the parameter `{name}` is no integer"))),
        };
        let (key_id, nonce, tag) = (text("keyid")?, text("nonce")?, text("tag")?);
        let algorithm = text("alg")?;
        let (created, expires) = (seconds("created")?, seconds("expires")?);
        if algorithm.as_ref().is_some_and(|named| *named != self.algorithm) {
            let problem = format!("the parameter `alg` is not `{}`", self.algorithm);
            return Err(UnusableSignature { reason: Reason::BadAlg, problem });
        }
        if created.zip(expires).is_some_and(|(created, expires)| expires < created) {
            let problem = "the signature expires before it is created".to_owned();
            return Err(UnusableSignature { reason: Reason::MalformedTimestamp, problem });
        }
        let value = |name: &str| match name {
            "created" => created.map(|seconds| seconds.to_string()),
            "expires" => expires.map(|seconds| seconds.to_string()),
            "keyid" => key_id.clone(),
            "nonce" => nonce.clone(),
            "alg" => algorithm.clone(),
            "tag" => tag.clone(),
            _ => None,
        };
        let items = names.iter().map(|name| value(name).map(|text| text.into_bytes().into()));
        let items = items.collect();
        let mut serializer = ListSerializer::new();
        {
            let mut inner = serializer.inner_list();
            inner.items(&list.items);
            let _ = inner.finish().parameters(&list.params).finish();
        }
        let parameters = serializer.finish().unwrap_or_default();
        let (label, signature) = (String::new(), Vec::new());
        Ok(MessageSignature {
            label,
            components,
            parameters,
            items,
            key_id,
            created,
            expires,
            signature,
        })
    }
}

impl Verifier {
    /// Reads the usable message signatures of a request.
    pub(in crate::scheme) fn message_signatures(
        &self,
        rule: &MessageSignatureRule,
        request: &RequestValues<'_>,
    ) -> Result<Vec<MessageSignature>, UnusableSignature> {
        let slot = self.scheme.signature.slot().unwrap_or(rule.input);
        rule.read(request, slot, &self.scheme.inputs.items)
    }

    /// Reads the request's message signatures, and selects the one with this number.
    pub(in crate::scheme) fn message_signature(
        &self,
        request: &mut RequestValues<'_>,
        number: usize,
        claimed: &mut ClaimedSignatures,
    ) -> Result<(), Reject> {
        let Some(rule) = &self.scheme.message_signature else { return Ok(()) };
        let found = self.message_signatures(rule, request).map_err(|unusable| unusable.reason)?;
        request.alternatives = found.len();
        let selected = found.into_iter().nth(number).ok_or(Reason::MalformedSignature)?;
        claimed.push(selected.signature.clone());
        request.message_signature = Some(Box::new(selected));
        Ok(())
    }

    /// Checks that a body has the digest that is signed, and that its digest is signed.
    pub(in crate::scheme) fn content_digest(
        &self,
        request: &RequestValues<'_>,
    ) -> Result<(), Reject> {
        let (Some(rule), Some(signature)) =
            (&self.scheme.message_signature, &request.message_signature)
        else {
            return Ok(());
        };
        let name = HeaderName::from_static("content-digest");
        let is_covered = signature.covers(&Component::Field(name));
        if !is_covered {
            return match request.payload.is_empty() {
                true => Ok(()),
                false => Err(Reason::MalformedSignature.into()),
            };
        }
        let digests = request.header(rule.digest).and_then(dictionary);
        let digests = digests.ok_or(Reason::MalformedSignature)?;
        let mut known = 0;
        for (algorithm, digest) in &digests {
            let ListEntry::Item(item) = digest else {
                return Err(Reason::MalformedSignature.into());
            };
            let actual = match algorithm.as_str() {
                "sha-256" => request.payload.sha256().to_vec(),
                "sha-512" => {
                    let chunks = request.payload.chunks().iter();
                    let digest =
                        chunks.fold(Sha512::new(), |digest, chunk| digest.chain_update(chunk));
                    digest.finalize().to_vec()
                }
                _ => continue,
            };
            known += 1;
            if item.bare_item.as_byte_sequence() != Some(&actual[..]) {
                return Err(Reason::Inconsistent.into());
            }
        }
        if known == 0 { Err(Reason::Inconsistent.into()) } else { Ok(()) }
    }
}

impl RequestValues<'_> {
    /// Returns the text that the selected message signature signs (RFC 9421, section 2.5). `None`
    /// if a covered component is absent or ambiguous.
    pub(in crate::scheme) fn signature_base(&self) -> Option<Vec<u8>> {
        let signature = self.message_signature.as_ref()?;
        let mut base = Vec::with_capacity(512);
        self.add_components(signature, |_| true, &mut base)?;
        base.extend_from_slice(b"\"@signature-params\": ");
        base.extend_from_slice(signature.parameters.as_bytes());
        Some(base)
    }

    /// Returns the covered components that are no time, with their values.
    pub(in crate::scheme) fn signed_components(&self) -> Option<Vec<u8>> {
        let signature = self.message_signature.as_ref()?;
        let mut lines = Vec::new();
        let is_lasting = |component: &Component| !MessageSignature::is_time(component);
        self.add_components(signature, is_lasting, &mut lines)?;
        Some(lines)
    }

    fn add_components(
        &self,
        signature: &MessageSignature,
        wanted: impl Fn(&Component) -> bool,
        into: &mut Vec<u8>,
    ) -> Option<()> {
        for (identifier, component) in &signature.components {
            if wanted(component) {
                into.extend_from_slice(identifier.as_bytes());
                into.extend_from_slice(b": ");
                into.extend_from_slice(&self.component(component)?);
                into.push(b'\n');
            }
        }
        Some(())
    }

    /// Returns the value of a component; `None` if the request does not have it.
    pub(in crate::scheme) fn component(&self, component: &Component) -> Option<Vec<u8>> {
        let target = || target::path_and_query(&self.head.uri);
        let path = || self.head.uri.path();
        Some(match component {
            Component::Field(name) => self.field_lines(name)?.join(&b", "[..]),
            Component::FieldBytes(name) => {
                let lines = self.field_lines(name)?;
                let lines = lines.iter().map(|line| format!(":{}:", Encoding::Base64.encode(line)));
                lines.collect::<Vec<_>>().join(", ").into_bytes()
            }
            Component::FieldMember(name, key) => {
                let lines = self.field_lines(name)?.join(&b", "[..]);
                let members: Dictionary = Parser::new(&lines).parse().ok()?;
                let member = members.get(&**key)?;
                let mut serializer = ListSerializer::new();
                serializer.members([member]);
                serializer.finish()?.into_bytes()
            }
            Component::Method => self.head.method.as_str().as_bytes().to_vec(),
            Component::TargetUri => {
                let (scheme, authority) = self.origin()?;
                let target = target();
                let target = target.as_deref().unwrap_or("/");
                format!("{scheme}://{authority}{target}").into_bytes()
            }
            Component::Authority => self.origin()?.1.into_bytes(),
            Component::Scheme => self.origin()?.0.into_bytes(),
            Component::RequestTarget => target().as_deref().unwrap_or("/").as_bytes().to_vec(),
            Component::Path if path().is_empty() => b"/".to_vec(),
            Component::Path => path().as_bytes().to_vec(),
            Component::Query => {
                let query = target::query(&self.head.uri);
                format!("?{}", query.as_deref().unwrap_or_default()).into_bytes()
            }
            Component::QueryParameter(name) => {
                let query = target::query(&self.head.uri)?;
                let mut values = form::fields(query.as_bytes())
                    .filter(|(field, _)| form::percent_encoded(field) == name.as_bytes());
                let (_, value) = values.next()?;
                if values.next().is_some() {
                    return None;
                }
                form::percent_encoded(&value)
            }
        })
    }

    /// Returns the scheme and the authority of the signed address: those of `public_url`, or
    /// `https` and the request's own authority. The scheme's default port is left out.
    fn origin(&self) -> Option<(String, String)> {
        let (scheme, authority) = match self.public_url {
            Some(registered) => {
                let (scheme, rest) = registered.split_once("://")?;
                (scheme, &rest[..rest.find(['/', '?']).unwrap_or(rest.len())])
            }
            None => (
                "https",
                match self.head.uri.authority() {
                    Some(authority) => authority.as_str(),
                    None => self.head.headers.get(http::header::HOST)?.to_str().ok()?,
                },
            ),
        };
        let (scheme, mut authority) = (scheme.to_ascii_lowercase(), authority.to_ascii_lowercase());
        let default = if scheme == "http" { ":80" } else { ":443" };
        if authority.ends_with(default) {
            authority.truncate(authority.len() - default.len());
        }
        Some((scheme, authority))
    }

    /// Returns the lines of a header, trimmed; `None` if there are none, or if a name with `_` is
    /// its twin.
    pub(in crate::scheme) fn field_lines(&self, name: &HeaderName) -> Option<Vec<&[u8]>> {
        let mut lines = Vec::new();
        for (field, value) in &self.head.headers {
            match likeness(field.as_str(), name.as_str()) {
                Likeness::Same => lines.push(value.as_bytes().trim_ascii()),
                Likeness::Twin => return None,
                Likeness::None => {}
            }
        }
        (!lines.is_empty()).then_some(lines)
    }
}
