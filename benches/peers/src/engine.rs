//! Senders and upstream in one thread around one `epoll`. There are no wake-ups between the two, so
//! one core can generate the load for a proxy on another core. Senders speak HTTP/1.1 over TLS 1.3;
//! the upstream sends the same few bytes in response to every request.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;

use crate::{sender::Sender, upstream::Upstream};

const LISTENER: u64 = u64::MAX;

enum Connection {
    Sender(Box<Sender>),
    Upstream(Upstream),
}

/// Complete response that a sender has received.
pub(crate) struct Answered {
    pub(crate) sender: usize,
    pub(crate) status: u16,
    /// Time at which the request was due.
    pub(crate) since: Instant,
    /// Whether the peer closes the connection after this response.
    pub(crate) closing: bool,
}

/// Events of one turn.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) answered: Vec<Answered>,
    /// Senders whose connection was reset.
    pub(crate) broken: Vec<usize>,
}

/// Behavior of the upstream, and what it has received.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Number of next requests that get 500.
    pub(crate) failures: usize,
    /// Whether requests are read without a response.
    pub(crate) holds: bool,
    /// Number of complete requests.
    pub(crate) seen: usize,
    /// Length of the bodies that are counted in `marked`.
    pub(crate) marked_length: usize,
    /// Number of requests with a body of this length.
    pub(crate) marked: usize,
}

/// Senders and upstream, driven by one `epoll`.
pub(crate) struct Engine {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    config: Arc<ClientConfig>,
    pub(crate) upstream: Behaviour,
    scratch: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(config: Arc<ClientConfig>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Engine {
            epoll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            config,
            upstream: Behaviour::default(),
            scratch: vec![0; 256 << 10],
        })
    }

    /// Returns the address of the upstream.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        })
    }

    fn close(&mut self, index: usize) {
        if self.connections[index].take().is_some() {
            self.free.push(index);
        }
    }

    /// Opens a sender's connection. The TLS handshake takes place in later turns.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> io::Result<usize> {
        let sender = Sender::connect(to, Arc::clone(&self.config))?;
        let index = self.slot();
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, sender.stream(), data, epoll::EventFlags::IN)?;
        self.connections[index] = Some(Connection::Sender(Box::new(sender)));
        Ok(index)
    }

    /// Sends a request that was due at `since`.
    pub(crate) fn send(&mut self, index: usize, request: &[u8], since: Instant) -> io::Result<()> {
        let Some(Connection::Sender(sender)) = &mut self.connections[index] else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        sender.send(request, since)?;
        arm(&self.epoll, index, sender)
    }

    /// Returns whether the sender's handshake is complete.
    pub(crate) fn is_ready(&self, index: usize) -> bool {
        matches!(&self.connections[index], Some(Connection::Sender(s)) if s.is_ready())
    }

    /// Closes a sender's connection gracefully.
    pub(crate) fn end(&mut self, index: usize) {
        if let Some(Connection::Sender(sender)) = &mut self.connections[index] {
            sender.say_goodbye();
        }
        self.close(index);
    }

    /// Sends the responses that the upstream held back.
    pub(crate) fn release(&mut self) {
        self.upstream.holds = false;
        for connection in self.connections.iter_mut().flatten() {
            if let Connection::Upstream(upstream) = connection {
                // The next read reports a broken connection.
                let _ = upstream.answer_held(usize::MAX);
            }
        }
    }

    /// Sends at most `limit` of the responses that the upstream holds back. Returns their number.
    pub(crate) fn answer(&mut self, limit: usize) -> usize {
        let mut left = limit;
        for connection in self.connections.iter_mut().flatten() {
            if let Connection::Upstream(upstream) = connection {
                // The next read reports a broken connection.
                left -= upstream.answer_held(left).unwrap_or_default();
            }
        }
        limit - left
    }

    /// Waits for at most `wait` and handles what is ready.
    pub(crate) fn turn(&mut self, wait: Duration, turn: &mut Turn) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let timeout = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
        {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let token = event.data.u64();
            if token == LISTENER {
                self.accept()?;
                continue;
            }
            let index = usize::try_from(token).unwrap_or(usize::MAX);
            let goes_on = match self.connections.get_mut(index) {
                Some(Some(Connection::Upstream(upstream))) => {
                    upstream.serve(&mut self.scratch, &mut self.upstream).is_ok()
                }
                Some(Some(Connection::Sender(sender))) => {
                    let read = sender.proceed(&mut self.scratch);
                    match read {
                        Ok(Some((status, since, closing))) => {
                            turn.answered.push(Answered { sender: index, status, since, closing });
                            true
                        }
                        Ok(None) => arm(&self.epoll, index, sender).is_ok(),
                        Err(_) => {
                            turn.broken.push(index);
                            false
                        }
                    }
                }
                Some(None) | None => true,
            };
            if !goes_on {
                self.close(index);
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let index = self.slot();
                    let data = epoll::EventData::new_u64(index as u64);
                    epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
                    self.connections[index] = Some(Connection::Upstream(Upstream::new(stream)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Registers for write events while data waits to be written.
fn arm(epoll: &OwnedFd, index: usize, sender: &mut Sender) -> io::Result<()> {
    if let Some(wants_write) = sender.changed_interest() {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, wants_write);
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(epoll, sender.stream(), data, flags)?;
    }
    Ok(())
}
