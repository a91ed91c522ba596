//! The life of one public connection: handshake, protocol, requests, end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    deadlines::{Deadlines, Requests},
    options::{Handshake, Limits},
    proxy_protocol,
    shutdown::Shutdown,
    wire::{FactsQueue, Wire},
    worker::ConnectionPermit,
};
use crate::{
    gate::{Gate, WireFacts},
    reject::Reject,
    response::ANSWER,
    upstream::Peer,
};

/// Read buffer of an HTTP/1 connection beyond its longest head.
const READ_BUFFER: usize = 16 * 1024;
/// HTTP/2 flow-control window of a stream and of a connection: what a client can make us hold
/// without our asking for it.
const WINDOW: u32 = 64 * 1024;

/// What all connections share.
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    pub(super) shutdown: Shutdown,
    limits: Limits,
    proxy_protocol: bool,
    /// Requests that hold a permit.
    requests: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        gate: Arc<Gate>,
        limits: Limits,
        proxy_protocol: bool,
        shutdown: Shutdown,
    ) -> Self {
        Shared { gate, shutdown, limits, proxy_protocol, requests: AtomicUsize::new(0) }
    }
}

/// The protocol of a public listener.
#[derive(Clone)]
pub(super) enum Transport {
    Tls(Handshake),
    Plain,
}

/// The permit of a request; released when dropped.
struct RequestPermit<'a> {
    requests: &'a AtomicUsize,
    /// How many requests hold a permit, this one included.
    number: usize,
}

impl<'a> RequestPermit<'a> {
    fn take(requests: &'a AtomicUsize) -> Self {
        RequestPermit { requests, number: requests.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends, is too slow, or the server drains.
pub(super) async fn serve(
    stream: std::net::TcpStream,
    address: IpAddr,
    transport: Transport,
    shared: Arc<Shared>,
    permit: ConnectionPermit,
) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let requests = Arc::new(Requests::default());
    let mut stream = Deadlines::new(stream, shared.limits, Arc::clone(&requests));
    let mut peer = Peer::new(address, matches!(transport, Transport::Tls(_)));
    if shared.proxy_protocol {
        match Box::pin(proxied(&mut stream, &peer, &shared)).await {
            Some(client) => peer = client,
            None => return,
        }
    }
    match transport {
        Transport::Plain => http1(stream, peer, &requests, &shared).await,
        Transport::Tls(config) => {
            match TlsAcceptor::from(config.load_full()).accept(stream).await {
                Ok(mut stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    stream.get_mut().0.set_multiplexed();
                    Box::pin(http2(stream, peer, &requests, &shared)).await;
                }
                // In a box, since a future keeps a place for each name that a value goes by.
                Ok(stream) => http1(Box::new(stream), peer, &requests, &shared).await,
                Err(error) => tracing::debug!(peer = %peer.address, %error, "TLS handshake failed"),
            }
        }
    }
    drop(permit);
}

/// The peer that a trusted proxy names in the header with which its connection begins; `None` closes the
/// connection.
async fn proxied(
    stream: &mut (impl AsyncRead + Unpin),
    proxy: &Peer,
    shared: &Shared,
) -> Option<Peer> {
    if !shared.gate.site.load().trusted_proxies.contains(proxy.address) {
        tracing::debug!(peer = %proxy.address, "no trusted proxy: its connection is closed");
        return None;
    }
    match proxy_protocol::read(stream).await {
        Ok(client) => {
            Some(Peer::new(client.address.unwrap_or(proxy.address), proxy.tls || client.tls))
        }
        Err(error) => {
            tracing::warn!(peer = %proxy.address, %error, "a trusted proxy sent no PROXY header");
            None
        }
    }
}

async fn http1<S>(stream: S, peer: Peer, requests: &Arc<Requests>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let facts = FactsQueue::default();
    let mut wire = Wire::new(stream, limits, &facts);
    let answer = |request: http::Request<Incoming>| {
        let answering = handle(request, facts.pop(), &peer, requests, shared);
        async { answering.await.map(close_after_bad_request) }
    };
    let mut is_first = true;
    loop {
        // As long as no head is whole there is no hyper, which keeps two buffers of 8 KiB a connection.
        match until_head(&mut wire, shared, is_first).await {
            Ok(true) => is_first = false,
            Ok(false) => break,
            Err(error) => {
                return tracing::debug!(peer = %peer.address, %error, "connection ended");
            }
        }
        let connection = http1::Builder::new()
            .half_close(false)
            .header_read_timeout(None)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes + READ_BUFFER)
            .serve_connection(TokioIo::new(&mut wire), service_fn(answer));
        let shut_down = http1::Connection::graceful_shutdown;
        let is_parked = || requests.is_parked();
        let connection = pin!(connection);
        let driven = shared.shutdown.drive(connection, shut_down, is_parked);
        if let Some(ended) = driven.await {
            return log_end(&peer, ended);
        }
        if !wire.is_between_requests() {
            break;
        }
    }
    // Whether the other end takes it no longer matters.
    let _ = wire.shutdown().await;
}

/// Waits for a head; `false` at the connection's end. When the server stops, only a first head is
/// still waited for, and one that has begun is left to hyper.
async fn until_head<S>(wire: &mut Wire<'_, S>, shared: &Shared, is_first: bool) -> io::Result<bool>
where
    S: AsyncRead + Unpin,
{
    tokio::select! {
        whole = poll_fn(|context| wire.poll_head(context)) => whole,
        () = shared.shutdown.begun(), if !is_first => Ok(!wire.is_between_requests()),
    }
}

async fn http2<S>(stream: S, peer: Peer, requests: &Arc<Requests>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let service = {
        let (peer, requests, shared) = (peer.clone(), Arc::clone(requests), Arc::clone(shared));
        service_fn(move |request| {
            let (peer, requests, shared) =
                (peer.clone(), Arc::clone(&requests), Arc::clone(&shared));
            async move {
                // The names of HTTP/2 have no upper case.
                let wire = WireFacts::default();
                let answered = handle(request, wire, &peer, &requests, &shared).await;
                answered.map(|response| response.map(|body| requests.answer(body)))
            }
        })
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(WINDOW as usize)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(limits.resets)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let shut_down = http2::Connection::graceful_shutdown;
    let is_parked = || requests.is_parked();
    let ended = match shared.shutdown.drive(connection.as_mut(), shut_down, is_parked).await {
        Some(ended) => Some(ended),
        None => {
            // The client gets a GOAWAY, and a moment to read it, before the deadline closes.
            shut_down(connection.as_mut());
            shared.shutdown.drive(connection, |_| (), || false).await
        }
    };
    ended.into_iter().for_each(|ended| log_end(&peer, ended));
}

/// Closes an HTTP/1 connection after our own 400: a client that sends malformed HTTP may see other
/// boundaries between requests than we do.
fn close_after_bad_request<B>(mut response: http::Response<B>) -> http::Response<B> {
    if response.status() == StatusCode::BAD_REQUEST && response.headers().contains_key(ANSWER) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn handle(
    request: http::Request<Incoming>,
    mut wire: WireFacts,
    peer: &Peer,
    requests: &Arc<Requests>,
    shared: &Shared,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, Infallible> {
    let _open = requests.begin();
    let permit = RequestPermit::take(&shared.requests);
    if permit.number > shared.limits.requests {
        let overloaded = || Reject::Overloaded("too many concurrent requests");
        wire.rejection.get_or_insert_with(overloaded);
    }
    // In a box, so that a connection between two requests is small.
    Ok(Box::pin(shared.gate.handle(request, wire, peer.clone())).await)
}

fn log_end(peer: &Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, %error, "connection ended");
    }
}
