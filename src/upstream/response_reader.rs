//! The reader of an upstream's response (RFC 9112 sections 6.3 and 7.1).
//!
//! A state machine over a buffer, without I/O: it takes what it has read out of the buffer, and
//! what follows the response stays there.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header::CONTENT_ENCODING};
use memchr::memchr;

use super::response_head::{BodyFraming, MalformedResponse, ResponseHead};
use crate::response::SanitizedResponse;

/// The most interim responses before the final one.
const MAX_INTERIM: usize = 32;
/// The longest chunk size, in hex digits.
const MAX_SIZE_DIGITS: usize = 16;
/// The most bytes that the size lines of all chunks may have in addition to the sizes.
const MAX_EXTENSIONS: usize = 16 << 10;

/// The limits of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// The longest head in bytes, and the longest trailers.
    pub head_bytes: usize,
    /// The longest body in bytes; a longer one is omitted.
    pub body_bytes: u64,
}

/// A response that was read to its end, or until its body exceeded the limit.
#[derive(Debug)]
pub struct ReceivedResponse {
    /// The response, sanitized.
    pub response: SanitizedResponse,
    /// Why the body is omitted, if it is; then it was not read to its end.
    pub omission: Option<BodyOmission>,
    /// Whether the connection can serve another request, unless more bytes arrived.
    pub persistent: bool,
    /// The faults in spite of which the response is used.
    pub faults: Vec<&'static str>,
}

/// Why a response has lost its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOmission {
    /// The body is over the limit.
    TooLong,
    /// There is no memory for it.
    NoMemory,
}

/// The reader of one response.
#[derive(Debug)]
pub struct ResponseReader {
    limits: ResponseLimits,
    /// Whether the request was `HEAD`.
    to_head: bool,
    stage: ReadStage,
    /// How much of the buffer was searched for line ends.
    searched: usize,
    interim: usize,
    /// What is left of [`MAX_EXTENSIONS`].
    extensions: usize,
    persistent: bool,
    status: StatusCode,
    headers: HeaderMap,
    faults: Vec<&'static str>,
    /// The body's first piece, as it was received, and what followed it.
    first: Bytes,
    rest: BytesMut,
}

/// What the reader expects next.
#[derive(Clone, Copy, Debug)]
enum ReadStage {
    Head,
    /// A body of this many bytes.
    Length(u64),
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// A body until the end of the connection.
    UntilClose,
    Complete(Option<BodyOmission>),
}

const COMPLETE: ReadStage = ReadStage::Complete(None);
const TOO_LONG: ReadStage = ReadStage::Complete(Some(BodyOmission::TooLong));

impl ResponseReader {
    /// Returns a reader of one response; a response to `HEAD` has no body.
    pub fn new(limits: ResponseLimits, to_head: bool) -> Self {
        ResponseReader {
            limits,
            to_head,
            stage: ReadStage::Head,
            searched: 0,
            interim: 0,
            extensions: MAX_EXTENSIONS,
            persistent: false,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            faults: Vec::new(),
            first: Bytes::new(),
            rest: BytesMut::new(),
        }
    }

    /// Reads what has arrived; `None` while the response is incomplete. Must not be called again
    /// after a response or an error.
    ///
    /// # Errors
    /// The fault, if this is not a valid response.
    pub fn advance(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<ReceivedResponse>, MalformedResponse> {
        loop {
            let next = match self.stage {
                ReadStage::Head => self.head(buffer)?,
                ReadStage::Length(length) => self.length(length, buffer),
                ReadStage::ChunkSize => self.chunk_size(buffer)?,
                ReadStage::Chunk(left) => self.chunk(left, buffer),
                ReadStage::ChunkEnd => chunk_end(buffer)?,
                ReadStage::Trailers => self.trailers(buffer)?,
                ReadStage::UntilClose => {
                    let too_long = buffer.len() as u64 > self.limits.body_bytes;
                    too_long.then_some(TOO_LONG)
                }
                ReadStage::Complete(omission) => return Ok(Some(self.complete(omission))),
            };
            match next {
                Some(next) => (self.stage, self.searched) = (next, 0),
                None => return Ok(None),
            }
        }
    }

    /// Returns the response at the end of the connection, after [`ResponseReader::advance`] has
    /// returned `None`.
    ///
    /// # Errors
    /// The fault, if the response does not end there.
    pub fn finish(&mut self, buffer: &mut BytesMut) -> Result<ReceivedResponse, MalformedResponse> {
        match self.stage {
            ReadStage::UntilClose => self.first = buffer.split().freeze(),
            // The body is complete, and trailers are dropped.
            ReadStage::Trailers => {
                buffer.clear();
                self.faults.push("a connection closed within the trailers");
            }
            ReadStage::Head => return Err(MalformedResponse("closed before the end of the head")),
            ReadStage::Length(_)
            | ReadStage::ChunkSize
            | ReadStage::Chunk(_)
            | ReadStage::ChunkEnd
            | ReadStage::Complete(_) => {
                return Err(MalformedResponse("closed before the end of the body"));
            }
        }
        self.persistent = false;
        Ok(self.complete(None))
    }

    /// Returns how many bytes are known to be missing in addition to those of `buffer`.
    pub(super) fn missing(&self, buffer: &BytesMut) -> u64 {
        match self.stage {
            ReadStage::Length(length) => length.saturating_sub(buffer.len() as u64),
            ReadStage::Chunk(left) => left,
            ReadStage::Head
            | ReadStage::ChunkSize
            | ReadStage::ChunkEnd
            | ReadStage::Trailers
            | ReadStage::UntilClose
            | ReadStage::Complete(_) => 0,
        }
    }

    /// Returns how many bytes of the body have been received, those of `buffer` included.
    pub(super) fn received(&self, buffer: &BytesMut) -> usize {
        let unread = match self.stage {
            ReadStage::Head | ReadStage::Complete(_) => 0,
            ReadStage::Length(_)
            | ReadStage::ChunkSize
            | ReadStage::Chunk(_)
            | ReadStage::ChunkEnd
            | ReadStage::Trailers
            | ReadStage::UntilClose => buffer.len(),
        };
        self.first.len() + self.rest.len() + unread
    }

    /// Returns the response without its body, for which there is no memory: `received` if the
    /// response is complete. Otherwise its head must have been read.
    pub(super) fn omit_body(&mut self, received: Option<ReceivedResponse>) -> ReceivedResponse {
        if let Some(ReceivedResponse { response, faults, .. }) = received {
            (self.status, self.headers, self.faults) = (response.status, response.headers, faults);
        }
        self.complete(Some(BodyOmission::NoMemory))
    }

    fn complete(&mut self, omission: Option<BodyOmission>) -> ReceivedResponse {
        let body = if omission.is_some() {
            (self.first, self.rest) = (Bytes::new(), BytesMut::new());
            self.headers.remove(CONTENT_ENCODING);
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
        ReceivedResponse {
            response: SanitizedResponse { status: self.status, headers, body },
            omission,
            persistent: self.persistent && omission.is_none(),
            faults: mem::take(&mut self.faults),
        }
    }

    /// Reads a head; an interim one is followed by another.
    fn head(&mut self, buffer: &mut BytesMut) -> Result<Option<ReadStage>, MalformedResponse> {
        // An empty line may be left from the response before (RFC 9112 section 2.2).
        while let [b'\r', b'\n', ..] | [b'\n', ..] = &buffer[..] {
            buffer.advance(if buffer[0] == b'\r' { 2 } else { 1 });
            self.searched = 0;
        }
        let start = &buffer[..buffer.len().min(STATUS_LINE_START.len())];
        if !STATUS_LINE_START.starts_with(start) && start != b"\r" {
            return Err(MalformedResponse(match buffer[..] {
                [21, 3, ..] => "a TLS alert: the upstream has TLS, so its URL begins with https://",
                _ => "no HTTP/1 status line",
            }));
        }
        let Some(end) = end_of_lines(buffer, &mut self.searched) else {
            let too_long = buffer.len() >= self.limits.head_bytes;
            return if too_long { Err(HEAD_TOO_LONG) } else { Ok(None) };
        };
        if end > self.limits.head_bytes {
            return Err(HEAD_TOO_LONG);
        }
        let head = ResponseHead::parse(buffer.split_to(end).freeze(), self.to_head)?;
        if head.status.is_informational() {
            self.interim += 1;
            return if head.status == StatusCode::SWITCHING_PROTOCOLS {
                Err(MalformedResponse("a switch to another protocol"))
            } else if self.interim > MAX_INTERIM {
                Err(MalformedResponse("too many interim responses"))
            } else {
                Ok(Some(ReadStage::Head))
            };
        }
        (self.status, self.headers) = (head.status, head.headers);
        (self.persistent, self.faults) = (head.persistent, head.faults);
        Ok(Some(match head.framing {
            BodyFraming::Empty => COMPLETE,
            BodyFraming::Length(length) if length > self.limits.body_bytes => TOO_LONG,
            BodyFraming::Length(length) => ReadStage::Length(length),
            BodyFraming::Chunked => ReadStage::ChunkSize,
            BodyFraming::UntilClose => ReadStage::UntilClose,
        }))
    }

    fn length(&mut self, length: u64, buffer: &mut BytesMut) -> Option<ReadStage> {
        let length = usize::try_from(length).ok().filter(|length| *length <= buffer.len())?;
        self.first = buffer.split_to(length).freeze();
        Some(COMPLETE)
    }

    fn chunk_size(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<ReadStage>, MalformedResponse> {
        let Some(at) = memchr(b'\n', &buffer[self.searched..]) else {
            self.searched = buffer.len();
            let too_long = buffer.len() > MAX_SIZE_DIGITS + 2 + self.extensions;
            return if too_long { Err(EXTENSIONS_TOO_LONG) } else { Ok(None) };
        };
        let end = self.searched + at;
        let line = buffer[..end].strip_suffix(b"\r").ok_or(INVALID_CHUNK)?;
        let (size, extension) = chunk_line(line)?;
        self.extensions =
            self.extensions.checked_sub(extension.len()).ok_or(EXTENSIONS_TOO_LONG)?;
        buffer.advance(end + 1);
        let length = (self.first.len() + self.rest.len()) as u64;
        let too_long = length.checked_add(size).is_none_or(|sum| sum > self.limits.body_bytes);
        Ok(Some(match size {
            0 => ReadStage::Trailers,
            _ if too_long => TOO_LONG,
            _ => ReadStage::Chunk(size),
        }))
    }

    fn chunk(&mut self, left: u64, buffer: &mut BytesMut) -> Option<ReadStage> {
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
            0 => Some(ReadStage::ChunkEnd),
            left => Some(ReadStage::Chunk(left)),
        }
    }

    /// Reads trailers up to their empty line. They are dropped, so their content does not matter.
    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Option<ReadStage>, MalformedResponse> {
        let end = match &buffer[..] {
            [] | [b'\r'] => return Ok(None),
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            lines => match end_of_lines(lines, &mut self.searched) {
                Some(end) if end <= self.limits.head_bytes => end,
                None if lines.len() < self.limits.head_bytes => return Ok(None),
                Some(_) | None => return Err(MalformedResponse("trailers over the limit")),
            },
        };
        buffer.advance(end);
        Ok(Some(COMPLETE))
    }
}

/// How a status line starts; see [`ResponseHead::parse`] for the rest of it.
const STATUS_LINE_START: &[u8] = b"HTTP/1.";
const HEAD_TOO_LONG: MalformedResponse =
    MalformedResponse("its head is longer than `limits.upstream_head`");
const INVALID_CHUNK: MalformedResponse = MalformedResponse("an invalid chunk");
const EXTENSIONS_TOO_LONG: MalformedResponse = MalformedResponse("too long chunk extensions");

/// Returns where header lines end: after the first empty line. Bytes before `searched` are not
/// searched again.
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

/// Returns the size in a chunk's line, and what the line has after it: white space, and extensions,
/// which are ignored.
fn chunk_line(line: &[u8]) -> Result<(u64, &[u8]), MalformedResponse> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if digits == 0
        || digits > MAX_SIZE_DIGITS
        || !matches!(extension.trim_ascii_start(), [] | [b';', ..])
        || extension.iter().any(is_control)
    {
        return Err(INVALID_CHUNK);
    }
    let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok((size.ok_or(INVALID_CHUNK)?, extension))
}

fn chunk_end(buffer: &mut BytesMut) -> Result<Option<ReadStage>, MalformedResponse> {
    match &buffer[..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            Ok(Some(ReadStage::ChunkSize))
        }
        [..] => Err(INVALID_CHUNK),
    }
}

#[cfg(test)]
mod tests;
