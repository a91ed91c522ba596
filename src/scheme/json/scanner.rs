//! The syntax of JSON (RFC 8259), read byte by byte from the front.
//!
//! The text is UTF-8 already. Every step is strict about syntax and takes time linear in what it
//! reads, whatever the body holds.

use std::{borrow::Cow, str::Chars};

use super::{MAX_DEPTH, MalformedJson};

/// How many bytes of a string are checked at a time.
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
    /// The string itself, if it has no escapes and no characters outside ASCII.
    pub(super) fn as_plain_ascii(&self) -> Option<&'a str> {
        (!self.has_escapes && self.raw.is_ascii()).then_some(self.raw)
    }

    /// The string with its escapes replaced; `None` if it has a lone surrogate.
    pub(super) fn unescaped(&self) -> Option<Cow<'a, str>> {
        if !self.has_escapes {
            return Some(Cow::Borrowed(self.raw));
        }
        self.chars().collect::<Option<String>>().map(Cow::Owned)
    }

    /// How many bytes the string has in the body.
    pub(super) fn raw_len(&self) -> usize {
        self.raw.len()
    }

    /// The characters, with escapes replaced; `None` for a lone surrogate.
    pub(super) fn chars(&self) -> impl Iterator<Item = Option<char>> + use<'a> {
        let mut rest = self.raw.chars();
        std::iter::from_fn(move || match rest.next()? {
            '\\' => Some(unescape(&mut rest)),
            plain => Some(Some(plain)),
        })
    }
}

/// The character that an escape writes, of which `rest` has everything after the backslash.
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
    /// The start of `text`, which may have so many values.
    pub(super) fn new(text: &'a str, values: u32) -> Self {
        Scanner { text, at: 0, values }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and returns the byte after it.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, MalformedJson> {
        loop {
            match self.byte().ok_or(MalformedJson)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    /// Consumes a byte, which may have white space before it.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), MalformedJson> {
        if self.peek()? != byte {
            return Err(MalformedJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes the end of an array or object, if it is next.
    pub(super) fn closes(&mut self, end: u8) -> Result<bool, MalformedJson> {
        let closes = self.peek()? == end;
        self.at += usize::from(closes);
        Ok(closes)
    }

    /// Checks that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), MalformedJson> {
        match self.peek() {
            Ok(_) => Err(MalformedJson),
            Err(MalformedJson) => Ok(()),
        }
    }

    /// Counts a value against the limit.
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
    pub(super) fn name(&mut self) -> Result<Text<'a>, MalformedJson> {
        if self.peek()? != b'"' {
            return Err(MalformedJson);
        }
        let name = self.text()?;
        self.expect(b':')?;
        Ok(name)
    }

    /// Consumes a string, whose quote is next.
    pub(super) fn text(&mut self) -> Result<Text<'a>, MalformedJson> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        let mut has_escapes = false;
        loop {
            match *bytes.get(at).ok_or(MalformedJson)? {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    at += escape_length(&bytes[at + 1..])?;
                }
                0..0x20 => return Err(MalformedJson),
                _ => {
                    at += 1;
                    while let Some(stride) = bytes.get(at..at + STRIDE)
                        && stride.iter().fold(true, |plain, byte| plain & is_plain(*byte))
                    {
                        at += STRIDE;
                    }
                    while bytes.get(at).is_some_and(|byte| is_plain(*byte)) {
                        at += 1;
                    }
                }
            }
        }
        self.at = at + 1;
        Ok(Text { raw: &self.text[start..at], has_escapes })
    }

    /// Consumes a number.
    pub(super) fn number(&mut self) -> Result<&'a str, MalformedJson> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// Consumes at least one digit.
    fn digits(&mut self) -> Result<(), MalformedJson> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(MalformedJson) } else { Ok(()) }
    }

    fn word(&mut self, word: &str) -> Result<(), MalformedJson> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(MalformedJson);
        }
        self.at += word.len();
        Ok(())
    }

    /// Consumes a value and everything in it. `depth` is how deep it is nested as an array or
    /// object.
    pub(super) fn skip_value(&mut self, depth: u32) -> Result<(), MalformedJson> {
        // The arrays and objects that are open here, the innermost in the lowest bit: 1 for an
        // object.
        let mut objects = 0u64;
        let mut open = 0;
        loop {
            match self.peek()? {
                b'"' => {
                    self.count_value()?;
                    self.text()?;
                }
                start @ (b'{' | b'[') => {
                    self.open(depth + open)?;
                    let is_object = start == b'{';
                    if !self.closes(if is_object { b'}' } else { b']' })? {
                        objects = objects << 1 | u64::from(is_object);
                        open += 1;
                        if is_object {
                            self.name()?;
                        }
                        continue;
                    }
                }
                b'-' | b'0'..=b'9' => {
                    self.count_value()?;
                    self.number()?;
                }
                first => {
                    self.count_value()?;
                    self.word(match first {
                        b't' => "true",
                        b'f' => "false",
                        b'n' => "null",
                        _ => return Err(MalformedJson),
                    })?;
                }
            }
            // A value ends here, and with it every array and object that closes now.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                let end = if is_object { b'}' } else { b']' };
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.name()?;
                        }
                        break;
                    }
                    byte if byte == end => {
                        self.at += 1;
                        objects >>= 1;
                        open -= 1;
                    }
                    _ => return Err(MalformedJson),
                }
            }
        }
    }
}

/// Returns whether a byte needs no escape in a string.
fn is_plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte != b'"') & (byte != b'\\')
}

/// The length of an escape, its backslash included; `rest` is what follows the backslash.
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
