//! Which key a request names, and how secrets are written.

use crate::{
    scheme::{encoding::Encoding, json::JsonPointers},
    secret::Secret,
};

/// What the sender calls its key: how the configured text becomes the bytes of the key.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct KeyForm {
    /// How the bytes are written.
    pub(in crate::scheme) encoding: Encoding,
    /// Prefixes that are not part of the key, such as `whsec_`.
    pub(in crate::scheme) strip: Vec<Box<str>>,
}

impl KeyForm {
    /// The bytes of the key.
    ///
    /// # Errors
    /// Says how the secret is not written as the sender writes it.
    pub(in crate::scheme) fn bytes(&self, secret: &Secret) -> Result<Secret, String> {
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
pub(in crate::scheme) enum KeyChoice {
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
        spaces: Vec<KeySpace>,
    },
}

/// A space of group keys, numbered independently of the others.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct KeySpace {
    /// Its name in the configuration.
    pub(in crate::scheme) name: Box<str>,
    /// The header's values that mean it.
    pub(in crate::scheme) values: Vec<Box<str>>,
    /// The number of the pointer to the group's index, within `reader`.
    pub(in crate::scheme) index: u16,
    /// What the body of a request for this space is read for.
    pub(in crate::scheme) reader: JsonPointers,
}

impl KeyChoice {
    /// The spaces, if there are any.
    pub(in crate::scheme) fn spaces(&self) -> &[KeySpace] {
        match self {
            KeyChoice::Global => &[],
            KeyChoice::ByHeader { spaces, .. } => spaces,
        }
    }
}
