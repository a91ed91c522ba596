//! Captured HTTP requests, in the forms in which people have them: raw HTTP/1.1, transcripts of
//! `curl -v`, curl commands, HAR files and dumps of HTTP/2 headers.

mod curl;
mod har;
mod raw;
mod transcript;

use std::{io::Read, path::Path};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING},
    request::Parts,
};

use crate::target;

/// A captured request.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The head as HTTP/1.1, with the empty line.
    pub(super) text: Vec<u8>,
    /// What does not fit together in the capture, in sentences.
    pub(super) notes: Vec<String>,
    /// Whether a newline at the end of the body may have been added by an editor: nothing in the
    /// capture says where the body ends.
    pub(super) is_open_ended: bool,
}

/// Reads a request from a file, or from standard input if the path is `-`. With `body`, the body is
/// read from this file.
///
/// # Errors
/// An unreadable file; a capture in no known form, with the line and the cause.
pub(super) fn read(path: &Path, body: Option<&Path>) -> anyhow::Result<Captured> {
    let body = body.map(bytes).transpose()?.map(Bytes::from);
    parse_with(&bytes(path)?, body)
        .with_context(|| format!("{} is not a captured HTTP request", path.display()))
}

/// Returns the bytes of a file, or of standard input if the path is `-`.
///
/// # Errors
/// An unreadable file.
pub(super) fn bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("standard input cannot be read")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Parses a captured request.
///
/// # Errors
/// A capture in no known form, with the line and the cause.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Captured> {
    parse_with(bytes, None)
}

fn parse_with(bytes: &[u8], body: Option<Bytes>) -> anyhow::Result<Captured> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        bail!("it is UTF-16 text: save it as UTF-8");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_curl = curl::is_command(bytes);
    let mut draft = if bytes.trim_ascii_start().starts_with(b"{") {
        har::parse(bytes)?
    } else if transcript::is_transcript(bytes) {
        transcript::parse(bytes)?
    } else if is_curl {
        curl::parse(bytes)?
    } else {
        raw::parse(bytes)?
    };
    if let Some(body) = body {
        (draft.body, draft.is_open_ended) = (body, false);
    }
    draft.finish()
}

/// A request as a capture describes it.
#[derive(Debug, Default)]
struct CaptureDraft {
    method: String,
    /// Path and query, or a URL.
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
    notes: Vec<String>,
    is_open_ended: bool,
}

impl CaptureDraft {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Adds `Host`, and turns a URL into path and query.
    fn split_url(&mut self) -> anyhow::Result<()> {
        let uri: Uri = self.target.parse().with_context(|| format!("`{}`", self.target))?;
        if let Some(authority) = uri.authority() {
            if self.header("host").is_none() {
                self.headers.insert(0, (HOST.to_string(), authority.as_str().into()));
            }
            self.target = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
        }
        Ok(())
    }

    /// Checks the request and the length of its body.
    fn finish(mut self) -> anyhow::Result<Captured> {
        if self.header(TRANSFER_ENCODING.as_str()).is_some_and(is_chunked) {
            self.is_open_ended = false;
            match dechunked(&self.body) {
                Some(body) => self.body = body.into(),
                None => self.notes.push(
                    "the body is not chunked, although Transfer-Encoding says so; it is read as \
                     it is"
                        .to_owned(),
                ),
            }
        } else if let Some(announced) = self.header(CONTENT_LENGTH.as_str()) {
            let text = String::from_utf8_lossy(announced).into_owned();
            self.is_open_ended = false;
            let Ok(announced) = text.trim().parse::<usize>() else {
                bail!("Content-Length is `{text}`, which is not a number");
            };
            let length = self.body.len();
            if announced > length {
                let missing = announced - length;
                bail!(
                    "Content-Length is {announced}, but the body has only {length} bytes: {missing} \
                     are missing; --body FILE gives a body that is not in the capture"
                );
            }
            let rest = self.body.split_off(announced);
            if rest == "\n" || rest == "\r\n" {
                let note = "the newline at the end of the file is not part of the body \
                            (Content-Length ends before it): an editor added it";
                self.notes.push(note.to_owned());
            } else if !rest.is_empty() {
                self.notes.push(format!(
                    "Content-Length is {announced}, but {length} bytes follow the head: only the \
                     first {announced} are the body"
                ));
            }
        }
        let method = Method::from_bytes(self.method.as_bytes())
            .with_context(|| format!("`{}` is not a method", self.method))?;
        let target = self.target.as_bytes();
        let substituted = target::substituted(target);
        let mut request =
            Request::builder().method(method).uri(substituted.as_deref().unwrap_or(target));
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .with_context(|| format!("`{name}` is not a header name"))?;
            let parsed = HeaderValue::from_bytes(value)
                .with_context(|| format!("the value of `{name}` has control characters"))?;
            request = request.header(header, parsed);
            text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        text.extend_from_slice(b"\r\n");
        let request = request.body(()).with_context(|| format!("`{}`", self.target))?;
        Ok(Captured {
            head: request.into_parts().0,
            body: self.body,
            text,
            notes: self.notes,
            is_open_ended: self.is_open_ended,
        })
    }

    /// Adds the `Content-Type` that curl sends with `-d`.
    fn add_form_type(&mut self) {
        if self.header(CONTENT_TYPE.as_str()).is_none() {
            let form = b"application/x-www-form-urlencoded".to_vec();
            self.headers.push((CONTENT_TYPE.to_string(), form));
        }
    }
}

fn is_chunked(value: &[u8]) -> bool {
    value.to_ascii_lowercase().ends_with(b"chunked")
}

/// Returns the body in chunks, with lines that end in LF or CRLF; `None` if it is not chunked.
fn dechunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = memchr::memchr(b'\n', bytes)?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let size = line.split(';').next().unwrap_or(line).trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[end + 1..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = &bytes[size..];
        bytes = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n"))?;
    }
}

#[cfg(test)]
mod tests;
