//! Responses to the sender: the upstream's, sanitized, or a problem document made by the gateway.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE},
};
use http_body_util::Full;

use crate::reject::{Outcome, Reject};

/// The request ID, on every response and on every forwarded request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("sealgate-request-id");
/// The outcome, on every response that the gateway makes itself.
pub const ANSWER: HeaderName = HeaderName::from_static("sealgate-answer");

/// An upstream's sanitized response: end-to-end headers only, a bounded body, and no
/// `Content-Length`, which follows from the body.
#[derive(Clone, Debug)]
pub struct SanitizedResponse {
    /// Never 1xx or 3xx.
    pub status: StatusCode,
    /// End-to-end headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl SanitizedResponse {
    /// Returns a response with no headers and no body.
    pub fn empty(status: StatusCode) -> Self {
        SanitizedResponse { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Converts the response for hyper.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Returns an empty response made by the gateway, such as the 200 to a retry of a done event.
pub fn empty(status: StatusCode, outcome: Outcome) -> Response<Full<Bytes>> {
    let mut response = SanitizedResponse::empty(status).into_response();
    response.headers_mut().insert(ANSWER, HeaderValue::from_static(outcome.label()));
    response
}

/// Removes the body and the headers that describe it, for senders that accept only a status.
pub fn strip_content(response: &mut Response<Full<Bytes>>) {
    *response.body_mut() = Full::default();
    let headers = response.headers_mut();
    for name in [CONTENT_TYPE, CONTENT_ENCODING, SET_COOKIE] {
        headers.remove(name);
    }
}

/// Returns the problem document (RFC 9457) for a rejected request: title, status and request ID.
/// `unauthorized` is the scheme's status for requests that are not authentic. The document never
/// gives the reason, which would help an attacker; the log has it under the request ID.
pub fn problem(
    reject: &Reject,
    unauthorized: StatusCode,
    request_id: &str,
) -> Response<Full<Bytes>> {
    let status = reject.status(unauthorized);
    let title = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        "{{\"title\":\"{title}\",\"status\":{},\"request_id\":\"{request_id}\"}}\n",
        status.as_u16()
    );
    let mut response = empty(status, reject.outcome());
    *response.body_mut() = Full::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = reject.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Reject::Method(allowed) = reject {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}
