//! Parsing of signatures.

use memchr::memchr;

use crate::scheme::{
    compiled::{
        signature::{JsonSignature, SignatureFormat, SignatureRule},
        template::MAX_ITEMS,
    },
    encoding::Encoding,
    json::Scalar,
    text::{after, same},
};

/// The most signatures that one request may carry.
pub(in crate::scheme) const MAX_SIGNATURES: usize = 10;

/// The signature, or something in it, is outside its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) struct MalformedSignature;

/// The signatures of one request, decoded. Nearly all requests have one, of a MAC's length: it
/// needs no allocation.
pub(in crate::scheme) struct ClaimedSignatures {
    first: [u8; 66],
    /// Its length; `None` as long as there is none.
    length: Option<usize>,
    more: Vec<Vec<u8>>,
    /// The key that the signature names, and whether it names another algorithm.
    named: Option<Box<str>>,
    bad_algorithm: bool,
}

impl Default for ClaimedSignatures {
    fn default() -> Self {
        ClaimedSignatures {
            first: [0; 66],
            length: None,
            more: Vec::new(),
            named: None,
            bad_algorithm: false,
        }
    }
}

impl ClaimedSignatures {
    /// Returns the signatures' bytes. A well-encoded signature that does not have the scheme's
    /// length is empty, because no key can have made it.
    pub(in crate::scheme) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.length.map(|length| &self.first[..length]);
        first.into_iter().chain(self.more.iter().map(Vec::as_slice))
    }

    /// Adds a signature, whatever its length.
    pub(in crate::scheme) fn push(&mut self, signature: Vec<u8>) {
        self.more.push(signature);
    }

    /// Returns the name of the key, if the signature contains it.
    pub(in crate::scheme) fn key_name(&self) -> Option<&str> {
        self.named.as_deref()
    }

    /// Returns whether the signature names an algorithm other than the scheme's.
    pub(in crate::scheme) fn names_other_algorithm(&self) -> bool {
        self.bad_algorithm
    }

    fn count(&self) -> usize {
        usize::from(self.length.is_some()) + self.more.len()
    }
}

impl SignatureRule {
    /// Parses one value that contains signatures. `names` are the items' names by slot.
    pub(in crate::scheme) fn parse<'a>(
        &self,
        text: &'a [u8],
        names: &[Box<str>],
        items: &mut [Option<&'a [u8]>; MAX_ITEMS],
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), MalformedSignature> {
        match &self.format {
            SignatureFormat::Raw => self.candidate(text, candidates),
            SignatureFormat::KeyValue { separator, field } => {
                for item in split(text, *separator) {
                    let equals = memchr(b'=', item).ok_or(MalformedSignature)?;
                    let (name, value) = (&item[..equals], &item[equals + 1..]);
                    if same(name, field.as_bytes()) {
                        self.candidate(value, candidates)?;
                    } else if let Some(slot) = names.iter().position(|n| same(n.as_bytes(), name))
                        && items[slot].replace(value).is_some()
                    {
                        return Err(MalformedSignature);
                    }
                }
                Ok(())
            }
            SignatureFormat::List { separator } => {
                let text = text.strip_prefix(self.prefix.as_bytes()).ok_or(MalformedSignature)?;
                split(text, *separator).try_for_each(|item| self.bare(item, candidates))
            }
            SignatureFormat::Tagged { separator, tag } => {
                for item in split(text, *separator) {
                    if let Some(value) = after(item, tag.as_bytes()) {
                        self.candidate(value, candidates)?;
                    }
                }
                Ok(())
            }
            SignatureFormat::Positional { separator, items: leading } => {
                for (place, item) in split(text, *separator).enumerate() {
                    if place < *leading {
                        items[place] = Some(item);
                    } else {
                        self.candidate(item, candidates)?;
                    }
                }
                Ok(())
            }
            SignatureFormat::Json(rule) => self.parse_json(rule, text, candidates),
        }
    }

    fn parse_json(
        &self,
        rule: &JsonSignature,
        text: &[u8],
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), MalformedSignature> {
        let object = Encoding::Base64.decode(text).ok_or(MalformedSignature)?;
        let found = rule.reader.read(&object).map_err(|_| MalformedSignature)?;
        let text = |pointer| match found.only(pointer, 0) {
            Some(Scalar::Text(text)) => Ok(&**text),
            Some(Scalar::Integer(_) | Scalar::Other) | None => Err(MalformedSignature),
        };
        if let Some(key) = rule.key {
            candidates.named = Some(text(key)?.into());
        }
        for (pointer, value) in &rule.fixed {
            candidates.bad_algorithm |= !text(*pointer)?.eq_ignore_ascii_case(value);
        }
        self.candidate(text(rule.signature)?.as_bytes(), candidates)
    }

    /// Parses a value that is one signature.
    pub(in crate::scheme) fn parse_raw(
        &self,
        text: &[u8],
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), MalformedSignature> {
        self.candidate(text, candidates)
    }

    fn candidate(
        &self,
        text: &[u8],
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), MalformedSignature> {
        match after(text, self.prefix.as_bytes()) {
            Some(bare) => self.bare(bare, candidates),
            None if self.prefix_optional => self.bare(text, candidates),
            None => Err(MalformedSignature),
        }
    }

    fn bare(
        &self,
        text: &[u8],
        candidates: &mut ClaimedSignatures,
    ) -> Result<(), MalformedSignature> {
        if candidates.count() == MAX_SIGNATURES || text.is_empty() {
            return Err(MalformedSignature);
        }
        let Some(length) = self.length else {
            candidates.more.push(self.encoding.decode(text).ok_or(MalformedSignature)?);
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
            (Some(_), Encoding::Hex | Encoding::Text) | (None, _) => {
                return Err(MalformedSignature);
            }
        };
        if is_first {
            candidates.length = Some(found);
        } else {
            candidates.more.push(bytes[..found].to_vec());
        }
        Ok(())
    }
}

/// Returns the items of a header, without the white space around them.
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
