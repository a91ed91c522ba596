//! What names an event, a request and its unsigned context: digests over parts of the request.
//!
//! Every part is preceded by its length, and an absent part differs from an empty one, so two
//! different lists of parts never run together into the same bytes.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::{HeaderValue, Method};
use sha2::{Digest, Sha256};

use crate::scheme::{
    buffered_hash::BufferedHash,
    compiled::{
        event::{EventRule, IdentityRule},
        template::ValueSource,
    },
    verified::{ContextPin, EventKey, RequestIdentity, Verified},
    verify::{Authenticated, Verifier, keys::VerificationKey, request::RequestValues},
};

/// The name of one event.
struct Name {
    /// For the upstream and the log.
    id: Option<HeaderValue>,
    /// For the record.
    record: Option<EventKey>,
}

/// A list of parts on its way into a digest. Each part is preceded by its length plus one, as a
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

    fn whole(self) -> [u8; 32] {
        self.0.taken().finalize().into()
    }

    fn short(self) -> [u8; 16] {
        *self.whole().first_chunk().expect("32 bytes have 16 at their start")
    }
}

impl Verifier {
    /// Says which event an authentic request is about, and what tells it from other requests for it.
    pub(super) fn name(&self, request: &RequestValues<'_>, proof: &Authenticated<'_>) -> Verified {
        let Authenticated { key, mac, stale, age } = proof;
        let scheme = &*self.scheme;
        let name = scheme.event.name(request, key);
        Verified {
            scheme: Arc::clone(&scheme.id),
            key: Arc::clone(&key.name),
            event_id: name.id,
            record: name.record,
            identity: identity(request, &scheme.identity, mac),
            pin: pin(request, &scheme.pinned),
            stale: *stale,
            age: *age,
        }
    }
}

impl EventRule {
    /// The name of the event that an authentic request is about.
    fn name(&self, request: &RequestValues<'_>, key: &VerificationKey) -> Name {
        let mut parts = DigestParts::after(key.record.clone());
        let found = match self {
            EventRule::None => return Name { id: None, record: None },
            EventRule::Body => None,
            EventRule::Id { from, signed, .. } => {
                EventRule::id(request, from, &mut parts).inspect(|_| {
                    if !signed {
                        parts.add(Some(request.payload.sha256()));
                    }
                })
            }
        };
        let id = match found {
            Some(id) => id,
            None if matches!(request.head.method, Method::GET | Method::HEAD) => {
                return Name { id: None, record: None };
            }
            None => {
                parts.add(None);
                parts.add(Some(request.payload.sha256()));
                let text = format!("sha256-{}", HEXLOWER.encode(request.payload.sha256()));
                HeaderValue::try_from(text).ok()
            }
        };
        Name { id, record: Some(EventKey(parts.short())) }
    }

    /// Adds the parts of an id that is whole, and gives it as it is told; `None` if a part is absent.
    fn id(
        request: &RequestValues<'_>,
        from: &[ValueSource],
        parts: &mut DigestParts,
    ) -> Option<Option<HeaderValue>> {
        if let [ValueSource::Header(slot)] = from {
            let id = request.headers[*slot]?;
            parts.add(Some(id.as_bytes()));
            return Some(Some(id.clone()));
        }
        let values: Option<Vec<_>> = from.iter().map(|id| request.value(id, &[], 0)).collect();
        let values = values?;
        values.iter().for_each(|value| parts.add(Some(value)));
        Some(HeaderValue::from_bytes(&values.join(&b':')).ok())
    }
}

/// The digest of what is fresh in each request; `None` if the scheme knows nothing of the kind.
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

/// The digest of what the signature does not cover but the upstream acts on: path and query, and the
/// headers that the scheme pins.
fn pin(request: &RequestValues<'_>, slots: &[usize]) -> ContextPin {
    let mut parts = DigestParts::after(Sha256::new());
    let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.add(Some(path.as_bytes()));
    slots.iter().for_each(|slot| parts.add(request.header(*slot)));
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
