//! Bodies that were changed in transit, or that are not what was signed.

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use bytes::Bytes;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};

use super::{NearMiss, Trials, rewrite};
use crate::body::Payload;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How compressed data begins (RFC 1952, section 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";

/// The work for each byte of the body, in the units of [`WorkBudget`](super::WorkBudget).
mod work {
    /// Copies with other line ends and byte order marks.
    pub(super) const PLAIN: u64 = 16;
    /// Parsing JSON into tokens.
    pub(super) const PARSE: u64 = 32;
    /// Writing JSON from tokens, for each byte of the original.
    pub(super) const WRITE: u64 = 16;
    /// Decompression, for each byte that may come out.
    pub(super) const DECOMPRESS: u64 = 16;
    /// Compression at the levels that are tried.
    pub(super) const COMPRESS: u64 = 100;
}

/// The body as it was before something changed it.
pub(super) fn bodies(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    if !request.route.scheme().covers_body() || request.payload.is_empty() {
        return Vec::new();
    }
    let body = request.payload.whole();
    let length = body.len() as u64;
    let limit = trials.budget.rewrite;
    let mut tried = HashSet::from([Bytes::copy_from_slice(body)]);
    let mut fits = |trials: &mut Trials<'_>, bytes: Vec<u8>| {
        let bytes = Bytes::from(bytes);
        tried.insert(bytes.clone())
            && trials.fits_with(request.route, request.head, &Payload::from(bytes))
    };
    if !trials.budget.spend(work::PLAIN * length) {
        return Vec::new();
    }
    for (candidate, near_miss) in plain(body) {
        if fits(trials, candidate) {
            return vec![near_miss];
        }
    }
    if body.len() > limit || !trials.budget.spend(work::PARSE * length) {
        return Vec::new();
    }
    if let Some(tokens) = rewrite::tokens(body) {
        for (layout, escapes) in rewrite::variants() {
            if !trials.budget.spend(work::WRITE * length) {
                return Vec::new();
            }
            let written = rewrite::write(&tokens, layout, escapes, limit.saturating_mul(4));
            if let Some(written) = written
                && trials.budget.spend(written.len() as u64)
                && fits(trials, written)
            {
                return vec![NearMiss::Json { layout, escapes }];
            }
        }
    }
    if body.starts_with(GZIP)
        && trials.budget.spend(work::DECOMPRESS * limit as u64)
        && let Some(plain) = decompressed(body, limit)
        && fits(trials, plain)
    {
        return vec![NearMiss::BodyCompressed];
    }
    for level in [6, 9, 1] {
        if !trials.budget.spend(work::COMPRESS * length) {
            return Vec::new();
        }
        if compressed(body, level).is_some_and(|bytes| fits(trials, bytes)) {
            return vec![NearMiss::BodyDecompressed];
        }
    }
    Vec::new()
}

/// Bodies that differ only in their last bytes, line ends and byte order mark.
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

/// Decompresses gzip; `None` if the body is not gzip, or more than `limit` bytes come out.
fn decompressed(body: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= limit).then_some(plain)
}

/// Compresses the body with gzip, without a name and a time.
fn compressed(body: &[u8], level: u32) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}
