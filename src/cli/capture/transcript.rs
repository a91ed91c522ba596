//! Transcripts of `curl -v`: `>` precedes what was sent, `<` what was received, `*` remarks.

use anyhow::Context;
use bytes::Bytes;

use super::{CaptureDraft, curl, raw};

/// Returns whether a line of the text is a request line that `curl -v` has printed.
pub(super) fn is_transcript(bytes: &[u8]) -> bool {
    lines(bytes).any(|(line, _)| {
        line.strip_prefix(b"> ").is_some_and(|sent| sent.windows(6).any(|part| part == b" HTTP/"))
    })
}

/// Parses the first request of a transcript. curl does not print the body that it sends: it is read
/// from the command above the transcript, or from the text after the request's head.
///
/// # Errors
/// The line that is not part of a head, and why.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<CaptureDraft> {
    let mut draft = CaptureDraft::default();
    let mut sent = lines(bytes).enumerate().filter_map(|(number, (line, end))| {
        let sent = line.strip_prefix(b">")?;
        Some((number + 1, sent.strip_prefix(b" ").unwrap_or(sent), end))
    });
    let mut rest: &[u8] = b"";
    for (number, line, end) in sent.by_ref() {
        if line.is_empty() {
            rest = &bytes[end..];
            break;
        }
        let parsed = match draft.method.as_str() {
            "" => raw::request_line(&mut draft, line),
            _ => raw::header(&mut draft, line),
        };
        parsed.with_context(|| format!("line {number}"))?;
    }
    if let Some(command) = command(bytes) {
        draft.body = curl::parse(command)?.body;
    } else {
        draft.body = Bytes::copy_from_slice(body(rest));
        draft.is_open_ended = true;
    }
    Ok(draft)
}

/// Returns the text between the request's head and what curl prints after it.
fn body(mut rest: &[u8]) -> &[u8] {
    let is_remark = |line: &[u8]| {
        let is_count = line.starts_with(b"} [") || line.starts_with(b"{ [");
        line.starts_with(b"* ") || (is_count && line.ends_with(b"data]"))
    };
    // Remarks before the body, such as `* upload completely sent off`.
    while let Some((_, end)) = lines(rest).next().filter(|(line, _)| is_remark(line)) {
        rest = &rest[end..];
    }
    let mut length = 0;
    for (line, end) in lines(rest) {
        if is_remark(line) || line.starts_with(b"< ") {
            return &rest[..length];
        }
        length = end;
    }
    rest
}

/// Returns the curl command before the first line that curl has printed.
fn command(bytes: &[u8]) -> Option<&[u8]> {
    let printed = |line: &[u8]| line.starts_with(b"* ") || line.starts_with(b"> ");
    let mut length = 0;
    for (line, end) in lines(bytes) {
        if printed(line) {
            break;
        }
        length = end;
    }
    Some(&bytes[..length]).filter(|command| curl::is_command(command))
}

/// Returns each line without its end, and the offset after it.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut at = 0;
    bytes.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        at += line.len();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        (line.strip_suffix(b"\r").unwrap_or(line), at)
    })
}
