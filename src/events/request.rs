//! Requests on their way into the store and out of it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{COOKIE, HOST},
    request::Parts,
    uri::PathAndQuery,
};

use super::model::StoredRequest;
use crate::{
    body::Payload,
    target,
    upstream::{ClientAddr, HeaderCase, Peer},
};

/// A verified request with everything that its forwarding depends on.
#[derive(Debug)]
pub struct InboundRequest {
    /// The head.
    pub head: Parts,
    /// The case and order of the header names.
    pub case: HeaderCase,
    /// The body.
    pub payload: Payload,
    /// The client.
    pub client: ClientAddr,
    /// The request ID.
    pub request_id: HeaderValue,
}

impl InboundRequest {
    /// Returns the request as it is stored.
    pub(crate) fn stored(&self) -> StoredRequest {
        let Parts { method, uri, version, headers, .. } = &self.head;
        let mut lines: Vec<(Box<str>, HeaderValue)> = Vec::with_capacity(headers.len() + 1);
        self.case.each(headers, |(written, name, value)| {
            let written = std::str::from_utf8(written).unwrap_or(name.as_str());
            lines.push((written.into(), value.clone()));
        });
        // Over HTTP/2, the host is not a header.
        if let (None, Some(authority)) = (headers.get(HOST), uri.authority())
            && let Ok(value) = HeaderValue::from_str(authority.as_str())
        {
            lines.push((HOST.as_str().into(), value));
        }
        let client = self.client.proxied();
        StoredRequest {
            method: method.clone(),
            target: target::path_and_query(uri).as_deref().unwrap_or("/").into(),
            is_http2: *version == Version::HTTP_2,
            headers: lines,
            body: self.payload.bytes(),
            peer: self.client.peer.address,
            tls: self.client.peer.tls,
            client: client
                .map(|(address, place)| (address, u32::try_from(place).unwrap_or(u32::MAX))),
            request_id: self.request_id.clone(),
        }
    }

    /// Returns a stored request as it arrived.
    pub(crate) fn restored(stored: StoredRequest) -> Self {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = stored.method;
        head.version = if stored.is_http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        head.uri = uri(&stored.target);
        let mut case = HeaderCase::default();
        head.headers = HeaderMap::with_capacity(stored.headers.len());
        for (written, value) in stored.headers {
            // The store contains only names that were valid.
            let Ok(name) = HeaderName::from_bytes(written.as_bytes()) else { continue };
            // HTTP/2 may split cookies; everything else keeps its place.
            if !(stored.is_http2 && name == COOKIE) {
                case.push(written.as_bytes());
            }
            head.headers.append(name, value);
        }
        let client = stored.client.map(|(address, place)| (address, place as usize));
        InboundRequest {
            head,
            case: if stored.is_http2 { HeaderCase::default() } else { case },
            payload: Payload::from(stored.body),
            client: ClientAddr::restored(Peer::new(stored.peer, stored.tls), client),
            request_id: stored.request_id,
        }
    }
}

/// Returns a target as [`Uri`] holds it.
fn uri(text: &str) -> Uri {
    let target = match target::substituted(text.as_bytes()) {
        Some(substituted) => PathAndQuery::from_maybe_shared(bytes::Bytes::from(substituted)),
        None => text.parse(),
    };
    // The store contains only targets that were valid.
    target.map_or_else(|_| Uri::default(), Uri::from)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn inbound(target: &str, version: Version, lines: &[(&str, &str)]) -> InboundRequest {
        let (mut head, ()) = Request::new(()).into_parts();
        head.version = version;
        head.uri = target.parse().expect("a URI");
        let mut case = HeaderCase::default();
        for (name, value) in lines {
            if version != Version::HTTP_2 {
                case.push(name.as_bytes());
            }
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            head.headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        InboundRequest {
            head,
            case,
            payload: Payload::from(Bytes::from_static(b"body")),
            client: ClientAddr::restored(Peer::new([127, 0, 0, 1].into(), true), None),
            request_id: HeaderValue::from_static("id"),
        }
    }

    fn written(request: &InboundRequest) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        request.case.each(&request.head.headers, |(name, _, value)| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            lines.push((text(name), text(value.as_bytes())));
        });
        lines
    }

    #[test]
    fn a_stored_request_comes_back_as_it_arrived() {
        let lines = [("Host", "a.example"), ("X-One", "1"), ("x-Two", "2"), ("X-ONE", "3")];
        let request = inbound("/hooks?b=%20&a", Version::HTTP_11, &lines);
        let stored = request.stored();
        assert_eq!(&*stored.target, "/hooks?b=%20&a");
        let restored = InboundRequest::restored(stored.clone());
        assert_eq!(written(&restored), written(&request));
        assert_eq!(restored.head.uri, request.head.uri);
        assert_eq!(restored.stored(), stored);
    }

    #[test]
    fn the_authority_of_an_http2_request_is_stored_as_its_host() {
        let request = inbound("https://a.example/hooks", Version::HTTP_2, &[("cookie", "a=1")]);
        let stored = request.stored();
        assert_eq!(&*stored.headers[1].0, "host");
        assert_eq!(stored.headers[1].1, "a.example");
        assert_eq!(InboundRequest::restored(stored.clone()).stored(), stored);
    }
}
