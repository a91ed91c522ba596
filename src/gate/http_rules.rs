//! Rules that reject ambiguous HTTP before anything else is checked.
//!
//! hyper has parsed the head by now. What it hides (a repeated `Content-Length`, one beside
//! `Transfer-Encoding`) is found on the wire and arrives as [`WireFacts`]. Every request that
//! passes is framed again for the upstream.

use std::sync::{Arc, atomic::AtomicBool};

use http::{
    HeaderName, Method, Version,
    header::{EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{Authority, Scheme},
};

use crate::{reject::Reject, target, upstream::HeaderCase};

/// Facts about a request that only its connection can see.
#[derive(Debug, Default)]
pub struct WireFacts {
    /// Why the request is rejected, if the connection found a reason.
    pub rejection: Option<Reject>,
    /// How the names of its headers were written.
    pub header_case: HeaderCase,
    /// Whether its client has ended its side of the connection, so that it may be gone.
    pub half_closed: Arc<AtomicBool>,
}

impl WireFacts {
    /// Returns the facts about a head without a fault.
    pub fn of(header_case: HeaderCase) -> Self {
        WireFacts { header_case, ..WireFacts::default() }
    }

    /// Returns the facts about a rejected head.
    pub fn rejected(rejection: Reject) -> Self {
        WireFacts { rejection: Some(rejection), ..WireFacts::default() }
    }
}

/// Checks a request's head, and returns the host that was called. An offer to upgrade is ignored
/// (RFC 9110 section 7.8): like all hop-by-hop headers, it ends here.
///
/// # Errors
/// The rejection of the connection; [`Reject::BadRequest`] with what is ambiguous or malformed.
pub(super) fn check<'h>(head: &'h Parts, wire: &WireFacts) -> Result<Option<&'h str>, Reject> {
    if let Some(reject) = &wire.rejection {
        return Err(reject.clone());
    }
    if head.method == Method::CONNECT {
        return Err(Reject::BadRequest("CONNECT"));
    }
    if head.version == Version::HTTP_2 && !target::is_http2_path(&head.method, &head.uri) {
        return Err(Reject::BadRequest("request target"));
    }
    if !is_absent_or(head, TRANSFER_ENCODING, |value| value.eq_ignore_ascii_case(b"chunked")) {
        return Err(Reject::BadRequest("Transfer-Encoding"));
    }
    let is_known = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"100-continue");
    if !is_absent_or(head, EXPECT, is_known) {
        return Err(Reject::BadRequest("Expect"));
    }
    if head.headers.keys().any(|name| is_framing_twin(name.as_str())) {
        return Err(Reject::BadRequest("underscore twin of a framing header"));
    }
    host(head)
}

/// Returns whether a header is absent, or present once with a value that `is_valid`.
fn is_absent_or(head: &Parts, name: HeaderName, is_valid: impl Fn(&[u8]) -> bool) -> bool {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(only), None) => is_valid(only.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

/// Returns whether CGI hosts fold a name into a framing header.
fn is_framing_twin(name: &str) -> bool {
    matches!(name, "content_length" | "transfer_encoding" | "content_encoding")
}

/// Returns the host that was called. `Host` is present once and agrees with the authority of the
/// request target (absolute form, `:authority` of HTTP/2), if there is one (RFC 9112 section 3.2).
fn host(head: &Parts) -> Result<Option<&str>, Reject> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let named = hosts.next().map(|value| value.to_str().unwrap_or(""));
    let authority = head.uri.authority().map(Authority::as_str);
    match (named, hosts.next(), authority) {
        (_, Some(_), _) => Err(Reject::BadRequest("two Host headers")),
        (Some(named), None, _) if !is_host(named) => Err(Reject::BadRequest("malformed Host")),
        (_, None, Some(authority)) if !is_host(authority) => {
            Err(Reject::BadRequest("malformed authority"))
        }
        (Some(named), None, Some(authority)) if !is_same(named, authority, head.uri.scheme()) => {
            Err(Reject::BadRequest("Host differs from the request target"))
        }
        (None, None, None) if head.version == Version::HTTP_11 => {
            Err(Reject::BadRequest("no Host"))
        }
        (named, None, authority) => Ok(named.or(authority)),
    }
}

/// Returns whether two hosts are the same. The default port of `scheme` equals no port (RFC 3986
/// section 6.2.3).
fn is_same(one: &str, other: &str, scheme: Option<&Scheme>) -> bool {
    let default = if scheme == Some(&Scheme::HTTP) { "80" } else { "443" };
    let ((one, one_port), (other, other_port)) = (split(one), split(other));
    let is_default = |port: &str| port.is_empty() || port == default;
    one.eq_ignore_ascii_case(other)
        && (one_port == other_port || (is_default(one_port) && is_default(other_port)))
}

/// Splits a host into name and port, which may be empty. A colon in brackets is part of an address.
fn split(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        Some(_) | None => (host, ""),
    }
}

/// Returns whether `text` can be a host and port: no user, no path, no white space.
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

    fn check_host(uri: &str, headers: &[(&str, &str)]) -> Result<(), Reject> {
        let mut request = http::Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        check(&head, &WireFacts::default()).map(|_| ())
    }

    #[test]
    fn accepts_only_requests_with_one_meaning() {
        let host = ("host", "a.example");
        let good: &[(&str, &[(&str, &str)])] = &[
            ("/", &[host]),
            ("/", &[host, ("transfer-encoding", "Chunked")]),
            ("/", &[host, ("upgrade", "h2c")]),
            ("/", &[host, ("expect", "")]),
            ("http://a.example/", &[host]),
            ("http://a.example:80/", &[host]),
            ("http://A.example/", &[("host", "a.example:80")]),
            ("https://a.example:443/", &[host]),
            ("https://a.example:8443/", &[("host", "a.example:8443")]),
            ("https://[::1]/", &[("host", "[::1]:443")]),
        ];
        for (uri, headers) in good {
            assert_eq!(check_host(uri, headers), Ok(()), "{uri} {headers:?}");
        }
        let bad: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/", &[("host", "")]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "user@a.example")]),
            ("/", &[host, ("host", "b.example")]),
            ("/", &[host, ("host", "a.example")]),
            ("http://b.example/", &[host]),
            ("http://a.example:443/", &[host]),
            ("https://a.example:80/", &[host]),
            ("http://a.example:8080/", &[("host", "a.example:80")]),
            ("http://user@a.example/", &[host]),
            ("/", &[host, ("transfer-encoding", "gzip, chunked")]),
            ("/", &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            ("/", &[host, ("content_length", "5")]),
            ("/", &[host, ("expect", "200-ok")]),
        ];
        for (uri, headers) in bad {
            let checked = check_host(uri, headers);
            assert!(matches!(checked, Err(Reject::BadRequest(_))), "{uri} {headers:?}");
        }
    }
}
