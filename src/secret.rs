//! Key material: never printed, wiped from memory when dropped.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use zeroize::Zeroizing;

/// The bytes of a secret, as configured.
///
/// `Debug` shows only the length. The bytes are overwritten when the last owner is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of key material.
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// Returns the bytes. Use them only in the computation that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte_of_the_key() {
        let secret = Secret::new(b"hunter2hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(14 bytes)");
    }
}
