//! How a scheme identifies its events.

use super::template::ValueSource;
use crate::scheme::text::is_word;

/// The characters of an event ID or of another unsigned value that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum IdGrammar {
    /// 1 to 128 letters, digits, `_` and `-`: nothing that could separate two parts of a message.
    Word,
    /// Words joined by `/`, `.` or `:`, such as `orders/create`, at most 128 characters.
    Topic,
    /// A DNS name in lower case.
    Host,
    /// 1 to 256 visible ASCII characters.
    Visible,
}

impl IdGrammar {
    /// Returns whether `id` is in the grammar.
    pub(in crate::scheme) fn accepts(self, id: &[u8]) -> bool {
        match self {
            IdGrammar::Word => is_word(id),
            IdGrammar::Topic => id.len() <= 128 && id.split(|b| b"/.:".contains(b)).all(is_word),
            IdGrammar::Host => {
                let lower = |label: &[u8]| !label.iter().any(u8::is_ascii_uppercase);
                id.len() <= 253 && id.split(|b| *b == b'.').all(|l| is_word(l) && lower(l))
            }
            IdGrammar::Visible => {
                (1..=256).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
            }
        }
    }

    /// Returns the grammar in words.
    pub(in crate::scheme) fn describe(self) -> &'static str {
        match self {
            IdGrammar::Word => "a word",
            IdGrammar::Topic => "words joined by `/`, `.` or `:`",
            IdGrammar::Host => "a DNS name",
            IdGrammar::Visible => "visible characters",
        }
    }
}

/// An event ID: the sources of its parts, and their grammar.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct IdRule {
    pub(in crate::scheme) from: Vec<ValueSource>,
    pub(in crate::scheme) grammar: IdGrammar,
    /// Whether a request without it is accepted.
    pub(in crate::scheme) optional: bool,
}

/// What identifies the record of an event, in addition to the route and the key.
#[derive(Clone, Debug)]
pub(in crate::scheme) enum Identification {
    /// Nothing: deliveries are identical on purpose, so there is no record.
    None,
    /// A signed ID; the signed parts if it is absent.
    SignedId(IdRule),
    /// The signed parts other than the timestamp.
    SignedParts,
    /// Nothing is signed: the label and the body.
    LabelAndBody,
    /// Nothing is signed, and retries differ in the body: the label alone.
    Label,
}

/// How a scheme identifies its events.
#[derive(Clone, Debug)]
pub(in crate::scheme) struct EventRule {
    /// What the record is stored under.
    pub(in crate::scheme) identified_by: Identification,
    /// An unsigned ID, for the log, the header and the inspector.
    pub(in crate::scheme) label: Option<IdRule>,
    /// Unsigned values that distinguish events whose signed parts are equal.
    pub(in crate::scheme) distinguish: Vec<(ValueSource, IdGrammar)>,
}

impl EventRule {
    /// Returns the rule of the event ID, signed or not.
    pub(in crate::scheme) fn id(&self) -> Option<&IdRule> {
        match &self.identified_by {
            Identification::SignedId(id) => Some(id),
            Identification::None
            | Identification::SignedParts
            | Identification::LabelAndBody
            | Identification::Label => self.label.as_ref(),
        }
    }
}

/// What is fresh in each request of a sender.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct IdentityRule {
    /// The slots of headers.
    pub(in crate::scheme) headers: Vec<usize>,
    /// Whether the MAC is: it represents everything that is signed, however the header writes it.
    pub(in crate::scheme) mac: bool,
}
