//! A limit on HTTP/2 frames that carry nothing and cost their client next to nothing: `h2`
//! processes each PING, SETTINGS, WINDOW_UPDATE and empty DATA frame, however many come.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's preface, before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Length of a frame's header (section 4.1).
const HEADER: usize = 9;
/// How many such frames a client may send at once,
const BURST: u32 = 1000;
/// per second in the long run,
const PER_SECOND: u32 = 10;
/// and in addition for each request.
const PER_REQUEST: u32 = 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const LAST_KNOWN: u8 = 9;
/// The flag of the last frame of a stream (section 6.1).
const END_STREAM: u8 = 1;

/// A stream that fails when the client exceeds the limit.
pub(super) struct FrameLimit<S> {
    stream: S,
    /// Bytes until the next frame's header.
    skip: usize,
    header: [u8; HEADER],
    /// How much of the header has been read.
    filled: usize,
    /// How many more frames there may be.
    credit: u32,
    granted: Instant,
}

impl<S> FrameLimit<S> {
    pub(super) fn new(stream: S) -> Self {
        FrameLimit {
            stream,
            skip: PREFACE,
            header: [0; HEADER],
            filled: 0,
            credit: BURST,
            granted: Instant::now(),
        }
    }

    /// Counts the frames that begin in `bytes`.
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER {
                let [high, middle, low, kind, flags, ..] = self.header;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.filled = 0;
                self.count(kind, flags)?;
            }
        }
        Ok(())
    }

    /// Counts a frame of `skip` bytes.
    fn count(&mut self, kind: u8, flags: u8) -> io::Result<()> {
        match kind {
            DATA if self.skip == 0 && flags & END_STREAM == 0 => self.spend()?,
            HEADERS => self.credit = (self.credit + PER_REQUEST).min(BURST),
            PRIORITY | SETTINGS | PING | WINDOW_UPDATE => self.spend()?,
            unknown if unknown > LAST_KNOWN => self.spend()?,
            _ => {}
        }
        Ok(())
    }

    fn spend(&mut self) -> io::Result<()> {
        if self.credit == 0 {
            let seconds = u32::try_from(self.granted.elapsed().as_secs()).unwrap_or(u32::MAX);
            self.credit = seconds.saturating_mul(PER_SECOND).min(BURST);
            if self.credit == 0 {
                return Err(io::Error::other("too many HTTP/2 frames without a request"));
            }
            self.granted = Instant::now();
        }
        self.credit -= 1;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.read(&buffer.filled()[start..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameLimit<S> {
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
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + usize::from(length), 0xff);
        frame
    }

    /// Returns how many of the frames are read, in pieces of so many bytes.
    fn read(frames: impl Iterator<Item = Vec<u8>>, piece: usize) -> usize {
        let mut limit = FrameLimit::new(());
        limit.read(&[PING; PREFACE]).expect("the preface");
        let is_read = |frame: &Vec<u8>| frame.chunks(piece).all(|part| limit.read(part).is_ok());
        frames.take_while(is_read).count()
    }

    #[test]
    fn a_flood_is_ended_however_it_is_split() {
        for piece in [1, 5, 100] {
            for (kind, length) in
                [(DATA, 0), (PRIORITY, 5), (SETTINGS, 6), (PING, 8), (WINDOW_UPDATE, 4), (0x77, 8)]
            {
                let frames = (0..5000).map(|_| frame(kind, length));
                assert_eq!(read(frames, piece), BURST as usize, "{kind} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn frames_of_requests_are_not_limited() {
        let requests =
            (0..5000).flat_map(|_| [frame(PING, 8), frame(HEADERS, 40), frame(DATA, 200)]);
        assert_eq!(read(requests, 64), 15_000);
    }
}
