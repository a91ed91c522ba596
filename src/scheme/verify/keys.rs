//! The keys of a route, and which of them verifies a request.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{
    scheme::{
        compiled::key::{KeyChoice, KeySpace},
        json::Scalar,
        mac::{Engine, Tag},
        public_key::PublicKey,
        text::same,
        verify::request::RequestValues,
    },
    secret::Secret,
};

/// The key that a request's headers name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum NamedKey {
    /// The global key.
    Global,
    /// A key of the space with this number.
    Group(usize),
    /// No key that the scheme knows.
    Unknown,
    /// The header that must name it is absent.
    Missing,
}

impl KeyChoice {
    /// Returns the key that the headers name. A group never falls back to the global key.
    pub(in crate::scheme) fn named(&self, request: &RequestValues<'_>) -> NamedKey {
        let KeyChoice::ByHeader { header, global, absent, group, by, spaces } = self else {
            return NamedKey::Global;
        };
        let is =
            |values: &[Box<str>], value: &[u8]| values.iter().any(|v| same(v.as_bytes(), value));
        let Some(kind) = request.header(*header) else {
            return if *absent { NamedKey::Global } else { NamedKey::Missing };
        };
        if is(global, kind) {
            return NamedKey::Global;
        }
        if !is(group, kind) {
            return NamedKey::Unknown;
        }
        let Some(space) = request.header(*by) else { return NamedKey::Missing };
        let found = spaces.iter().position(|known| is(&known.values, space));
        found.map_or(NamedKey::Unknown, NamedKey::Group)
    }
}

/// A prepared secret.
#[derive(Clone, Debug)]
pub(in crate::scheme) enum PreparedSecret {
    /// An HMAC with its key.
    Hmac(Engine),
    /// A plain digest; the message brings the secret in.
    Digest(Engine, Secret),
    /// A static token: its HMAC under a key of this process, so that the comparison takes the same
    /// time whatever is compared.
    Token(Engine, Tag),
    /// A public key.
    Public(PublicKey),
}

/// One key: a name and the secrets that verify under it.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct VerificationKey {
    /// `global`, `coupon/3570`.
    pub(in crate::scheme) name: Arc<str>,
    /// Any of them verifies.
    pub(in crate::scheme) secrets: Vec<PreparedSecret>,
    /// The same secrets as configured, for signing as the sender and for hypotheses; empty for
    /// public keys.
    pub(in crate::scheme) configured: Vec<Secret>,
    /// SHA-256 after one whole block for route and key: the start of every event key.
    pub(in crate::scheme) record: Sha256,
}

impl VerificationKey {
    /// Creates a key of the route `route`.
    pub(in crate::scheme) fn new(
        route: &str,
        name: &str,
        secrets: Vec<PreparedSecret>,
        configured: Vec<Secret>,
    ) -> VerificationKey {
        let mut scope = Sha256::new();
        for part in ["sealgate record 1", route, name] {
            scope.update((part.len() as u64).to_be_bytes());
            scope.update(part);
        }
        let record = Sha256::new().chain_update(scope.finalize()).chain_update([0; 32]);
        VerificationKey { name: name.into(), secrets, configured, record }
    }
}

/// The keys of one route.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct VerificationKeys {
    /// The global key.
    pub(in crate::scheme) global: Option<VerificationKey>,
    /// Group keys by space and index, sorted.
    pub(in crate::scheme) groups: Vec<((usize, i64), VerificationKey)>,
    /// A stand-in for an unknown key, so that a request for one takes the same time.
    pub(in crate::scheme) dummy: VerificationKey,
}

impl VerificationKeys {
    /// Returns the key of a group.
    pub(in crate::scheme) fn group(&self, space: usize, index: i64) -> Option<&VerificationKey> {
        let found = self.groups.binary_search_by_key(&(space, index), |(place, _)| *place);
        found.ok().map(|at| &self.groups[at].1)
    }

    /// Returns all keys.
    pub(in crate::scheme) fn iter(&self) -> impl Iterator<Item = &VerificationKey> {
        self.global.iter().chain(self.groups.iter().map(|(_, key)| key))
    }
}

/// Reads the index of a group from the body: an integer and nothing else.
pub(in crate::scheme) fn index(request: &RequestValues<'_>, space: &KeySpace) -> Option<i64> {
    match request.json(space.index, 0) {
        Some(Scalar::Integer(index)) => Some(*index),
        Some(Scalar::Text(_) | Scalar::Other) | None => None,
    }
}
