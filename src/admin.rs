//! The admin listener: `/livez`, `/readyz` and `/metrics`, read-only. Nothing here shows a payload,
//! a secret or the environment, so that a neighbor who reaches it learns counts and nothing else.
//!
//! Its connections are few. A new one replaces the one that was idle for longest, and some are kept
//! for this machine, so that a neighbor cannot keep an orchestrator's probes out.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
use prometheus::IntGauge;
use tokio::task::AbortHandle;

use crate::{gate::Gate, metrics::Metrics};

/// Concurrent admin connections.
const CONNECTIONS: usize = 64;
/// How many of these only this machine may use.
const LOOPBACK: usize = 8;
/// How long a connection may take for a head, or be idle. Longer than a client needs between two
/// requests that belong together, shorter than most scrape intervals.
const IDLE: Duration = Duration::from_secs(5);

/// The admin listener.
pub(crate) struct Admin {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    ready: AtomicBool,
    /// Counts connections and requests, to know which connection was idle for longest.
    clock: AtomicU64,
    open: Mutex<HashMap<u64, AdminConnection>>,
    gauge: IntGauge,
}

/// An open connection.
struct AdminConnection {
    is_loopback: bool,
    /// The clock at its accept or at its last request.
    active: u64,
    task: AbortHandle,
}

impl Admin {
    /// Returns an admin listener that is ready.
    pub(crate) fn new(gate: Arc<Gate>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Admin {
            gate,
            gauge: metrics.connections("admin"),
            metrics,
            ready: AtomicBool::new(true),
            clock: AtomicU64::new(0),
            open: Mutex::default(),
        })
    }

    /// Makes `/readyz` respond 503 from now on.
    pub(crate) fn set_draining(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    /// Serves a connection in a separate task, and closes another one if there are too many. Call
    /// within a runtime.
    pub(crate) fn accept(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        let number = self.tick();
        let is_loopback = address.to_canonical().is_loopback();
        let mut open = self.open();
        evict(&mut open, is_loopback);
        self.gauge.inc();
        let counted = Counted { admin: Arc::clone(self), number };
        let serving = async move { serve(stream, &counted).await };
        let task = tokio::spawn(serving).abort_handle();
        open.insert(number, AdminConnection { is_loopback, active: number, task });
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, AdminConnection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
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
        self.gate.expire();
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

/// Closes the connection that was idle for longest, if one too many would be open.
fn evict(open: &mut HashMap<u64, AdminConnection>, for_loopback: bool) {
    let remote = open.values().filter(|open| !open.is_loopback).count();
    let is_full =
        if for_loopback { open.len() >= CONNECTIONS } else { remote >= CONNECTIONS - LOOPBACK };
    // A remote connection goes first: this machine's own are never closed for one.
    let candidates = open.iter().filter(|(_, open)| !open.is_loopback || for_loopback);
    let oldest = candidates.min_by_key(|(_, open)| (open.is_loopback, open.active));
    if let Some(number) = oldest.filter(|_| is_full).map(|(number, _)| *number)
        && let Some(evicted) = open.remove(&number)
    {
        evicted.task.abort();
    }
}

/// A connection's place among the open ones, given up when dropped.
struct Counted {
    admin: Arc<Admin>,
    number: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.admin.open().remove(&self.number);
        self.admin.gauge.dec();
    }
}

async fn serve(stream: TcpStream, Counted { admin, number }: &Counted) {
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let service = service_fn(|request| {
        if let Some(open) = admin.open().get_mut(number) {
            open.active = admin.tick();
        }
        let response = admin.respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "admin connection ended");
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
