//! Which key judges a request, and how configured secrets become keys.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    compare::same,
    json::{Pointers, Scalar},
    mac::{Engine, Tag},
    public::PublicKey,
    request::Request,
    signature::Encoding,
};
use crate::secret::Secret;

/// What the sender calls its key: how the configured text becomes the bytes of the key.
#[derive(Clone, Debug)]
pub(super) struct KeyForm {
    /// How the bytes are written.
    pub(super) encoding: Encoding,
    /// Prefixes that are not part of the key, such as `whsec_`.
    pub(super) strip: Vec<Box<str>>,
}

impl KeyForm {
    /// The bytes of the key.
    ///
    /// # Errors
    /// Says how the secret is not written as the sender writes it.
    pub(super) fn bytes(&self, secret: &Secret) -> Result<Secret, String> {
        let mut text = secret.expose();
        for prefix in &self.strip {
            text = text.strip_prefix(prefix.as_bytes()).unwrap_or(text);
        }
        let form = match self.encoding {
            Encoding::Text => return Ok(Secret::new(text.to_vec())),
            Encoding::Hex => "hex",
            Encoding::Base64 => "base64",
            Encoding::Base64Url => "base64url",
        };
        match self.encoding.decode(text) {
            Some(bytes) if !bytes.is_empty() => Ok(Secret::new(bytes)),
            _ => Err(format!("the secret is not {form}, as this sender writes it")),
        }
    }
}

/// How a request names its key.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    /// There is only the global key.
    Global,
    /// Headers say whether the global key or a group's signs; the body says which group.
    ByHeader {
        /// The slot of the header that says global or group.
        header: usize,
        /// Its values for the global key.
        global: Vec<Box<str>>,
        /// Whether the global key signs where the header is absent.
        absent: bool,
        /// Its values for a group's key.
        group: Vec<Box<str>>,
        /// The slot of the header that says in which space the group is.
        by: usize,
        /// The spaces.
        spaces: Vec<Space>,
    },
}

/// A space of group keys, numbered independently of the others.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// Its name in the configuration.
    pub(super) name: Box<str>,
    /// The header's values that mean it.
    pub(super) values: Vec<Box<str>>,
    /// The number of the pointer to the group's index, within `reader`.
    pub(super) index: u16,
    /// What the body of a request for this space is read for.
    pub(super) reader: Pointers,
}

/// What a request's headers say about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The global key.
    Global,
    /// A key of the space with this number.
    Group(usize),
    /// No key that the scheme knows.
    Unknown,
    /// A header that must say it is absent.
    Missing,
}

impl Choice {
    /// The spaces, if there are any.
    pub(super) fn spaces(&self) -> &[Space] {
        match self {
            Choice::Global => &[],
            Choice::ByHeader { spaces, .. } => spaces,
        }
    }

    /// What the headers say. There is no way from a group to the global key.
    pub(super) fn named(&self, request: &Request<'_>) -> Named {
        let Choice::ByHeader { header, global, absent, group, by, spaces } = self else {
            return Named::Global;
        };
        let is =
            |values: &[Box<str>], value: &[u8]| values.iter().any(|v| same(v.as_bytes(), value));
        let Some(kind) = request.header(*header) else {
            return if *absent { Named::Global } else { Named::Missing };
        };
        if is(global, kind) {
            return Named::Global;
        }
        if !is(group, kind) {
            return Named::Unknown;
        }
        let Some(space) = request.header(*by) else { return Named::Missing };
        let found = spaces.iter().position(|known| is(&known.values, space));
        found.map_or(Named::Unknown, Named::Group)
    }
}

/// A secret, ready for use.
#[derive(Clone, Debug)]
pub(super) enum Primed {
    /// An HMAC that has taken the key.
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
pub(super) struct Key {
    /// `global`, `coupon/3570`.
    pub(super) name: Arc<str>,
    /// Any of them verifies.
    pub(super) secrets: Vec<Primed>,
    /// The same secrets as configured, for signing as the sender and for suppositions; empty for
    /// public keys.
    pub(super) configured: Vec<Secret>,
    /// SHA-256 after one whole block that stands for route and key: the start of every record key.
    pub(super) record: Sha256,
}

impl Key {
    /// A key of the route `route`.
    pub(super) fn new(
        route: &str,
        name: &str,
        secrets: Vec<Primed>,
        configured: Vec<Secret>,
    ) -> Key {
        let mut scope = Sha256::new();
        for part in ["sealgate record 1", route, name] {
            scope.update((part.len() as u64).to_be_bytes());
            scope.update(part);
        }
        let record = Sha256::new().chain_update(scope.finalize()).chain_update([0; 32]);
        Key { name: name.into(), secrets, configured, record }
    }
}

/// The keys of one route.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// The global key.
    pub(super) global: Option<Key>,
    /// Group keys by space and index, sorted.
    pub(super) groups: Vec<((usize, i64), Key)>,
    /// Stands in for an unknown key, so that a request for one costs the same work.
    pub(super) dummy: Key,
}

impl Ring {
    /// The key of a group.
    pub(super) fn group(&self, space: usize, index: i64) -> Option<&Key> {
        let found = self.groups.binary_search_by_key(&(space, index), |(place, _)| *place);
        found.ok().map(|at| &self.groups[at].1)
    }

    /// All keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.global.iter().chain(self.groups.iter().map(|(_, key)| key))
    }
}

/// The index of a group, read from the body: an integer and nothing else.
pub(super) fn index(request: &Request<'_>, space: &Space) -> Option<i64> {
    match request.json(space.index, 0) {
        Some(Scalar::Integer(index)) => Some(*index),
        Some(Scalar::Text(_) | Scalar::Other) | None => None,
    }
}
