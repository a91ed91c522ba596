//! The stream from which hyper reads HTTP/1, after a check that is stricter than hyper's own.
//!
//! hyper hides from its service what makes a request ambiguous: it drops a `Content-Length` beside
//! `Transfer-Encoding`, merges repeated ones, accepts a bare LF as a line end, cuts a fragment off
//! the target and skips chunk extensions. The bytes are therefore checked here, above TLS, and
//! hyper reads only whole heads and whole chunk lines that have one meaning. It reads them
//! unchanged, except for characters of a query that `Uri` cannot hold (see
//! [`target`](crate::target)).
//!
//! A head with a fault is replaced by a stand-in, so that its rejection is sent in order, counted
//! and logged like any other. A fault within a body fails the read of that body. Both end the
//! connection: the rest is read and discarded, because the start of the next request is unknown.
//!
//! Cost: a head that arrives in one read is checked in place. One that is split over reads is held
//! until it is whole, up to `head_bytes`. Body bytes are counted, not inspected.

mod facts;
mod framing;
mod grammar;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::facts::FactsQueue;
use self::framing::{Fault, Framing, Passed, Replaced};
use super::options::Limits;
use crate::{gate::WireFacts, reject::Reject};

/// Replaces a head with a fault. No route and no health check can be configured at `*`.
const STAND_IN: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: rejected\r\nConnection: close\r\n\r\n";

/// Checks a head, with its empty line, as if it arrived over a connection.
///
/// # Errors
/// Why the connection would reject it.
pub fn check_head(head: &[u8], limits: &Limits) -> Result<(), Reject> {
    let passed = Framing::new(limits.head_bytes, limits.headers).pass(head, &FactsQueue::default());
    match passed.fault {
        Some(Fault::Head(reject) | Fault::Body(reject)) => Err(reject),
        None => Ok(()),
    }
}

/// A stream of HTTP/1 requests that have one meaning.
pub(super) struct Wire<'a, S> {
    stream: S,
    framing: Framing,
    facts: &'a FactsQueue,
    /// Bytes that hyper has not read yet: first those that it may read, then a part of a line or
    /// head.
    held: BytesMut,
    /// Maximum length of a head.
    most: usize,
    /// How many bytes of `held` hyper may read.
    cleared: usize,
    ended: Option<EarlyEnd>,
}

/// The place of the fault that ended the reading.
enum EarlyEnd {
    InHead,
    InBody(Reject),
}

impl<'a, S> Wire<'a, S> {
    /// Returns a stream over `stream` that pushes to `facts` what hyper hides about each head.
    pub(super) fn new(stream: S, limits: &Limits, facts: &'a FactsQueue) -> Self {
        Wire {
            stream,
            framing: Framing::new(limits.head_bytes, limits.headers),
            facts,
            held: BytesMut::new(),
            most: limits.head_bytes,
            cleared: 0,
            ended: None,
        }
    }

    /// Returns whether no part of a request is held here or by hyper, so that hyper can be dropped.
    pub(super) fn is_between_requests(&self) -> bool {
        self.held.is_empty()
            && self.ended.is_none()
            && self.framing.is_at_head()
            && self.facts.is_empty()
    }

    /// Waits until a whole head, or one with a fault, is held; returns `false` at the end of the
    /// stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>>
    where
        S: AsyncRead + Unpin,
    {
        let mut space = [0; 4096];
        while self.cleared == 0 && self.ended.is_none() {
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            let fault = self.hold(buffer.filled());
            self.note(fault);
        }
        Poll::Ready(Ok(true))
    }

    /// Holds new bytes, and determines how many of them hyper may read.
    fn hold(&mut self, fresh: &[u8]) -> Option<Fault> {
        let length = self.held.len() + fresh.len();
        if length > self.held.capacity() {
            // Without this, it would grow to twice the longest head.
            let mut longer = BytesMut::with_capacity(length.max((length * 2).min(self.most)));
            longer.extend_from_slice(&self.held);
            self.held = longer;
        }
        self.held.extend_from_slice(fresh);
        self.examine()
    }

    /// Determines how many of the held bytes hyper may read, after those that are known already.
    fn examine(&mut self) -> Option<Fault> {
        loop {
            let unread = &self.held[self.cleared..];
            let Passed { bytes, replaced, fault } = self.framing.pass(unread, self.facts);
            self.cleared += bytes;
            let Some(Replaced { length, head }) = replaced else { return fault };
            let rest = self.held.split_off(self.cleared + length);
            self.held.truncate(self.cleared);
            self.held.extend_from_slice(&head);
            self.cleared = self.held.len();
            self.held.extend_from_slice(&rest);
        }
    }

    /// Moves held bytes that hyper may read to its buffer.
    fn pass(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.cleared.min(buffer.remaining());
        buffer.put_slice(&self.held[..bytes]);
        self.held.advance(bytes);
        self.cleared -= bytes;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Checks the bytes of `buffer` after the first `start`, and removes those that hyper may not
    /// read yet.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let fresh = &buffer.filled()[start..];
        let fault = if self.held.is_empty() {
            let Passed { bytes, replaced, fault } = self.framing.pass(fresh, self.facts);
            let (mut rest, is_replaced) = (&fresh[bytes..], replaced.is_some());
            if let Some(Replaced { length, head }) = replaced {
                self.held.extend_from_slice(&head);
                self.cleared = head.len();
                rest = &rest[length..];
            }
            self.held.extend_from_slice(rest);
            buffer.set_filled(start + bytes);
            if is_replaced { self.examine() } else { fault }
        } else {
            let fault = self.hold(fresh);
            buffer.set_filled(start);
            fault
        };
        self.note(fault);
    }

    fn note(&mut self, fault: Option<Fault>) {
        match fault {
            None => {}
            Some(Fault::Head(why)) => {
                self.facts.push(WireFacts::rejected(why));
                self.held.truncate(self.cleared);
                self.held.extend_from_slice(STAND_IN);
                self.cleared = self.held.len();
                self.ended = Some(EarlyEnd::InHead);
            }
            Some(Fault::Body(why)) => {
                self.held.truncate(self.cleared);
                self.ended = Some(EarlyEnd::InBody(why));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let start = buffer.filled().len();
        loop {
            if this.cleared > 0 {
                this.pass(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(EarlyEnd::InBody(why)) = &this.ended {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why.clone())));
            }
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if buffer.filled().len() == start {
                // A client may end its side after its request and read the response (RFC 9112
                // section 9.6), for which hyper would cancel the request: it sees the end after the
                // response.
                if this.framing.is_at_head() && this.facts.half_close() {
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended.is_some() {
                buffer.set_filled(start);
                continue;
            }
            this.check(buffer, start);
            // An empty read would mean the end of the stream.
            if buffer.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
