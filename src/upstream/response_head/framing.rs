//! What the head of an answer says about its connection and its body (RFC 9112 sections 6.3 and 9.3).

use http::{HeaderName, StatusCode};
use httparse::Header;

use super::Malformed;

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Nothing,
    /// After so many bytes.
    Length(u64),
    /// With a last chunk.
    Chunks,
    /// With the connection.
    UntilEnd,
}

/// What the header lines say that end here.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The headers that `Connection` names.
    pub(super) named: Vec<HeaderName>,
    close: bool,
    keep_alive: bool,
    length: Option<Result<u64, Malformed>>,
    coding: Option<Coding>,
}

/// The transfer codings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// `chunked`, and no other.
    Chunked,
    Other,
}

impl Fields {
    /// Looks through the lines of a head.
    pub(super) fn read(lines: &[Header<'_>]) -> Self {
        let mut fields = Fields::default();
        for line in lines {
            match line.name.len() {
                10 if line.name.eq_ignore_ascii_case("connection") => fields.connection(line.value),
                14 if line.name.eq_ignore_ascii_case("content-length") => fields.length(line.value),
                17 if line.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let only = fields.coding.is_none();
                    let chunked = only && line.value.eq_ignore_ascii_case(b"chunked");
                    fields.coding = Some(if chunked { Coding::Chunked } else { Coding::Other });
                }
                _ => {}
            }
        }
        fields
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.named.extend(HeaderName::from_bytes(option).ok());
            }
        }
    }

    /// A length may be repeated, in a list or in several lines, as long as it stays the same.
    fn length(&mut self, value: &[u8]) {
        for item in value.split(|byte| *byte == b',') {
            let item = length(item.trim_ascii());
            self.length = match self.length {
                None => Some(item),
                Some(known) if known == item => Some(known),
                Some(_) => Some(Err(Malformed)),
            };
        }
    }

    /// Whether the connection may go on after the message; `is_recent` is HTTP/1.1. Not where both framings
    /// are named, or a body where there is none: the other end may see another end of the message.
    pub(super) fn is_persistent(&self, status: StatusCode, is_recent: bool) -> bool {
        let is_doubtful = match (self.coding, self.length) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => status == StatusCode::NO_CONTENT,
            (None, Some(length)) => status == StatusCode::NO_CONTENT && length != Ok(0),
            (None, None) => false,
        };
        !self.close && (is_recent || self.keep_alive) && !is_doubtful
    }

    /// Where the body ends; `bodiless` is an answer to `HEAD`.
    pub(super) fn framing(
        &self,
        status: StatusCode,
        bodiless: bool,
        is_recent: bool,
    ) -> Result<Framing, Malformed> {
        let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match (self.coding, self.length) {
            (None, Some(Err(malformed))) => Err(malformed),
            (_, _) if bodiless || no_body => Ok(Framing::Nothing),
            (Some(Coding::Chunked), _) if is_recent => Ok(Framing::Chunks),
            (Some(Coding::Chunked | Coding::Other), _) => Err(Malformed),
            (None, Some(Ok(length))) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::UntilEnd),
        }
    }
}

/// `1*DIGIT` and nothing else (RFC 9110 section 8.6).
fn length(text: &[u8]) -> Result<u64, Malformed> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)
}
