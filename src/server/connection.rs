//! The life of one public connection: handshake, protocol, requests, end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
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
    worker::ConnectionCount,
};
use crate::{
    capacity::{Capacity, ConnectionSlot},
    gate::{Gate, WireFacts},
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
    capacity: Capacity,
    limits: Limits,
    proxy_protocol: bool,
}

impl Shared {
    pub(super) fn new(
        (gate, capacity): (Arc<Gate>, Capacity),
        limits: Limits,
        proxy_protocol: bool,
        shutdown: Shutdown,
    ) -> Self {
        Shared { gate, shutdown, capacity, limits, proxy_protocol }
    }

    /// Admits a connection from an address; `None` if there is no capacity for it.
    pub(super) fn admit(&self, address: IpAddr) -> Option<ConnectionSlot> {
        let is_proxy = self.gate.site.load().trusted_proxies.contains(address.to_canonical());
        self.capacity.connect(self.capacity.account(address), is_proxy)
    }
}

/// The protocol of a public listener.
#[derive(Clone)]
pub(super) enum Transport {
    Tls(Handshake),
    Plain,
}

/// A connection that was accepted: its stream, the other end, its part of the capacity.
type Accepted = (std::net::TcpStream, IpAddr, Arc<ConnectionSlot>);

/// Who a connection's requests come from, and its part of the capacity.
type Client = (Peer, Arc<ConnectionSlot>);

/// Serves a connection until it ends, is too slow, or the server drains.
pub(super) async fn serve(
    connection: Accepted,
    transport: Transport,
    shared: Arc<Shared>,
    count: ConnectionCount,
) {
    let requests = Arc::new(Requests::default());
    let serving = serve_requests(connection, transport, &shared, &requests);
    shared.shutdown.drive(serving, || requests.are_open()).await;
    drop(count);
}

async fn serve_requests(
    (stream, address, mut slot): Accepted,
    transport: Transport,
    shared: &Arc<Shared>,
    requests: &Arc<Requests>,
) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let mut stream = Deadlines::new(stream, shared.limits, Arc::clone(requests));
    let mut peer = Peer::new(address, matches!(transport, Transport::Tls(_)));
    if shared.proxy_protocol {
        match Box::pin(proxied(&mut stream, &peer, shared)).await {
            Some(client) => peer = client,
            None => return,
        }
        if peer.address != address.to_canonical() {
            let account = shared.capacity.account(peer.address);
            let Some(own) = slot.transfer(account) else { return };
            slot = Arc::new(own);
        }
    }
    match transport {
        Transport::Plain => http1(stream, (peer, slot), requests, shared).await,
        Transport::Tls(config) => {
            match TlsAcceptor::from(config.load_full()).accept(stream).await {
                Ok(mut stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    stream.get_mut().0.set_multiplexed();
                    Box::pin(http2(stream, (peer, slot), requests, shared)).await;
                }
                // In a box, since a future keeps a place for each name that a value goes by.
                Ok(stream) => http1(Box::new(stream), (peer, slot), requests, shared).await,
                Err(error) => tracing::debug!(peer = %peer.address, %error, "TLS handshake failed"),
            }
        }
    }
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

async fn http1<S>(stream: S, client: Client, requests: &Arc<Requests>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let facts = FactsQueue::default();
    let mut wire = Wire::new(stream, limits, &facts);
    let answer = |request: http::Request<Incoming>| {
        let answering = handle(request, facts.pop(), &client, requests, shared);
        async { answering.await.map(close_after_bad_request) }
    };
    let mut is_first = true;
    loop {
        // As long as no head is whole there is no hyper, which keeps two buffers of 8 KiB a connection.
        match until_head(&mut wire, shared, is_first).await {
            Ok(true) => is_first = false,
            Ok(false) => break,
            Err(error) => {
                return tracing::debug!(peer = %client.0.address, %error, "connection ended");
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
        if let Some(ended) = until_parked(pin!(connection), requests, shared, shut_down).await {
            return log_end(&client.0, ended);
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
    poll_fn(|context| match wire.poll_head(context) {
        Poll::Pending if shared.shutdown.has_begun() && !is_first => {
            Poll::Ready(Ok(!wire.is_between_requests()))
        }
        polled => polled,
    })
    .await
}

/// Drives a connection to its end, or until it can be parked (`None`). When the server stops,
/// `shut_down` is called once, and the connection is no longer parked.
async fn until_parked<C: Future>(
    mut connection: Pin<&mut C>,
    requests: &Requests,
    shared: &Shared,
    shut_down: impl Fn(Pin<&mut C>),
) -> Option<C::Output> {
    let mut finishing = false;
    poll_fn(|context| {
        if !finishing && shared.shutdown.has_begun() {
            finishing = true;
            shut_down(connection.as_mut());
        }
        match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if requests.is_parked() && !finishing => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn http2<S>(stream: S, client: Client, requests: &Arc<Requests>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let service = {
        let (client, requests, shared) = (client.clone(), Arc::clone(requests), Arc::clone(shared));
        service_fn(move |request| {
            let (client, requests, shared) =
                (client.clone(), Arc::clone(&requests), Arc::clone(&shared));
            async move {
                // The names of HTTP/2 have no upper case.
                let wire = WireFacts::default();
                let answered = handle(request, wire, &client, &requests, &shared).await;
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
    let ended = match until_parked(connection.as_mut(), requests, shared, shut_down).await {
        Some(ended) => ended,
        None => {
            // The client gets a GOAWAY, and a moment to read it, before the deadline closes.
            shut_down(connection.as_mut());
            connection.await
        }
    };
    log_end(&client.0, ended);
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
    wire: WireFacts,
    (peer, slot): &Client,
    requests: &Arc<Requests>,
    shared: &Shared,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, Infallible> {
    let _open = requests.begin();
    // In a box, so that a connection between two requests is small.
    Ok(Box::pin(shared.gate.handle(request, wire, peer.clone(), slot)).await)
}

fn log_end(peer: &Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, %error, "connection ended");
    }
}
