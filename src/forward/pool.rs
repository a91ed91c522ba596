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
use tokio::{net::TcpStream, time::Instant};

use super::Origin;
use crate::body::Outgoing;

/// How long an origin that refused a connection is passed over while others are there.
const REST: Duration = Duration::from_secs(2);
/// The longest wait for one connection; the next attempt may go to another origin.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// Limits of an upstream's answer that hyper keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerHead {
    /// Longest head, in bytes.
    pub(super) bytes: usize,
    /// Most header lines.
    pub(super) headers: usize,
}

/// The connections to one origin.
#[derive(Debug)]
pub(super) struct Pool {
    origin: Origin,
    head: AnswerHead,
    idle: Duration,
    shards: Vec<Mutex<Shard>>,
    started: Instant,
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

/// The number of this thread, for choosing a shard.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

impl Pool {
    /// A pool without connections.
    pub(super) fn new(origin: Origin, idle: Duration, head: AnswerHead) -> Arc<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Pool {
            origin,
            head,
            idle,
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
        self.rests_until.load(Ordering::Relaxed) > self.elapsed()
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
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
            if sender.ready().await.is_ok() {
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
        if let Err(error) = &connected {
            tracing::debug!(upstream = %self.origin, %error, "cannot connect");
            let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
            self.rests_until.store(self.elapsed().saturating_add(rest), Ordering::Relaxed);
        } else if self.rests_until.load(Ordering::Relaxed) != 0 {
            self.rests_until.store(0, Ordering::Relaxed);
        }
        connected
    }

    async fn open(&self) -> io::Result<SendRequest<Outgoing>> {
        let stream = TcpStream::connect((self.origin.host.as_str(), self.origin.port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(self.head.headers)
            .max_header_size(self.head.bytes)
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn put_back(self: &Arc<Self>, sender: SendRequest<Outgoing>) {
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
