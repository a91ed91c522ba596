//! What a response head says about its connection and its body (RFC 9112 sections 6.3 and 9.3).
//!
//! Framing is read strictly: if a head can be understood in two ways, the response is rejected.
//! Three faults of real servers leave only one reading and are accepted: a repeated `chunked`,
//! `identity`, which RFC 2616 defined, and `chunked` in HTTP/1.0. Their connections serve no other
//! request.

use http::{HeaderName, StatusCode};
use httparse::Header;

/// Why bytes are not an HTTP response; the text names the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid HTTP response: {0}")]
pub struct MalformedResponse(pub(crate) &'static str);

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// There is no body.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// At the end of the connection.
    UntilClose,
}

/// The header lines that concern the connection and the framing.
#[derive(Debug, Default)]
pub(super) struct ConnectionFields {
    /// The headers that `Connection` names.
    pub(super) named: Vec<HeaderName>,
    close: bool,
    keep_alive: bool,
    length: Option<Result<u64, MalformedResponse>>,
    coding: Option<TransferCoding>,
    /// The fault of a coding that is accepted in spite of it.
    pub(super) coding_fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferCoding {
    Identity,
    Chunked,
    Unsupported,
}

impl ConnectionFields {
    /// Reads the lines of a head.
    pub(super) fn read(lines: &[Header<'_>]) -> Self {
        let mut fields = ConnectionFields::default();
        for line in lines {
            match line.name.len() {
                10 if line.name.eq_ignore_ascii_case("connection") => fields.connection(line.value),
                14 if line.name.eq_ignore_ascii_case("content-length") => fields.length(line.value),
                17 if line.name.eq_ignore_ascii_case("transfer-encoding") => {
                    fields.coding(line.value);
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

    /// A length may be repeated, in a list or in several lines, if it is the same each time.
    fn length(&mut self, value: &[u8]) {
        for item in value.split(|byte| *byte == b',') {
            let item = length(item.trim_ascii());
            self.length = match self.length {
                None => Some(item),
                Some(known) if known == item => Some(known),
                Some(_) => Some(Err(MalformedResponse("different values of Content-Length"))),
            };
        }
    }

    fn coding(&mut self, value: &[u8]) {
        for item in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let coding = if item.eq_ignore_ascii_case(b"chunked") {
                TransferCoding::Chunked
            } else if item.eq_ignore_ascii_case(b"identity") {
                self.coding_fault = Some("`Transfer-Encoding: identity`");
                TransferCoding::Identity
            } else {
                TransferCoding::Unsupported
            };
            self.coding = Some(match (self.coding, coding) {
                (None, only) => only,
                (Some(TransferCoding::Chunked), TransferCoding::Chunked) => {
                    self.coding_fault = Some("`chunked` twice in Transfer-Encoding");
                    TransferCoding::Chunked
                }
                (Some(known), again) if known == again => known,
                (Some(_), _) => TransferCoding::Unsupported,
            });
        }
    }

    /// Returns whether the connection can serve another request; `is_http11` is HTTP/1.1. It cannot
    /// if the head has both kinds of framing, or a body where none is allowed: the upstream may
    /// then see another end of the message.
    pub(super) fn is_persistent(&self, status: StatusCode, is_http11: bool) -> bool {
        let is_doubtful = match (self.coding, self.length) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => status == StatusCode::NO_CONTENT,
            (None, Some(length)) => status == StatusCode::NO_CONTENT && length != Ok(0),
            (None, None) => false,
        };
        let is_doubtful =
            is_doubtful || self.coding_fault.is_some() || (self.coding.is_some() && !is_http11);
        !self.close && (is_http11 || self.keep_alive) && !is_doubtful
    }

    /// Returns where the body ends; `is_bodiless` is a response to `HEAD`.
    pub(super) fn framing(
        &self,
        status: StatusCode,
        is_bodiless: bool,
    ) -> Result<BodyFraming, MalformedResponse> {
        let has_no_body =
            is_bodiless || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match (self.coding, self.length) {
            (None, Some(Err(malformed))) => Err(malformed),
            _ if has_no_body => Ok(BodyFraming::Empty),
            (Some(TransferCoding::Unsupported), _) => {
                Err(MalformedResponse("a transfer coding other than `chunked`"))
            }
            (Some(TransferCoding::Chunked), _) => Ok(BodyFraming::Chunked),
            (_, Some(length)) => length.map(BodyFraming::Length),
            (_, None) => Ok(BodyFraming::UntilClose),
        }
    }
}

/// Parses `1*DIGIT` and nothing else (RFC 9110 section 8.6).
fn length(text: &[u8]) -> Result<u64, MalformedResponse> {
    let digits = std::str::from_utf8(text)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(MalformedResponse("a Content-Length that is not a number"))
}
