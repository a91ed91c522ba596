//! Where a value of a request comes from, and templates made of such values.

use http::HeaderName;

use crate::scheme::json::JsonPointers;

/// The most headers that one scheme can read.
pub(in crate::scheme) const MAX_HEADERS: usize = 32;
/// The most items of a structured signature that one scheme can read besides the signature itself.
pub(in crate::scheme) const MAX_ITEMS: usize = 8;

/// Where a value comes from, resolved to what the hot path can index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum ValueSource {
    /// The body's bytes.
    Body,
    /// The timestamp's text, as it came.
    Timestamp,
    /// `public_url` with the request's query.
    Url,
    /// The method.
    Method,
    /// Path and query.
    Path,
    /// The secret itself, for senders that hash it with the message.
    Secret,
    /// The form's fields sorted by name, names and values run together.
    FormSorted,
    /// A header, by its slot.
    Header(usize),
    /// An item of the signature, by its slot.
    Item(usize),
    /// A member of the body, by its pointer's number; within `each` the one of the current element.
    Json(u16),
    /// A parameter of the query.
    Query(Box<str>),
    /// A field of a form body.
    Form(Box<str>),
}

/// What a scheme reads of a request: filled while the scheme is compiled.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct Inputs {
    /// The headers; their positions are the slots.
    pub(in crate::scheme) headers: Vec<HeaderName>,
    /// The items of the signature; their positions are the slots.
    pub(in crate::scheme) items: Vec<Box<str>>,
    /// The members of the body that every request is read for.
    pub(in crate::scheme) pointers: JsonPointers,
    /// The prefix of `item:` pointers, such as `/notificationItems/*`.
    pub(in crate::scheme) each: Option<String>,
}

/// What is done to a value before it goes into the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum Filter {
    /// The SHA-256, in lower-case hex.
    Sha256,
    /// ASCII letters in lower case.
    Lower,
    /// The value itself, which must not contain `:`.
    Plain,
    /// A JSON string with its quotes.
    Json,
    /// Percent-decoding of the characters that HubSpot decodes in its URLs.
    UrlDecode,
}

/// One value of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) struct TemplateValue {
    /// Where it comes from.
    pub(in crate::scheme) source: ValueSource,
    /// What is done to it, in order.
    pub(in crate::scheme) filters: Vec<Filter>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum TemplatePiece {
    /// Bytes of the scheme's own.
    Literal(Box<[u8]>),
    /// A value that must be there.
    Value(TemplateValue),
    /// `[[…]]`: left out as a whole if a value in it is absent.
    Optional(Vec<TemplatePiece>),
}

/// A signed message, or a value to agree with, as the scheme describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::scheme) struct Template(pub(in crate::scheme) Vec<TemplatePiece>);

impl Template {
    /// All values, those of optional parts too, with whether they may be absent.
    pub(in crate::scheme) fn values(&self) -> Vec<(&TemplateValue, bool)> {
        fn walk<'t>(
            pieces: &'t [TemplatePiece],
            optional: bool,
            into: &mut Vec<(&'t TemplateValue, bool)>,
        ) {
            for piece in pieces {
                match piece {
                    TemplatePiece::Literal(_) => {}
                    TemplatePiece::Value(value) => into.push((value, optional)),
                    TemplatePiece::Optional(pieces) => walk(pieces, true, into),
                }
            }
        }
        let mut values = Vec::new();
        walk(&self.0, false, &mut values);
        values
    }

    /// Whether a value of this source is in the template, optional parts not counted.
    pub(in crate::scheme) fn covers(&self, source: &ValueSource) -> bool {
        self.values().iter().any(|(value, optional)| value.source == *source && !optional)
    }
}
