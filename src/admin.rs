//! The admin listener: `/livez`, `/readyz` and `/metrics` for everyone who reaches it, and with a
//! token the API below `/api/v1` and the inspector. The open paths show no payload, no secret and
//! nothing of the environment, so that a neighbor who reaches them learns counts and nothing else.
//!
//! Its connections are few. A new one replaces the one that was idle for longest, and some are kept
//! for this machine, so that a neighbor cannot keep an orchestrator's probes out.

mod access;
mod api;
mod auth;
mod inspector;
mod last_hour;
mod reply;
mod session;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE, request::Parts};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::task::AbortHandle;

pub use self::access::AdminOptions;
use self::{
    api::Api,
    auth::{Auth, CallOrigin},
    last_hour::SLOT,
    reply::{AdminResponse, CallError, CallResult, text},
};
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
    auth: Auth,
    api: Api,
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
    /// Returns an admin listener that is ready. Call within a runtime.
    pub(crate) fn new(options: &AdminOptions, gate: Arc<Gate>, metrics: Arc<Metrics>) -> Arc<Self> {
        let admin = Arc::new(Admin {
            auth: Auth::new(options),
            api: Api::new(Arc::clone(&gate)),
            gate,
            gauge: metrics.connections("admin"),
            metrics,
            ready: AtomicBool::new(true),
            clock: AtomicU64::new(0),
            open: Mutex::default(),
        });
        tokio::spawn(begin_slots(Arc::downgrade(&admin)));
        admin
    }

    /// Replaces tokens and hosts.
    pub(crate) fn set_access(&self, options: &AdminOptions) {
        self.auth.set_access(options);
    }

    /// Makes `/readyz` respond 503 from now on.
    pub(crate) fn set_draining(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    /// Serves a connection to a listener, which is `on_loopback` or not, in a separate task, and
    /// closes another one if there are too many. Call within a runtime.
    pub(crate) fn accept(self: &Arc<Self>, stream: TcpStream, client: IpAddr, on_loopback: bool) {
        let number = self.tick();
        let is_loopback = client.to_canonical().is_loopback();
        let mut open = self.open();
        evict(&mut open, is_loopback);
        self.gauge.inc();
        let counted = Counted { admin: Arc::clone(self), number };
        let origin = CallOrigin { client, on_loopback };
        let serving = async move { serve(stream, origin, &counted).await };
        let task = tokio::spawn(serving).abort_handle();
        open.insert(number, AdminConnection { is_loopback, active: number, task });
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, AdminConnection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Responds to a request on the connection with this number.
    async fn respond(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: CallOrigin,
        number: u64,
    ) -> AdminResponse {
        let (head, body) = request.into_parts();
        if let Some(response) = self.respond_openly(&head) {
            return response;
        }
        let result = self.respond_privately(&head, body, origin, number).await;
        result.unwrap_or_else(CallError::into_response)
    }

    /// Responds to a request for one of the open paths.
    fn respond_openly(&self, head: &Parts) -> Option<AdminResponse> {
        let respond: fn(&Self) -> AdminResponse = match head.uri.path() {
            "/livez" => |_| text(StatusCode::OK, "ok\n"),
            "/readyz" => Admin::readiness,
            "/metrics" => Admin::exposition,
            _ => return None,
        };
        Some(if matches!(head.method, Method::GET | Method::HEAD) {
            respond(self)
        } else {
            CallError::method("GET, HEAD").into_response()
        })
    }

    async fn respond_privately(
        self: &Arc<Self>,
        head: &Parts,
        body: Incoming,
        origin: CallOrigin,
        number: u64,
    ) -> CallResult {
        self.auth.admit(head, origin)?;
        let is_post = head.method == Method::POST;
        match head.uri.path() {
            "/login" if is_post => self.auth.login(head, body, origin).await,
            "/logout" if is_post => self.auth.logout(head, origin),
            "/login" | "/logout" => Err(CallError::method("POST")),
            path => {
                let Some(path) = path.strip_prefix("/api/v1/") else {
                    return inspector::respond(head);
                };
                let caller = self.auth.authorize(head, origin)?;
                let admin = Arc::downgrade(self);
                let disconnect = Box::new(move || disconnect(&admin, number));
                self.api.call(head, path, body, &caller, disconnect).await
            }
        }
    }

    fn readiness(&self) -> AdminResponse {
        match self.ready.load(Ordering::Relaxed) {
            true => text(StatusCode::OK, "ok\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    }

    fn exposition(&self) -> AdminResponse {
        self.gate.expire();
        match self.metrics.encode() {
            Ok(exposition) => {
                let mut response = text(StatusCode::OK, "");
                *response.body_mut() = Bytes::from(exposition).into();
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

/// Begins a slot of the last hour's counts once a minute, as long as the listener exists.
async fn begin_slots(admin: Weak<Admin>) {
    let mut slots = tokio::time::interval(SLOT);
    // The first tick is immediate.
    slots.tick().await;
    loop {
        slots.tick().await;
        let Some(admin) = admin.upgrade() else { return };
        admin.api.begin_slot();
    }
}

/// Closes a connection, whatever is being written to it.
fn disconnect(admin: &Weak<Admin>, number: u64) {
    if let Some(admin) = admin.upgrade()
        && let Some(open) = admin.open().remove(&number)
    {
        open.task.abort();
    }
}

/// Closes the connection that was idle for longest, if one too many would be open.
fn evict(open: &mut HashMap<u64, AdminConnection>, for_loopback: bool) {
    let remote = open.values().filter(|open| !open.is_loopback).count();
    let is_full =
        if for_loopback { open.len() >= CONNECTIONS } else { remote >= CONNECTIONS - LOOPBACK };
    // Remote connections are closed first; a local one is never closed to admit a remote one.
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

async fn serve(stream: TcpStream, origin: CallOrigin, Counted { admin, number }: &Counted) {
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let service = service_fn(async |request| {
        if let Some(open) = admin.open().get_mut(number) {
            open.active = admin.tick();
        }
        Ok::<_, Infallible>(admin.respond(request, origin, *number).await)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "admin connection ended");
    }
}
