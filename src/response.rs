//! What goes back to the sender: the upstream's answer, or a problem document of our own.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE},
};
use http_body_util::Full;

use crate::reject::{Outcome, Reject};

/// The request id, on every answer and on every forwarded request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("sealgate-request-id");
/// On answers made here: the outcome.
pub const ANSWER: HeaderName = HeaderName::from_static("sealgate-answer");

/// An upstream's answer, made safe: end-to-end headers only, a bounded body, no `Content-Length`
/// (it follows from the body).
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
    /// An answer with no headers and no body.
    pub fn empty(status: StatusCode) -> Self {
        SanitizedResponse { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// The answer as a response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// An empty answer made here, such as the 200 to a retry of an event that is done.
pub fn made_here(status: StatusCode, outcome: Outcome) -> Response<Full<Bytes>> {
    let mut response = SanitizedResponse::empty(status).into_response();
    response.headers_mut().insert(ANSWER, HeaderValue::from_static(outcome.label()));
    response
}

/// Leaves only the status and what is no content: for senders that take nothing else.
pub fn bare(response: &mut Response<Full<Bytes>>) {
    *response.body_mut() = Full::default();
    let headers = response.headers_mut();
    for name in [CONTENT_TYPE, CONTENT_ENCODING, SET_COOKIE] {
        headers.remove(name);
    }
}

/// The problem document (RFC 9457) for a rejected request: title, status and request id. It never
/// says why: whoever must know finds the reason in the log under the request id.
pub fn problem(reject: &Reject, refusal: StatusCode, request_id: &str) -> Response<Full<Bytes>> {
    let status = reject.status(refusal);
    let title = status.canonical_reason().unwrap_or("Error");
    let body = format!(
        "{{\"title\":\"{title}\",\"status\":{},\"request_id\":\"{request_id}\"}}\n",
        status.as_u16()
    );
    let mut response = made_here(status, reject.outcome());
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
