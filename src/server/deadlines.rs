//! The deadlines of a connection, enforced on its stream: below TLS, above TCP.
//!
//! Each connection has one timer. It is polled only while the connection waits, and reset only to
//! an earlier deadline, so a busy connection never touches it. While a request is handled no
//! deadline applies here: its body and its response have their own.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{alarm::AlarmClock, options::Limits};

/// After this time without a request an HTTP/1 connection is parked: hyper and its buffers are
/// released.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// How long a client may continue to send on a connection that we have shut down.
const LINGER: Duration = Duration::from_secs(1);

/// State of a connection that its stream shares with its service.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// How many requests have begun, and how many of these have ended.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Responses that an HTTP/2 client has not made space for.
    untaken: AtomicU64,
    parked: AtomicBool,
    /// How long the bytes that were read last had waited for the worker, in milliseconds.
    waited: AtomicU64,
}

/// A request that is being handled; dropping it ends it.
pub(super) struct OpenRequest(Arc<Requests>);

/// A response that an HTTP/2 client has not made space for, until it is dropped.
pub(super) struct UntakenResponse(Arc<Requests>);

impl Requests {
    /// Begins a request, whose head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> OpenRequest {
        self.begun.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// Returns whether a request is open, or a response that an HTTP/2 client has not made space
    /// for.
    pub(super) fn are_open(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != self.ended.load(Ordering::Relaxed)
            || self.untaken.load(Ordering::Relaxed) > 0
    }

    /// Returns how long the head that has just been read had waited for the worker.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_millis(self.waited.load(Ordering::Relaxed))
    }

    /// Returns whether an HTTP/1 connection may be parked, or an HTTP/2 connection has timed out.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }
}

impl OpenRequest {
    /// Ends the request with a response over HTTP/2, which counts as untaken until the client has
    /// made space for some of it.
    pub(super) fn respond(self) -> UntakenResponse {
        self.0.untaken.fetch_add(1, Ordering::Relaxed);
        UntakenResponse(Arc::clone(&self.0))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for UntakenResponse {
    fn drop(&mut self) {
        self.0.untaken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection without an open request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitingFor {
    FirstRequest,
    NextRequest,
    RestOfHead,
}

/// A stream that fails when its client is too slow.
pub(super) struct Deadlines {
    stream: TcpStream,
    limits: Limits,
    requests: Arc<Requests>,
    /// `begun` when `waiting` was last set.
    seen: u64,
    waiting: WaitingFor,
    since: Instant,
    timer: Pin<Box<Sleep>>,
    alarm: AlarmClock,
    /// When a write that makes no progress fails.
    stuck: Option<Pin<Box<Sleep>>>,
    /// When an HTTP/2 connection timed out and its client was sent a GOAWAY.
    goaway: Option<Instant>,
    /// Whether the connection speaks HTTP/2, on which frames other than requests arrive.
    multiplexed: bool,
    /// When a connection that was shut down is closed, whatever its client still sends.
    closes: Option<Instant>,
}

impl Deadlines {
    /// Returns a stream whose first deadline has begun.
    pub(super) fn new(stream: TcpStream, limits: Limits, requests: Arc<Requests>) -> Self {
        let since = Instant::now();
        Deadlines {
            stream,
            limits,
            requests,
            seen: 0,
            waiting: WaitingFor::FirstRequest,
            since,
            timer: Box::pin(sleep_until(since + limits.first_request)),
            alarm: AlarmClock::default(),
            stuck: None,
            goaway: None,
            multiplexed: false,
            closes: None,
        }
    }

    /// Waits for the first byte, which stays unread; `None` at the end of the stream.
    pub(super) async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let length =
            poll_fn(|context| match self.stream.poll_peek(context, &mut ReadBuf::new(&mut byte)) {
                Poll::Ready(peeked) => Poll::Ready(peeked),
                Poll::Pending => self.poll_deadline(context).map(Err),
            });
        Ok((length.await? > 0).then_some(byte[0]))
    }

    /// Makes this the stream of an HTTP/2 connection.
    pub(super) fn set_multiplexed(&mut self) {
        self.multiplexed = true;
    }

    /// Returns whether no request is open, and notes when that became true.
    fn is_waiting(&mut self) -> bool {
        let ended = self.requests.ended.load(Ordering::Relaxed);
        let begun = self.requests.begun.load(Ordering::Relaxed);
        if begun != ended {
            return false;
        }
        if begun != self.seen {
            self.seen = begun;
            self.waiting = WaitingFor::NextRequest;
            self.since = Instant::now();
        }
        true
    }

    fn deadline(&self) -> Instant {
        self.since
            + match self.waiting {
                WaitingFor::FirstRequest => self.limits.first_request,
                WaitingFor::NextRequest if self.requests.untaken.load(Ordering::Relaxed) > 0 => {
                    self.limits.write
                }
                WaitingFor::NextRequest => self.limits.idle,
                WaitingFor::RestOfHead => self.limits.head,
            }
    }

    /// Returns when the connection is to be parked; `None` while something is to be written. An
    /// HTTP/2 connection is "parked" when it times out, so that it can send a GOAWAY before it is
    /// closed.
    fn park_at(&self) -> Option<Instant> {
        if self.requests.is_parked() {
            return None;
        }
        if self.multiplexed {
            return Some(self.deadline());
        }
        let may = self.waiting == WaitingFor::NextRequest && self.stuck.is_none();
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

    /// Returns the result of a write, or an error if writes have made no progress for too long.
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

impl AsyncRead for Deadlines {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = {
            let mut context = Context::from_waker(this.alarm.waker(context.waker()));
            Pin::new(&mut this.stream).poll_read(&mut context, buffer)
        };
        if let Poll::Ready(read) = polled {
            let waited = u64::try_from(this.alarm.waited().as_millis()).unwrap_or(u64::MAX);
            this.requests.waited.store(waited, Ordering::Relaxed);
            if this.is_waiting() && this.waiting == WaitingFor::NextRequest && !this.multiplexed {
                this.waiting = WaitingFor::RestOfHead;
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

impl AsyncWrite for Deadlines {
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
        // hyper polls for the next request before it has this result, and again only when bytes
        // come.
        if flushed.is_ready()
            && self.closes.is_none()
            && self.is_waiting()
            && let Poll::Ready(error) = self.poll_deadline(context)
        {
            return Poll::Ready(Err(error));
        }
        flushed
    }

    /// Ends the connection without losing the last response: closing with unread bytes would reset
    /// it, and a sender that is still writing its body would see the reset and not the response.
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
        // Compared here too: while bytes come the timer is not polled, and a task that has used up
        // its budget finds no timer ready.
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
