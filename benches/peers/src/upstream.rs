//! The application behind the proxies: reads a request and responds `ok`.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use crate::{engine::Behaviour, http1};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";
const FAILED: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nno\n";

/// Connection of a proxy to the upstream.
pub(crate) struct Upstream {
    stream: TcpStream,
    head: Vec<u8>,
    /// Number of body bytes that have not arrived.
    left: usize,
    held: usize,
}

impl Upstream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Upstream { stream, head: Vec::new(), left: 0, held: 0 }
    }

    /// Reads what has arrived and responds to each complete request.
    pub(crate) fn serve(&mut self, scratch: &mut [u8], how: &mut Behaviour) -> io::Result<()> {
        let length = match self.stream.read(scratch) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut data = &scratch[..length];
        while !data.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(data.len());
                self.left -= taken;
                data = &data[taken..];
            } else {
                let before = self.head.len();
                self.head.extend_from_slice(data);
                let Some(head) = http1::head(&self.head)? else { return Ok(()) };
                data = &data[head.length - before..];
                self.left = head.content_length;
                how.marked += usize::from(how.marked_length > 0 && self.left == how.marked_length);
                self.head.clear();
                if self.left > 0 {
                    continue;
                }
            }
            if self.left == 0 {
                self.answer(how)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, how: &mut Behaviour) -> io::Result<()> {
        how.seen += 1;
        if how.holds {
            self.held += 1;
            return Ok(());
        }
        if how.failures > 0 {
            how.failures -= 1;
            return self.stream.write_all(FAILED);
        }
        self.stream.write_all(OK)
    }

    /// Sends at most `limit` of the responses that are held back. Returns their number.
    pub(crate) fn answer_held(&mut self, limit: usize) -> io::Result<usize> {
        let count = self.held.min(limit);
        self.held -= count;
        for _ in 0..count {
            self.stream.write_all(OK)?;
        }
        Ok(count)
    }
}
