//! Captured HTTP requests: request line, headers, empty line, body bytes.

use std::{io::Read, path::Path};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, request::Parts};

use crate::target;

/// The maximum number of header lines of a captured request.
const HEADERS: usize = 256;

/// Reads a request from a file, or from standard input if the path is `-`. Lines end in LF or CRLF.
/// The body follows the empty line; its length is `Content-Length` or the rest of the file.
///
/// # Errors
/// An unreadable file, or a head that is not HTTP/1.1.
pub(super) fn read(path: &Path) -> anyhow::Result<(Parts, Bytes)> {
    parse(&bytes(path)?)
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

fn parse(raw: &[u8]) -> anyhow::Result<(Parts, Bytes)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(raw)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => bail!("the empty line after the headers is missing"),
    };
    let method = Method::from_bytes(parsed.method.unwrap_or("").as_bytes())?;
    let path = parsed.path.unwrap_or("/").as_bytes();
    let target = target::substituted(path);
    let mut request = Request::builder().method(method).uri(target.as_deref().unwrap_or(path));
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())?;
        request = request.header(name, HeaderValue::from_bytes(header.value)?);
    }
    let (head, ()) = request.body(())?.into_parts();
    let mut body = Bytes::copy_from_slice(&raw[length..]);
    if let Some(announced) = head.headers.get(http::header::CONTENT_LENGTH) {
        let announced: usize = announced
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| anyhow!("Content-Length is not a number"))?;
        if announced > body.len() {
            let missing = announced - body.len();
            bail!("the body is {missing} bytes shorter than its Content-Length");
        }
        body.truncate(announced);
    }
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_either_way_and_the_body_is_kept_to_the_byte() {
        for raw in [
            &b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\n\r\n\xff\r\n"[..],
            b"POST /a?b HTTP/1.1\nHost: x\nX-Y:  z \n\n\xff\r\n",
        ] {
            let (head, body) = parse(raw).expect("a request");
            assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/a?b"));
            assert_eq!(head.headers["x-y"], "z");
            assert_eq!(body, &b"\xff\r\n"[..]);
        }
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        for raw in [
            &b""[..],
            b"POST / HTTP/1.1\r\nHost: x\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
            b"\x00\x01",
        ] {
            assert!(parse(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn content_length_ends_the_body() {
        let (_, body) =
            parse(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\n").expect("a request");
        assert_eq!(body, "abc");
    }
}
