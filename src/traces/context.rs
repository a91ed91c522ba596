//! W3C Trace Context, level 1: the header `traceparent`.

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanId, TraceId};

/// The header with the position of the sender's span.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what systems of the trace add to it.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// The flag of a trace whose spans are recorded.
const SAMPLED: u8 = 1;

/// The position of a span in a trace: neither ID is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether the spans of the trace are recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Returns the context of a request with exactly one, well-formed `traceparent`.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => Self::parse(only.as_bytes()),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Parses `version-trace-parent-flags` in lower-case hex. Versions after 00 can have more
    /// fields (section 3.2.4 of the recommendation).
    fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        if [known[2], known[35], known[52]] != [b'-'; 3] {
            return None;
        }
        let [version] = digits(&known[..2])?;
        let trace = TraceId::from_bytes(digits(&known[3..35])?);
        let span = SpanId::from_bytes(digits(&known[36..52])?);
        let [flags] = digits(&known[53..])?;
        let ends = match version {
            0xff => false,
            0 => more.is_empty(),
            _ => more.is_empty() || more[0] == b'-',
        };
        if !ends || trace == TraceId::INVALID || span == SpanId::INVALID {
            return None;
        }
        Some(TraceContext { trace, span, is_sampled: flags & SAMPLED != 0 })
    }

    /// Returns the value of `traceparent`.
    pub(crate) fn header(&self) -> [u8; LENGTH] {
        let mut value = *b"00-................................-................-00";
        HEXLOWER.encode_mut(&self.trace.to_bytes(), &mut value[3..35]);
        HEXLOWER.encode_mut(&self.span.to_bytes(), &mut value[36..52]);
        value[LENGTH - 1] = if self.is_sampled { b'1' } else { b'0' };
        value
    }
}

/// Returns the bytes that `N` pairs of lower-case hex digits describe.
pub(super) fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (text.len() == 2 * N && HEXLOWER.decode_mut(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parse(text: &str) -> Option<String> {
        TraceContext::parse(text.as_bytes()).map(|context| context.trace.to_string())
    }

    #[test]
    fn accepts_only_well_formed_headers() {
        for good in [
            format!("00-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-ff"),
            format!("01-{TRACE}-b7ad6b7169203331-01"),
            format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes-later"),
        ] {
            assert_eq!(parse(&good).as_deref(), Some(TRACE), "{good}");
        }
        let zero = "0".repeat(32);
        for bad in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{zero}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("01-{TRACE}-b7ad6b7169203331-01more"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-b7ad6b716920333\n-01"),
            format!("00-{TRACE}-b7ad6b7169203331-0x"),
            format!("00_{TRACE}_b7ad6b7169203331_01"),
            format!(" 00-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-0"),
            format!("0é-{TRACE}-b7ad6b7169203331-1"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_the_sampled_flag_only() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let text = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
            let context = TraceContext::parse(text.as_bytes()).expect("a context");
            assert_eq!(context.is_sampled, is_sampled, "{flags}");
            assert_eq!(TraceContext::parse(&context.header()), Some(context));
        }
    }

    #[test]
    fn ignores_repeated_headers() {
        let value = http::HeaderValue::from_static(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of(&headers), None);
        headers.append(TRACEPARENT, value.clone());
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(TraceContext::of(&headers), None);
    }
}
