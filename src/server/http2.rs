//! HTTP/2 connections, on the `h2` crate: hyper's server cannot send `100 Continue` over HTTP/2.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, DATE, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    deadlines::{OpenRequest, Requests},
    frame_limit::FrameLimit,
    service::{Client, Shared},
    shutdown::GRACE,
};
use crate::{gate::WireFacts, reject::Reject, replay::Receipt};

/// Flow-control window of a stream and of a connection: what a client can make the gateway buffer
/// before the gateway reads it.
const WINDOW: u32 = 64 * 1024;

/// Serves the requests of a connection, each in a separate task, until it ends. The client gets a
/// GOAWAY when the connection has timed out or the server stops.
///
/// # Errors
/// Those of the protocol and of the stream.
pub(super) async fn serve<S>(
    stream: S,
    client: &Client,
    requests: &Arc<Requests>,
    shared: &Arc<Shared>,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &shared.limits;
    let mut connection = Builder::new()
        .max_concurrent_streams(limits.streams)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(WINDOW as usize)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(Some(limits.resets))
        .handshake::<_, Bytes>(FrameLimit::new(stream))
        .await?;
    let mut finishing = None::<Instant>;
    let mut accept = |context: &mut Context<'_>| loop {
        if finishing.is_none() && (shared.shutdown.has_begun() || requests.is_parked()) {
            finishing = Some(Instant::now());
            connection.graceful_shutdown();
        }
        match connection.poll_accept(context) {
            // It has timed out while it was polled.
            Poll::Pending if finishing.is_none() && requests.is_parked() => {}
            polled => {
                let is_late = finishing.is_some_and(|since| since.elapsed() > GRACE);
                return polled.map(|accepted| accepted.map(|accepted| (accepted, is_late)));
            }
        }
    };
    while let Some((accepted, is_late)) = poll_fn(&mut accept).await {
        let (request, mut reply) = accepted?;
        // `h2` accepts streams until the client acknowledges the GOAWAY.
        if is_late {
            reply.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let accepted = (request, requests.waited(), requests.begin());
        tokio::spawn(respond(accepted, reply, client.clone(), Arc::clone(shared)));
    }
    Ok(())
}

/// Handles a request and sends the response, unless the client resets the stream.
async fn respond(
    (request, waited, open): (Request<RecvStream>, Duration, OpenRequest),
    mut reply: SendResponse<Bytes>,
    client: Client,
    shared: Arc<Shared>,
) {
    let (head, stream) = request.into_parts();
    let rejection = rejection(&head.headers, &shared);
    let wire = WireFacts { rejection, ..WireFacts::default() };
    let is_expecting = head.headers.get(EXPECT).is_some() && !stream.is_end_stream();
    // Set when the gate reads a body that the client has not sent yet.
    let asked = is_expecting.then(Arc::<AtomicBool>::default);
    let body = RequestBody { length: length(&head.headers), asked: asked.clone(), stream };
    // In a box, so that the task is small.
    let request = Request::from_parts(head, body);
    let mut handling = Box::pin(shared.handle(request, wire, waited, &client));
    let handled = poll_fn(|context| {
        let polled = handling.as_mut().poll(context);
        if polled.is_ready() {
            return polled.map(Some);
        }
        if asked.as_ref().is_some_and(|asked| asked.swap(false, Ordering::Relaxed)) {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            // An error means that the stream has ended, which is seen next.
            let _ = reply.send_informational(response);
        }
        reply.poll_reset(context).map(|_| None)
    });
    let Some((response, receipt)) = handled.await else { return };
    drop(handling);
    let _untaken = open.respond();
    match send(response, &mut reply).await {
        Ok(()) => receipt.into_iter().for_each(Receipt::written),
        Err(error) => tracing::debug!(peer = %client.peer.address, %error, "response not sent"),
    }
}

/// Checks what the wire checks of an HTTP/1 head, as far as `h2` does not.
fn rejection(headers: &HeaderMap, shared: &Shared) -> Option<Reject> {
    if headers.len() > shared.limits.headers {
        return Some(Reject::HeadTooLarge);
    }
    let twice = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some();
    twice.then_some(Reject::BadRequest("two Content-Length headers"))
}

/// Returns the length that a head announces, which `h2` compares with that of the body.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Sends a response as far as the client makes space for it: `h2` holds the rest.
async fn send(
    response: Response<Full<Bytes>>,
    reply: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    head.headers.entry(DATE).or_insert_with(date);
    let data = match body.frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        Some(Err(_)) | None => Bytes::new(),
    };
    if !data.is_empty() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| data.len().into());
    }
    let mut stream = reply.send_response(Response::from_parts(head, ()), data.is_empty())?;
    if data.is_empty() {
        return Ok(());
    }
    stream.reserve_capacity(data.len());
    poll_fn(|context| {
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(reset) = stream.poll_reset(context)? {
            return Poll::Ready(Err(reset.into()));
        }
        match ready!(stream.poll_capacity(context)) {
            Some(capacity) => Poll::Ready(capacity.map(drop)),
            None => Poll::Ready(Err(h2::Reason::CANCEL.into())),
        }
    })
    .await?;
    stream.send_data(data, true)
}

/// Returns the current time for the `Date` header, written once per second and thread.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const {
            RefCell::new((0, HeaderValue::from_static("")))
        };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(written, value)| {
        if *written != second {
            *written = second;
            if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(now)) {
                *value = date;
            }
        }
        value.clone()
    })
}

/// The body of a request. Its memory is given back to the client's window as it is read.
struct RequestBody {
    stream: RecvStream,
    length: Option<u64>,
    /// Where to ask for a body that the client sends when it is asked to.
    asked: Option<Arc<AtomicBool>>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let polled = self.stream.poll_data(context);
        if polled.is_pending()
            && let Some(asked) = self.asked.take()
        {
            asked.store(true, Ordering::Relaxed);
        }
        let Some(data) = ready!(polled).transpose()? else { return Poll::Ready(None) };
        // An error means that the stream has ended, which is seen next.
        let _ = self.stream.flow_control().release_capacity(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
