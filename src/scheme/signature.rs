//! The signature as the sender writes it: where it stands, in which format, in which encoding.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use memchr::memchr;

use super::{
    compare::{after, every, same},
    hex,
    source::{MAX_ITEMS, Source},
};

/// The most signatures that one request may carry.
pub(super) const MAX_CANDIDATES: usize = 10;

/// The signature, or something in it, is outside its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Hexadecimal, in any case.
    Hex,
    /// Base64 with padding (RFC 4648, section 4).
    Base64,
    /// Base64 for URLs (RFC 4648, section 5), with or without padding.
    Base64Url,
    /// The text stands for itself.
    Text,
}

impl Encoding {
    /// The encoded bytes; strict: no white space, no stray bits.
    pub(super) fn decode(self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text).ok(),
            Encoding::Base64 => BASE64.decode(text).ok(),
            Encoding::Base64Url => BASE64URL_NOPAD.decode(unpadded(text)).ok(),
            Encoding::Text => Some(text.to_vec()),
        }
    }

    /// Bytes as text.
    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Hex => HEXLOWER_PERMISSIVE.encode(bytes),
            Encoding::Base64 => BASE64.encode(bytes),
            Encoding::Base64Url => BASE64URL_NOPAD.encode(bytes),
            Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
        }
    }

    /// Decodes a MAC into `into`; gives its length, or `None` if it is not encoded like this or is
    /// longer than any MAC.
    fn decode_mac(self, text: &[u8], into: &mut [u8; 66]) -> Option<usize> {
        let (codec, text) = match self {
            Encoding::Hex => return hex::decode(text, into),
            Encoding::Base64 => (&BASE64, text),
            Encoding::Base64Url => (&BASE64URL_NOPAD, unpadded(text)),
            Encoding::Text => return None,
        };
        let room = codec.decode_len(text.len()).ok()?;
        codec.decode_mut(text, into.get_mut(..room)?).ok()
    }
}

fn unpadded(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"=").unwrap_or(text);
    text.strip_suffix(b"=").unwrap_or(text)
}

/// Whether a text is 1 to 128 letters, digits, `_` and `-`: what event ids and challenges are made of.
pub(super) fn is_word(text: &[u8]) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=128).contains(&text.len()) && every(text, word)
}

/// The signatures of one request, decoded. Nearly all requests have one, of a MAC's length: it needs no
/// allocation.
pub(super) struct Candidates {
    first: [u8; 66],
    /// Its length; `None` as long as there is none.
    length: Option<usize>,
    more: Vec<Vec<u8>>,
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates { first: [0; 66], length: None, more: Vec::new() }
    }
}

impl Candidates {
    /// The signatures' bytes. One that is well encoded but has not the length of the scheme's is
    /// empty: it is no signature that any key makes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.length.map(|length| &self.first[..length]);
        first.into_iter().chain(self.more.iter().map(Vec::as_slice))
    }

    fn count(&self) -> usize {
        usize::from(self.length.is_some()) + self.more.len()
    }
}

/// How a header is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The whole value is the signature.
    Raw,
    /// `t=…,v1=…`: items with names. Unknown names are passed over.
    KeyValue {
        /// Between the items.
        separator: u8,
        /// The name of the items that are signatures.
        field: Box<str>,
    },
    /// Signatures only.
    List {
        /// Between them.
        separator: u8,
    },
    /// `v1,… v1a,…`: signatures, each with a tag before it. Other tags are passed over.
    Tagged {
        /// Between the items.
        separator: u8,
        /// The tag of this scheme's signatures, with what ends it: `v1,`.
        tag: Box<str>,
    },
    /// Items known by their place, then signatures to the end.
    Positional {
        /// Between the items.
        separator: u8,
        /// How many items stand before the first signature; they take the first item slots.
        items: usize,
    },
}

/// A scheme's signature.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    /// Where it may stand: at least one of these must be there.
    pub(super) from: Vec<Source>,
    /// How that is divided.
    pub(super) format: Format,
    /// What stands before each signature.
    pub(super) prefix: Box<str>,
    /// Whether a signature without the prefix is taken too.
    pub(super) prefix_optional: bool,
    /// How the signature is written.
    pub(super) encoding: Encoding,
    /// Its length in bytes, where the algorithm fixes it.
    pub(super) length: Option<usize>,
    /// The item that names the algorithm, and the only name that is taken.
    pub(super) algorithm: Option<(usize, Box<str>)>,
}

impl Signature {
    /// Takes apart one value that carries signatures. `names` are the items' names by slot.
    pub(super) fn parse<'a>(
        &self,
        text: &'a [u8],
        names: &[Box<str>],
        items: &mut [Option<&'a [u8]>; MAX_ITEMS],
        candidates: &mut Candidates,
    ) -> Result<(), Malformed> {
        match &self.format {
            Format::Raw => self.candidate(text, candidates),
            Format::KeyValue { separator, field } => {
                for item in split(text, *separator) {
                    let equals = memchr(b'=', item).ok_or(Malformed)?;
                    let (name, value) = (&item[..equals], &item[equals + 1..]);
                    if same(name, field.as_bytes()) {
                        self.candidate(value, candidates)?;
                    } else if let Some(slot) = names.iter().position(|n| same(n.as_bytes(), name))
                        && items[slot].replace(value).is_some()
                    {
                        return Err(Malformed);
                    }
                }
                Ok(())
            }
            Format::List { separator } => {
                let text = text.strip_prefix(self.prefix.as_bytes()).ok_or(Malformed)?;
                split(text, *separator).try_for_each(|item| self.bare(item, candidates))
            }
            Format::Tagged { separator, tag } => {
                for item in split(text, *separator) {
                    if let Some(value) = after(item, tag.as_bytes()) {
                        self.candidate(value, candidates)?;
                    }
                }
                Ok(())
            }
            Format::Positional { separator, items: leading } => {
                for (place, item) in split(text, *separator).enumerate() {
                    if place < *leading {
                        items[place] = Some(item);
                    } else {
                        self.candidate(item, candidates)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Takes a value that is one signature as a whole.
    pub(super) fn parse_raw(
        &self,
        text: &[u8],
        candidates: &mut Candidates,
    ) -> Result<(), Malformed> {
        self.candidate(text, candidates)
    }

    fn candidate(&self, text: &[u8], candidates: &mut Candidates) -> Result<(), Malformed> {
        match after(text, self.prefix.as_bytes()) {
            Some(bare) => self.bare(bare, candidates),
            None if self.prefix_optional => self.bare(text, candidates),
            None => Err(Malformed),
        }
    }

    fn bare(&self, text: &[u8], candidates: &mut Candidates) -> Result<(), Malformed> {
        if candidates.count() == MAX_CANDIDATES || text.is_empty() {
            return Err(Malformed);
        }
        let Some(length) = self.length else {
            candidates.more.push(self.encoding.decode(text).ok_or(Malformed)?);
            return Ok(());
        };
        let mut bytes = [0; 66];
        let is_first = candidates.length.is_none();
        let room = if is_first { &mut candidates.first } else { &mut bytes };
        // The grammar of hex fixes the number of digits; base64 of another length is a well-formed
        // text that no key signs.
        let found = match (self.encoding.decode_mac(text, room), self.encoding) {
            (Some(found), _) if found == length => found,
            (Some(_), Encoding::Base64 | Encoding::Base64Url) => 0,
            (Some(_), Encoding::Hex | Encoding::Text) | (None, _) => return Err(Malformed),
        };
        if is_first {
            candidates.length = Some(found);
        } else {
            candidates.more.push(bytes[..found].to_vec());
        }
        Ok(())
    }
}

/// The items of a header, without the white space around them.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let item = match memchr(separator, text) {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                &text[..at]
            }
            None => rest.take()?,
        };
        Some(item.trim_ascii())
    })
}

#[cfg(test)]
mod tests;
