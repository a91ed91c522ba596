//! Trace IDs (W3C Trace Context, `traceparent`) for the log, so that one search finds the lines of
//! the sender, the gateway and the application. The header itself is forwarded unchanged, and never
//! added.

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A trace ID: 32 lower-case hex digits, not all of them zero.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TraceId([u8; 32]);

impl TraceId {
    /// Returns the trace ID of a request with exactly one, well-formed `traceparent`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => Self::parse(only.as_bytes()),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// Parses `version-trace-parent-flags` in lower-case hex. Versions after 00 can have more
    /// fields (section 3.2.4 of the recommendation).
    fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(55)?;
        let (version, trace, parent, flags) =
            (&known[..2], &known[3..35], &known[36..52], &known[53..]);
        let dashes = [known[2], known[35], known[52]] == [b'-'; 3];
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let all_hex = [version, trace, parent, flags].into_iter().flatten().all(is_hex);
        let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
        let ends = match version {
            b"ff" => false,
            b"00" => more.is_empty(),
            _ => more.is_empty() || more[0] == b'-',
        };
        if !dashes || !all_hex || !ends || is_zero(trace) || is_zero(parent) {
            return None;
        }
        trace.try_into().ok().map(TraceId)
    }

    /// Returns the digits.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parse(text: &str) -> Option<String> {
        TraceId::parse(text.as_bytes()).map(|id| id.as_str().to_owned())
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
    fn ignores_repeated_headers() {
        let value = http::HeaderValue::from_static(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        let mut headers = HeaderMap::new();
        assert_eq!(TraceId::of(&headers), None);
        headers.append(TRACEPARENT, value.clone());
        assert!(TraceId::of(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(TraceId::of(&headers), None);
    }
}
