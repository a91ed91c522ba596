//! Events as the API shows them. Values that authenticate somebody are redacted.

use std::collections::HashSet;

use data_encoding::BASE64;
use http::{
    HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, PROXY_AUTHORIZATION, TRANSFER_ENCODING},
};
use serde::Serialize;

use crate::{
    events::{
        InboundRequest,
        model::{DeliveryAttempt, EventEntry, StoredRequest},
        rfc3339,
    },
    scheme::{Scheme, SignedPart, Verifier},
};

/// What is shown in place of a value that authenticates somebody.
const REDACTED: &str = "[redacted]";

/// An event in a list.
#[derive(Debug, Serialize)]
pub(super) struct EventView<'e> {
    id: String,
    route: &'e str,
    scheme: &'e str,
    event_id: Option<&'e str>,
    key: &'e str,
    /// The position of the secret that verified it.
    secret: Option<u16>,
    state: &'static str,
    received: String,
    attempts: u32,
    last_status: Option<u16>,
    last_error: Option<&'e str>,
    next_attempt: Option<String>,
    bytes: u64,
    possible_duplicate: bool,
    redelivery: bool,
    /// Whether it can be delivered again.
    has_request: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'e str>,
    /// Only for a rejected request, where it is null without a near miss.
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnosis: Option<Option<&'e str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'e str>,
}

impl<'e> From<&'e EventEntry> for EventView<'e> {
    fn from(entry: &'e EventEntry) -> Self {
        EventView {
            id: entry.id.to_string(),
            route: &entry.route,
            scheme: &entry.scheme,
            event_id: entry.event_id.as_deref(),
            key: &entry.key,
            secret: (entry.secret > 0).then_some(entry.secret),
            state: entry.state.label(),
            received: rfc3339(entry.received),
            attempts: entry.attempts,
            last_status: entry.last_status(),
            last_error: entry.last_error(),
            next_attempt: entry.next_attempt.map(rfc3339),
            bytes: entry.bytes,
            possible_duplicate: entry.possible_duplicate,
            redelivery: entry.redelivery,
            has_request: entry.has_request,
            reason: entry.refusal.as_ref().map(|refusal| &*refusal.reason),
            diagnosis: entry.refusal.as_ref().map(|refusal| refusal.diagnosis.as_deref()),
            network: entry.refusal.as_ref().map(|refusal| &*refusal.network),
        }
    }
}

/// One event with all its details.
#[derive(Debug, Serialize)]
pub(super) struct EventDetails<'e> {
    #[serde(flatten)]
    event: EventView<'e>,
    log: Vec<AttemptView<'e>>,
    #[serde(flatten)]
    signed: SignedView,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestView<'e>>,
}

impl<'e> EventDetails<'e> {
    /// Returns the details of an event.
    pub(super) fn new(
        entry: &'e EventEntry,
        signed: SignedView,
        request: Option<RequestView<'e>>,
    ) -> Self {
        EventDetails {
            event: EventView::from(entry),
            log: entry.log.iter().map(AttemptView::from).collect(),
            signed,
            request,
        }
    }
}

/// What the signature of a request covers.
#[derive(Debug, Default, Serialize)]
pub(super) struct SignedView {
    /// The time of sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    /// The parts of the signed message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signed: Vec<PartView>,
}

impl SignedView {
    /// Returns what `verifier` reads from a request, without the values of `secret` headers.
    pub(super) fn new(
        verifier: &Verifier,
        request: &StoredRequest,
        secret: &SecretHeaders,
    ) -> Self {
        let InboundRequest { head, payload, .. } = InboundRequest::restored(request.clone());
        let timestamp = verifier.unverified_details(&head, &payload).timestamp;
        let timestamp = timestamp.and_then(|at| u64::try_from(at.0).ok()).map(rfc3339);
        let parts = verifier.signed_parts(&head, &payload).into_iter();
        let signed = parts.map(|SignedPart { source, value }| {
            let header = source.strip_prefix("header:");
            let is_secret = header.is_some_and(|name| secret.contains(name));
            let value = if is_secret { Some(REDACTED.to_owned()) } else { value };
            PartView { source, value }
        });
        SignedView { timestamp, signed: signed.collect() }
    }
}

/// A part of a signed message.
#[derive(Debug, Serialize)]
struct PartView {
    /// Its source in the notation of scheme files; empty for fixed text.
    source: String,
    /// `null` for the secret and for what is in the body.
    value: Option<String>,
}

#[derive(Debug, Serialize)]
struct AttemptView<'e> {
    at: String,
    status: Option<u16>,
    error: Option<&'e str>,
    duration_ms: u32,
    resigned: bool,
}

impl<'e> From<&'e DeliveryAttempt> for AttemptView<'e> {
    fn from(attempt: &'e DeliveryAttempt) -> Self {
        AttemptView {
            at: rfc3339(attempt.at),
            status: attempt.status,
            error: attempt.error.as_deref(),
            duration_ms: attempt.duration_ms,
            resigned: attempt.resigned,
        }
    }
}

/// A stored request.
#[derive(Debug, Serialize)]
pub(super) struct RequestView<'e> {
    method: &'e str,
    path: &'e str,
    headers: Vec<(&'e str, String)>,
    /// Absent unless it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

impl<'e> RequestView<'e> {
    /// Returns a request without the values of `secret` headers.
    pub(super) fn new(request: &'e StoredRequest, secret: &SecretHeaders, with_body: bool) -> Self {
        let shown = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = request.headers.iter().map(|(name, value)| {
            (&**name, if secret.contains(name) { REDACTED.to_owned() } else { shown(value) })
        });
        let body = with_body.then(|| match std::str::from_utf8(&request.body) {
            Ok(text) => (text.to_owned(), "utf8"),
            Err(_) => (BASE64.encode(&request.body), "base64"),
        });
        let (body, encoding) = body.unzip();
        RequestView {
            method: request.method.as_str(),
            path: &request.target,
            headers: headers.collect(),
            body,
            encoding,
        }
    }
}

/// The headers whose values authenticate somebody.
#[derive(Debug)]
pub(super) struct SecretHeaders {
    names: HashSet<HeaderName>,
    /// Names that look like one count too, because the scheme is no longer known.
    by_looks: bool,
}

impl SecretHeaders {
    /// Returns those of any request, and those that carry the scheme's token.
    pub(super) fn of(scheme: Option<&Scheme>) -> Self {
        let tokens = scheme.into_iter().flat_map(Scheme::token_headers).cloned();
        let names = tokens.chain([AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE]).collect();
        SecretHeaders { names, by_looks: scheme.is_none() }
    }

    fn contains(&self, name: &str) -> bool {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return true };
        let looks = ["token", "secret", "password", "key", "auth"];
        self.names.contains(&name)
            || self.by_looks && looks.iter().any(|part| name.as_str().contains(part))
    }
}

/// Returns a request as text, as `sealgate verify` reads it.
pub(super) fn raw(request: &StoredRequest) -> Vec<u8> {
    let StoredRequest { method, target, headers, body, .. } = request;
    let mut raw = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            raw.extend_from_slice(part);
        }
    };
    let is = |name: &str, other: HeaderName| name.eq_ignore_ascii_case(other.as_str());
    for (name, value) in headers {
        if !is(name, TRANSFER_ENCODING) && !is(name, CONTENT_LENGTH) {
            line(name, value.as_bytes());
        }
    }
    line("Content-Length", body.len().to_string().as_bytes());
    raw.extend_from_slice(b"\r\n");
    raw.extend_from_slice(body);
    raw
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn request(headers: &[(&str, &str)], body: &'static [u8]) -> StoredRequest {
        let line = |(name, value): &(&str, &str)| {
            ((*name).into(), HeaderValue::from_str(value).expect("a value"))
        };
        StoredRequest {
            method: Method::POST,
            target: "/hooks?a=%20".into(),
            is_http2: false,
            headers: headers.iter().map(line).collect(),
            body: body.into(),
            peer: [127, 0, 0, 1].into(),
            tls: true,
            client: None,
            request_id: HeaderValue::from_static("id"),
        }
    }

    #[test]
    fn credentials_are_redacted_and_nothing_else_is() {
        let lines = [
            ("Host", "a.example"),
            ("AUTHORIZATION", "Bearer x"),
            ("cookie", "a=b"),
            ("X-Gitlab-Token", "hidden"),
            ("X-Gitlab-Event", "Push Hook"),
        ];
        let request = request(&lines, b"{}");
        let gitlab = Scheme::builtin("gitlab").expect("a scheme");
        let shown = |scheme: Option<&Scheme>| {
            serde_json::to_value(RequestView::new(&request, &SecretHeaders::of(scheme), true))
                .expect("JSON")
        };
        let expected = json!({
            "method": "POST",
            "path": "/hooks?a=%20",
            "headers": [
                ["Host", "a.example"],
                ["AUTHORIZATION", "[redacted]"],
                ["cookie", "[redacted]"],
                ["X-Gitlab-Token", "[redacted]"],
                ["X-Gitlab-Event", "Push Hook"],
            ],
            "body": "{}",
            "encoding": "utf8",
        });
        assert_eq!(shown(Some(&gitlab)), expected);
        assert_eq!(shown(None), expected, "by looks");
        let github = Scheme::builtin("github").expect("a scheme");
        assert_eq!(shown(Some(&github))["headers"][3][1], "hidden");
    }

    #[test]
    fn a_body_that_is_not_utf8_is_shown_as_base64() {
        let request = request(&[], b"\xff\x00");
        let secret = SecretHeaders::of(None);
        let shown = serde_json::to_value(RequestView::new(&request, &secret, true)).expect("JSON");
        assert_eq!((&shown["body"], &shown["encoding"]), (&json!("/wA="), &json!("base64")));
        let shown = serde_json::to_value(RequestView::new(&request, &secret, false)).expect("JSON");
        assert!(shown.get("body").is_none() && shown.get("encoding").is_none());
    }

    #[test]
    fn an_exported_request_has_one_length() {
        let lines = [("x-A", "1"), ("transfer-encoding", "chunked"), ("X-a", "2")];
        let raw = raw(&request(&lines, b"\xff\r\n"));
        let expected =
            b"POST /hooks?a=%20 HTTP/1.1\r\nx-A: 1\r\nX-a: 2\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(raw, [&expected[..], b"\xff\r\n"].concat());
    }
}
