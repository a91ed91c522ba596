//! The HTTP client for an ACME directory.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::time::timeout;

use crate::tls::https::{ServerTrust, https_request};

/// The timeout of a request: connection, TLS, response.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest response. A certificate chain has a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// How long renewal information is valid if the directory does not say (RFC 9773 section 4.3).
const RENEWAL_INFO_SECONDS: &str = "21600";
const USER_AGENT: &str = concat!("sealgate/", env!("CARGO_PKG_VERSION"));

/// The time until which the directory asked for no further request, with an error.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<SystemTime>>>);

impl RetryAfter {
    /// Returns the time, and forgets it.
    pub(super) fn take(&self) -> Option<SystemTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, response: &Response<Bytes>) {
        let value = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let time = value.and_then(|text| match text.trim().parse() {
            Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
            Err(_) => httpdate::parse_http_date(text).ok(),
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }
}

/// A client that gives up slow requests and notes `Retry-After` of errors.
pub(super) struct DirectoryClient {
    trust: ServerTrust,
    retry_after: RetryAfter,
}

impl DirectoryClient {
    pub(super) fn new(trust: ServerTrust, retry_after: RetryAfter) -> Self {
        DirectoryClient { trust, retry_after }
    }
}

impl HttpClient for DirectoryClient {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let (trust, retry_after) = (self.trust.clone(), self.retry_after.clone());
        Box::pin(async move {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let failed = |problem: String| Error::Other(format!("{uri}: {problem}").into());
            let response = timeout(TIMEOUT, https_request(request, &trust, MAX_BYTES)).await;
            let response = response.unwrap_or_else(|_| Err("no response in time".to_owned()));
            let mut response = response.map_err(failed)?;
            let status = response.status();
            if status.is_client_error() || status.is_server_error() {
                retry_after.note(&response);
                // Problem documents of POST requests are read by the protocol.
                if method != Method::POST || !response.body().starts_with(b"{") {
                    return Err(failed(format!("the response is {status}")));
                }
            } else if method == Method::GET {
                let usual = HeaderValue::from_static(RENEWAL_INFO_SECONDS);
                response.headers_mut().entry(header::RETRY_AFTER).or_insert(usual);
            }
            Ok(BytesResponse::from(response.map(Full::new)))
        })
    }
}
