//! How a scheme identifies its events.

use super::template::ValueSource;

use crate::scheme::text::is_word;

/// The characters of an event ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum IdGrammar {
    /// 1 to 128 letters, digits, `_` and `-`: nothing that could separate two parts of a message.
    Word,
    /// 1 to 256 visible ASCII characters.
    Visible,
}

impl IdGrammar {
    /// Returns whether `id` is in the grammar.
    pub(in crate::scheme) fn accepts(self, id: &[u8]) -> bool {
        match self {
            IdGrammar::Word => is_word(id),
            IdGrammar::Visible => {
                (1..=256).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
            }
        }
    }
}

/// How a scheme identifies its events.
#[derive(Clone, Debug)]
pub(in crate::scheme) enum EventRule {
    /// Not at all: deliveries are identical on purpose.
    None,
    /// By the body's digest. Requests by GET or HEAD ask for something and are no events.
    Body,
    /// By an ID.
    Id {
        /// The sources of its parts.
        from: Vec<ValueSource>,
        /// Whether the signature covers it.
        signed: bool,
        /// Whether a request without it is identified by its body instead.
        optional: bool,
        /// Its grammar.
        grammar: IdGrammar,
    },
}

/// What is fresh in each request of a sender.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct IdentityRule {
    /// The slots of headers.
    pub(in crate::scheme) headers: Vec<usize>,
    /// Whether the MAC is: it represents everything that is signed, however the header writes it.
    pub(in crate::scheme) mac: bool,
}
