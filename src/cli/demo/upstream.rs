use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};

/// A stand-in for the handler. It counts requests, and fails once for an event whose body has the
/// member `fail_once`.
#[derive(Clone)]
pub(super) struct StandInUpstream {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    /// The bodies that have arrived, in order.
    bodies: Arc<Mutex<Vec<Bytes>>>,
    /// The task that serves; `None` while the upstream is down.
    serving: Arc<Mutex<Option<AbortHandle>>>,
    failed: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl StandInUpstream {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let upstream = StandInUpstream {
            address: listener.local_addr()?,
            seen: Arc::default(),
            bodies: Arc::default(),
            serving: Arc::default(),
            failed: Arc::default(),
        };
        upstream.serve(listener);
        Ok(upstream)
    }

    fn serve(&self, listener: TcpListener) {
        let serving = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let upstream = serving.clone();
                let service = service_fn(move |request| upstream.clone().answer(request));
                let connection = http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }

    /// Closes the listener and all connections.
    pub(super) async fn stop(&self) {
        let task = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(task) = task else { return };
        task.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// Listens on the same port again.
    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        self.serve(TcpListener::bind(self.address).await?);
        Ok(())
    }

    /// Returns the bodies of the requests after the first `count`, in the order of their arrival.
    pub(super) fn after(&self, count: usize) -> Vec<Bytes> {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.iter().skip(count).cloned().collect()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests have arrived.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body.clone());
        let fails = body.windows(11).any(|window| window == b"fail_once\":")
            && self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(body.to_vec());
        let mut response = Response::new(Full::from(if fails { "broken\n" } else { "taken\n" }));
        if fails {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(response)
    }
}
