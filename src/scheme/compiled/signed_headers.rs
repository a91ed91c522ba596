//! Headers that a sender lists as signed.

use super::template::ValueSource;

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
