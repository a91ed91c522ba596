//! The head of a request to the upstream, as text.
//!
//! The values are those of the header map that the gateway verified. The case of the names and the
//! order of repeated headers come from [`HeaderCase`], which is read from the wire; where it does
//! not match the map, names are written in lower case and nothing else changes. So the upstream
//! never sees a header other than the verified one.

use std::{borrow::Cow, io::Write as _, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{CONTENT_LENGTH, COOKIE, HOST},
    request::Parts,
};

use super::{
    client_addr::{ClientAddr, FORWARDED_FOR},
    headers,
};
use crate::{
    response::REQUEST_ID,
    scheme::Verified,
    traces::{TRACEPARENT, TRACESTATE, UpstreamSpan},
};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The header names of a request as they were written, in the order in which they arrived. Empty
/// for HTTP/2, where names are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderCase {
    /// Each name is followed by a colon, which no name contains.
    names: Vec<u8>,
}

/// A header line: its name as written, the same name in lower case, and its value.
type Line<'l> = (&'l [u8], &'l HeaderName, &'l HeaderValue);

impl HeaderCase {
    /// Adds the name of the next header line.
    pub fn push(&mut self, name: &[u8]) {
        if self.names.is_empty() {
            self.names.reserve(256);
        }
        self.names.extend_from_slice(name);
        self.names.push(b':');
    }

    /// Calls `write` for each header of a map, in the order in which they arrived.
    pub fn each<'l>(&'l self, headers: &'l HeaderMap, mut write: impl FnMut(Line<'l>)) {
        if headers.len() > headers.keys_len()
            && let Some(lines) = self.in_order(headers)
        {
            return lines.into_iter().for_each(write);
        }
        let mut left = self.names.as_slice();
        for (name, value) in headers {
            let text = name.as_str().as_bytes();
            let written = match left.split_at_checked(text.len()) {
                Some((written, [b':', rest @ ..])) if written.eq_ignore_ascii_case(text) => {
                    left = rest;
                    written
                }
                Some(_) | None => text,
            };
            write((written, name, value));
        }
    }

    /// Returns the headers of a map in the order of these names, or `None` if the names are not the
    /// map's. A map keeps the values of one name together.
    fn in_order<'l>(&'l self, headers: &'l HeaderMap) -> Option<Vec<Line<'l>>> {
        let values = |name| (name, headers.get_all(name).iter());
        let mut left: Vec<_> = headers.keys().map(values).collect();
        let written = self.names.split(|byte| *byte == b':').filter(|name| !name.is_empty());
        let line = |written: &'l [u8]| {
            let matches =
                |name: &HeaderName| name.as_str().as_bytes().eq_ignore_ascii_case(written);
            let (name, values) = left.iter_mut().find(|(name, _)| matches(name))?;
            values.next().map(|value| (written, *name, value))
        };
        let lines = written.map(line).collect::<Option<Vec<_>>>()?;
        (lines.len() == headers.len()).then_some(lines)
    }
}

/// What the gateway found out about a request that it forwards.
pub enum Verdict {
    /// The request is authentic.
    Verified(Verified),
    /// The request was authentic when its event was stored.
    Stored(StoredAttempt),
    /// The request came on a route that only observes, which would have rejected it for this reason
    /// if it enforced.
    Observed(Option<&'static str>),
}

/// An attempt to deliver an event of the store.
pub struct StoredAttempt {
    /// The scheme's ID.
    pub scheme: Arc<str>,
    /// The name of the key that verified the request.
    pub key: Arc<str>,
    /// The event ID.
    pub event_id: Option<Arc<str>>,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// When the request was received, as RFC 3339.
    pub received: String,
    /// Whether an operator asked for it.
    pub redelivery: bool,
    /// Whether the request was signed again.
    pub resigned: bool,
}

/// What the gateway adds to a request for an upstream.
pub(super) struct Extra<'e> {
    pub(super) request_id: &'e HeaderValue,
    pub(super) verdict: &'e Verdict,
    /// Whether an earlier attempt may have reached the upstream.
    pub(super) possible_duplicate: bool,
    /// Whether the sender's `Host` is forwarded, and not replaced.
    pub(super) keeps_host: bool,
    /// The operator's own headers; the sender's headers with these names are dropped.
    pub(super) headers: &'e [(HeaderName, HeaderValue)],
    /// The span of the exchange, if the request is traced.
    pub(super) span: Option<&'e UpstreamSpan>,
}

impl Extra<'_> {
    /// Returns whether a header of the sender is replaced by the trace of the exchange.
    fn replaces(&self, name: &HeaderName) -> bool {
        self.span
            .is_some_and(|span| *name == TRACEPARENT || (*name == TRACESTATE && span.is_new_trace))
    }
}

/// Returns the request line, followed by `host` if that replaces the sender's `Host`.
pub(super) fn start(method: &Method, target: &[u8], host: Option<&HeaderValue>) -> Vec<u8> {
    let mut text = Vec::with_capacity(method.as_str().len() + target.len() + 128);
    for part in [method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"] {
        text.extend_from_slice(part);
    }
    if let Some(host) = host {
        put(&mut text, HOST.as_str().as_bytes(), host.as_bytes());
    }
    text
}

/// Returns the header lines and the empty line after them: the sender's end-to-end headers as they
/// arrived, one `Content-Length`, the gateway's own headers and the operator's.
pub(super) fn lines(
    (head, case): (&Parts, &HeaderCase),
    length: usize,
    client: &ClientAddr,
    extra: &Extra<'_>,
) -> Vec<u8> {
    let headers = &head.headers;
    let named = headers::named(headers);
    let mut text = Vec::with_capacity(512 + 64 * headers.len());
    let (mut has_length, mut has_host, mut has_cookies) = (false, !extra.keeps_host, false);
    case.each(headers, |(written, name, value)| {
        let is_host = *name == HOST;
        if *name == CONTENT_LENGTH {
            if !has_length {
                put_length(&mut text, written, length);
            }
            has_length = true;
        } else if !(is_host && has_host)
            && headers::passes_to_upstream(name, &named, extra.headers)
            && !extra.replaces(name)
        {
            has_host |= is_host;
            if head.version == Version::HTTP_2 && *name == COOKIE {
                if !has_cookies {
                    put_cookies(&mut text, headers);
                }
                has_cookies = true;
            } else {
                put(&mut text, written, value.as_bytes());
            }
        }
    });
    if !has_length {
        put_length(&mut text, CONTENT_LENGTH.as_str().as_bytes(), length);
    }

    let mut ours = |name: &str, value: &[u8]| put(&mut text, name.as_bytes(), value);
    let host = host(head);
    if let Some(host) = host.filter(|_| !has_host) {
        ours("host", host);
    }
    let forwarded = Forwarded::by(client, headers);
    ours("x-forwarded-for", &forwarded.chain);
    ours("x-forwarded-proto", forwarded.proto);
    if let Some(host) = forwarded.host.or(host) {
        ours("x-forwarded-host", host);
    }
    ours(REQUEST_ID.as_str(), extra.request_id.as_bytes());
    match extra.verdict {
        Verdict::Verified(verified) => {
            put_proof(&mut text, verified.scheme(), verified.key());
            if let Some(id) = verified.event_id() {
                put(&mut text, b"sealgate-event-id", id.as_bytes());
            }
        }
        Verdict::Stored(attempt) => {
            put_proof(&mut text, &attempt.scheme, &attempt.key);
            put_attempt(&mut text, attempt);
        }
        Verdict::Observed(reason) => {
            if let Some(reason) = reason {
                put(&mut text, b"sealgate-observed", reason.as_bytes());
            }
        }
    }
    if let Some(span) = extra.span {
        put(&mut text, TRACEPARENT.as_str().as_bytes(), &span.header());
    }
    if extra.possible_duplicate && !matches!(extra.verdict, Verdict::Observed(_)) {
        put(&mut text, b"sealgate-possible-duplicate", b"1");
    }
    for (name, value) in extra.headers {
        put(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Writes a header line. Neither a [`HeaderName`] nor a [`HeaderValue`] can contain a line end.
fn put(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.reserve(name.len() + value.len() + 4);
    text.extend_from_slice(name);
    text.extend_from_slice(if value.is_empty() { b":" } else { b": " });
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// Writes one `cookie` header. An HTTP/2 client may split it to compress better, and the pieces are
/// joined again for HTTP/1.1 (RFC 9113 section 8.2.3).
fn put_cookies(text: &mut Vec<u8>, headers: &HeaderMap) {
    let mut separator: &[u8] = b"cookie: ";
    for value in headers.get_all(COOKIE) {
        text.extend_from_slice(separator);
        text.extend_from_slice(value.as_bytes());
        separator = b"; ";
    }
    text.extend_from_slice(b"\r\n");
}

/// Writes which scheme and which key verified a request.
fn put_proof(text: &mut Vec<u8>, scheme: &str, key: &str) {
    for (name, value) in [("sealgate-verified", scheme), ("sealgate-key", key)] {
        if is_value(value) {
            put(text, name.as_bytes(), value.as_bytes());
        }
    }
}

/// Writes what a handler should know about an attempt.
fn put_attempt(text: &mut Vec<u8>, attempt: &StoredAttempt) {
    if let Some(id) = attempt.event_id.as_deref().filter(|id| is_value(id)) {
        put(text, b"sealgate-event-id", id.as_bytes());
    }
    put(text, b"sealgate-attempt", attempt.number.to_string().as_bytes());
    put(text, b"sealgate-received", attempt.received.as_bytes());
    for (name, is_set) in
        [("sealgate-redelivery", attempt.redelivery), ("sealgate-resigned", attempt.resigned)]
    {
        if is_set {
            put(text, name.as_bytes(), b"1");
        }
    }
}

fn put_length(text: &mut Vec<u8>, name: &[u8], length: usize) {
    text.extend_from_slice(name);
    write!(text, ": {length}\r\n").expect("a Vec takes everything");
}

/// Returns whether `text` is valid as a header value.
fn is_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// Returns the host that the sender called: `Host`, or HTTP/2's `:authority`.
fn host(head: &Parts) -> Option<&[u8]> {
    let authority = || Some(head.uri.authority()?.as_str().as_bytes());
    head.headers.get(HOST).map(HeaderValue::as_bytes).or_else(authority)
}

/// The values of the `X-Forwarded-*` headers for the upstream.
struct Forwarded<'f> {
    chain: Cow<'f, [u8]>,
    proto: &'static [u8],
    host: Option<&'f [u8]>,
}

impl<'f> Forwarded<'f> {
    /// Returns what the gateway saw itself. Behind a trusted proxy, it returns the proxy's chain
    /// with the proxy's address added, and the protocol and host of the hop that the client
    /// connected to.
    fn by(client: &'f ClientAddr, headers: &'f HeaderMap) -> Self {
        let peer = &client.peer;
        let mut forwarded = Forwarded {
            chain: Cow::Borrowed(peer.address_text.as_bytes()),
            proto: if peer.tls { b"https" } else { b"http" },
            host: None,
        };
        if !client.is_proxied() {
            return forwarded;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let lines = lines.filter(|line| !line.is_empty());
        let chain: Vec<&[u8]> = lines.chain([peer.address_text.as_bytes()]).collect();
        forwarded.chain = Cow::Owned(chain.join(b", ".as_slice()));
        if let Some(proto) = client.trusted_value(headers, &FORWARDED_PROTO) {
            let known: [&[u8]; 2] = [b"https", b"http"];
            let proto = known.into_iter().find(|known| proto.eq_ignore_ascii_case(known));
            forwarded.proto = proto.unwrap_or(forwarded.proto);
        }
        forwarded.host =
            client.trusted_value(headers, &FORWARDED_HOST).filter(|host| is_host(host));
        forwarded
    }
}

/// Returns whether `text` is valid as a host and port.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte))
}

#[cfg(test)]
mod tests;
