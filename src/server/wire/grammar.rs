//! The grammar of the lines of a head (RFC 9112), without the leniencies that it permits.

use std::ops::Range;

use http::uri::Authority;
use memchr::memchr;

use crate::{reject::Reject, target};

/// The longest request target that hyper accepts.
const LONGEST_TARGET: usize = 65_534;

/// Headers that frame, route or encode a message. As trailers they have no meaning, except to a
/// recipient that merges trailers into the head (RFC 9110 section 6.5.1).
const NEVER_TRAILERS: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "content-encoding",
    "content-type",
    "expect",
    "te",
    "trailer",
    "upgrade",
];

/// A version of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    Http11,
}

/// The parts of a request line that framing needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestLine {
    pub(super) version: Version,
    /// Where the target is in the line.
    pub(super) target: Range<usize>,
}

/// Parses a request line (RFC 9112 section 3): method, target and version, one space between them.
pub(super) fn request_line(line: &[u8]) -> Result<RequestLine, Reject> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reject::BadRequest("request line"));
    };
    let is_method_byte = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    if method.is_empty() || !method.iter().all(is_method_byte) {
        return Err(Reject::BadRequest("method"));
    }
    if !is_target(method, target) {
        return Err(Reject::BadRequest("request target"));
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Reject::BadRequest("HTTP version")),
    };
    let start = method.len() + 1;
    Ok(RequestLine { version, target: start..start + target.len() })
}

/// Returns whether a target is a path with or without a query, `*` of `OPTIONS`, or an absolute
/// HTTP URI (RFC 9112 section 3.2). The authority form belongs to `CONNECT`, which opens tunnels.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    target.len() <= LONGEST_TARGET
        && match target {
            [b'/', ..] => target::is_origin_form(target),
            b"*" => method == b"OPTIONS",
            [..] => is_absolute_form(target),
        }
}

fn is_absolute_form(target: &[u8]) -> bool {
    let Some(end) = target.windows(3).position(|window| window == b"://") else { return false };
    let (scheme, rest) = (&target[..end], &target[end + 3..]);
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
        && authority.is_ascii()
        && Authority::try_from(authority).is_ok()
        && target::is_after_authority(rest)
}

/// Returns the name and the value of a header line (RFC 9112 section 5), the value without white
/// space around it. A folded line (section 5.2) is rejected.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    if let [b' ' | b'\t', ..] = line {
        return Err(Reject::BadRequest("folded header line"));
    }
    // No early return here and below, so that the compiler can vectorize.
    let is_token = |all, byte: &u8| all & TOKEN[usize::from(*byte)];
    let name = memchr(b':', line).map_or(line, |end| &line[..end]);
    if name.is_empty() || !name.iter().fold(true, is_token) {
        return Err(Reject::BadRequest("header name"));
    }
    let [b':', value @ ..] = &line[name.len()..] else {
        return Err(Reject::BadRequest("header line without colon"));
    };
    let control = |found, byte: &u8| found | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f);
    if value.iter().fold(false, control) {
        return Err(Reject::BadRequest("control character in a header"));
    }
    Ok((name, trim(value)))
}

/// Checks a trailer line. Trailers are read and discarded.
pub(super) fn trailer(line: &[u8]) -> Result<(), Reject> {
    let (name, _) = field(line)?;
    if NEVER_TRAILERS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
        return Err(Reject::BadRequest("header that must not be a trailer"));
    }
    Ok(())
}

/// Returns the number in a `Content-Length`: `1*DIGIT` and nothing else (RFC 9110 section 8.6).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Reject> {
    let malformed = Reject::BadRequest("Content-Length");
    if !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        // hyper reserves the highest numbers.
        .filter(|length| *length <= u64::MAX / 2)
        .ok_or(malformed)
}

/// Returns a value without spaces and tabs around it.
fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// The characters of a token (RFC 9110 section 5.6.2), by byte.
const TOKEN: [bool; 256] = letters_digits_and(b"!#$%&'*+-.^_`|~");

const fn letters_digits_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        table[others[other] as usize] = true;
        other += 1;
    }
    table
}
