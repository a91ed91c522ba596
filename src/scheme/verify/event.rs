//! The key of an event, the identity of a request and the pin of its unsigned context: digests over
//! parts of the request.
//!
//! Every part is preceded by its length, and an absent part differs from an empty one, so two
//! different lists of parts never become the same bytes.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::{HeaderValue, Method};
use sha2::{Digest, Sha256};

use crate::{
    scheme::{
        buffered_hash::BufferedHash,
        compiled::{
            Scheme,
            event::{Identification, IdentityRule},
            template::{TemplatePiece, ValueSource},
        },
        verified::{ContextPin, EventKey, RequestIdentity, Verified},
        verify::{Authenticated, Verifier, jwt, keys::VerificationKey, request::RequestValues},
    },
    target,
};

/// A digest over a list of parts. Each part is preceded by its length plus one, as a
/// variable-length integer of seven bits a byte; an absent part is a zero.
struct DigestParts(BufferedHash<Sha256>);

impl DigestParts {
    fn after(digest: Sha256) -> DigestParts {
        DigestParts(BufferedHash::before(digest))
    }

    fn add(&mut self, part: Option<&[u8]>) {
        let mut length = part.map_or(0, |bytes| bytes.len() + 1);
        while length >= 0x80 {
            self.0.push(&[length as u8 | 0x80]);
            length >>= 7;
        }
        self.0.push(&[length as u8]);
        self.0.push(part.unwrap_or_default());
    }

    /// Adds the values of all sources and returns `true`; adds nothing if there are none or one is
    /// absent.
    fn add_all(&mut self, request: &RequestValues<'_>, sources: &[ValueSource]) -> bool {
        let present = |source: &ValueSource| request.value(source, &[], 0).is_some();
        let all = !sources.is_empty() && sources.iter().all(present);
        for source in sources.iter().filter(|_| all) {
            self.add(request.value(source, &[], 0).as_deref());
        }
        all
    }

    fn whole(self) -> [u8; 32] {
        self.0.taken().finalize().into()
    }

    fn short(self) -> [u8; 16] {
        *self.whole().first_chunk().expect("32 bytes have 16 at their start")
    }
}

impl Verifier {
    /// Returns which event an authentic request is about, and what distinguishes the request from
    /// others for the same event.
    pub(super) fn name(&self, request: &RequestValues<'_>, proof: &Authenticated<'_>) -> Verified {
        let Authenticated { key, secret, stale, fresh_for, age } = proof;
        let scheme = &*self.scheme;
        Verified {
            scheme: Arc::clone(&scheme.id),
            key: Arc::clone(&key.name),
            secret: secret.position,
            record: self.record(request, key),
            event_id: self.event_id_header(request),
            identity: identity(request, &scheme.identity, &secret.mac),
            pin: pin(request, scheme),
            stale: *stale,
            fresh_for: *fresh_for,
            age: *age,
        }
    }

    /// Returns the key of the event's record. Requests that only query are not events, unless they
    /// carry a signed ID or a value that distinguishes them.
    fn record(&self, request: &RequestValues<'_>, key: &VerificationKey) -> Option<EventKey> {
        let rule = &self.scheme.event;
        let mut parts = DigestParts::after(key.record.clone());
        let id = rule.id().map(|id| id.from.as_slice()).unwrap_or_default();
        let signed_id = match &rule.identified_by {
            Identification::None => return None,
            Identification::SignedId(_) if parts.add_all(request, id) => true,
            Identification::SignedId(_) | Identification::SignedParts => {
                parts.add(None);
                self.add_signed_parts(request, &mut parts);
                false
            }
            Identification::Label if parts.add_all(request, id) => false,
            Identification::Label | Identification::LabelAndBody => {
                parts.add_all(request, id);
                parts.add(Some(request.payload.sha256()));
                false
            }
        };
        let mut distinguished = false;
        for (source, _) in &rule.distinguish {
            let value = request.value(source, &[], 0);
            distinguished |= value.is_some();
            parts.add(value.as_deref());
        }
        (signed_id || distinguished || !asks(request)).then(|| EventKey(parts.short()))
    }

    /// Adds everything that is signed except the timestamp and the secret; of several items, the
    /// first. The body counts by its digest. What is between these is one part, so that requests
    /// that sign the same bytes are the same event: an absent value in place of an empty one, or a
    /// value that ends elsewhere, changes nothing.
    fn add_signed_parts(&self, request: &RequestValues<'_>, parts: &mut DigestParts) {
        if let Some(rules) = &self.scheme.token {
            for hash in &rules.hashes {
                parts.add(jwt::hashed(hash, request).as_ref().map(<[u8; 32]>::as_slice));
            }
            return;
        }
        // Further items are pinned with the body. If they counted, captured items could be combined
        // into any number of events.
        let (mut between, item) = (Vec::new(), 0);
        self.add_signed(request, &self.message(request).0, item, &mut between, parts);
        parts.add(Some(&between));
    }

    /// Adds what is signed to `between`, and to `parts` where the body or the timestamp follows.
    fn add_signed(
        &self,
        request: &RequestValues<'_>,
        pieces: &[TemplatePiece],
        item: u32,
        between: &mut Vec<u8>,
        parts: &mut DigestParts,
    ) {
        let timestamp = self.scheme.timestamp.as_ref().map(|timestamp| &timestamp.from);
        for piece in pieces {
            match piece {
                TemplatePiece::Literal(text) => between.extend_from_slice(text),
                TemplatePiece::Optional(pieces) => {
                    if request.feed_pieces(pieces, &[], item, &mut |_| ()) {
                        self.add_signed(request, pieces, item, between, parts);
                    }
                }
                TemplatePiece::Value(value) => match &value.source {
                    ValueSource::Secret => {}
                    ValueSource::Body => {
                        parts.add(Some(between));
                        parts.add(Some(request.payload.sha256()));
                        between.clear();
                    }
                    source if *source == ValueSource::Timestamp || timestamp == Some(source) => {
                        parts.add(Some(between));
                        between.clear();
                    }
                    ValueSource::SignatureBase => {
                        between.extend(request.signed_components().unwrap_or_default());
                    }
                    ValueSource::SignedHeaders => {
                        let time = match timestamp {
                            Some(ValueSource::Header(slot)) => Some(&self.slots.names()[*slot]),
                            _ => None,
                        };
                        between.extend(request.signed_headers(time).unwrap_or_default());
                    }
                    _ => {
                        let bytes = request.filtered(value, &[], item);
                        between.extend_from_slice(bytes.as_deref().unwrap_or_default());
                    }
                },
            }
        }
    }

    /// Returns the event ID for the log and the header; the digest of the body if there is none.
    fn event_id_header(&self, request: &RequestValues<'_>) -> Option<HeaderValue> {
        let rule = &self.scheme.event;
        let sources = rule.id().map(|id| id.from.as_slice()).unwrap_or_default();
        if let [ValueSource::Header(slot)] = sources
            && let Some(id) = request.headers[*slot]
        {
            return Some(id.clone());
        }
        let values = sources.iter().map(|source| request.value(source, &[], 0));
        let id = values.collect::<Option<Vec<_>>>().filter(|values| !values.is_empty());
        match (id, &rule.identified_by) {
            (Some(id), _) => HeaderValue::from_bytes(&id.join(&b':')).ok(),
            (None, Identification::None) => None,
            (None, _) if asks(request) => None,
            (None, _) => {
                let text = format!("sha256-{}", HEXLOWER.encode(request.payload.sha256()));
                HeaderValue::try_from(text).ok()
            }
        }
    }
}

/// Returns whether a request only queries: a GET or HEAD without a body. With a body, it can be a
/// copy of an event, because most senders do not sign the method.
fn asks(request: &RequestValues<'_>) -> bool {
    matches!(request.head.method, Method::GET | Method::HEAD) && request.payload.is_empty()
}

/// Returns the digest of what is fresh in each request; `None` if the scheme declares nothing.
fn identity(
    request: &RequestValues<'_>,
    identity: &IdentityRule,
    mac: &[u8; 16],
) -> Option<RequestIdentity> {
    if identity.headers.is_empty() && !identity.mac {
        return None;
    }
    let mut parts = DigestParts::after(Sha256::new());
    identity.headers.iter().for_each(|slot| parts.add(request.header(*slot)));
    if identity.mac {
        parts.add(Some(mac));
    }
    Some(RequestIdentity(parts.short()))
}

/// Returns the digest of what the signature does not cover but the upstream acts on: a method other
/// than POST, path and query, the headers that the scheme pins, and the body where it is neither
/// signed byte for byte nor part of the record's key.
fn pin(request: &RequestValues<'_>, scheme: &Scheme) -> ContextPin {
    let mut parts = DigestParts::after(Sha256::new());
    let target = target::path_and_query(&request.head.uri);
    parts.add(Some(target.as_deref().unwrap_or("/").as_bytes()));
    scheme.pinned.iter().for_each(|slot| parts.add(request.header(*slot)));
    if scheme.pins_body {
        parts.add(Some(request.payload.sha256()));
    }
    if request.head.method != Method::POST {
        parts.add(Some(request.head.method.as_str().as_bytes()));
    }
    ContextPin(parts.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(list: &[Option<&[u8]>]) -> [u8; 32] {
        let mut parts = DigestParts::after(Sha256::new());
        list.iter().for_each(|part| parts.add(*part));
        parts.whole()
    }

    #[test]
    fn different_lists_have_different_digests() {
        let long = [b'x'; 300];
        let lists: &[&[Option<&[u8]>]] = &[
            &[],
            &[None],
            &[Some(b"")],
            &[None, None],
            &[Some(b"\0")],
            &[Some(b"a"), Some(b"b")],
            &[Some(b"ab")],
            &[Some(b"ab"), None],
            &[Some(b"a"), Some(b"b"), Some(b"")],
            &[Some(&long)],
            &[Some(&long[..299]), Some(b"x")],
            &[Some(&long[..150]), Some(&long[..150])],
            &[Some(&long[..126])],
            &[Some(&long[..127])],
            &[Some(&long[..128])],
        ];
        let digests: std::collections::BTreeSet<_> =
            lists.iter().map(|list| digest(list)).collect();
        assert_eq!(digests.len(), lists.len());
        let mut expected = Sha256::new();
        expected.update([2, b'a', 0xad, 0x02]);
        expected.update(long);
        expected.update([0]);
        let found = digest(&[Some(b"a"), Some(&long), None]);
        assert_eq!(found, <[u8; 32]>::from(expected.finalize()));
    }
}
