//! Where a value of a request comes from, and templates made of such values.
//!
//! One notation serves the whole scheme language: `header:X-Name`, `signature:t` (an item of a
//! structured signature), `json:/pointer`, `item:/pointer` (within the element that `each` is at),
//! `query:name`, `form:name`, and the plain words `body`, `timestamp`, `url`, `method`, `path`,
//! `secret`, `form-sorted`.

use http::HeaderName;

use super::json::Pointers;
use crate::document::nearest;

/// The most headers that one scheme can read.
pub(super) const MAX_HEADERS: usize = 32;
/// The most items of a structured signature that one scheme can read besides the signature itself.
pub(super) const MAX_ITEMS: usize = 8;

const WORDS: [&str; 7] = ["body", "timestamp", "url", "method", "path", "secret", "form-sorted"];
const PREFIXES: [&str; 6] = ["header", "signature", "json", "item", "query", "form"];

/// Where a value comes from, resolved to what the hot path can index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
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
pub(super) struct Wanted {
    /// The headers; their positions are the slots.
    pub(super) headers: Vec<HeaderName>,
    /// The items of the signature; their positions are the slots.
    pub(super) items: Vec<Box<str>>,
    /// The members of the body that every request is read for.
    pub(super) pointers: Pointers,
    /// The prefix of `item:` pointers, such as `/notificationItems/*`.
    pub(super) each: Option<String>,
}

impl Wanted {
    /// The slot of a header.
    pub(super) fn header(&mut self, name: &str) -> Result<usize, String> {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{name}` is not a header name"))?;
        if let Some(slot) = self.headers.iter().position(|known| *known == name) {
            return Ok(slot);
        }
        if self.headers.len() == MAX_HEADERS {
            return Err(format!("a scheme reads at most {MAX_HEADERS} headers"));
        }
        self.headers.push(name);
        Ok(self.headers.len() - 1)
    }

    /// Resolves the notation of a source.
    ///
    /// # Errors
    /// What is wrong, and the nearest word that would be right.
    pub(super) fn source(&mut self, text: &str) -> Result<Source, (String, Option<String>)> {
        let plain = |message: String| (message, None);
        let Some((kind, name)) = text.split_once(':') else {
            return match text {
                "body" => Ok(Source::Body),
                "timestamp" => Ok(Source::Timestamp),
                "url" => Ok(Source::Url),
                "method" => Ok(Source::Method),
                "path" => Ok(Source::Path),
                "secret" => Ok(Source::Secret),
                "form-sorted" => Ok(Source::FormSorted),
                unknown => {
                    let help = nearest(unknown, WORDS.into_iter())
                        .map(|near| format!("did you mean `{near}`?"));
                    Err((format!("unknown source `{unknown}`"), help.or_else(known_sources)))
                }
            };
        };
        if name.is_empty() {
            return Err(plain(format!("`{kind}:` needs a name")));
        }
        match kind {
            "header" => self.header(name).map(Source::Header).map_err(plain),
            "signature" => {
                if let Some(slot) = self.items.iter().position(|known| **known == *name) {
                    return Ok(Source::Item(slot));
                }
                if self.items.len() == MAX_ITEMS {
                    return Err(plain(format!("a scheme reads at most {MAX_ITEMS} items")));
                }
                self.items.push(name.into());
                Ok(Source::Item(self.items.len() - 1))
            }
            "json" => self.pointers.add(name).map(Source::Json).map_err(|e| plain(e.to_owned())),
            "item" => {
                let Some(each) = &self.each else {
                    return Err(plain("`item:` needs `each`".to_owned()));
                };
                let pointer = format!("{each}{name}");
                self.pointers.add(&pointer).map(Source::Json).map_err(|e| plain(e.to_owned()))
            }
            "query" => Ok(Source::Query(name.into())),
            "form" => Ok(Source::Form(name.into())),
            unknown => {
                let help = nearest(unknown, PREFIXES.into_iter())
                    .map(|near| format!("did you mean `{near}:{name}`?"));
                Err((format!("unknown source `{unknown}:`"), help.or_else(known_sources)))
            }
        }
    }
}

fn known_sources() -> Option<String> {
    let prefixes: Vec<_> = PREFIXES.iter().map(|prefix| format!("{prefix}:NAME")).collect();
    Some(format!("known: {}, {}", WORDS.join(", "), prefixes.join(", ")))
}

/// What is done to a value before it goes into the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// The SHA-256, in lower-case hex.
    Sha256,
    /// ASCII letters in lower case.
    Lower,
    /// A JSON string with its quotes.
    Json,
    /// Percent-decoding of the characters that HubSpot decodes in its URLs.
    UrlDecode,
}

/// One value of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Where it comes from.
    pub(super) source: Source,
    /// What is done to it, in order.
    pub(super) filters: Vec<Filter>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of the scheme's own.
    Literal(Box<[u8]>),
    /// A value that must be there.
    Value(Value),
    /// `[[…]]`: left out as a whole if a value in it is absent.
    Optional(Vec<Piece>),
}

/// A signed message, or a value to agree with, as the scheme describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Piece>);

/// What is wrong with a template, and where: bytes from its start.
pub(super) struct TemplateError {
    pub(super) at: std::ops::Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Template {
    /// Reads the notation: text, `{source|filter|…}`, `[[optional]]`, and `{{` or `}}` for a brace.
    pub(super) fn parse(text: &str, wanted: &mut Wanted) -> Result<Template, TemplateError> {
        let mut position = 0;
        let pieces = pieces(text, &mut position, false, wanted)?;
        Ok(Template(pieces))
    }

    /// All values, those of optional parts too, with whether they may be absent.
    pub(super) fn values(&self) -> Vec<(&Value, bool)> {
        fn walk<'t>(pieces: &'t [Piece], optional: bool, into: &mut Vec<(&'t Value, bool)>) {
            for piece in pieces {
                match piece {
                    Piece::Literal(_) => {}
                    Piece::Value(value) => into.push((value, optional)),
                    Piece::Optional(pieces) => walk(pieces, true, into),
                }
            }
        }
        let mut values = Vec::new();
        walk(&self.0, false, &mut values);
        values
    }

    /// Whether a value of this source is in the template, optional parts not counted.
    pub(super) fn covers(&self, source: &Source) -> bool {
        self.values().iter().any(|(value, optional)| value.source == *source && !optional)
    }
}

fn pieces(
    text: &str,
    position: &mut usize,
    optional: bool,
    wanted: &mut Wanted,
) -> Result<Vec<Piece>, TemplateError> {
    let fail = |at: std::ops::Range<usize>, message: &str| TemplateError {
        at,
        message: message.to_owned(),
        help: None,
    };
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let flush = |literal: &mut String, pieces: &mut Vec<Piece>| {
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(literal).into_bytes().into()));
        }
    };
    while let Some(first) = text[*position..].chars().next() {
        let rest = &text[*position..];
        let start = *position;
        if rest.starts_with("{{") || rest.starts_with("}}") {
            literal.push(first);
            *position += 2;
        } else if first == '{' {
            let Some(length) = rest.find('}') else {
                return Err(fail(start..text.len(), "this `{` is never closed"));
            };
            let value = value(&rest[1..length], start + 1, wanted)?;
            flush(&mut literal, &mut pieces);
            pieces.push(Piece::Value(value));
            *position += length + 1;
        } else if first == '}' {
            return Err(fail(start..start + 1, "this `}` closes nothing; write `}}` for a brace"));
        } else if rest.starts_with("[[") {
            if optional {
                return Err(fail(start..start + 2, "optional parts do not nest"));
            }
            *position += 2;
            flush(&mut literal, &mut pieces);
            let inner = self::pieces(text, position, true, wanted)?;
            if !text[*position..].starts_with("]]") {
                return Err(fail(start..text.len(), "this `[[` is never closed"));
            }
            *position += 2;
            pieces.push(Piece::Optional(inner));
        } else if optional && rest.starts_with("]]") {
            break;
        } else {
            literal.push(first);
            *position += first.len_utf8();
        }
    }
    flush(&mut literal, &mut pieces);
    Ok(pieces)
}

fn value(text: &str, start: usize, wanted: &mut Wanted) -> Result<Value, TemplateError> {
    let mut parts = text.split('|');
    let source = parts.next().unwrap_or("");
    let at = start..start + source.len();
    let source =
        wanted.source(source).map_err(|(message, help)| TemplateError { at, message, help })?;
    let mut filters = Vec::new();
    for name in parts {
        filters.push(match name {
            "sha256" => Filter::Sha256,
            "lower" => Filter::Lower,
            "json" => Filter::Json,
            "urldecode" => Filter::UrlDecode,
            unknown => {
                let offset = start + name.as_ptr().addr() - text.as_ptr().addr();
                let known = ["sha256", "lower", "json", "urldecode"];
                let help = nearest(unknown, known.into_iter())
                    .map(|near| format!("did you mean `{near}`?"))
                    .unwrap_or_else(|| format!("known: {}", known.join(", ")));
                return Err(TemplateError {
                    at: offset..offset + name.len(),
                    message: format!("unknown filter `{unknown}`"),
                    help: Some(help),
                });
            }
        });
    }
    Ok(Value { source, filters })
}
