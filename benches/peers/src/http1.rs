//! The part of HTTP/1.1 that both ends of a measurement need: heads with `Content-Length`.

use std::io;

/// Framing of a message, read from its head.
pub(crate) struct Head {
    /// Length of the head, including the empty line.
    pub(crate) length: usize,
    pub(crate) content_length: usize,
    /// Whether `Connection: close` is present.
    pub(crate) closing: bool,
}

/// Parses the head at the start of `data`; returns `None` if it is incomplete.
pub(crate) fn head(data: &[u8]) -> io::Result<Option<Head>> {
    let mut head = Head { length: 0, content_length: 0, closing: false };
    let mut rest = data;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        head.length += end + 1;
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Ok(Some(head));
        }
        if let Some(value) = value(line, b"content-length:") {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            head.content_length = number.ok_or(io::ErrorKind::InvalidData)?;
        } else if value(line, b"transfer-encoding:").is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        } else if let Some(value) = value(line, b"connection:") {
            head.closing |= value.trim_ascii().eq_ignore_ascii_case(b"close");
        }
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}
