//! Where requests begin and end on a connection: a head, then a body by `Content-Length`, by
//! chunks, or none, then the next head (RFC 9112 sections 6.3 and 7.1). Anything that can be read
//! in more than one way is a fault.

use std::{mem, ops::Range};

use memchr::memchr2;

use super::{
    facts::FactsQueue,
    grammar::{self, RequestLine, Version},
};
use crate::{gate::WireFacts, reject::Reject, target, upstream::HeaderCase};

/// The longest line of a chunk size, in hex digits.
const CHUNK_SIZE_DIGITS: usize = 16;

/// The position in the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    head_bytes: usize,
    headers: usize,
    state: FramingState,
    /// The head that was read last, if hyper needs another text in its place.
    replaced: Option<Vec<u8>>,
}

/// What comes next.
#[derive(Debug)]
enum FramingState {
    Head(Head),
    /// The rest of a body, in bytes.
    Body(u64),
    ChunkSize,
    /// The rest of a chunk, in bytes.
    Chunk(u64),
    ChunkEnd,
    /// Trailer lines, of at most this many bytes.
    Trailers(usize),
}

/// The part of a head that was read.
#[derive(Debug, Default)]
struct Head {
    /// How many bytes were read, in whole lines.
    read: usize,
    version: Option<Version>,
    /// Where the target is.
    target: Range<usize>,
    headers: usize,
    header_case: HeaderCase,
    content_length: Option<u64>,
    chunked: bool,
}

/// How many bytes hyper may read. The rest must be passed again together with what follows it,
/// unless there is a fault.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes: usize,
    pub(super) replaced: Option<Replaced>,
    pub(super) fault: Option<Fault>,
}

/// A head after these bytes for which hyper must read another text: the target has characters that
/// `Uri` cannot hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// The length of the head as it arrived.
    pub(super) length: usize,
    pub(super) head: Vec<u8>,
}

/// A fault, which ends the reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Head(Reject),
    Body(Reject),
}

impl Framing {
    /// Returns the framing of a new connection, whose heads have at most `head_bytes` bytes and
    /// `headers` header lines.
    pub(super) fn new(head_bytes: usize, headers: usize) -> Self {
        Framing { head_bytes, headers, state: FramingState::Head(Head::default()), replaced: None }
    }

    /// Returns whether a head comes next, and nothing of it was read.
    pub(super) fn is_at_head(&self) -> bool {
        matches!(&self.state, FramingState::Head(head) if head.read == 0)
    }

    /// Reads bytes, and pushes the facts about the heads among them. Must not be called after a
    /// fault.
    pub(super) fn pass(&mut self, bytes: &[u8], facts: &FactsQueue) -> Passed {
        let mut passed = 0;
        loop {
            let is_head = matches!(self.state, FramingState::Head(_));
            let fault = match self.step(&bytes[passed..], facts) {
                Ok(0) => None,
                Ok(more) => {
                    if let Some(head) = self.replaced.take() {
                        let replaced = Some(Replaced { length: more, head });
                        return Passed { bytes: passed, replaced, fault: None };
                    }
                    passed += more;
                    continue;
                }
                Err(why) if is_head => Some(Fault::Head(why)),
                Err(why) => Some(Fault::Body(why)),
            };
            return Passed { bytes: passed, replaced: None, fault };
        }
    }

    /// Returns the length of the next piece that hyper may read, or 0 while it is incomplete.
    fn step(&mut self, bytes: &[u8], facts: &FactsQueue) -> Result<usize, Reject> {
        match &mut self.state {
            FramingState::Head(head) => {
                if !head.read_on(bytes, self.head_bytes, self.headers)? {
                    return Ok(0);
                }
                let (read, next) = (head.read, head.body()?);
                self.replaced = head.replaced(&bytes[..read], self.head_bytes)?;
                facts.push(WireFacts::of(mem::take(&mut head.header_case)));
                self.state = next;
                Ok(read)
            }
            FramingState::Body(left) => {
                let count = count(left, bytes);
                if *left == 0 {
                    self.state = FramingState::Head(Head::default());
                }
                Ok(count)
            }
            FramingState::ChunkSize => {
                let Some(line) = next_line(bytes)? else {
                    let too_long = bytes.len() > CHUNK_SIZE_DIGITS + 1;
                    return if too_long { Err(Reject::BadRequest("chunk size")) } else { Ok(0) };
                };
                self.state = match chunk_size(line)? {
                    0 => FramingState::Trailers(self.head_bytes),
                    size => FramingState::Chunk(size),
                };
                Ok(line.len() + 2)
            }
            FramingState::Chunk(left) => {
                let count = count(left, bytes);
                if *left == 0 {
                    self.state = FramingState::ChunkEnd;
                }
                Ok(count)
            }
            FramingState::ChunkEnd => match bytes {
                [] | [b'\r'] => Ok(0),
                [b'\r', b'\n', ..] => {
                    self.state = FramingState::ChunkSize;
                    Ok(2)
                }
                [..] => Err(Reject::BadRequest("chunk longer than its size")),
            },
            FramingState::Trailers(left) => {
                let Some(line) = next_line(bytes)? else {
                    return if bytes.len() > *left { Err(Reject::HeadTooLarge) } else { Ok(0) };
                };
                let length = line.len() + 2;
                *left = left.checked_sub(length).ok_or(Reject::HeadTooLarge)?;
                if line.is_empty() {
                    self.state = FramingState::Head(Head::default());
                } else {
                    grammar::trailer(line)?;
                }
                Ok(length)
            }
        }
    }
}

impl Head {
    /// Reads the whole lines; returns true if the last of them ended the head.
    fn read_on(&mut self, bytes: &[u8], most: usize, headers: usize) -> Result<bool, Reject> {
        while let Some(line) = next_line(&bytes[self.read..])? {
            self.read += line.len() + 2;
            if self.read > most {
                return Err(Reject::HeadTooLarge);
            }
            match (self.version, line) {
                (Some(_), []) => return Ok(true),
                (Some(_), line) if self.headers < headers => self.header(line)?,
                (Some(_), _) => return Err(Reject::HeadTooLarge),
                // Some clients send empty lines after a body: RFC 9112 section 2.2.
                (None, []) => {}
                (None, line) => {
                    let start = self.read - line.len() - 2;
                    let RequestLine { version, target } = grammar::request_line(line)?;
                    self.version = Some(version);
                    self.target = start + target.start..start + target.end;
                }
            }
        }
        if bytes.len() > most { Err(Reject::HeadTooLarge) } else { Ok(false) }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Reject> {
        self.headers += 1;
        let (name, value) = grammar::field(line)?;
        self.header_case.push(name);
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.content_length.is_some() {
                return Err(Reject::BadRequest("two Content-Length headers"));
            }
            self.content_length = Some(grammar::content_length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reject::BadRequest("Transfer-Encoding other than chunked"));
            }
            self.chunked = true;
        }
        Ok(())
    }

    /// Returns the text that hyper reads in place of this head, if it needs another one.
    fn replaced(&self, head: &[u8], most: usize) -> Result<Option<Vec<u8>>, Reject> {
        let Range { start, end } = self.target;
        let Some(target) = target::substituted(&head[start..end]) else { return Ok(None) };
        let head = [&head[..start], &target, &head[end..]].concat();
        if head.len() > most { Err(Reject::HeadTooLarge) } else { Ok(Some(head)) }
    }

    /// Returns how the body is framed (RFC 9112 section 6.3, without the leniencies that it
    /// permits).
    fn body(&self) -> Result<FramingState, Reject> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(Reject::BadRequest("Transfer-Encoding and Content-Length")),
            (true, None) if self.version == Some(Version::Http10) => {
                Err(Reject::BadRequest("Transfer-Encoding in HTTP/1.0"))
            }
            (true, None) => Ok(FramingState::ChunkSize),
            (false, None | Some(0)) => Ok(FramingState::Head(Head::default())),
            (false, Some(length)) => Ok(FramingState::Body(length)),
        }
    }
}

/// Takes at most `left` of `bytes`, and returns how many.
fn count(left: &mut u64, bytes: &[u8]) -> usize {
    let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= count as u64;
    count
}

/// Returns the first line without its CRLF, or `None` while it is incomplete. Only CRLF ends a
/// line: RFC 9112 section 2.2 permits a recipient to accept a bare LF too, and to reject a bare CR.
fn next_line(bytes: &[u8]) -> Result<Option<&[u8]>, Reject> {
    let Some((line, end)) = memchr2(b'\r', b'\n', bytes).map(|at| bytes.split_at(at)) else {
        return Ok(None);
    };
    match end {
        [b'\r', b'\n', ..] => Ok(Some(line)),
        [b'\r'] => Ok(None),
        [b'\r', ..] => Err(Reject::BadRequest("bare CR")),
        [..] => Err(Reject::BadRequest("bare LF")),
    }
}

/// Returns the size of a chunk. Extensions are rejected: recipients ignore those that they do not
/// know (RFC 9112 section 7.1.1), so they carry no meaning, only disagreements about where the line
/// ends.
fn chunk_size(line: &[u8]) -> Result<u64, Reject> {
    let malformed = Reject::BadRequest("chunk size");
    if line.len() > CHUNK_SIZE_DIGITS || !line.iter().all(u8::is_ascii_hexdigit) {
        return Err(malformed);
    }
    let digits = std::str::from_utf8(line).map_err(|_| malformed.clone())?;
    u64::from_str_radix(digits, 16).map_err(|_| malformed)
}
