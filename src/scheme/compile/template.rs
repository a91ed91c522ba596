//! Parsing of sources and templates.
//!
//! One notation serves the whole scheme language: `header:X-Name`, `signature:t` (an item of a
//! structured signature), `json:/pointer`, `item:/pointer` (within the element that `each` is at),
//! `query:name`, `form:name`, `form-data:name` (urlencoded or multipart), `setting:name` (a value
//! that the operator configures), and the plain words `body`, `timestamp`, `url`, `method`, `path`
//! (with the query), `pathname`, `query`, `secret`, `form-sorted`, `signed-headers`.

use http::HeaderName;

use crate::{
    document::nearest,
    scheme::compiled::template::{
        Filter, Inputs, MAX_HEADERS, MAX_ITEMS, Template, TemplatePiece, TemplateValue, ValueSource,
    },
};

const WORDS: [&str; 10] = [
    "body",
    "timestamp",
    "url",
    "method",
    "path",
    "pathname",
    "query",
    "secret",
    "form-sorted",
    "signed-headers",
];
const PREFIXES: [&str; 8] =
    ["header", "signature", "json", "item", "query", "form", "form-data", "setting"];

impl Inputs {
    /// Returns the slot of a header.
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
    /// The problem, and the most similar valid word.
    pub(in crate::scheme) fn source(
        &mut self,
        text: &str,
    ) -> Result<ValueSource, (String, Option<String>)> {
        let plain = |message: String| (message, None);
        let Some((kind, name)) = text.split_once(':') else {
            return match text {
                "body" => Ok(ValueSource::Body),
                "timestamp" => Ok(ValueSource::Timestamp),
                "url" => Ok(ValueSource::Url),
                "method" => Ok(ValueSource::Method),
                "path" => Ok(ValueSource::Path),
                "pathname" => Ok(ValueSource::Pathname),
                "query" => Ok(ValueSource::QueryText),
                "signed-headers" => Ok(ValueSource::SignedHeaders),
                "secret" => Ok(ValueSource::Secret),
                "form-sorted" => Ok(ValueSource::FormSorted),
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
            "header" => self.header(name).map(ValueSource::Header).map_err(plain),
            "signature" => {
                if let Some(slot) = self.items.iter().position(|known| **known == *name) {
                    return Ok(ValueSource::Item(slot));
                }
                if self.items.len() == MAX_ITEMS {
                    return Err(plain(format!("a scheme reads at most {MAX_ITEMS} items")));
                }
                self.items.push(name.into());
                Ok(ValueSource::Item(self.items.len() - 1))
            }
            "json" => {
                self.pointers.add(name).map(ValueSource::Json).map_err(|e| plain(e.to_owned()))
            }
            "item" => {
                let Some(each) = &self.each else {
                    return Err(plain("`item:` needs `each`".to_owned()));
                };
                let pointer = format!("{each}{name}");
                self.pointers.add(&pointer).map(ValueSource::Json).map_err(|e| plain(e.to_owned()))
            }
            "query" => Ok(ValueSource::Query(name.into())),
            "form" => Ok(ValueSource::Form(name.into())),
            "form-data" => {
                // The type decides how the body is read, so it must be present once.
                self.header("content-type").map_err(plain)?;
                Ok(ValueSource::FormData(name.into()))
            }
            "setting" => match self.settings.iter().position(|known| **known == *name) {
                Some(number) => Ok(ValueSource::Setting(number)),
                None => Err(plain(format!("`setting:{name}` needs `[settings.{name}]`"))),
            },
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

/// A problem of a template, and its place in bytes from the start.
pub(super) struct TemplateError {
    pub(super) at: std::ops::Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Template {
    /// Reads the notation: text, `{source|filter|…}`, `[[optional]]`, and `{{` or `}}` for a brace.
    pub(super) fn parse(text: &str, wanted: &mut Inputs) -> Result<Template, TemplateError> {
        let mut position = 0;
        let pieces = pieces(text, &mut position, false, wanted)?;
        Ok(Template(pieces))
    }
}

fn pieces(
    text: &str,
    position: &mut usize,
    optional: bool,
    wanted: &mut Inputs,
) -> Result<Vec<TemplatePiece>, TemplateError> {
    let fail = |at: std::ops::Range<usize>, message: &str| TemplateError {
        at,
        message: message.to_owned(),
        help: None,
    };
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let flush = |literal: &mut String, pieces: &mut Vec<TemplatePiece>| {
        if !literal.is_empty() {
            pieces.push(TemplatePiece::Literal(std::mem::take(literal).into_bytes().into()));
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
            pieces.push(TemplatePiece::Value(value));
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
            pieces.push(TemplatePiece::Optional(inner));
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

fn value(text: &str, start: usize, wanted: &mut Inputs) -> Result<TemplateValue, TemplateError> {
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
            "plain" => Filter::Plain,
            "line" => Filter::Line,
            "crc32" => Filter::Crc32,
            "json" => Filter::Json,
            "urldecode" => Filter::UrlDecode,
            "encode-uri" => Filter::EncodeUri,
            "encode-component" => Filter::EncodeComponent,
            unknown => {
                let offset = start + name.as_ptr().addr() - text.as_ptr().addr();
                let known = [
                    "sha256",
                    "lower",
                    "plain",
                    "line",
                    "crc32",
                    "json",
                    "urldecode",
                    "encode-uri",
                    "encode-component",
                ];
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
    Ok(TemplateValue { source, filters })
}
