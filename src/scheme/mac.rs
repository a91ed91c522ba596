//! Message authentication codes and plain digests over a message in pieces.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512, digest::Update};
use subtle::{Choice, ConstantTimeEq};

use crate::scheme::buffered_hash::BufferedHash;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashAlgorithm {
    /// SHA-1; sound in an HMAC, not elsewhere.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl HashAlgorithm {
    /// All hash functions.
    pub(super) const ALL: [HashAlgorithm; 3] =
        [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512];

    /// Returns its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Sha1 => "SHA-1",
            HashAlgorithm::Sha256 => "SHA-256",
            HashAlgorithm::Sha512 => "SHA-512",
        }
    }

    /// Returns the length of a digest in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha512 => 64,
        }
    }
}

/// A computation over a message in pieces. Cloning a keyed one costs no hashing.
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

/// The result of a computation: at most 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct Tag {
    bytes: [u8; 64],
    length: usize,
}

impl Tag {
    fn new(result: &[u8]) -> Tag {
        let mut bytes = [0; 64];
        bytes[..result.len()].copy_from_slice(result);
        Tag { bytes, length: result.len() }
    }

    /// Returns the bytes of the result.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the first 16 bytes, for a selection without a branch.
    pub(super) fn start(&self) -> u128 {
        u128::from_ne_bytes(*self.bytes.first_chunk().expect("64 bytes have 16 at their start"))
    }

    /// Compares `candidate` with the result in a time that depends only on the length.
    pub(super) fn is(&self, candidate: &[u8]) -> Choice {
        // Words of eight bytes, and the last four bytes of a SHA-1. All differences are collected
        // in one word, because each comparison in constant time has a cost.
        let (words, rest) = self.bytes().as_chunks::<8>();
        let (others, remaining) = candidate.as_chunks::<8>();
        let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        let lengths = (candidate.len() ^ self.length) as u64;
        let pairs = words.iter().zip(others);
        let differ = pairs.fold(lengths, |differ, (a, b)| differ | (word(a) ^ word(b)));
        let pairs = rest.iter().zip(remaining);
        pairs.fold(differ, |differ, (a, b)| differ | u64::from(a ^ b)).ct_eq(&0)
    }
}

impl Engine {
    /// Prepares an HMAC with `key`, which may have any length.
    pub(super) fn hmac(hash: HashAlgorithm, key: &[u8]) -> Engine {
        const ANY: &str = "HMAC takes keys of any length";
        match hash {
            HashAlgorithm::Sha1 => Engine::HmacSha1(Hmac::new_from_slice(key).expect(ANY)),
            HashAlgorithm::Sha256 => Engine::HmacSha256(Hmac::new_from_slice(key).expect(ANY)),
            HashAlgorithm::Sha512 => Engine::HmacSha512(Hmac::new_from_slice(key).expect(ANY)),
        }
    }

    /// Creates a plain digest.
    pub(super) fn digest(hash: HashAlgorithm) -> Engine {
        match hash {
            HashAlgorithm::Sha1 => Engine::Sha1(Sha1::new()),
            HashAlgorithm::Sha256 => Engine::Sha256(Sha256::new()),
            HashAlgorithm::Sha512 => Engine::Sha512(Sha512::new()),
        }
    }

    /// Computes the result over the message that `feed` pushes piece by piece, and returns it with
    /// the value that `feed` returns.
    pub(super) fn compute<T>(
        &self,
        feed: impl FnOnce(&mut BufferedHash<dyn Update>) -> T,
    ) -> (Tag, T) {
        match self {
            Engine::HmacSha1(state) => keyed(state.clone(), feed),
            Engine::HmacSha256(state) => keyed(state.clone(), feed),
            Engine::HmacSha512(state) => keyed(state.clone(), feed),
            Engine::Sha1(state) => plain(state.clone(), feed),
            Engine::Sha256(state) => plain(state.clone(), feed),
            Engine::Sha512(state) => plain(state.clone(), feed),
        }
    }

    /// Computes the result over one piece.
    pub(super) fn of(&self, message: &[u8]) -> Tag {
        self.compute(|message_so_far| message_so_far.push(message)).0
    }
}

fn keyed<M, T>(state: M, feed: impl FnOnce(&mut BufferedHash<dyn Update>) -> T) -> (Tag, T)
where
    M: Mac + Update + 'static,
{
    let mut pending = BufferedHash::before(state);
    let fed = feed(&mut pending);
    (Tag::new(&pending.taken().finalize().into_bytes()), fed)
}

fn plain<D, T>(state: D, feed: impl FnOnce(&mut BufferedHash<dyn Update>) -> T) -> (Tag, T)
where
    D: Digest + Update + 'static,
{
    let mut pending = BufferedHash::before(state);
    let fed = feed(&mut pending);
    (Tag::new(&pending.taken().finalize()), fed)
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
