//! Parsing of HTTP Message Signatures (RFC 9421).
//!
//! The signature headers are read strictly: apart from white space they must be in canonical form,
//! so that they have no duplicate member and nothing else that a reader could interpret in two
//! ways. The scheme decides which components must be covered; the algorithm is the scheme's, and
//! the parameter `alg` must agree with it.

use sfv::{
    BareItem, Dictionary, FieldType, InnerList, ItemSerializer, ListEntry, ListSerializer, Parser,
};

use crate::{
    reject::Reason,
    scheme::{
        compiled::message_signature::{Component, MessageSignatureRule},
        verify::signature::MAX_SIGNATURES,
    },
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
    /// must, as far as the head shows it, from `Signature-Input` and `Signature`. `names` are the
    /// items' names by slot.
    pub(in crate::scheme) fn read(
        &self,
        [input, signature]: [Option<&[u8]>; 2],
        has_query: bool,
        names: &[Box<str>],
    ) -> Result<Vec<MessageSignature>, UnusableSignature> {
        let field = |text: Option<&[u8]>, name: &str| {
            let text = text.ok_or_else(|| UnusableSignature {
                reason: Reason::MissingHeader,
                problem: format!("`{name}` is absent"),
            })?;
            dictionary(text)
                .ok_or_else(|| malformed(format!("`{name}` is malformed or has a duplicate")))
        };
        let inputs = field(input, "signature-input")?;
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
            match self.check(list, has_query, names) {
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
        list: &InnerList,
        has_query: bool,
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
            (*required == Component::Query && !has_query)
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
