//! JSON as other libraries would write it. Only white space and escapes change; the order of
//! members, numbers and duplicate names stay as they are.

use std::ops::ControlFlow;

/// Deeper JSON is not rewritten: its indentation would grow with the square of its length.
const DEEPEST: usize = 64;

/// Where a JSON text has white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonLayout {
    /// Nowhere: JavaScript, PHP, Go, Jackson.
    Compact,
    /// After `,` and `:`, as Python's `json.dumps`.
    Spaced,
    /// A line for each member, indented by two spaces.
    Indented2,
    /// A line for each member, indented by four spaces.
    Indented4,
}

/// What a JSON text escapes in addition to what it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonEscapes {
    /// `/` as `\/`, as PHP's `json_encode`.
    pub slash: bool,
    /// What is not ASCII as `\u….`, as PHP's `json_encode` and Python's `json.dumps`.
    pub unicode: bool,
    /// `<`, `>` and `&` as `\u….`, as Go's `json.Marshal`.
    pub html: bool,
}

/// Returns every combination that is tried, the most common ones first.
pub(super) fn variants() -> impl Iterator<Item = (JsonLayout, JsonEscapes)> {
    let layouts =
        [JsonLayout::Compact, JsonLayout::Spaced, JsonLayout::Indented4, JsonLayout::Indented2];
    let escapes = [(false, false), (true, true), (false, true), (true, false)];
    let plain = layouts.into_iter().flat_map(move |layout| {
        escapes.map(|(slash, unicode)| (layout, JsonEscapes { slash, unicode, html: false }))
    });
    let html = JsonEscapes { slash: false, unicode: false, html: true };
    plain.chain([(JsonLayout::Compact, html)])
}

/// A token of a JSON text.
pub(super) enum JsonToken<'t> {
    /// `{` or `[`.
    Open(u8),
    /// `}` or `]`.
    Close(u8),
    /// `,`.
    Comma,
    /// `:`.
    Colon,
    /// A string, unescaped.
    Text(String),
    /// A number, `true`, `false` or `null`, as written.
    Word(&'t [u8]),
}

/// Splits JSON into tokens; `None` if the body is not JSON or nested too deep.
pub(super) fn tokens(body: &[u8]) -> Option<Vec<JsonToken<'_>>> {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).ok()?;
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    let mut rest = body;
    while let [first, tail @ ..] = rest {
        let (token, left) = match first {
            b' ' | b'\t' | b'\r' | b'\n' => {
                rest = tail;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                (JsonToken::Open(*first), tail)
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                (JsonToken::Close(*first), tail)
            }
            b',' => (JsonToken::Comma, tail),
            b':' => (JsonToken::Colon, tail),
            b'"' => {
                let (text, left) = rest.split_at(string_length(rest)?);
                (JsonToken::Text(serde_json::from_slice(text).ok()?), left)
            }
            _ => {
                let end = |byte: &u8| b" \t\r\n,:]}".contains(byte);
                let (word, left) = rest.split_at(rest.iter().position(end).unwrap_or(rest.len()));
                (JsonToken::Word(word), left)
            }
        };
        if depth > DEEPEST {
            return None;
        }
        tokens.push(token);
        rest = left;
    }
    Some(tokens)
}

/// Returns the length of the string at the start of `text`, quotes included.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let found = text.iter().enumerate().skip(1).try_for_each(|(at, byte)| {
        match byte {
            b'"' if !escaped => return ControlFlow::Break(at + 1),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
        ControlFlow::Continue(())
    });
    found.break_value()
}

/// Writes JSON; `None` if it would be longer than `limit`.
pub(super) fn write(
    tokens: &[JsonToken<'_>],
    layout: JsonLayout,
    escapes: JsonEscapes,
    limit: usize,
) -> Option<Vec<u8>> {
    let indent = match layout {
        JsonLayout::Compact | JsonLayout::Spaced => None,
        JsonLayout::Indented2 => Some(2),
        JsonLayout::Indented4 => Some(4),
    };
    let mut out = Vec::new();
    let mut depth = 0;
    let line = |out: &mut Vec<u8>, depth: usize| {
        if let Some(indent) = indent {
            out.push(b'\n');
            out.resize(out.len() + indent * depth, b' ');
        }
    };
    for (at, token) in tokens.iter().enumerate() {
        match token {
            JsonToken::Open(byte) => {
                out.push(*byte);
                depth += 1;
                if !matches!(tokens.get(at + 1), Some(JsonToken::Close(_))) {
                    line(&mut out, depth);
                }
            }
            JsonToken::Close(byte) => {
                depth -= 1;
                if !matches!(at.checked_sub(1).map(|at| &tokens[at]), Some(JsonToken::Open(_))) {
                    line(&mut out, depth);
                }
                out.push(*byte);
            }
            JsonToken::Comma => {
                out.push(b',');
                if layout == JsonLayout::Spaced {
                    out.push(b' ');
                }
                line(&mut out, depth);
            }
            JsonToken::Colon => {
                out.push(b':');
                if layout != JsonLayout::Compact {
                    out.push(b' ');
                }
            }
            JsonToken::Text(text) => write_text(text, escapes, &mut out),
            JsonToken::Word(word) => out.extend_from_slice(word),
        }
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}

fn write_text(text: &str, escapes: JsonEscapes, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        let mut unit = |unit: u16| out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '/' if escapes.slash => out.extend_from_slice(b"\\/"),
            '<' | '>' | '&' if escapes.html => unit(c as u16),
            c if c < ' ' => unit(c as u16),
            c if !c.is_ascii() && escapes.unicode => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|half| unit(*half));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
