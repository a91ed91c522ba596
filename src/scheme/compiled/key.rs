//! Which key a request names, and how secrets are written.

use crate::{
    scheme::{encoding::Encoding, json::JsonPointers},
    secret::Secret,
};

/// The form of the sender's secrets: how the configured text becomes the bytes of the key.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct KeyForm {
    /// How the bytes are written.
    pub(in crate::scheme) encoding: Encoding,
    /// Prefixes that are not part of the key, such as `whsec_`.
    pub(in crate::scheme) strip: Vec<Box<str>>,
}

impl KeyForm {
    /// Returns the bytes of the key.
    ///
    /// # Errors
    /// The secret is not in the sender's form.
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
        // Some senders show base64 without its padding.
        let padding =
            if self.encoding == Encoding::Base64 { text.len().wrapping_neg() % 4 } else { 0 };
        let text = Secret::new([text, &b"==="[..padding]].concat());
        match self.encoding.decode(text.expose()) {
            Some(bytes) if !bytes.is_empty() => Ok(Secret::new(bytes)),
            _ => Err(format!("the secret is not {form}, as this sender writes it")),
        }
    }
}

/// How a request names its key.
#[derive(Clone, Debug)]
pub(in crate::scheme) enum KeyChoice {
    /// The global key is the only one.
    Global,
    /// Headers select the global key or a group's; the body selects the group.
    ByHeader {
        /// The slot of the header that selects global or group.
        header: usize,
        /// Its values for the global key.
        global: Vec<Box<str>>,
        /// Whether the global key signs where the header is absent.
        absent: bool,
        /// Its values for a group's key.
        group: Vec<Box<str>>,
        /// The slot of the header that selects the group's space.
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
    /// The members that are read from the body of a request for this space.
    pub(in crate::scheme) reader: JsonPointers,
}

impl KeyChoice {
    /// Returns the spaces, if there are any.
    pub(in crate::scheme) fn spaces(&self) -> &[KeySpace] {
        match self {
            KeyChoice::Global => &[],
            KeyChoice::ByHeader { spaces, .. } => spaces,
        }
    }
}
