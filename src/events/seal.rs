//! Encryption of events at rest, and the digests by which they are looked up.
//!
//! Each value is sealed with AES-256-GCM under a key derived from the configured one and 16 random
//! bytes, with 12 further random bytes as the nonce. With random nonces alone, one key would be
//! safe for 2³² values only.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};

use crate::secret::Secret;

/// The length of the configured key.
pub(crate) const KEY_LENGTH: usize = 32;
/// The random bytes from which the key of a value is derived.
const SALT_LENGTH: usize = 16;

/// Seals and opens values, and computes digests. Without a key, values are stored as they are.
#[derive(Clone)]
pub(crate) struct Seal {
    /// Derives the keys of values, if the store is encrypted.
    values: Option<hmac::Key>,
    /// Computes digests.
    digests: hmac::Key,
}

/// The key has the wrong length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of the event store must have 32 bytes")]
pub(crate) struct InvalidKey;

/// What a digest is computed of. Equal bytes of different kinds have different digests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DigestOf {
    /// The configured key.
    Key,
    /// The sender's event ID.
    EventId,
    /// A route and a replay record.
    Record,
    /// A route and the value of `order_by`.
    Order,
    /// The name of a route.
    Route,
}

impl Seal {
    /// Prepares the key of a store.
    ///
    /// # Errors
    /// If the key does not have 32 bytes.
    pub(crate) fn new(key: Option<&Secret>) -> Result<Self, InvalidKey> {
        let Some(key) = key else {
            return Ok(Seal { values: None, digests: hmac::Key::new(hmac::HMAC_SHA256, &[]) });
        };
        if key.expose().len() != KEY_LENGTH {
            return Err(InvalidKey);
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let derive =
            |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, label).as_ref());
        Ok(Seal {
            values: Some(derive(b"sealgate events: values")),
            digests: derive(b"sealgate events: digests"),
        })
    }

    /// Returns whether values are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.values.is_some()
    }

    /// Seals a value. It can be opened at the same `place` only: the key under which it is stored.
    pub(crate) fn seal(&self, place: &[u8], value: Vec<u8>) -> Vec<u8> {
        let Some(keys) = &self.values else { return value };
        let mut random = [0; SALT_LENGTH + NONCE_LEN];
        rand::fill(&mut random).expect("the generator is seeded");
        let (key, nonce) = value_key(keys, &random);
        let mut sealed = Vec::with_capacity(random.len() + value.len() + AES_256_GCM.tag_len());
        sealed.extend(random);
        sealed.extend_from_slice(&value);
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(place), &mut sealed[random.len()..])
            .expect("values are shorter than AES-GCM allows");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens a value; `None` if it was sealed with another key or at another place, or changed.
    pub(crate) fn open(&self, place: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let Some(keys) = &self.values else { return Some(sealed) };
        let (random, _) = sealed.split_first_chunk()?;
        let (key, nonce) = value_key(keys, random);
        let length = key
            .open_within(nonce, Aad::from(place), &mut sealed, SALT_LENGTH + NONCE_LEN..)
            .ok()?
            .len();
        sealed.truncate(length);
        Some(sealed)
    }

    /// Returns a digest, computed with the key if there is one.
    pub(crate) fn digest(&self, of: DigestOf, parts: &[&[u8]]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.digests);
        context.update(&[of as u8]);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        *context.sign().as_ref().first_chunk().expect("32 bytes have 16 at their start")
    }
}

fn value_key(keys: &hmac::Key, random: &[u8; SALT_LENGTH + NONCE_LEN]) -> (LessSafeKey, Nonce) {
    let (salt, nonce) = random.split_at(SALT_LENGTH);
    let key = hmac::sign(keys, salt);
    let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("the digest has 32 bytes");
    let nonce = Nonce::try_assume_unique_for_key(nonce).expect("12 bytes");
    (LessSafeKey::new(key), nonce)
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("is_encrypted", &self.is_encrypted()).finish()
    }
}
