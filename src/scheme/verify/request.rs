//! The values of a request that its scheme reads: collected in one pass over the headers, then
//! completed while the request is verified.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE, request::Parts};
use sha2::{Digest, Sha256};

use crate::{
    body::Payload,
    scheme::{
        compiled::{
            signature::SignedHeadersRule,
            template::{
                Filter, MAX_HEADERS, MAX_ITEMS, Template, TemplatePiece, TemplateValue, ValueSource,
            },
            url::UrlRule,
        },
        form, hex,
        json::{JsonMatches, Scalar},
        multipart,
        text::{Likeness, likeness},
        verify::message_signature::MessageSignature,
    },
    secret::Secret,
    target,
};

/// The headers that a route reads, prepared for the pass over a request's headers.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct HeaderSlots {
    names: Vec<HeaderName>,
    /// The slots of the names of each length, a bit for each; the last entry is for all longer
    /// ones.
    by_length: [u32; LONG + 1],
}

/// Names of this length and longer share an entry.
const LONG: usize = 63;
const _: () = assert!(MAX_HEADERS <= u32::BITS as usize, "each slot has its bit");

impl HeaderSlots {
    /// Prepares at most [`MAX_HEADERS`] names; further names are ignored.
    pub(in crate::scheme) fn new(names: &[HeaderName]) -> Self {
        let names: Vec<_> = names.iter().take(MAX_HEADERS).cloned().collect();
        let mut by_length = [0; LONG + 1];
        for (slot, name) in names.iter().enumerate() {
            by_length[name.as_str().len().min(LONG)] |= 1 << slot;
        }
        HeaderSlots { names, by_length }
    }

    /// Returns the names, in the order of their slots.
    pub(in crate::scheme) fn names(&self) -> &[HeaderName] {
        &self.names
    }

    /// Puts each header into its slot, and returns whether one came twice. A name with `_` that
    /// would be one of the slots' with `-` counts as that header come twice: PHP, WSGI and others
    /// fold both into one.
    pub(in crate::scheme) fn gather<'a>(
        &self,
        headers: &'a HeaderMap,
        values: &mut [Option<&'a HeaderValue>; MAX_HEADERS],
    ) -> bool {
        let mut duplicate = false;
        for (name, value) in headers {
            let mut slots = self.by_length[name.as_str().len().min(LONG)];
            while slots != 0 {
                let slot = slots.trailing_zeros() as usize;
                slots &= slots - 1;
                match likeness(name.as_str(), self.names[slot].as_str()) {
                    Likeness::Same => duplicate |= values[slot].replace(value).is_some(),
                    Likeness::Twin => duplicate = true,
                    Likeness::None => {}
                }
            }
        }
        duplicate
    }
}

/// One request, with everything that its scheme reads.
pub(in crate::scheme) struct RequestValues<'a> {
    /// The head.
    pub(in crate::scheme) head: &'a Parts,
    /// The body.
    pub(in crate::scheme) payload: &'a Payload,
    /// The headers by slot.
    pub(in crate::scheme) headers: [Option<&'a HeaderValue>; MAX_HEADERS],
    /// Whether one of them came twice, or as an underscore twin.
    pub(in crate::scheme) duplicate: bool,
    /// The items of the signature by slot.
    pub(in crate::scheme) items: [Option<&'a [u8]>; MAX_ITEMS],
    /// The wanted members of the body.
    pub(in crate::scheme) json: JsonMatches<'a>,
    /// The timestamp's text, as it came.
    pub(in crate::scheme) timestamp: Option<Cow<'a, [u8]>>,
    /// The address registered with the sender.
    pub(in crate::scheme) public_url: Option<&'a str>,
    /// How the signed address follows from it.
    pub(in crate::scheme) url_rule: &'a UrlRule,
    /// How the headers are signed that the sender lists.
    pub(in crate::scheme) signed_headers: Option<&'a SignedHeadersRule>,
    /// The message signature that is being verified.
    pub(in crate::scheme) message_signature: Option<Box<MessageSignature>>,
    /// How many message signatures could be verified.
    pub(in crate::scheme) alternatives: usize,
    /// The values of the route's settings.
    pub(in crate::scheme) settings: &'a [Vec<Secret>],
}

impl<'a> RequestValues<'a> {
    /// Adds the members of the body.
    pub(in crate::scheme) fn with_json(mut self, json: JsonMatches<'a>) -> Self {
        self.json = json;
        self
    }

    /// Returns the bytes of a header.
    pub(in crate::scheme) fn header(&self, slot: usize) -> Option<&'a [u8]> {
        self.headers[slot].map(HeaderValue::as_bytes)
    }

    /// Returns the bytes of an item of the signature.
    pub(in crate::scheme) fn item(&self, slot: usize) -> Option<&[u8]> {
        match &self.message_signature {
            Some(signature) => signature.items.get(slot)?.as_deref(),
            None => self.items[slot],
        }
    }

    /// Returns when the signature expires, in Unix milliseconds.
    pub(in crate::scheme) fn expires(&self) -> Option<i64> {
        let seconds = self.message_signature.as_ref()?.expires?;
        Some(seconds.saturating_mul(1000))
    }

    /// Returns the member that a pointer led to, in element `item` of `each`.
    pub(in crate::scheme) fn json(&self, pointer: u16, item: u32) -> Option<&Scalar<'a>> {
        self.json.only(pointer, item)
    }

    /// Returns the signed address: the registered one with what the sender appends to its query;
    /// `None` if this is another address.
    pub(in crate::scheme) fn url(&self) -> Option<Cow<'a, str>> {
        let registered = self.public_url?;
        let method = &self.head.method;
        if !self.payload.is_empty() && !self.url_rule.allows_body(method) {
            return None;
        }
        let expected = registered.split_once('?').map(|(_, query)| query);
        let query = target::query(&self.head.uri);
        let appended = match (query.as_deref(), expected) {
            // Without a query, the signed address is the registered one: no part of it is free.
            (None, _) => return Some(Cow::Borrowed(registered)),
            (query, expected) if query == expected => return Some(Cow::Borrowed(registered)),
            (Some(query), None) => query,
            (Some(query), Some(expected)) => query.strip_prefix(expected)?.strip_prefix('&')?,
        };
        let separator = if expected.is_some() { '&' } else { '?' };
        let allowed = self.url_rule.allows(appended, method);
        allowed.then(|| Cow::Owned(format!("{registered}{separator}{appended}")))
    }

    /// Returns the only field called `name` of a form, whose media type is either of the two for
    /// forms.
    fn form_data(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let media_type = self.head.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let body = self.payload.whole();
        match multipart::boundary(media_type) {
            Some(boundary) => multipart::only(body, boundary?, name).map(Cow::Borrowed),
            None => form::only(body, name).map(Cow::Owned),
        }
    }

    fn query(&self, name: &str) -> Option<Vec<u8>> {
        match self.url() {
            Some(url) => form::only(url.split_once('?')?.1.as_bytes(), name),
            None => form::only(target::query(&self.head.uri)?.as_bytes(), name),
        }
    }

    /// Returns the bytes of a value; `None` if the request does not have it.
    pub(in crate::scheme) fn value(
        &self,
        source: &ValueSource,
        secret: &[u8],
        item: u32,
    ) -> Option<Cow<'_, [u8]>> {
        match source {
            ValueSource::Body => Some(Cow::Borrowed(self.payload.whole())),
            ValueSource::Timestamp => self.timestamp.as_deref().map(Cow::Borrowed),
            ValueSource::Url => self.url().map(|url| Cow::Owned(url.into_owned().into_bytes())),
            ValueSource::Method => Some(Cow::Borrowed(self.head.method.as_str().as_bytes())),
            ValueSource::Path => Some(match target::path_and_query(&self.head.uri) {
                None => Cow::Borrowed(b"/"),
                Some(Cow::Borrowed(target)) => Cow::Borrowed(target.as_bytes()),
                Some(Cow::Owned(target)) => Cow::Owned(target.into_bytes()),
            }),
            ValueSource::Secret => Some(Cow::Owned(secret.to_vec())),
            ValueSource::Pathname => Some(Cow::Borrowed(self.head.uri.path().as_bytes())),
            ValueSource::QueryText => {
                let query = target::query(&self.head.uri).filter(|query| !query.is_empty())?;
                Some(Cow::Owned(query.into_owned().into_bytes()))
            }
            ValueSource::SignedHeaders => self.signed_headers(None).map(Cow::Owned),
            ValueSource::SignatureBase => self.signature_base().map(Cow::Owned),
            ValueSource::FormSorted => form::sorted(self.payload.whole()).map(Cow::Owned),
            ValueSource::Header(slot) => self.header(*slot).map(Cow::Borrowed),
            ValueSource::Item(slot) => self.item(*slot).map(Cow::Borrowed),
            ValueSource::Json(pointer) => scalar(self.json(*pointer, item)?),
            ValueSource::Query(name) => self.query(name).map(Cow::Owned),
            ValueSource::Form(name) => form::only(self.payload.whole(), name).map(Cow::Owned),
            ValueSource::FormData(name) => self.form_data(name),
            ValueSource::Setting(number) => {
                self.settings.get(*number)?.first().map(|value| Cow::Borrowed(value.expose()))
            }
        }
    }

    /// Writes the bytes of `template` to `sink`, piece by piece, the body in the pieces in which it
    /// came.
    ///
    /// Returns `false` if a required value is absent.
    pub(in crate::scheme) fn feed(
        &self,
        template: &Template,
        secret: &[u8],
        item: u32,
        sink: &mut impl FnMut(&[u8]),
    ) -> bool {
        self.feed_pieces(&template.0, secret, item, sink)
    }

    /// Returns the bytes of a template's value; `None` if the request does not have it.
    pub(in crate::scheme) fn filtered(
        &self,
        value: &TemplateValue,
        secret: &[u8],
        item: u32,
    ) -> Option<Cow<'_, [u8]>> {
        let mut bytes = self.value(&value.source, secret, item)?;
        for filter in &value.filters {
            bytes = apply(*filter, bytes)?;
        }
        Some(bytes)
    }

    pub(in crate::scheme) fn feed_pieces(
        &self,
        pieces: &[TemplatePiece],
        secret: &[u8],
        item: u32,
        sink: &mut impl FnMut(&[u8]),
    ) -> bool {
        pieces.iter().all(|piece| match piece {
            TemplatePiece::Literal(bytes) => {
                sink(bytes);
                true
            }
            TemplatePiece::Value(value) => self.feed_value(value, secret, item, sink),
            TemplatePiece::Optional(pieces) => {
                let mut part = Vec::new();
                // One type, however deep.
                let mut gather: &mut dyn FnMut(&[u8]) = &mut |bytes| part.extend_from_slice(bytes);
                if self.feed_pieces(pieces, secret, item, &mut gather) {
                    sink(&part);
                }
                true
            }
        })
    }

    fn feed_value(
        &self,
        value: &TemplateValue,
        secret: &[u8],
        item: u32,
        sink: &mut impl FnMut(&[u8]),
    ) -> bool {
        match (&value.source, value.filters.as_slice()) {
            (ValueSource::Body, []) => self.payload.chunks().iter().for_each(|chunk| sink(chunk)),
            (ValueSource::Body, [Filter::Sha256]) => sink(&hex::encode(self.payload.sha256())),
            (ValueSource::Body, [Filter::Crc32]) => {
                let mut checksum = crc32fast::Hasher::new();
                self.payload.chunks().iter().for_each(|chunk| checksum.update(chunk));
                sink(checksum.finalize().to_string().as_bytes());
            }
            (ValueSource::Secret, []) => sink(secret),
            // What the most used senders sign besides the body, without a detour.
            (ValueSource::Timestamp, []) => return self.timestamp.as_deref().map(sink).is_some(),
            (ValueSource::Header(slot), []) => return self.header(*slot).map(sink).is_some(),
            (ValueSource::Item(slot), []) => return self.item(*slot).map(sink).is_some(),
            _ => {
                let Some(bytes) = self.filtered(value, secret, item) else { return false };
                sink(&bytes);
            }
        }
        true
    }
}

/// Returns a scalar's bytes: those of a string, or the digits of an integer.
pub(in crate::scheme) fn scalar<'s>(value: &'s Scalar<'_>) -> Option<Cow<'s, [u8]>> {
    match value {
        Scalar::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
        Scalar::Integer(value) => Some(Cow::Owned(value.to_string().into_bytes())),
        Scalar::Other => None,
    }
}

/// Applies a filter; `None` if the value cannot be written like this.
fn apply(filter: Filter, bytes: Cow<'_, [u8]>) -> Option<Cow<'_, [u8]>> {
    Some(match filter {
        Filter::Sha256 => Cow::Owned(hex::encode(&Sha256::digest(&bytes).into()).to_vec()),
        Filter::Lower => Cow::Owned(bytes.to_ascii_lowercase()),
        // Checked before the signature: a value with a separator is malformed, not absent.
        Filter::Plain | Filter::Line => bytes,
        Filter::Crc32 => Cow::Owned(crc32fast::hash(&bytes).to_string().into_bytes()),
        Filter::Json => Cow::Owned(json_string(&bytes)?),
        Filter::UrlDecode => Cow::Owned(url_decode(&bytes)),
        Filter::EncodeUri => Cow::Owned(form::encoded(&bytes, form::ENCODE_URI)),
        Filter::EncodeComponent => Cow::Owned(form::encoded(&bytes, form::ENCODE_COMPONENT)),
    })
}

/// Returns a JSON string as `JSON.stringify` writes it, with its quotes; `None` if the bytes are
/// not UTF-8.
fn json_string(bytes: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(std::str::from_utf8(bytes).ok()?).ok()
}

/// Decodes the characters that HubSpot decodes in the URL before it signs it:
/// <https://developers.hubspot.com/docs/api/webhooks/validating-requests>.
fn url_decode(bytes: &[u8]) -> Vec<u8> {
    const DECODED: [(&[u8; 3], u8); 13] = [
        (b"%3A", b':'),
        (b"%2F", b'/'),
        (b"%3F", b'?'),
        (b"%40", b'@'),
        (b"%21", b'!'),
        (b"%24", b'$'),
        (b"%27", b'\''),
        (b"%28", b'('),
        (b"%29", b')'),
        (b"%2A", b'*'),
        (b"%2C", b','),
        (b"%3B", b';'),
        (b"%3D", b'='),
    ];
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let known = rest.first_chunk::<3>().and_then(|escape| {
            DECODED.iter().find(|(known, _)| escape.eq_ignore_ascii_case(*known))
        });
        match known {
            Some((_, byte)) => {
                decoded.push(*byte);
                rest = &rest[3..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}
