//! What hyper reads of an HTTP/1 connection, after a check stricter than hyper's own.
//!
//! hyper hides from its service what makes a request ambiguous: it drops a `Content-Length` beside
//! `Transfer-Encoding`, folds repeated ones into one, takes a bare LF for a line end, cuts a fragment
//! off the target, skips chunk extensions. So the bytes are read along here, above TLS, and hyper
//! sees only whole heads and whole chunk lines that can be read in one way. It sees them unchanged.
//!
//! A head with a fault does not go on. In its place hyper reads a head of ours, so that the refusal
//! takes its turn behind the answers to earlier requests and is answered, counted and logged like any
//! other. A fault within a body fails the read of that body. Either ends the connection; whatever
//! follows is read and thrown away, since where the next request begins is no longer known.
//!
//! Cost: a head that arrives in one read is checked where it lies. One that is split over reads is
//! held until it is whole, which `head_bytes` bounds. Body bytes are counted, not looked at.

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
use self::framing::{Fault, Framing, Passed};
use super::options::Limits;
use crate::{gate::WireFacts, reject::Reject};

/// Stands for a head with a fault. No path and no health check can be configured at `*`.
const STAND_IN: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// A stream that gives only HTTP/1 requests that can be read in one way.
pub(super) struct Wire<'a, S> {
    stream: S,
    framing: Framing,
    facts: &'a FactsQueue,
    /// What came and has not gone on: first what may go on, then the part of a line or head.
    held: BytesMut,
    /// The longest head.
    most: usize,
    /// How much of `held` may go on.
    cleared: usize,
    ended: Option<Ended>,
}

/// Where the fault was that ended the reading.
enum Ended {
    InHead,
    InBody(Reject),
}

impl<'a, S> Wire<'a, S> {
    /// Reads `stream` along; what hyper would hide of each head goes to `facts`.
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

    /// Whether nothing of a request is here or with hyper: who reads may be replaced.
    pub(super) fn is_between_requests(&self) -> bool {
        self.held.is_empty()
            && self.ended.is_none()
            && self.framing.is_at_head()
            && self.facts.is_empty()
    }

    /// Waits for a whole head, or one with a fault, and holds it for whoever reads next; `false` at the
    /// end.
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

    /// Holds what came, and finds out how much may go on.
    fn hold(&mut self, fresh: &[u8]) -> Option<Fault> {
        let length = self.held.len() + fresh.len();
        if length > self.held.capacity() {
            // Not twice as much as the longest head, as it would grow by itself.
            let mut longer = BytesMut::with_capacity(length.max((length * 2).min(self.most)));
            longer.extend_from_slice(&self.held);
            self.held = longer;
        }
        self.held.extend_from_slice(fresh);
        let Passed { bytes, fault } = self.framing.pass(&self.held, self.facts);
        self.cleared = bytes;
        fault
    }

    /// Gives what may go on of what is held.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.cleared.min(buffer.remaining());
        buffer.put_slice(&self.held[..bytes]);
        self.held.advance(bytes);
        self.cleared -= bytes;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Checks what was read into `buffer` behind its first `start` bytes, and takes out of it what may
    /// not go on yet.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let fresh = &buffer.filled()[start..];
        let fault = if self.held.is_empty() {
            let Passed { bytes, fault } = self.framing.pass(fresh, self.facts);
            self.held.extend_from_slice(&fresh[bytes..]);
            buffer.set_filled(start + bytes);
            fault
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
                self.ended = Some(Ended::InHead);
            }
            Some(Fault::Body(why)) => {
                self.held.truncate(self.cleared);
                self.ended = Some(Ended::InBody(why));
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
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(Ended::InBody(why)) = &this.ended {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why.clone())));
            }
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if buffer.filled().len() == start {
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
