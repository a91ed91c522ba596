//! One connection to an upstream: a request goes out and its answer comes in, both polled in place by whoever
//! waits for the answer.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

use super::response_head::{ResponseHead, Whole};
use crate::{body::Payload, tls};

/// The least room for a read.
const ROOM: usize = 4096;
/// The most room that is made for bytes that were only announced.
const MOST_ROOM: usize = 64 << 10;
/// The most pieces in one write.
const PIECES: usize = 16;

/// What bytes go over.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A connection that takes one request after the other.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// What was read and belongs to no answer yet.
    buffer: BytesMut,
}

/// A request, and how much of it was sent.
#[derive(Debug)]
pub(super) struct Sending<'r> {
    start: &'r [u8],
    lines: &'r [u8],
    /// Given up once it was sent.
    body: &'r mut Option<Payload>,
    /// The piece that is sent next, and how much of it was sent.
    piece: usize,
    offset: usize,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// Nothing of the request was given to the stream.
    Untouched,
    Begun,
    /// All of it was given to the stream, which may hold some of it.
    Given,
    Sent,
    /// The stream takes no more; there may be an answer all the same.
    Stuck,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nothing of the request was sent.
    Unsent(io::Error),
    /// The upstream refused our certificate, and so has taken nothing of the request.
    Refused(io::Error),
    /// Whether the upstream has taken the request is unknown.
    Unknown,
}

impl Stream {
    /// Reads into the room that `buffer` has.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(context),
            Stream::Tls(stream) => pin!(stream.read_buf(buffer)).poll(context),
            Stream::Unix(stream) => pin!(stream.read_buf(buffer)).poll(context),
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    /// Sends what TLS holds.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }
}

impl Connection {
    /// A connection that nothing was sent on.
    pub(super) fn new(stream: Stream) -> Self {
        Connection { stream, buffer: BytesMut::new() }
    }

    /// Whether the upstream has neither closed the connection nor said what nobody asked for. As long as the
    /// kernel has told of nothing this costs no system call.
    ///
    /// # Errors
    /// Why the connection is of no use.
    pub(super) fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.buffer.reserve(ROOM);
        match self.stream.poll_read(context, &mut self.buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Ready(Ok(_)) => Err(io::ErrorKind::InvalidData.into()),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Sends a request and reads its answer, which may come before the request was sent. The second value is
    /// whether the connection can take another request.
    pub(super) async fn exchange(
        &mut self,
        mut sending: Sending<'_>,
        mut reading: ResponseHead,
    ) -> Result<(Whole, bool), NoAnswer> {
        poll_fn(|context| self.poll_exchange(context, &mut sending, &mut reading)).await
    }

    fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        sending: &mut Sending<'_>,
        reading: &mut ResponseHead,
    ) -> Poll<Result<(Whole, bool), NoAnswer>> {
        if let Err(error) = sending.poll_on(context, &mut self.stream) {
            return Poll::Ready(Err(NoAnswer::Unsent(error)));
        }
        let whole = match ready!(self.poll_answer(context, reading)) {
            Ok(whole) => whole,
            Err(error) => return Poll::Ready(Err(sending.failure(error))),
        };
        let is_sent = match sending.progress {
            // Nobody answers what was not asked.
            Progress::Untouched => {
                return Poll::Ready(Err(NoAnswer::Unsent(io::ErrorKind::InvalidData.into())));
            }
            Progress::Begun | Progress::Given | Progress::Stuck => false,
            Progress::Sent => true,
        };
        let keeps = whole.persistent && is_sent && self.buffer.is_empty();
        if whole.answer.body.len() > MOST_ROOM {
            // A connection that is kept keeps no more than it usually needs.
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok((whole, keeps)))
    }

    fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        reading: &mut ResponseHead,
    ) -> Poll<io::Result<Whole>> {
        let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let missing = usize::try_from(reading.missing(&self.buffer)).unwrap_or(MOST_ROOM);
            self.buffer.reserve(missing.clamp(ROOM, MOST_ROOM));
            let read = ready!(self.stream.poll_read(context, &mut self.buffer))?;
            let answer = match read {
                0 => reading.end(&mut self.buffer).map(Some),
                _ => reading.read_on(&mut self.buffer),
            };
            if let Some(whole) = answer.map_err(malformed)? {
                return Poll::Ready(Ok(whole));
            }
        }
    }

    /// Ends a connection that is not used any more; over TLS the upstream is told so, if that is possible at once.
    pub(super) fn close(self) {
        if let Stream::Tls(mut stream) = self.stream {
            let _ = Pin::new(&mut stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<'r> Sending<'r> {
    /// Sends the start of a head, the rest of it, and a body, which is given up once it was sent.
    pub(super) fn new(start: &'r [u8], lines: &'r [u8], body: &'r mut Option<Payload>) -> Self {
        Sending { start, lines, body, piece: 0, offset: 0, progress: Progress::Untouched }
    }

    fn piece(&self, number: usize) -> Option<&[u8]> {
        match number {
            0 => Some(self.start),
            1 => Some(self.lines),
            _ => self.body.as_ref()?.chunks().get(number - 2).map(|chunk| &**chunk),
        }
    }

    /// Sends as much as the stream takes now.
    ///
    /// # Errors
    /// What the stream said, if nothing at all was sent.
    fn poll_on(&mut self, context: &mut Context<'_>, stream: &mut Stream) -> io::Result<()> {
        while matches!(self.progress, Progress::Untouched | Progress::Begun) {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (place, number) in pieces.iter_mut().zip(self.piece..) {
                let Some(piece) = self.piece(number) else { break };
                let offset = if count == 0 { self.offset } else { 0 };
                *place = IoSlice::new(&piece[offset..]);
                count += 1;
            }
            match stream.poll_write(context, &pieces[..count]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return self.stop(io::ErrorKind::WriteZero.into(), stream),
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return self.stop(error, stream),
            }
        }
        if let Progress::Given = self.progress {
            match stream.poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.progress = Progress::Sent;
                    *self.body = None;
                }
                Poll::Ready(Err(_)) => self.progress = Progress::Stuck,
            }
        }
        Ok(())
    }

    /// Notes that the stream took so many bytes more.
    fn advance(&mut self, mut count: usize) {
        self.progress = Progress::Begun;
        while let Some(left) = self.piece(self.piece).map(|piece| piece.len() - self.offset) {
            if count < left {
                self.offset += count;
                return;
            }
            count -= left;
            (self.piece, self.offset) = (self.piece + 1, 0);
        }
        self.progress = Progress::Given;
    }

    /// Sends no more after an error of the stream. TLS cuts what it is given into records, and may have sent some
    /// of them before the error.
    fn stop(&mut self, error: io::Error, stream: &Stream) -> io::Result<()> {
        let may_have_sent = match stream {
            Stream::Tcp(_) | Stream::Unix(_) => !matches!(self.progress, Progress::Untouched),
            Stream::Tls(_) => true,
        };
        if !may_have_sent {
            return Err(error);
        }
        self.progress = Progress::Stuck;
        Ok(())
    }

    /// What it means that there is no answer.
    fn failure(&self, error: io::Error) -> NoAnswer {
        if matches!(self.progress, Progress::Untouched) {
            NoAnswer::Unsent(error)
        } else if tls::is_refused_certificate(&error) {
            NoAnswer::Refused(error)
        } else {
            NoAnswer::Unknown
        }
    }
}
