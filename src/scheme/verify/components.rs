//! What HTTP Message Signatures sign (RFC 9421), and `Content-Digest` (RFC 9530).

use http::HeaderName;
use sfv::{Dictionary, ListEntry, ListSerializer, Parser};
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
            message_signature::{MessageSignature, UnusableSignature, dictionary},
            request::RequestValues,
            signature::ClaimedSignatures,
        },
    },
    target,
};

impl Verifier {
    /// Reads the usable message signatures of a request.
    pub(in crate::scheme) fn message_signatures(
        &self,
        rule: &MessageSignatureRule,
        request: &RequestValues<'_>,
    ) -> Result<Vec<MessageSignature>, UnusableSignature> {
        let slot = self.scheme.signature.slot().unwrap_or(rule.input);
        let has_query = target::query(&request.head.uri).is_some();
        let headers = [request.header(rule.input), request.header(slot)];
        rule.read(headers, has_query, &self.scheme.inputs.items)
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
        let is_lasting = |component: &Component| !is_time(component);
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

/// Returns whether a component is a time, which does not identify an event.
fn is_time(component: &Component) -> bool {
    matches!(component, Component::Field(name) if *name == http::header::DATE)
}
