//! HTTP that could be understood in two ways is refused before anything else is looked at.
//!
//! hyper has parsed the head by now. What it hides (a repeated `Content-Length`, one beside
//! `Transfer-Encoding`) is found on the wire and arrives as [`WireFacts`]. Whatever passes is framed
//! again for the upstream.

use http::{
    Method, Version,
    header::{EXPECT, HOST, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use crate::{reject::Reject, upstream::HeaderCase};

/// Facts about a request that only its connection can see.
#[derive(Debug, Default)]
pub struct WireFacts {
    /// Why the request is rejected, if the connection found a reason.
    pub rejection: Option<Reject>,
    /// How the names of its headers were written.
    pub header_case: HeaderCase,
}

impl WireFacts {
    /// Returns the facts about a head without a fault.
    pub fn of(header_case: HeaderCase) -> Self {
        WireFacts { rejection: None, header_case }
    }

    /// Returns the facts about a rejected head.
    pub fn rejected(rejection: Reject) -> Self {
        WireFacts { rejection: Some(rejection), header_case: HeaderCase::default() }
    }
}

/// Checks a request's head and gives the host that was called.
///
/// # Errors
/// [`Reject::BadRequest`] with what is ambiguous or malformed; the rejection of the connection.
pub(super) fn check<'h>(head: &'h Parts, wire: &WireFacts) -> Result<Option<&'h str>, Reject> {
    if let Some(reject) = &wire.rejection {
        return Err(reject.clone());
    }
    if head.method == Method::CONNECT {
        return Err(Reject::BadRequest("CONNECT"));
    }
    if head.headers.contains_key(UPGRADE) {
        return Err(Reject::BadRequest("Upgrade"));
    }
    if !is_one_at_most(head, TRANSFER_ENCODING, b"chunked")
        || !is_one_at_most(head, EXPECT, b"100-continue")
    {
        return Err(Reject::BadRequest("Transfer-Encoding or Expect"));
    }
    if head.headers.keys().any(|name| is_framing_twin(name.as_str())) {
        return Err(Reject::BadRequest("underscore twin of a framing header"));
    }
    host(head)
}

/// Whether a header is absent, or there once with this value.
fn is_one_at_most(head: &Parts, name: http::HeaderName, value: &[u8]) -> bool {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(value),
        (Some(_), Some(_)) => false,
    }
}

/// Names that CGI hosts fold into the framing headers.
fn is_framing_twin(name: &str) -> bool {
    matches!(name, "content_length" | "transfer_encoding" | "content_encoding")
}

/// The host that was called. `Host` comes once and agrees with the request target's authority
/// (absolute form, HTTP/2's `:authority`), where there is one (RFC 9112 section 3.2).
fn host(head: &Parts) -> Result<Option<&str>, Reject> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let named = hosts.next().map(|value| value.to_str().unwrap_or(""));
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    match (named, hosts.next(), authority) {
        (_, Some(_), _) => Err(Reject::BadRequest("two Host headers")),
        (Some(named), None, Some(authority)) if !named.eq_ignore_ascii_case(authority) => {
            Err(Reject::BadRequest("Host is not the request target's"))
        }
        (Some(named), None, _) if !is_host(named) => Err(Reject::BadRequest("malformed Host")),
        (None, None, None) if head.version == Version::HTTP_11 => {
            Err(Reject::BadRequest("no Host"))
        }
        (None, None, Some(authority)) if !is_host(authority) => {
            Err(Reject::BadRequest("malformed authority"))
        }
        (named, None, authority) => Ok(named.or(authority)),
    }
}

/// Whether this can be a host and port: no user, no path, no white space.
fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_of_the_connection_decides() {
        let request = http::Request::get("/").header("host", "a.example");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let wire = WireFacts::rejected(Reject::HeadTooLarge);
        assert_eq!(check(&head, &wire), Err(Reject::HeadTooLarge));
    }

    fn judge(uri: &str, headers: &[(&str, &str)]) -> Result<(), Reject> {
        let mut request = http::Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        check(&head, &WireFacts::default()).map(|_| ())
    }

    #[test]
    fn only_one_reading_is_accepted() {
        let host = ("host", "a.example");
        assert_eq!(judge("/", &[host]), Ok(()));
        assert_eq!(judge("/", &[host, ("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(judge("http://a.example/", &[host]), Ok(()));
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/", &[("host", "")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "user@a.example")]),
            ("/", &[host, ("host", "b.example")]),
            ("/", &[host, ("host", "a.example")]),
            ("http://b.example/", &[host]),
            ("/", &[host, ("upgrade", "h2c")]),
            ("/", &[host, ("transfer-encoding", "gzip, chunked")]),
            ("/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            ("/", &[host, ("content_length", "5")]),
            ("/", &[host, ("expect", "200-ok")]),
        ];
        for (uri, headers) in cases {
            assert!(matches!(judge(uri, headers), Err(Reject::BadRequest(_))), "{uri} {headers:?}");
        }
    }
}
