//! How a sender writes its signature: where it is, in which format, in which encoding.

use crate::scheme::{compiled::template::ValueSource, encoding::Encoding};

/// How a header is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum SignatureFormat {
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
pub(in crate::scheme) struct SignatureRule {
    /// Where it may stand: at least one of these must be there.
    pub(in crate::scheme) from: Vec<ValueSource>,
    /// How that is divided.
    pub(in crate::scheme) format: SignatureFormat,
    /// What stands before each signature.
    pub(in crate::scheme) prefix: Box<str>,
    /// Whether a signature without the prefix is taken too.
    pub(in crate::scheme) prefix_optional: bool,
    /// How the signature is written.
    pub(in crate::scheme) encoding: Encoding,
    /// Its length in bytes, where the algorithm fixes it.
    pub(in crate::scheme) length: Option<usize>,
    /// The item that names the algorithm, and the only name that is taken.
    pub(in crate::scheme) algorithm: Option<(usize, Box<str>)>,
}
