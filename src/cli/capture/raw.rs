//! Raw HTTP/1.1, and dumps of HTTP/2 headers with pseudo-headers such as `:method: POST`.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::HeaderName;

use super::CaptureDraft;

/// Parses a head with lines that end in LF or CRLF, and the body after the empty line.
///
/// # Errors
/// The line that is not part of a head, and why.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<CaptureDraft> {
    let mut draft = CaptureDraft::default();
    let (mut at, mut number, mut begun) = (0, 0, false);
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map(|length| at + length);
        let line = &bytes[at..end.unwrap_or(bytes.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at = end.map_or(bytes.len(), |end| end + 1);
        number += 1;
        if line.is_empty() {
            if !begun {
                continue;
            }
            if draft.target.is_empty() {
                bail!("line {number}: the head ends without `:path`");
            }
            draft.body = Bytes::copy_from_slice(&bytes[at..]);
            draft.is_open_ended = true;
            return Ok(draft);
        }
        let parsed = if begun || line.starts_with(b":") {
            header(&mut draft, line)
        } else {
            request_line(&mut draft, line)
        };
        parsed.with_context(|| format!("line {number}: `{}`", shown(line)))?;
        begun = true;
    }
    if begun {
        bail!("the empty line after the headers is missing at the end (line {number})");
    }
    bail!("it is empty");
}

/// Reads a request line into the draft.
///
/// # Errors
/// What is wrong with the line.
pub(super) fn request_line(draft: &mut CaptureDraft, line: &[u8]) -> anyhow::Result<()> {
    let line = std::str::from_utf8(line).context("it is not text")?;
    if line.starts_with("HTTP/") {
        bail!("this is the first line of a response, not of a request");
    }
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None)
            if version.starts_with("HTTP/") && !target.is_empty() =>
        {
            (draft.method, draft.target) = (method.to_owned(), target.to_owned());
            Ok(())
        }
        _ => bail!("this is not a request line such as `POST /webhooks/acme HTTP/1.1`"),
    }
}

/// Reads a header line, or a pseudo-header of HTTP/2, into the draft.
///
/// # Errors
/// What is wrong with the line.
pub(super) fn header(draft: &mut CaptureDraft, line: &[u8]) -> anyhow::Result<()> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        bail!("a header line must not begin with white space");
    }
    let pseudo = usize::from(line.starts_with(b":"));
    let Some(colon) = memchr::memchr(b':', &line[pseudo..]).map(|at| at + pseudo) else {
        bail!("a header line has a colon; an empty line must precede the body");
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let text = || String::from_utf8_lossy(value).into_owned();
    match name {
        b":method" => draft.method = text(),
        b":path" => draft.target = text(),
        b":authority" => draft.headers.push(("host".to_owned(), value.to_vec())),
        b":scheme" => {}
        _ if HeaderName::from_bytes(name).is_ok() => {
            let name = String::from_utf8_lossy(name).into_owned();
            draft.headers.push((name, value.to_vec()));
        }
        _ => bail!(
            "`{}` is not a header name; if the body begins here, the empty line before it is \
             missing",
            shown(name)
        ),
    }
    Ok(())
}

/// Returns the start of a line, for a message.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let cut = if text.chars().count() > 60 { "…" } else { "" };
    text.chars().take(60).map(visible).chain(cut.chars()).collect()
}
