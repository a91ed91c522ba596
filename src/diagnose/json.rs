//! JSON written anew, as the usual languages write it: the order of members, numbers and duplicate
//! names are kept as they came, only white space and escapes change.

use std::ops::ControlFlow;

/// Deeper JSON is not written anew: its indentation would grow with the square of its length.
const DEEPEST: usize = 64;

/// Where white space goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Nowhere: JavaScript, PHP, Go, Jackson.
    Compact,
    /// After `,` and `:`, as Python's `json.dumps`.
    Spaced,
    /// A line for each member, indented by two spaces.
    Indented2,
    /// A line for each member, indented by four spaces.
    Indented4,
}

/// What is escaped in strings besides what must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escapes {
    /// `/` as `\/`, as PHP's `json_encode`.
    pub slash: bool,
    /// What is not ASCII as `\u….`, as PHP's `json_encode` and Python's `json.dumps`.
    pub unicode: bool,
    /// `<`, `>` and `&` as `\u….`, as Go's `json.Marshal`.
    pub html: bool,
}

/// Every way of writing that is tried, the usual ones first.
pub(super) fn ways() -> impl Iterator<Item = (Layout, Escapes)> {
    let layouts = [Layout::Compact, Layout::Spaced, Layout::Indented4, Layout::Indented2];
    let escapes = [(false, false), (true, true), (false, true), (true, false)];
    let plain = layouts.into_iter().flat_map(move |layout| {
        escapes.map(|(slash, unicode)| (layout, Escapes { slash, unicode, html: false }))
    });
    let html = Escapes { slash: false, unicode: false, html: true };
    plain.chain([(Layout::Compact, html)])
}

/// A piece of JSON.
pub(super) enum Token<'t> {
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
    /// A number, `true`, `false` or `null`, as it came.
    Word(&'t [u8]),
}

/// Takes JSON apart; `None` if the body is not JSON or too deep.
pub(super) fn tokens(body: &[u8]) -> Option<Vec<Token<'_>>> {
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
                (Token::Open(*first), tail)
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                (Token::Close(*first), tail)
            }
            b',' => (Token::Comma, tail),
            b':' => (Token::Colon, tail),
            b'"' => {
                let (text, left) = rest.split_at(string_length(rest)?);
                (Token::Text(serde_json::from_slice(text).ok()?), left)
            }
            _ => {
                let end = |byte: &u8| b" \t\r\n,:]}".contains(byte);
                let (word, left) = rest.split_at(rest.iter().position(end).unwrap_or(rest.len()));
                (Token::Word(word), left)
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

/// The length of the string with which `text` begins, with its quotes.
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

/// Writes JSON; `None` if it becomes longer than `limit`.
pub(super) fn write(
    tokens: &[Token<'_>],
    layout: Layout,
    escapes: Escapes,
    limit: usize,
) -> Option<Vec<u8>> {
    let indent = match layout {
        Layout::Compact | Layout::Spaced => None,
        Layout::Indented2 => Some(2),
        Layout::Indented4 => Some(4),
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
            Token::Open(byte) => {
                out.push(*byte);
                depth += 1;
                if !matches!(tokens.get(at + 1), Some(Token::Close(_))) {
                    line(&mut out, depth);
                }
            }
            Token::Close(byte) => {
                depth -= 1;
                if !matches!(at.checked_sub(1).map(|at| &tokens[at]), Some(Token::Open(_))) {
                    line(&mut out, depth);
                }
                out.push(*byte);
            }
            Token::Comma => {
                out.push(b',');
                if layout == Layout::Spaced {
                    out.push(b' ');
                }
                line(&mut out, depth);
            }
            Token::Colon => {
                out.push(b':');
                if layout != Layout::Compact {
                    out.push(b' ');
                }
            }
            Token::Text(text) => write_text(text, escapes, &mut out),
            Token::Word(word) => out.extend_from_slice(word),
        }
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}

fn write_text(text: &str, escapes: Escapes, out: &mut Vec<u8>) {
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
