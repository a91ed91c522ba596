//! Bytes written as text: signatures, keys and digests.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use super::hex;

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Hexadecimal, in any case.
    Hex,
    /// Base64 with padding (RFC 4648, section 4).
    Base64,
    /// Base64 for URLs (RFC 4648, section 5), with or without padding.
    Base64Url,
    /// The text itself.
    Text,
}

/// How a secret's text becomes the bytes of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretForm {
    /// The bytes of the text itself.
    Text,
    /// The bytes that the text encodes in hexadecimal.
    Hex,
    /// The bytes that the text encodes in base64.
    Base64,
}

impl Encoding {
    /// Decodes a text. Strict: no white space, no stray bits.
    pub(super) fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text).ok(),
            Encoding::Base64 => BASE64.decode(text).ok(),
            Encoding::Base64Url => BASE64URL_NOPAD.decode(unpadded(text)).ok(),
            Encoding::Text => Some(text.to_vec()),
        }
    }

    /// Encodes bytes; hexadecimal in lower case.
    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Hex => HEXLOWER.encode(bytes),
            Encoding::Base64 => BASE64.encode(bytes),
            Encoding::Base64Url => BASE64URL_NOPAD.encode(bytes),
            Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
        }
    }

    /// Decodes a MAC into `into` and returns its length; `None` if the text is not in this encoding
    /// or longer than any MAC.
    pub(super) fn decode_mac(self, text: &[u8], into: &mut [u8; 66]) -> Option<usize> {
        let (codec, text) = match self {
            Encoding::Hex => return hex::decode(text, into),
            Encoding::Base64 => (&BASE64, text),
            Encoding::Base64Url => (&BASE64URL_NOPAD, unpadded(text)),
            Encoding::Text => return None,
        };
        let length = codec.decode_len(text.len()).ok()?;
        codec.decode_mut(text, into.get_mut(..length)?).ok()
    }
}

fn unpadded(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"=").unwrap_or(text);
    text.strip_suffix(b"=").unwrap_or(text)
}
