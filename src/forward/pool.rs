//! Connections to one upstream origin.
//!
//! Connections are kept a short time (2 s by default, below the keep-alive of Node, PHP-FPM front
//! ends and Java servers): one that the upstream closes while a request is being written leaves an
//! unknown outcome. A connection belongs to the thread that opened it, so the idle ones are kept in
//! a shard a thread.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{Address, Origin, Secure, UpstreamOptions};
use crate::{body::Outgoing, reject::Reject, tls};

/// How long an origin that refused a connection is passed over while others are there. Then one
/// request tries it; the others pass it over until that one has its connection.
const REST: Duration = Duration::from_secs(2);
/// The longest wait for one connection; the next attempt may go to another origin.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// The most header lines of an answer.
const ANSWER_HEADERS: usize = 100;
/// The longest wait for a connection that was used before to take the next request: one whose upstream
/// answered early may still be writing the request before, which nobody reads.
const READY: Duration = Duration::from_millis(20);

/// The connections to one origin.
#[derive(Debug)]
pub(super) struct Pool {
    origin: Origin,
    tls: Option<Secure>,
    answer_head_bytes: usize,
    idle: Duration,
    shards: Vec<Mutex<Shard>>,
    started: Instant,
    /// In milliseconds since `started`; 0 while connections come about.
    rests_until: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    connections: Vec<Idle>,
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Outgoing>,
    since: Instant,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The number of this thread, for choosing a shard.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(origin: Origin, options: &UpstreamOptions) -> Arc<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Pool {
            origin,
            tls: options.tls.clone(),
            answer_head_bytes: options.answer_head_bytes,
            idle: options.idle,
            shards: (0..threads).map(|_| Mutex::default()).collect(),
            started: Instant::now(),
            rests_until: AtomicU64::new(0),
        })
    }

    /// The origin that the connections go to.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether the origin refused a connection a moment ago.
    pub(super) fn rests(&self) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until != 0 && until > self.elapsed()
    }

    /// Whether a request may try this origin. After a rest one request at a time may.
    pub(super) fn takes(&self) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.elapsed();
        let try_it = || {
            let next = now.saturating_add(millis(REST));
            let (order, rests) = (Ordering::Relaxed, &self.rests_until);
            rests.compare_exchange(until, next, order, order).is_ok()
        };
        until <= now && try_it()
    }

    /// Notes that no connection came about, and tells the operator why.
    pub(super) fn rest(&self, error: &io::Error) {
        let until = self.elapsed().saturating_add(millis(REST));
        let rested = self.rests_until.swap(until, Ordering::Relaxed) != 0;
        let (upstream, advice) = (&self.origin, tls::advice(error).unwrap_or(""));
        if rested {
            tracing::debug!(%upstream, %error, advice, "still cannot connect to the upstream");
        } else {
            tracing::warn!(%upstream, %error, advice, "cannot connect to the upstream");
        }
    }

    /// What a connection that broke after something was written means for the request.
    pub(super) fn broke_off(&self, error: &hyper::Error) -> Reject {
        if !tls::is_refused_certificate(error) {
            return Reject::UpstreamReset;
        }
        let refused = std::error::Error::source(error).and_then(|source| source.downcast_ref());
        self.rest(refused.unwrap_or(&io::ErrorKind::ConnectionRefused.into()));
        Reject::UpstreamConnect
    }

    fn elapsed(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn shard(&self) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[thread_number() % self.shards.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection that is still open, the one used last first.
    pub(super) async fn reuse(&self) -> Option<SendRequest<Outgoing>> {
        loop {
            let idle = self.shard().connections.pop()?;
            if idle.since.elapsed() > self.idle || idle.sender.is_closed() {
                continue;
            }
            let mut sender = idle.sender;
            if sender.is_ready() {
                return Some(sender);
            }
            if let Ok(Ok(())) = tokio::time::timeout(READY, sender.ready()).await {
                return Some(sender);
            }
        }
    }

    /// A new connection, before `by`.
    ///
    /// # Errors
    /// What the system said; the origin then rests.
    pub(super) async fn connect(&self, by: Instant) -> io::Result<SendRequest<Outgoing>> {
        let by = by.min(Instant::now() + ATTEMPT);
        let connected = tokio::time::timeout_at(by, self.open())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &connected {
            Err(error) => self.rest(error),
            Ok(_) => self.end_rest(),
        }
        connected
    }

    fn end_rest(&self) {
        let rests = || self.rests_until.load(Ordering::Relaxed) != 0;
        if rests() && self.rests_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(upstream = %self.origin, "the upstream is in reach again");
        }
    }

    async fn open(&self) -> io::Result<SendRequest<Outgoing>> {
        match &self.origin.address {
            Address::Http { host, port } => self.speak(tcp(host, *port).await?).await,
            Address::Https { host, port } => {
                let tls = self.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let name = match &tls.name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host.clone()).map_err(io::Error::other)?,
                };
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                let stream = connector.connect(name, tcp(host, *port).await?).await?;
                self.speak(stream).await
            }
            Address::Unix(socket) => self.speak(UnixStream::connect(socket).await?).await,
        }
    }

    async fn speak<S>(&self, stream: S) -> io::Result<SendRequest<Outgoing>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_headers(ANSWER_HEADERS)
            .max_header_size(self.answer_head_bytes)
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn put_back(self: &Arc<Self>, sender: SendRequest<Outgoing>) {
        // Whoever tried it after its rest may have had a connection from before.
        self.end_rest();
        if sender.is_closed() || self.idle.is_zero() {
            return;
        }
        let mut shard = self.shard();
        shard.connections.push(Idle { sender, since: Instant::now() });
        if !shard.swept {
            shard.swept = true;
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Closes what nobody used in time; ends when nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.idle).await;
            let mut shard = self.shard();
            shard
                .connections
                .retain(|idle| idle.since.elapsed() <= self.idle && !idle.sender.is_closed());
            if shard.connections.is_empty() {
                shard.swept = false;
                return;
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
