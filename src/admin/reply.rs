//! Responses of the admin listener.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::mpsc;

/// The body of a response.
#[derive(Debug)]
pub(super) enum AdminBody {
    /// All of it.
    Full(Full<Bytes>),
    /// What is sent until the other end is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

/// A response of the admin listener.
pub(super) type AdminResponse = Response<AdminBody>;

impl From<Bytes> for AdminBody {
    fn from(bytes: Bytes) -> Self {
        AdminBody::Full(Full::from(bytes))
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AdminBody::Full(full) => Pin::new(full).poll_frame(context),
            AdminBody::Stream(receiver) => {
                receiver.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AdminBody::Full(full) => full.is_end_stream(),
            AdminBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AdminBody::Full(full) => full.size_hint(),
            AdminBody::Stream(_) => SizeHint::default(),
        }
    }
}

/// The policy of responses that are data: a browser must not interpret them.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// Returns a response with a body of a type. Nothing stores it, and no page embeds it.
pub(super) fn content(status: StatusCode, kind: &'static str, body: AdminBody) -> AdminResponse {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, DATA_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (resource_policy, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns a short text.
pub(super) fn text(status: StatusCode, text: &'static str) -> AdminResponse {
    let body = Bytes::from_static(text.as_bytes()).into();
    content(status, "text/plain; charset=utf-8", body)
}

/// Returns an empty response.
pub(super) fn empty(status: StatusCode) -> AdminResponse {
    let mut response = text(status, "");
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// Returns a value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> AdminResponse {
    match serde_json::to_vec(value) {
        Ok(text) => content(status, "application/json", Bytes::from(text).into()),
        Err(error) => {
            tracing::error!(%error, "a response of the admin API cannot be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the response cannot be written\n")
        }
    }
}

/// Why a call has no result: a status, an explanation, and a header that the status requires.
#[derive(Debug)]
pub(super) struct CallError {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The result of a call.
pub(super) type CallResult = Result<AdminResponse, CallError>;

impl CallError {
    /// Returns an error with its explanation.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        CallError { status, message: message.into(), header: None }
    }

    /// Returns the error of a path or an event that does not exist.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        CallError::new(StatusCode::NOT_FOUND, message)
    }

    /// Returns the error of a wrong method; `allowed` is the value of `Allow`.
    pub(super) fn method(allowed: &'static str) -> Self {
        let error = CallError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong method");
        error.with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// Adds a header to the response.
    pub(super) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        CallError { header: Some((name, value)), ..self }
    }

    /// Returns the response: JSON with the member `error`.
    pub(super) fn into_response(self) -> AdminResponse {
        let mut response = json(self.status, &serde_json::json!({ "error": self.message }));
        response.headers_mut().extend(self.header);
        response
    }
}
