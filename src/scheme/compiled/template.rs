//! Sources of values in a request, and templates made of such values.

use http::HeaderName;

use crate::scheme::json::JsonPointers;

/// The most headers that one scheme can read.
pub(in crate::scheme) const MAX_HEADERS: usize = 32;
/// The most items of a structured signature that one scheme can read in addition to the signature.
pub(in crate::scheme) const MAX_ITEMS: usize = 8;

/// The source of a value, resolved to what the hot path can index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum ValueSource {
    /// The body's bytes.
    Body,
    /// The timestamp's text, unchanged.
    Timestamp,
    /// `public_url` with the request's query.
    Url,
    /// The method.
    Method,
    /// Path and query.
    Path,
    /// The path alone.
    Pathname,
    /// The query alone; absent if it is empty.
    QueryText,
    /// The headers that the sender lists as signed.
    SignedHeaders,
    /// What a message signature signs (RFC 9421, section 2.5).
    SignatureBase,
    /// The secret itself, for senders that hash it with the message.
    Secret,
    /// The form's fields sorted by name, names and values concatenated.
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
    /// A field of a form body, of either media type for forms.
    FormData(Box<str>),
    /// A value that the operator configures, by its number.
    Setting(usize),
}

impl ValueSource {
    /// Returns whether the value is read from the head of a request.
    pub(in crate::scheme) fn is_in_head(&self) -> bool {
        match self {
            ValueSource::Url
            | ValueSource::Method
            | ValueSource::Path
            | ValueSource::Pathname
            | ValueSource::QueryText
            | ValueSource::Header(_)
            | ValueSource::Query(_) => true,
            ValueSource::Body
            | ValueSource::Timestamp
            | ValueSource::Secret
            | ValueSource::SignedHeaders
            | ValueSource::SignatureBase
            | ValueSource::FormSorted
            | ValueSource::Item(_)
            | ValueSource::Json(_)
            | ValueSource::Form(_)
            | ValueSource::FormData(_)
            | ValueSource::Setting(_) => false,
        }
    }
}

/// Everything that a scheme reads from a request; filled while the scheme is compiled.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct Inputs {
    /// The headers; their positions are the slots.
    pub(in crate::scheme) headers: Vec<HeaderName>,
    /// The items of the signature; their positions are the slots.
    pub(in crate::scheme) items: Vec<Box<str>>,
    /// The members that are read from every body.
    pub(in crate::scheme) pointers: JsonPointers,
    /// The prefix of `item:` pointers, such as `/notificationItems/*`.
    pub(in crate::scheme) each: Option<String>,
    /// The names of the values that the operator configures; their positions are their numbers.
    pub(in crate::scheme) settings: Vec<Box<str>>,
}

/// A conversion of a value before it becomes part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum Filter {
    /// The SHA-256, in lower-case hex.
    Sha256,
    /// ASCII letters in lower case.
    Lower,
    /// The value itself, which must not contain `:`.
    Plain,
    /// The value itself, which must not contain a line feed.
    Line,
    /// The CRC-32 of ISO 3309, in decimal.
    Crc32,
    /// A JSON string with its quotes.
    Json,
    /// Percent-decoding of the characters that HubSpot decodes in its URLs.
    UrlDecode,
    /// ECMAScript's `encodeURI`.
    EncodeUri,
    /// ECMAScript's `encodeURIComponent`.
    EncodeComponent,
}

/// One value of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) struct TemplateValue {
    /// Its source.
    pub(in crate::scheme) source: ValueSource,
    /// The conversions, in order.
    pub(in crate::scheme) filters: Vec<Filter>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum TemplatePiece {
    /// Fixed bytes.
    Literal(Box<[u8]>),
    /// A required value.
    Value(TemplateValue),
    /// `[[…]]`: omitted as a whole if a value in it is absent.
    Optional(Vec<TemplatePiece>),
}

/// A signed message, or a value to agree with, as the scheme describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::scheme) struct Template(pub(in crate::scheme) Vec<TemplatePiece>);

impl Template {
    /// Returns a template that is one value.
    pub(in crate::scheme) fn of(source: ValueSource) -> Template {
        Template(vec![TemplatePiece::Value(TemplateValue { source, filters: Vec::new() })])
    }

    /// Returns all values, including those of optional parts, and whether they may be absent.
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

    /// Returns whether the template contains a value of this source outside of optional parts.
    /// A checksum covers nothing: anyone can find another value with the same one.
    pub(in crate::scheme) fn covers(&self, source: &ValueSource) -> bool {
        self.values().iter().any(|(value, optional)| {
            value.source == *source && !optional && !value.filters.contains(&Filter::Crc32)
        })
    }
}
