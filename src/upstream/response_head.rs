//! The reading of an upstream's answer (RFC 9112 sections 4, 6.3 and 7.1).
//!
//! A pure state machine over a buffer: it takes what it has read out of the buffer, and what follows the answer
//! stays in it. What can be read in two ways is no answer.

mod framing;

use std::mem::{self, MaybeUninit};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::{ParserConfig, Response, Status};
use memchr::{memchr, memchr_iter};

use self::framing::{Fields, Framing};
use super::headers;
use crate::response::SanitizedResponse;

/// The most header lines of an answer, and the most trailer lines.
const LINES: usize = 100;
/// The most interim answers before the answer.
const INTERIM: usize = 32;
/// The longest size of a chunk, in hex digits.
const SIZE_DIGITS: usize = 16;
/// How much the lines of a body's chunks may have beyond their sizes.
const EXTENSIONS: usize = 16 << 10;

/// How long an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The longest head in bytes, and the longest trailers.
    pub head_bytes: usize,
    /// The longest body in bytes; a longer one is left out.
    pub body_bytes: u64,
}

/// An answer that was read to its end, or to where its body became too long.
#[derive(Debug)]
pub struct Whole {
    /// The answer, made safe.
    pub answer: SanitizedResponse,
    /// Whether its body is over the limit and left out, and not read.
    pub left_out: bool,
    /// Whether its connection may take another request, once nothing else has come on it.
    pub persistent: bool,
}

/// This is no answer: malformed, or over a bound that is not the body's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The reading of one answer.
#[derive(Debug)]
pub struct ResponseHead {
    bounds: Bounds,
    /// The request was `HEAD`.
    bodiless: bool,
    state: State,
    /// How much of the buffer was looked through for ends of lines.
    searched: usize,
    interim: usize,
    /// How much more the lines of chunks may have beyond their sizes.
    extensions: usize,
    persistent: bool,
    status: StatusCode,
    headers: HeaderMap,
    /// The body's first piece, as it came, and what followed it.
    first: Bytes,
    rest: BytesMut,
}

/// What is expected next.
#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    /// A body of so many bytes.
    Length(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// A body until the end of the connection.
    UntilEnd,
    /// Nothing; whether the body was left out.
    Whole {
        left_out: bool,
    },
}

impl ResponseHead {
    /// Of an answer within these bounds; to a `HEAD` it has no body.
    pub fn new(bounds: Bounds, to_head: bool) -> Self {
        ResponseHead {
            bounds,
            bodiless: to_head,
            state: State::Head,
            searched: 0,
            interim: 0,
            extensions: EXTENSIONS,
            persistent: false,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            first: Bytes::new(),
            rest: BytesMut::new(),
        }
    }

    /// Reads on in what has come so far; `None` while it is incomplete. Not to be called again after an answer or
    /// an error.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read_on(&mut self, buffer: &mut BytesMut) -> Result<Option<Whole>, Malformed> {
        loop {
            let next = match self.state {
                State::Head => self.head(buffer)?,
                State::Length(length) => self.length(length, buffer),
                State::ChunkSize => self.chunk_size(buffer)?,
                State::Chunk(left) => self.chunk(left, buffer),
                State::ChunkEnd => chunk_end(buffer)?,
                State::Trailers => self.trailers(buffer)?,
                State::UntilEnd => {
                    let too_long = buffer.len() as u64 > self.bounds.body_bytes;
                    too_long.then_some(State::Whole { left_out: true })
                }
                State::Whole { left_out } => return Ok(Some(self.whole(left_out))),
            };
            match next {
                Some(next) => (self.state, self.searched) = (next, 0),
                None => return Ok(None),
            }
        }
    }

    /// The answer at the end of the connection, to be asked when [`ResponseHead::read_on`] wants more.
    ///
    /// # Errors
    /// [`Malformed`] if the answer does not end there.
    pub fn end(&mut self, buffer: &mut BytesMut) -> Result<Whole, Malformed> {
        let State::UntilEnd = self.state else { return Err(Malformed) };
        self.first = buffer.split().freeze();
        self.persistent = false;
        Ok(self.whole(false))
    }

    /// How many bytes are known to be missing besides those of `buffer`.
    pub(super) fn missing(&self, buffer: &BytesMut) -> u64 {
        match self.state {
            State::Length(length) => length.saturating_sub(buffer.len() as u64),
            State::Chunk(left) => left,
            State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => 0,
            State::UntilEnd | State::Whole { .. } => 0,
        }
    }

    fn whole(&mut self, left_out: bool) -> Whole {
        let body = if left_out {
            Bytes::new()
        } else if self.rest.is_empty() {
            mem::take(&mut self.first)
        } else {
            let mut body = BytesMut::with_capacity(self.first.len() + self.rest.len());
            body.extend_from_slice(&self.first);
            body.extend_from_slice(&self.rest);
            body.freeze()
        };
        let headers = mem::take(&mut self.headers);
        let answer = SanitizedResponse { status: self.status, headers, body };
        Whole { answer, left_out, persistent: self.persistent && !left_out }
    }

    /// Reads a head; an interim one is followed by another.
    fn head(&mut self, buffer: &mut BytesMut) -> Result<Option<State>, Malformed> {
        if buffer.first().is_some_and(|first| *first != b'H') {
            return Err(Malformed);
        }
        let looked_at = self.searched;
        let Some(end) = end_of_lines(buffer, &mut self.searched) else {
            if buffer.len() >= self.bounds.head_bytes {
                return Err(Malformed);
            }
            // What is wrong in whole lines will not become right.
            let has_more_lines = memchr(b'\n', &buffer[looked_at..]).is_some();
            return if has_more_lines { parse(buffer, |_| Ok(None)) } else { Ok(None) };
        };
        if end > self.bounds.head_bytes {
            return Err(Malformed);
        }
        let head = buffer.split_to(end).freeze();
        parse(&head, |response| match response {
            Some(response) => self.answer(&head, response).map(Some),
            None => Err(Malformed),
        })
    }

    /// Takes over what a whole head says.
    fn answer(&mut self, head: &Bytes, response: &Response<'_, '_>) -> Result<State, Malformed> {
        let status = response.code.ok_or(Malformed)?;
        self.status = StatusCode::from_u16(status).map_err(|_| Malformed)?;
        if self.status.is_informational() {
            self.interim += 1;
            let is_skipped = self.status != StatusCode::SWITCHING_PROTOCOLS;
            return if is_skipped && self.interim <= INTERIM {
                Ok(State::Head)
            } else {
                Err(Malformed)
            };
        }
        let fields = Fields::read(response.headers);
        self.headers.reserve(response.headers.len());
        for line in response.headers.iter() {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed)?;
            if headers::passes_to_sender(&name) && !fields.named.contains(&name) {
                let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value));
                self.headers.append(name, value.map_err(|_| Malformed)?);
            }
        }
        let is_recent = response.version == Some(1);
        self.persistent = fields.is_persistent(self.status, is_recent);
        Ok(match fields.framing(self.status, self.bodiless, is_recent)? {
            Framing::Nothing => State::Whole { left_out: false },
            Framing::Length(length) if length > self.bounds.body_bytes => {
                State::Whole { left_out: true }
            }
            Framing::Length(length) => State::Length(length),
            Framing::Chunks => State::ChunkSize,
            Framing::UntilEnd => State::UntilEnd,
        })
    }

    fn length(&mut self, length: u64, buffer: &mut BytesMut) -> Option<State> {
        let length = usize::try_from(length).ok().filter(|length| *length <= buffer.len())?;
        self.first = buffer.split_to(length).freeze();
        Some(State::Whole { left_out: false })
    }

    fn chunk_size(&mut self, buffer: &mut BytesMut) -> Result<Option<State>, Malformed> {
        let Some(at) = memchr(b'\n', &buffer[self.searched..]) else {
            self.searched = buffer.len();
            let too_long = buffer.len() > SIZE_DIGITS + 2 + self.extensions;
            return if too_long { Err(Malformed) } else { Ok(None) };
        };
        let end = self.searched + at;
        let line = buffer[..end].strip_suffix(b"\r").ok_or(Malformed)?;
        let (size, extension) = chunk_line(line)?;
        self.extensions = self.extensions.checked_sub(extension.len()).ok_or(Malformed)?;
        buffer.advance(end + 1);
        let length = (self.first.len() + self.rest.len()) as u64;
        let too_long = length.checked_add(size).is_none_or(|sum| sum > self.bounds.body_bytes);
        Ok(Some(match size {
            0 => State::Trailers,
            _ if too_long => State::Whole { left_out: true },
            _ => State::Chunk(size),
        }))
    }

    fn chunk(&mut self, left: u64, buffer: &mut BytesMut) -> Option<State> {
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if count == 0 {
            return None;
        }
        if self.first.is_empty() {
            self.first = buffer.split_to(count).freeze();
        } else {
            self.rest.extend_from_slice(&buffer[..count]);
            buffer.advance(count);
        }
        match left - count as u64 {
            0 => Some(State::ChunkEnd),
            left => Some(State::Chunk(left)),
        }
    }

    /// Reads trailers, which are dropped.
    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Option<State>, Malformed> {
        let end = match &buffer[..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => return Err(Malformed),
            lines => match end_of_lines(lines, &mut self.searched) {
                Some(end) if end <= self.bounds.head_bytes => end,
                Some(_) => return Err(Malformed),
                None if lines.len() >= self.bounds.head_bytes => return Err(Malformed),
                None => return Ok(None),
            },
        };
        let lines = &buffer[..end];
        let has_bare_line_feed = memchr_iter(b'\n', lines).any(|at| lines[at - 1] != b'\r');
        let mut parsed = [httparse::EMPTY_HEADER; LINES];
        match httparse::parse_headers(lines, &mut parsed) {
            Ok(Status::Complete((length, _))) if length == end && !has_bare_line_feed => {
                buffer.advance(end);
                Ok(Some(State::Whole { left_out: false }))
            }
            Ok(Status::Complete(_) | Status::Partial) | Err(_) => Err(Malformed),
        }
    }
}

/// Parses a head; `then` gets nothing if it is incomplete.
fn parse<T>(
    head: &[u8],
    then: impl FnOnce(Option<&Response<'_, '_>>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; LINES];
    let mut response = Response::new(&mut []);
    let config = ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, head, &mut lines) {
        Ok(Status::Complete(length)) if length == head.len() => then(Some(&response)),
        Ok(Status::Partial) => then(None),
        Ok(Status::Complete(_)) | Err(_) => Err(Malformed),
    }
}

/// Where header lines end: behind the first empty one. What was looked through is not looked through again.
fn end_of_lines(bytes: &[u8], searched: &mut usize) -> Option<usize> {
    while let Some(at) = memchr(b'\n', &bytes[*searched..]) {
        let next = *searched + at + 1;
        match &bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            [] | [b'\r'] => {
                *searched = next - 1;
                return None;
            }
            [..] => *searched = next,
        }
    }
    *searched = bytes.len();
    None
}

/// The size in a chunk's line, and what the line has besides: blanks, and extensions, which mean nothing here.
fn chunk_line(line: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if digits == 0
        || digits > SIZE_DIGITS
        || !matches!(extension.trim_ascii_start(), [] | [b';', ..])
        || extension.iter().any(is_control)
    {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok((size.ok_or(Malformed)?, extension))
}

fn chunk_end(buffer: &mut BytesMut) -> Result<Option<State>, Malformed> {
    match &buffer[..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            Ok(Some(State::ChunkSize))
        }
        [..] => Err(Malformed),
    }
}

#[cfg(test)]
mod tests;
