//! The admin listener: `/livez`, `/readyz` and `/metrics`, read-only. Nothing here shows a payload, a
//! secret or the environment, so that a neighbour who reaches it learns counts and nothing else.

use std::{
    convert::Infallible,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use crate::{gate::Gate, metrics::Metrics};

/// Admin connections at one time.
pub(crate) const CONNECTIONS: usize = 64;
/// How long an admin connection may take for a head, or lie idle.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the admin listener tells.
pub(crate) struct Admin {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    ready: AtomicBool,
}

impl Admin {
    /// Ready from the start.
    pub(crate) fn new(gate: Arc<Gate>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Admin { gate, metrics, ready: AtomicBool::new(true) })
    }

    /// From now on `/readyz` says 503.
    pub(crate) fn set_draining(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    /// Serves one admin connection.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = serving.await {
            tracing::debug!(%error, "admin connection ended");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/metrics" => self.exposition(),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn exposition(&self) -> Response<Full<Bytes>> {
        self.gate.tidy();
        match self.metrics.encode() {
            Ok(exposition) => {
                let mut response = Response::new(Full::from(exposition));
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n")
            }
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
