//! Bodies that were changed on the way, or signed otherwise than sent.

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use bytes::Bytes;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};

use super::{NearMiss, Trials, json};
use crate::body::Payload;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How compressed data begins (RFC 1952, section 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";

/// The body as it was before somebody changed it.
pub(super) fn bodies(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    if !trials.case.route.scheme().covers_body() || trials.case.payload.is_empty() {
        return Vec::new();
    }
    let case = trials.case;
    let body = case.payload.whole();
    let limit = trials.left.rewritten;
    let mut tried = HashSet::from([Bytes::copy_from_slice(body)]);
    let mut fits = |bytes: Vec<u8>| {
        let bytes = Bytes::from(bytes);
        tried.insert(bytes.clone())
            && trials.fits_with(case.route, case.head, &Payload::from(bytes))
    };
    for (candidate, near_miss) in plain(body) {
        if fits(candidate) {
            return vec![near_miss];
        }
    }
    if body.len() > limit {
        return Vec::new();
    }
    if let Some(tokens) = json::tokens(body) {
        for (layout, escapes) in json::ways() {
            let written = json::write(&tokens, layout, escapes, limit.saturating_mul(4));
            if let Some(written) = written
                && fits(written)
            {
                return vec![NearMiss::Json { layout, escapes }];
            }
        }
    }
    if let Some(plain) = decompressed(body, limit)
        && fits(plain)
    {
        return vec![NearMiss::BodyCompressed];
    }
    for level in [6, 9, 1] {
        if compressed(body, level).is_some_and(&mut fits) {
            return vec![NearMiss::BodyDecompressed];
        }
    }
    Vec::new()
}

/// The bodies that differ in their ends, line ends and byte order mark only.
fn plain(body: &[u8]) -> Vec<(Vec<u8>, NearMiss)> {
    let mut candidates = Vec::new();
    let mut add = |bytes: Vec<u8>, near_miss| candidates.push((bytes, near_miss));
    let trimmed = without_line_end(body);
    if let Some(trimmed) = trimmed {
        add(trimmed.to_vec(), NearMiss::NewlineAdded);
    }
    for end in ["\n", "\r\n"] {
        add([body, end.as_bytes()].concat(), NearMiss::NewlineRemoved);
    }
    let (unix, dos) = (to_lf(body), to_crlf(body));
    add(unix, NearMiss::LineEndsToCrlf);
    add(dos, NearMiss::LineEndsToLf);
    // Editors that change line ends also end the last line.
    if let Some(trimmed) = trimmed {
        add(to_lf(trimmed), NearMiss::LineEndsToCrlf);
        add(to_crlf(trimmed), NearMiss::LineEndsToLf);
    }
    match body.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => add(rest.to_vec(), NearMiss::ByteOrderMarkAdded),
        None => add([BYTE_ORDER_MARK, body].concat(), NearMiss::ByteOrderMarkRemoved),
    }
    candidates
}

fn without_line_end(body: &[u8]) -> Option<&[u8]> {
    body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n"))
}

fn to_lf(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(body.len());
    for (at, byte) in body.iter().enumerate() {
        if *byte != b'\r' || body.get(at + 1) != Some(&b'\n') {
            text.push(*byte);
        }
    }
    text
}

fn to_crlf(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(body.len() + body.len() / 16);
    for byte in to_lf(body) {
        if byte == b'\n' {
            text.push(b'\r');
        }
        text.push(byte);
    }
    text
}

/// What was compressed by gzip, if it is and is not longer than `limit`.
fn decompressed(body: &[u8], limit: usize) -> Option<Vec<u8>> {
    if !body.starts_with(GZIP) {
        return None;
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= limit).then_some(plain)
}

/// The body compressed by gzip, without name and time.
fn compressed(body: &[u8], level: u32) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}
