//! Message authentication codes and plain digests over a message that comes in pieces.

use hmac::{Hmac, KeyInit, Mac as _};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// SHA-1; sound in an HMAC, not elsewhere.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The length of a digest in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha512 => 64,
        }
    }
}

/// A computation that takes a message piece by piece. Cloning a keyed one costs no hashing.
#[derive(Clone)]
pub(super) enum Engine {
    /// HMAC (RFC 2104) with SHA-1.
    HmacSha1(Hmac<Sha1>),
    /// HMAC with SHA-256.
    HmacSha256(Hmac<Sha256>),
    /// HMAC with SHA-512.
    HmacSha512(Hmac<Sha512>),
    /// SHA-1 of the message alone.
    Sha1(Sha1),
    /// SHA-256 of the message alone.
    Sha256(Sha256),
    /// SHA-512 of the message alone.
    Sha512(Sha512),
}

/// The result: at most 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct Tag {
    bytes: [u8; 64],
    length: usize,
}

impl Tag {
    /// The bytes of the result.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Engine {
    /// An HMAC primed with `key`, which may have any length.
    pub(super) fn hmac(hash: Hash, key: &[u8]) -> Engine {
        const ANY: &str = "HMAC takes keys of any length";
        match hash {
            Hash::Sha1 => Engine::HmacSha1(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha256 => Engine::HmacSha256(Hmac::new_from_slice(key).expect(ANY)),
            Hash::Sha512 => Engine::HmacSha512(Hmac::new_from_slice(key).expect(ANY)),
        }
    }

    /// A plain digest.
    pub(super) fn digest(hash: Hash) -> Engine {
        match hash {
            Hash::Sha1 => Engine::Sha1(Sha1::new()),
            Hash::Sha256 => Engine::Sha256(Sha256::new()),
            Hash::Sha512 => Engine::Sha512(Sha512::new()),
        }
    }

    /// Takes the next piece of the message.
    #[inline]
    pub(super) fn update(&mut self, piece: &[u8]) {
        match self {
            Engine::HmacSha1(mac) => mac.update(piece),
            Engine::HmacSha256(mac) => mac.update(piece),
            Engine::HmacSha512(mac) => mac.update(piece),
            Engine::Sha1(digest) => Digest::update(digest, piece),
            Engine::Sha256(digest) => Digest::update(digest, piece),
            Engine::Sha512(digest) => Digest::update(digest, piece),
        }
    }

    /// The result over all pieces.
    pub(super) fn finish(self) -> Tag {
        let mut bytes = [0; 64];
        let mut put = |result: &[u8]| {
            bytes[..result.len()].copy_from_slice(result);
            result.len()
        };
        let length = match self {
            Engine::HmacSha1(mac) => put(&mac.finalize().into_bytes()),
            Engine::HmacSha256(mac) => put(&mac.finalize().into_bytes()),
            Engine::HmacSha512(mac) => put(&mac.finalize().into_bytes()),
            Engine::Sha1(digest) => put(&digest.finalize()),
            Engine::Sha256(digest) => put(&digest.finalize()),
            Engine::Sha512(digest) => put(&digest.finalize()),
        };
        Tag { bytes, length }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(keyed)")
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tag({} bytes)", self.length)
    }
}
