//! The syntax of JSON (RFC 8259), read byte by byte from the front.
//!
//! The text is UTF-8 already. Every step is strict about syntax and takes time linear in what it
//! reads, whatever the body holds.

use std::{borrow::Cow, str::Chars};

use super::{MAX_DEPTH, MalformedJson};

/// How many bytes of a string are checked one by one, before [`STRIDE`] of them at a time.
const SHORT: usize = 8;
/// How many bytes of a longer string are checked at a time.
const STRIDE: usize = 16;

/// A position in a JSON text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// How many more values the text may have.
    values: u32,
}

/// A string between its quotes.
pub(super) struct Text<'a> {
    raw: &'a str,
    has_escapes: bool,
}

impl<'a> Text<'a> {
    /// Returns the string itself, if it has no escapes.
    #[inline]
    pub(super) fn as_plain(&self) -> Option<&'a str> {
        (!self.has_escapes).then_some(self.raw)
    }

    /// Returns the string with its escapes replaced; `None` if it has a lone surrogate.
    pub(super) fn unescaped(&self) -> Option<Cow<'a, str>> {
        if let Some(plain) = self.as_plain() {
            return Some(Cow::Borrowed(plain));
        }
        self.chars().collect::<Option<String>>().map(Cow::Owned)
    }

    /// Returns the number of bytes that the string has in the body.
    pub(super) fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// Returns the characters, with escapes replaced; `None` for a lone surrogate.
    pub(super) fn chars(&self) -> impl Iterator<Item = Option<char>> + use<'a> {
        let mut rest = self.raw.chars();
        std::iter::from_fn(move || match rest.next()? {
            '\\' => Some(unescape(&mut rest)),
            plain => Some(Some(plain)),
        })
    }
}

/// Returns the character that an escape writes, of which `rest` has everything after the backslash.
fn unescape(rest: &mut Chars<'_>) -> Option<char> {
    Some(match rest.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let unit = code_unit(rest)?;
            if !matches!(unit, 0xd800..=0xdbff) {
                return char::from_u32(u32::from(unit));
            }
            let mut second = rest.as_str().strip_prefix("\\u")?.chars();
            let pair = [unit, code_unit(&mut second)?];
            let c = char::decode_utf16(pair).next()?.ok()?;
            *rest = second;
            c
        }
        // A quote, a backslash or a slash.
        other => other,
    })
}

/// Consumes four hexadecimal digits.
fn code_unit(rest: &mut Chars<'_>) -> Option<u16> {
    let digits = rest.as_str().get(..4)?;
    *rest = rest.as_str()[4..].chars();
    u16::from_str_radix(digits, 16).ok()
}

impl<'a> Scanner<'a> {
    /// Returns the start of `text`, which may have so many values.
    pub(super) fn new(text: &'a str, values: u32) -> Self {
        Scanner { text, at: 0, values }
    }

    /// Skips white space and returns the byte after it; 0 at the end of the text.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        self.at = after_space(self.text.as_bytes(), self.at);
        byte(self.text.as_bytes(), self.at)
    }

    /// Consumes the end of an array or object, if it is next.
    pub(super) fn closes(&mut self, end: u8) -> bool {
        let closes = self.peek() == end;
        // A branch: rustc 1.95 miscompiles a comparison that is both added and returned
        // (rust-lang/rust#158206).
        if closes {
            self.at += 1;
        }
        closes
    }

    /// Consumes the comma before the next member or element, or the end of the array or object.
    /// Returns whether it was the end.
    #[inline]
    pub(super) fn comma_or(&mut self, end: u8) -> Result<bool, MalformedJson> {
        let next = self.peek();
        if next != b',' && next != end {
            return Err(MalformedJson);
        }
        self.at += 1;
        Ok(next == end)
    }

    /// Checks that only white space is left.
    pub(super) fn end(&self) -> Result<(), MalformedJson> {
        let is_end = after_space(self.text.as_bytes(), self.at) == self.text.len();
        if is_end { Ok(()) } else { Err(MalformedJson) }
    }

    /// Counts a value against the limit.
    #[inline]
    pub(super) fn count_value(&mut self) -> Result<(), MalformedJson> {
        self.values = self.values.checked_sub(1).ok_or(MalformedJson)?;
        Ok(())
    }

    /// Consumes the start of an array or object that is nested `depth` deep.
    pub(super) fn open(&mut self, depth: u32) -> Result<(), MalformedJson> {
        if depth > MAX_DEPTH {
            return Err(MalformedJson);
        }
        self.at += 1;
        self.count_value()
    }

    /// Consumes a member's name and the colon after it.
    #[inline]
    pub(super) fn name(&mut self) -> Result<Text<'a>, MalformedJson> {
        if self.peek() != b'"' {
            return Err(MalformedJson);
        }
        let name = self.text()?;
        if self.peek() != b':' {
            return Err(MalformedJson);
        }
        self.at += 1;
        Ok(name)
    }

    /// Consumes a string, whose quote is next.
    #[inline]
    pub(super) fn text(&mut self) -> Result<Text<'a>, MalformedJson> {
        let start = self.at + 1;
        let (end, has_escapes) = string_end(self.text.as_bytes(), start)?;
        self.at = end;
        Ok(Text { raw: &self.text[start..end - 1], has_escapes })
    }

    /// Consumes a number.
    pub(super) fn number(&mut self) -> Result<&'a str, MalformedJson> {
        let start = self.at;
        self.at = number_end(self.text.as_bytes(), start)?;
        Ok(&self.text[start..self.at])
    }

    /// Consumes a value and everything in it. `depth` is how deep it is nested as an array or
    /// object.
    #[inline(always)]
    pub(super) fn skip_value(&mut self, depth: u32) -> Result<(), MalformedJson> {
        if let b'{' | b'[' = self.peek() {
            return self.skip_nested(depth);
        }
        self.count_value()?;
        self.at = scalar_end(self.text.as_bytes(), self.at)?;
        Ok(())
    }

    /// Consumes an array or object, which is next, and everything in it.
    #[inline(never)]
    fn skip_nested(&mut self, depth: u32) -> Result<(), MalformedJson> {
        // Local variables, because fields would be stored after each step.
        let (bytes, mut at, mut values) = (self.text.as_bytes(), self.at, self.values);
        // The arrays and objects that are open here, the innermost in the lowest bit: 1 for an
        // object.
        let mut objects = 0u64;
        let mut open = 0;
        loop {
            at = after_space(bytes, at);
            values = values.checked_sub(1).ok_or(MalformedJson)?;
            if let start @ (b'{' | b'[') = byte(bytes, at) {
                if depth + open > MAX_DEPTH {
                    return Err(MalformedJson);
                }
                let is_object = start == b'{';
                objects = objects << 1 | u64::from(is_object);
                open += 1;
                at = after_space(bytes, at + 1);
                if byte(bytes, at) != end_of(is_object) {
                    if is_object {
                        at = name_end(bytes, at)?;
                    }
                    continue;
                }
            } else {
                at = after_space(bytes, scalar_end(bytes, at)?);
            }
            // A value ends here, and with it every array and object that closes now.
            loop {
                let is_object = objects & 1 == 1;
                let next = byte(bytes, at);
                at += 1;
                if next == b',' {
                    if is_object {
                        at = name_end(bytes, after_space(bytes, at))?;
                    }
                    break;
                }
                if next != end_of(is_object) {
                    return Err(MalformedJson);
                }
                objects >>= 1;
                open -= 1;
                if open == 0 {
                    (self.at, self.values) = (at, values);
                    return Ok(());
                }
                at = after_space(bytes, at);
            }
        }
    }
}

/// Returns the byte at a position; 0, which JSON has nowhere, after the end.
#[inline]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Returns the byte that ends an object or array.
fn end_of(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

/// Returns the position after white space.
#[inline]
fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(byte(bytes, at), b' ' | b'\n' | b'\r' | b'\t') {
        at += 1;
    }
    at
}

/// Returns the position after a member's name, which starts here, and the colon after it.
#[inline]
fn name_end(bytes: &[u8], at: usize) -> Result<usize, MalformedJson> {
    if byte(bytes, at) != b'"' {
        return Err(MalformedJson);
    }
    let (end, _) = string_end(bytes, at + 1)?;
    let colon = after_space(bytes, end);
    if byte(bytes, colon) == b':' { Ok(colon + 1) } else { Err(MalformedJson) }
}

/// Returns the position after a string, a number or a word, which starts here.
#[inline(always)]
fn scalar_end(bytes: &[u8], at: usize) -> Result<usize, MalformedJson> {
    match byte(bytes, at) {
        b'0'..=b'9' if !is_in_number(byte(bytes, at + 1)) => Ok(at + 1),
        b'-' | b'0'..=b'9' => number_end(bytes, at),
        b'"' => Ok(string_end(bytes, at + 1)?.0),
        b't' => word_end(bytes, at, "true"),
        b'f' => word_end(bytes, at, "false"),
        b'n' => word_end(bytes, at, "null"),
        _ => Err(MalformedJson),
    }
}

/// Returns the position after the quote that ends a string, and whether the string has escapes.
/// `at` is the position after its first quote.
#[inline]
fn string_end(bytes: &[u8], mut at: usize) -> Result<(usize, bool), MalformedJson> {
    let mut has_escapes = false;
    loop {
        let start = at;
        while is_plain(byte(bytes, at)) {
            at += 1;
            if at - start == SHORT {
                at = plain_end(bytes, at);
            }
        }
        match byte(bytes, at) {
            b'"' => return Ok((at + 1, has_escapes)),
            b'\\' => {
                has_escapes = true;
                at += escape_length(&bytes[at + 1..])?;
            }
            _ => return Err(MalformedJson),
        }
    }
}

/// Returns the position after whole strides of bytes that need no escape in a string.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(stride) = bytes.get(at..at + STRIDE)
        && stride.iter().fold(true, |plain, byte| plain & is_plain(*byte))
    {
        at += STRIDE;
    }
    at
}

/// Returns the position after a number, which starts here.
#[inline]
fn number_end(bytes: &[u8], at: usize) -> Result<usize, MalformedJson> {
    // A branch, because the processor predicts it: a sum would have to wait for the byte.
    let start = if byte(bytes, at) == b'-' { at + 1 } else { at };
    let mut end = digits_end(bytes, start)?;
    if end > start + 1 && byte(bytes, start) == b'0' {
        return Err(MalformedJson);
    }
    if byte(bytes, end) == b'.' {
        end = digits_end(bytes, end + 1)?;
    }
    if matches!(byte(bytes, end), b'e' | b'E') {
        let signed = matches!(byte(bytes, end + 1), b'+' | b'-');
        end = digits_end(bytes, if signed { end + 2 } else { end + 1 })?;
    }
    Ok(end)
}

/// Returns the position after one or more digits.
#[inline]
fn digits_end(bytes: &[u8], mut at: usize) -> Result<usize, MalformedJson> {
    if !byte(bytes, at).is_ascii_digit() {
        return Err(MalformedJson);
    }
    at += 1;
    while byte(bytes, at).is_ascii_digit() {
        at += 1;
    }
    Ok(at)
}

/// Returns whether a byte can continue a number after its first digit.
#[inline]
fn is_in_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E')
}

/// Returns the position after a word, if it starts here.
fn word_end(bytes: &[u8], at: usize, word: &str) -> Result<usize, MalformedJson> {
    let starts = bytes[at..].starts_with(word.as_bytes());
    if starts { Ok(at + word.len()) } else { Err(MalformedJson) }
}

/// Returns whether a byte needs no escape in a string.
fn is_plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
}

/// Returns the length of an escape, its backslash included; `rest` is what follows the backslash.
fn escape_length(rest: &[u8]) -> Result<usize, MalformedJson> {
    match rest {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Ok(2),
        [b'u', digits @ ..]
            if digits.get(..4).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) =>
        {
            Ok(6)
        }
        _ => Err(MalformedJson),
    }
}
