//! HTTP/1 connections.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use http::{HeaderValue, Response, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{
    deadlines::Requests,
    service::{Client, Shared},
    wire::{FactsQueue, Wire},
};
use crate::{replay::Receipt, response::ANSWER};

/// Read buffer of a connection beyond its longest head.
const READ_BUFFER: usize = 16 * 1024;

/// Serves the requests of a connection, one after the other, until it ends.
pub(super) async fn serve<S>(
    stream: S,
    client: Client,
    requests: &Arc<Requests>,
    shared: &Arc<Shared>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let facts = FactsQueue::default();
    let mut wire = Wire::new(stream, limits, &facts);
    let respond = |request: http::Request<Incoming>| {
        let (wire, waited, open) = (facts.pop(), requests.waited(), requests.begin());
        // In a box, so that a connection between two requests is small.
        let handling = Box::pin(shared.handle(request, wire, waited, &client));
        let facts = &facts;
        async move {
            let (response, receipt) = handling.await;
            // A client that has ended its side may be gone: the same request again is no replay.
            receipt.into_iter().filter(|_| !facts.is_half_closed()).for_each(Receipt::written);
            facts.finish();
            drop(open);
            Ok::<_, Infallible>(close_after_bad_request(response))
        }
    };
    let mut is_first = true;
    loop {
        // hyper keeps two buffers of 8 KiB per connection: it serves one only while a head is
        // there.
        match until_head(&mut wire, shared, is_first).await {
            Ok(true) => is_first = false,
            Ok(false) => break,
            Err(error) => {
                return tracing::debug!(peer = %client.peer.address, %error, "connection ended");
            }
        }
        let connection = http1::Builder::new()
            .half_close(false)
            .header_read_timeout(None)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes + READ_BUFFER)
            .serve_connection(TokioIo::new(&mut wire), service_fn(respond));
        let shut_down = http1::Connection::graceful_shutdown;
        let ended = until_parked(pin!(connection), requests, shared, shut_down).await;
        if let Some(Err(error)) = &ended {
            tracing::debug!(peer = %client.peer.address, %error, "connection ended");
        }
        if ended.is_some() {
            return;
        }
        if !wire.is_between_requests() {
            break;
        }
    }
    // Whether the other end reads it no longer matters.
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
    let mut is_finishing = false;
    poll_fn(|context| {
        if !is_finishing && shared.shutdown.has_begun() {
            is_finishing = true;
            shut_down(connection.as_mut());
        }
        match connection.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if requests.is_parked() && !is_finishing => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Closes the connection after our own 400: a client that sends malformed HTTP may see other
/// boundaries between requests than we do.
fn close_after_bad_request<B>(mut response: Response<B>) -> Response<B> {
    if response.status() == StatusCode::BAD_REQUEST && response.headers().contains_key(ANSWER) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
