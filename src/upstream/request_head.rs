//! The head of a request for the upstream, as text.
//!
//! What the gateway judged is the map of headers that it was given, and what is written are the values of that
//! map. The spelling of the names, and the order of headers that come more than once, are taken from what the wire
//! told beside; where that should not fit to the map, names are written in lower case and nothing else changes. So
//! the upstream cannot be shown another header than the one that was judged.

use std::{borrow::Cow, io::Write as _};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST},
    request::Parts,
};

use super::{
    client_addr::{ClientAddr, FORWARDED_FOR},
    headers,
};
use crate::{response::REQUEST_ID, scheme::Verified};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How the names of a request's headers were spelled, in the order in which they came. Empty for HTTP/2, where
/// names have no upper case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderCase {
    /// Each with a colon behind it, which is in no name.
    names: Vec<u8>,
}

/// A header line: its name as it was spelled, the same in lower case, its value.
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

    /// Calls `write` for each header of a map in the order in which they came, with its name as it was spelled, the
    /// same in lower case, and its value.
    pub fn each<'l>(&'l self, headers: &'l HeaderMap, mut write: impl FnMut(Line<'l>)) {
        if headers.len() > headers.keys_len()
            && let Some(lines) = self.in_order(headers)
        {
            return lines.into_iter().for_each(write);
        }
        let mut left = self.names.as_slice();
        for (name, value) in headers {
            let text = name.as_str().as_bytes();
            let spelled = match left.split_at_checked(text.len()) {
                Some((spelled, [b':', rest @ ..])) if spelled.eq_ignore_ascii_case(text) => {
                    left = rest;
                    spelled
                }
                Some(_) | None => text,
            };
            write((spelled, name, value));
        }
    }
    /// The headers of a map in the order of the names here; `None` if these are others than the map's. A map keeps
    /// the values of one name together.
    fn in_order<'l>(&'l self, headers: &'l HeaderMap) -> Option<Vec<Line<'l>>> {
        let values = |name| (name, headers.get_all(name).iter());
        let mut left: Vec<_> = headers.keys().map(values).collect();
        let spelled = self.names.split(|byte| *byte == b':').filter(|name| !name.is_empty());
        let line = |spelled: &'l [u8]| {
            let is_it = |name: &HeaderName| name.as_str().as_bytes().eq_ignore_ascii_case(spelled);
            let (name, values) = left.iter_mut().find(|(name, _)| is_it(name))?;
            values.next().map(|value| (spelled, *name, value))
        };
        let lines = spelled.map(line).collect::<Option<Vec<_>>>()?;
        (lines.len() == headers.len()).then_some(lines)
    }
}

/// What the upstream is told about the judgement.
pub(super) enum Mark<'a> {
    /// The request is authentic.
    Verified {
        /// The proof.
        verified: &'a Verified,
        /// Whether an earlier attempt may have reached the upstream.
        possible_duplicate: bool,
    },
    /// The request came on a route that only observes; what would have been the reason to refuse it.
    Observed(Option<&'static str>),
}

/// What is added to every request for an upstream.
pub(super) struct Extra<'e> {
    pub(super) request_id: &'e HeaderValue,
    /// Whether the sender's `Host` goes on, and not another one.
    pub(super) keeps_host: bool,
    /// The operator's own headers; what came under their names is dropped.
    pub(super) headers: &'e [(HeaderName, HeaderValue)],
}

/// The request line, and the `Host` that takes the place of the sender's, if one does.
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

/// The header lines and the empty one behind them: the sender's end-to-end headers as they came, one
/// `Content-Length`, what the gateway says and what the operator adds.
pub(super) fn lines(
    (head, spelling): (&Parts, &HeaderCase),
    length: usize,
    client: &ClientAddr,
    extra: &Extra<'_>,
    mark: &Mark<'_>,
) -> Vec<u8> {
    let headers = &head.headers;
    let named = headers::named(headers);
    let mut text = Vec::with_capacity(512 + 64 * headers.len());
    let (mut told_length, mut told_host) = (false, !extra.keeps_host);
    spelling.each(headers, |(spelled, name, value)| {
        let is_host = *name == HOST;
        if *name == CONTENT_LENGTH {
            if !told_length {
                put_length(&mut text, spelled, length);
            }
            told_length = true;
        } else if !(is_host && told_host)
            && headers::passes_to_upstream(name, &named, extra.headers)
        {
            told_host |= is_host;
            put(&mut text, spelled, value.as_bytes());
        }
    });
    if !told_length {
        put_length(&mut text, CONTENT_LENGTH.as_str().as_bytes(), length);
    }

    let mut ours = |name: &str, value: &[u8]| put(&mut text, name.as_bytes(), value);
    let host = host(head);
    if let Some(host) = host.filter(|_| !told_host) {
        ours("host", host);
    }
    let forwarded = Forwarded::by(client, headers);
    ours("x-forwarded-for", &forwarded.chain);
    ours("x-forwarded-proto", forwarded.proto);
    if let Some(host) = forwarded.host.or(host) {
        ours("x-forwarded-host", host);
    }
    ours(REQUEST_ID.as_str(), extra.request_id.as_bytes());
    match mark {
        Mark::Verified { verified, possible_duplicate } => {
            for (name, value) in
                [("sealgate-verified", verified.scheme()), ("sealgate-key", verified.key())]
            {
                if is_value(value) {
                    ours(name, value.as_bytes());
                }
            }
            if let Some(id) = verified.event_id() {
                ours("sealgate-event-id", id.as_bytes());
            }
            if *possible_duplicate {
                ours("sealgate-possible-duplicate", b"1");
            }
        }
        Mark::Observed(reason) => {
            if let Some(reason) = reason {
                ours("sealgate-observed", reason.as_bytes());
            }
        }
    }
    for (name, value) in extra.headers {
        put(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Writes a header line. What a [`HeaderName`] and a [`HeaderValue`] hold cannot end it.
fn put(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.reserve(name.len() + value.len() + 4);
    text.extend_from_slice(name);
    text.extend_from_slice(if value.is_empty() { b":" } else { b": " });
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

fn put_length(text: &mut Vec<u8>, name: &[u8], length: usize) {
    text.extend_from_slice(name);
    write!(text, ": {length}\r\n").expect("a Vec takes everything");
}

/// Whether this can be the value of a header.
fn is_value(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// The host that the sender called: `Host`, or HTTP/2's `:authority`.
fn host(head: &Parts) -> Option<&[u8]> {
    let authority = || Some(head.uri.authority()?.as_str().as_bytes());
    head.headers.get(HOST).map(HeaderValue::as_bytes).or_else(authority)
}

/// What the upstream is told of the way that a request came.
struct Forwarded<'f> {
    chain: Cow<'f, [u8]>,
    proto: &'static [u8],
    host: Option<&'f [u8]>,
}

impl<'f> Forwarded<'f> {
    /// What we saw; where a trusted proxy is before us, its chain with the proxy added, and the
    /// protocol and the host of the hop where the client came in.
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
        if let Some(proto) = client.believed(headers, &FORWARDED_PROTO) {
            let known: [&[u8]; 2] = [b"https", b"http"];
            let proto = known.into_iter().find(|known| proto.eq_ignore_ascii_case(known));
            forwarded.proto = proto.unwrap_or(forwarded.proto);
        }
        forwarded.host = client.believed(headers, &FORWARDED_HOST).filter(|host| is_host(host));
        forwarded
    }
}

/// Whether this can be a host and port.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte))
}

#[cfg(test)]
mod tests;
