//! The head of an upstream's response.

mod framing;
mod repair;

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::{Header, ParserConfig, Response, Status};

use self::{framing::ConnectionFields, repair::RepairedHead};
use super::headers;

pub(super) use self::framing::BodyFraming;
pub use self::framing::MalformedResponse;

/// The header lines that are parsed without an allocation.
const USUAL_LINES: usize = 100;
/// The most header lines.
const MAX_LINES: usize = 1000;

/// The head of a response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    /// The end-to-end headers.
    pub(super) headers: HeaderMap,
    pub(super) framing: BodyFraming,
    /// Whether the connection can serve another request after this response.
    pub(super) persistent: bool,
    /// The faults in spite of which the response is used.
    pub(super) faults: Vec<&'static str>,
}

/// Why httparse rejected a head.
enum ParseError {
    TooManyLines,
    Malformed,
}

impl ResponseHead {
    /// Parses a whole head, up to and including its empty line; `to_head` is a response to `HEAD`.
    ///
    /// # Errors
    /// The fault, if the response cannot be used.
    pub(super) fn parse(head: Bytes, to_head: bool) -> Result<Self, MalformedResponse> {
        let mut lines = [const { MaybeUninit::uninit() }; USUAL_LINES];
        match parse(&head, &mut lines, |response| Self::read(&head, response, to_head)) {
            Ok(parsed) => parsed,
            Err(ParseError::TooManyLines) => Self::parse_unusual(&head, to_head),
            Err(ParseError::Malformed) => {
                let RepairedHead { head, faults } = RepairedHead::new(&head)?;
                let mut parsed = Self::parse_unusual(&head.into(), to_head)?;
                parsed.persistent = false;
                parsed.faults.extend(faults);
                Ok(parsed)
            }
        }
    }

    /// Parses a head of up to [`MAX_LINES`].
    fn parse_unusual(head: &Bytes, to_head: bool) -> Result<Self, MalformedResponse> {
        let mut lines = vec![MaybeUninit::uninit(); MAX_LINES];
        match parse(head, &mut lines, |response| Self::read(head, response, to_head)) {
            Ok(parsed) => parsed,
            Err(ParseError::TooManyLines) => Err(MalformedResponse("more than 1000 header lines")),
            Err(ParseError::Malformed) => Err(MalformedResponse("its head")),
        }
    }

    fn read(
        head: &Bytes,
        response: &Response<'_, '_>,
        to_head: bool,
    ) -> Result<Self, MalformedResponse> {
        let code = response.code.unwrap_or_default();
        let status =
            StatusCode::from_u16(code).map_err(|_| MalformedResponse("a status below 100"))?;
        let is_http11 = response.version == Some(1);
        let fields = ConnectionFields::read(response.headers);
        let is_interim = status.is_informational();
        let mut headers = HeaderMap::new();
        if !is_interim {
            headers.reserve(response.headers.len());
            for line in response.headers.iter() {
                Self::append(&mut headers, head, line, &fields)?;
            }
        }
        let framing =
            if is_interim { BodyFraming::Empty } else { fields.framing(status, to_head)? };
        Ok(ResponseHead {
            status,
            headers,
            framing,
            persistent: fields.is_persistent(status, is_http11),
            faults: fields.coding_fault.into_iter().collect(),
        })
    }

    fn append(
        headers: &mut HeaderMap,
        head: &Bytes,
        line: &Header<'_>,
        fields: &ConnectionFields,
    ) -> Result<(), MalformedResponse> {
        let malformed = MalformedResponse("a header that cannot be passed on");
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| malformed)?;
        if headers::passes_to_sender(&name) && !fields.named.contains(&name) {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value));
            headers.append(name, value.map_err(|_| malformed)?);
        }
        Ok(())
    }
}

/// Parses a whole head with httparse.
fn parse<'b, T>(
    head: &'b [u8],
    lines: &mut [MaybeUninit<Header<'b>>],
    read: impl FnOnce(&Response<'_, 'b>) -> T,
) -> Result<T, ParseError> {
    let mut response = Response::new(&mut []);
    let config = ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, head, lines) {
        Ok(Status::Complete(length)) if length == head.len() => Ok(read(&response)),
        Err(httparse::Error::TooManyHeaders) => Err(ParseError::TooManyLines),
        Ok(Status::Complete(_) | Status::Partial) | Err(_) => Err(ParseError::Malformed),
    }
}
