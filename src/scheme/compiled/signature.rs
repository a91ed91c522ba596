//! How a sender writes its signature: where it is, in which format, in which encoding.

use crate::scheme::{compiled::template::ValueSource, encoding::Encoding, json::JsonPointers};

/// How a header is divided.
#[derive(Clone, Debug)]
pub(in crate::scheme) enum SignatureFormat {
    /// The whole value is the signature.
    Raw,
    /// `t=…,v1=…`: items with names. Unknown names are ignored.
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
    /// `v1,… v1a,…`: signatures with tags. Other tags are ignored.
    Tagged {
        /// Between the items.
        separator: u8,
        /// The tag of this scheme's signatures with its end: `v1,`.
        tag: Box<str>,
    },
    /// Items identified by their position, followed by signatures.
    Positional {
        /// Between the items.
        separator: u8,
        /// The number of items before the first signature; they have the first item slots.
        items: usize,
    },
    /// A JSON object in base64, which has the signature as a member.
    Json(Box<JsonSignature>),
}

/// The members by which a signature in JSON is read.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct JsonSignature {
    /// All pointers.
    pub(in crate::scheme) reader: JsonPointers,
    /// The pointer to the signature.
    pub(in crate::scheme) signature: u16,
    /// The pointer to the key's name.
    pub(in crate::scheme) key: Option<u16>,
    /// Members that must have one value, whatever the case of its letters.
    pub(in crate::scheme) fixed: Vec<(u16, Box<str>)>,
}

/// A scheme's signature.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct SignatureRule {
    /// Its sources; at least one must be present.
    pub(in crate::scheme) from: Vec<ValueSource>,
    /// How that is divided.
    pub(in crate::scheme) format: SignatureFormat,
    /// The prefix of each signature.
    pub(in crate::scheme) prefix: Box<str>,
    /// Whether a signature without the prefix is accepted too.
    pub(in crate::scheme) prefix_optional: bool,
    /// How the signature is written.
    pub(in crate::scheme) encoding: Encoding,
    /// Its length in bytes, where the algorithm fixes it.
    pub(in crate::scheme) length: Option<usize>,
    /// The source of the algorithm's name, and the only accepted name.
    pub(in crate::scheme) algorithm: Option<(ValueSource, Box<str>)>,
}

impl SignatureRule {
    /// Returns the slot of the first header of the signature.
    pub(in crate::scheme) fn slot(&self) -> Option<usize> {
        self.from.iter().find_map(|source| match source {
            ValueSource::Header(slot) => Some(*slot),
            _ => None,
        })
    }
}

/// How the listed headers are signed.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct SignedHeadersRule {
    /// The source of the list of names.
    pub(in crate::scheme) list: ValueSource,
    /// Between the names of the list.
    pub(in crate::scheme) separator: u8,
    /// Between the headers in the message.
    pub(in crate::scheme) join: Box<str>,
    /// Whether the names are signed, as `name:value`.
    pub(in crate::scheme) names: bool,
    /// The slots of the headers that must be listed.
    pub(in crate::scheme) required: Vec<usize>,
}
