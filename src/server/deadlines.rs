//! The deadlines of a connection, kept where its bytes pass: below TLS, above TCP.
//!
//! One timer a connection. It is armed only when the connection waits, and moved only when a nearer
//! deadline appears, so that a busy connection never touches it. While a request is being handled
//! there is no deadline here: its body and its answer have their own.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::options::Limits;

/// After this time without a request an HTTP/1 connection is parked: hyper and its buffers are
/// released.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// How long a connection that we end may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(1);

/// How many requests of a connection began and ended; shared with the service.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Answers that HTTP/2 clients have not taken.
    untaken: AtomicU64,
    parked: AtomicBool,
}

/// One request under way; ends when dropped.
pub(super) struct UnderWay(Arc<Requests>);

impl Requests {
    /// Notes that a request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// The body of an answer over HTTP/2, which counts as untaken until the client has made room
    /// for some of it.
    pub(super) fn answer(self: &Arc<Self>, body: Full<Bytes>) -> Untaken {
        self.untaken.fetch_add(1, Ordering::Relaxed);
        Untaken { body, requests: Arc::clone(self) }
    }

    /// Returns whether a request is open, or a response that an HTTP/2 client has not made space for.
    pub(super) fn are_open(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != self.ended.load(Ordering::Relaxed)
            || self.untaken.load(Ordering::Relaxed) > 0
    }

    /// Returns whether an HTTP/1 connection may be parked, or an HTTP/2 connection has timed out.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The body of an answer over HTTP/2; hyper drops it when it has handed it over.
pub(super) struct Untaken {
    body: Full<Bytes>,
    requests: Arc<Requests>,
}

impl Body for Untaken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.requests.untaken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection that handles no request is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    FirstRequest,
    NextRequest,
    RestOfHead,
}

/// A stream that fails when the other end is too slow.
pub(super) struct Deadlines<S> {
    stream: S,
    limits: Limits,
    requests: Arc<Requests>,
    /// How many requests had begun when `waiting` was last set.
    seen: u64,
    waiting: Waiting,
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// When a write that makes no progress fails.
    stuck: Option<Pin<Box<Sleep>>>,
    /// When an HTTP/2 connection timed out and its client was sent a GOAWAY.
    goaway: Option<Instant>,
    /// HTTP/2 keeps connections alive with frames that are no requests.
    multiplexed: bool,
    /// When a connection that was shut down is closed, whatever its client still sends.
    closes: Option<Instant>,
}

impl<S> Deadlines<S> {
    /// Starts the first deadline.
    pub(super) fn new(stream: S, limits: Limits, requests: Arc<Requests>) -> Self {
        let since = Instant::now();
        Deadlines {
            stream,
            limits,
            requests,
            seen: 0,
            waiting: Waiting::FirstRequest,
            since,
            timer: Box::pin(sleep_until(since + limits.first_request)),
            stuck: None,
            goaway: None,
            multiplexed: false,
            closes: None,
        }
    }

    /// Says that the connection speaks HTTP/2.
    pub(super) fn set_multiplexed(&mut self) {
        self.multiplexed = true;
    }

    /// Whether no request is being handled; notes when that became so.
    fn is_waiting(&mut self) -> bool {
        let ended = self.requests.ended.load(Ordering::Relaxed);
        let begun = self.requests.begun.load(Ordering::Relaxed);
        if begun != ended {
            return false;
        }
        if begun != self.seen {
            self.seen = begun;
            self.waiting = Waiting::NextRequest;
            self.since = Instant::now();
        }
        true
    }

    fn deadline(&self) -> Instant {
        self.since
            + match self.waiting {
                Waiting::FirstRequest => self.limits.first_request,
                Waiting::NextRequest if self.requests.untaken.load(Ordering::Relaxed) > 0 => {
                    self.limits.write
                }
                Waiting::NextRequest => self.limits.idle,
                Waiting::RestOfHead => self.limits.head,
            }
    }

    /// Returns when the connection is to be parked; `None` while something is to be written. An HTTP/2
    /// connection is "parked" when it times out, so that it can send a GOAWAY before it is closed.
    fn park_at(&self) -> Option<Instant> {
        if self.requests.is_parked() {
            return None;
        }
        if self.multiplexed {
            return Some(self.deadline());
        }
        let may = self.waiting == Waiting::NextRequest && self.stuck.is_none();
        may.then(|| self.since + PARK_AFTER)
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let deadline = match (self.multiplexed, self.goaway) {
                // A request that crossed the GOAWAY still gets its response.
                (_, Some(sent)) => sent.max(self.since) + LINGER,
                (true, None) => self.deadline() + LINGER,
                (false, None) => self.deadline(),
            };
            let park = self.park_at();
            let next = park.map_or(deadline, |park| park.min(deadline));
            if self.timer.deadline() > next {
                self.timer.as_mut().reset(next);
            }
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            if park.is_some_and(|park| now >= park) {
                self.goaway = self.multiplexed.then_some(now);
                self.requests.parked.store(true, Ordering::Relaxed);
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Passes on the result of a write, or fails it if there was no progress for too long.
    fn progress<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let limit = self.limits.write;
        let timer = self.stuck.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deadlines<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            if this.is_waiting() && this.waiting == Waiting::NextRequest && !this.multiplexed {
                this.waiting = Waiting::RestOfHead;
                this.since = Instant::now();
                this.requests.parked.store(false, Ordering::Relaxed);
            }
            return Poll::Ready(read);
        }
        if !this.is_waiting() {
            return Poll::Pending;
        }
        this.poll_deadline(context).map(Err)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Deadlines<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        let flushed = self.progress(context, flushed);
        // hyper looks for the next request before it has this answer, and again only when bytes come.
        if flushed.is_ready()
            && self.closes.is_none()
            && self.is_waiting()
            && let Poll::Ready(error) = self.poll_deadline(context)
        {
            return Poll::Ready(Err(error));
        }
        flushed
    }

    /// Ends the connection without losing the last answer: closing with unread bytes would reset it,
    /// and a sender that is still writing its body would see the reset and not the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closes = match self.closes {
            Some(closes) => closes,
            None => {
                let shut = Pin::new(&mut self.stream).poll_shutdown(context);
                ready!(self.progress(context, shut))?;
                let closes = Instant::now() + LINGER;
                self.timer.as_mut().reset(closes);
                *self.closes.insert(closes)
            }
        };
        // Compared here too: while bytes come the timer is not polled, and a task that has used up its
        // budget finds no timer ready.
        if Instant::now() >= closes {
            return Poll::Ready(Ok(()));
        }
        let mut unread = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut unread);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return self.timer.as_mut().poll(context).map(Ok),
            }
        }
    }
}
