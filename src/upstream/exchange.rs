//! One request and its response on a connection to an upstream. Both directions are polled in place
//! by the task that waits for the response.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use super::{
    dial::UpstreamStream,
    response_reader::{ReceivedResponse, ResponseReader},
};
use crate::{body::Payload, capacity::Reservation, tls};

/// The least capacity for a read.
const MIN_READ: usize = 4096;
/// The most capacity reserved for bytes that have only been announced.
const MAX_RESERVE: usize = 64 << 10;
/// The longest response body that is not charged to the memory for bodies: it fits into the read
/// buffer of its connection.
const UNCHARGED: usize = MIN_READ;
/// The most slices in one write.
const SLICES: usize = 16;

/// A connection that serves one request after the other.
#[derive(Debug)]
pub(super) struct UpstreamConnection {
    stream: UpstreamStream,
    /// Bytes read that belong to no response yet.
    buffer: BytesMut,
}

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing<'r> {
    start: &'r [u8],
    lines: &'r [u8],
    /// Emptied once it has been sent.
    body: &'r mut Payload,
    /// The memory of the response body, if that is charged.
    memory: Option<Reservation>,
    /// The part to be sent next, and how much of it has been sent.
    part: usize,
    offset: usize,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// The stream has accepted nothing of the request.
    Unsent,
    Begun,
    /// The stream has accepted all of it and may still buffer some of it.
    Accepted,
    Sent,
    /// The stream accepts no more. A response is still possible.
    Failed,
}

/// Why an exchange has no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// Nothing of the request was sent.
    Unsent(io::Error),
    /// The upstream rejected our certificate and therefore processed nothing of the request.
    Certificate(io::Error),
    /// Whether the upstream processed the request is unknown.
    Unknown(io::Error),
}

impl UpstreamConnection {
    /// Wraps a stream on which nothing has been sent.
    pub(super) fn new(stream: UpstreamStream) -> Self {
        UpstreamConnection { stream, buffer: BytesMut::new() }
    }

    /// Checks that the upstream has neither closed the connection nor sent anything unasked. Needs
    /// no system call unless the kernel has reported readiness.
    ///
    /// # Errors
    /// Why the connection cannot be used.
    pub(super) fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.buffer.reserve(MIN_READ);
        match self.stream.poll_read(context, &mut self.buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Ready(Ok(_)) => Err(io::ErrorKind::InvalidData.into()),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Sends a request and reads its response, which may arrive before the request has been sent.
    /// The second value is whether the connection can serve another request.
    pub(super) async fn exchange(
        &mut self,
        mut request: Outgoing<'_>,
        mut reader: ResponseReader,
    ) -> Result<(ReceivedResponse, bool), ExchangeError> {
        poll_fn(|context| self.poll_exchange(context, &mut request, &mut reader)).await
    }

    fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        request: &mut Outgoing<'_>,
        reader: &mut ResponseReader,
    ) -> Poll<Result<(ReceivedResponse, bool), ExchangeError>> {
        if let Err(error) = request.poll_send(context, &mut self.stream) {
            return Poll::Ready(Err(ExchangeError::Unsent(error)));
        }
        let mut received = match ready!(self.poll_response(context, request, reader)) {
            Ok(received) => received,
            Err(error) => return Poll::Ready(Err(request.failure(error))),
        };
        let is_sent = match request.progress {
            // This is not a response to our request.
            Progress::Unsent => {
                return Poll::Ready(Err(ExchangeError::Unsent(io::ErrorKind::InvalidData.into())));
            }
            Progress::Begun | Progress::Accepted | Progress::Failed => false,
            Progress::Sent => true,
        };
        let is_reusable = received.persistent && is_sent && self.buffer.is_empty();
        if received.response.body.len() > MAX_RESERVE {
            // An idle connection keeps no more memory than it usually needs.
            self.buffer = BytesMut::new();
        }
        if let Some(memory) = request.memory.take() {
            received.response.body = memory.attach(received.response.body);
        }
        Poll::Ready(Ok((received, is_reusable)))
    }

    fn poll_response(
        &mut self,
        context: &mut Context<'_>,
        request: &mut Outgoing<'_>,
        reader: &mut ResponseReader,
    ) -> Poll<io::Result<ReceivedResponse>> {
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            let missing = usize::try_from(reader.missing(&self.buffer)).unwrap_or(MAX_RESERVE);
            self.buffer.reserve(missing.clamp(MIN_READ, MAX_RESERVE));
            let read = ready!(self.stream.poll_read(context, &mut self.buffer))?;
            let received = match read {
                0 => reader.finish(&mut self.buffer).map(Some),
                _ => reader.advance(&mut self.buffer),
            };
            let received = received.map_err(malformed)?;
            let length = match &received {
                Some(received) => received.response.body.len(),
                None => reader.received(&self.buffer),
            };
            if !request.charge(length) {
                self.buffer = BytesMut::new();
                return Poll::Ready(Ok(reader.omit_body(received)));
            }
            if let Some(received) = received {
                return Poll::Ready(Ok(received));
            }
        }
    }

    /// Closes a connection that is no longer used.
    pub(super) fn close(self) {
        self.stream.close();
    }
}

impl<'r> Outgoing<'r> {
    /// A request from the start of its head, the rest of the head, and its body, which is emptied
    /// once it has been sent.
    pub(super) fn new(start: &'r [u8], lines: &'r [u8], body: &'r mut Payload) -> Self {
        let progress = Progress::Unsent;
        Outgoing { start, lines, body, memory: None, part: 0, offset: 0, progress }
    }

    /// Charges a response body of `length` bytes to the memory that the request's body is charged
    /// to. Returns whether there is enough.
    fn charge(&mut self, length: usize) -> bool {
        if length <= UNCHARGED {
            return true;
        }
        if self.memory.is_none() {
            self.memory = self.body.response_memory();
        }
        self.memory.as_mut().is_none_or(|memory| memory.grow_to(length as u64).is_ok())
    }

    fn part(&self, number: usize) -> Option<&[u8]> {
        match number {
            0 => Some(self.start),
            1 => Some(self.lines),
            _ => self.body.chunks().get(number - 2).map(|chunk| &**chunk),
        }
    }

    /// Sends as much as the stream accepts now.
    ///
    /// # Errors
    /// The stream's error, if nothing at all was sent.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut UpstreamStream,
    ) -> io::Result<()> {
        while matches!(self.progress, Progress::Unsent | Progress::Begun) {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, number) in slices.iter_mut().zip(self.part..) {
                let Some(part) = self.part(number) else { break };
                let offset = if count == 0 { self.offset } else { 0 };
                *slice = IoSlice::new(&part[offset..]);
                count += 1;
            }
            match stream.poll_write(context, &slices[..count]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return self.fail(io::ErrorKind::WriteZero.into(), stream),
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return self.fail(error, stream),
            }
        }
        if let Progress::Accepted = self.progress {
            match stream.poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.progress = Progress::Sent;
                    self.body.clear();
                }
                Poll::Ready(Err(_)) => self.progress = Progress::Failed,
            }
        }
        Ok(())
    }

    /// Records that the stream accepted `count` more bytes.
    fn advance(&mut self, mut count: usize) {
        self.progress = Progress::Begun;
        while let Some(left) = self.part(self.part).map(|part| part.len() - self.offset) {
            if count < left {
                self.offset += count;
                return;
            }
            count -= left;
            (self.part, self.offset) = (self.part + 1, 0);
        }
        self.progress = Progress::Accepted;
    }

    /// Stops sending after an error of the stream. Returns the error if nothing was sent.
    fn fail(&mut self, error: io::Error, stream: &UpstreamStream) -> io::Result<()> {
        if matches!(self.progress, Progress::Unsent) && !stream.may_send_before_an_error() {
            return Err(error);
        }
        self.progress = Progress::Failed;
        Ok(())
    }

    /// Classifies an error of reading the response.
    fn failure(&self, error: io::Error) -> ExchangeError {
        if matches!(self.progress, Progress::Unsent) {
            ExchangeError::Unsent(error)
        } else if tls::is_rejected_certificate(&error) {
            ExchangeError::Certificate(error)
        } else {
            ExchangeError::Unknown(error)
        }
    }
}
