//! Connections to one upstream origin.
//!
//! Connections are kept a short time (2 s by default, below the keep-alive of Node, PHP-FPM front
//! ends and Java servers): one that the upstream closes while a request is being written leaves an
//! unknown outcome. A connection belongs to the thread that opened it, so the idle ones are kept in
//! a shard a thread.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{
    Address, Origin, Secure, UpstreamOptions,
    connection::{Connection, Stream},
};
use crate::tls;

/// How long an origin that refused a connection is passed over while others are there. Then one
/// request tries it; the others pass it over until that one has its connection.
const REST: Duration = Duration::from_secs(2);
/// The longest wait for one connection; the next attempt may go to another origin.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// How often the idle connections are looked through, at least.
const SWEEP: Duration = Duration::from_secs(2);

/// The connections to one origin.
#[derive(Debug)]
pub(super) struct Pool {
    origin: Origin,
    tls: Option<Secure>,
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
    connection: Connection,
    since: Instant,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// How many threads can run at one time. The system is asked once: it reads a dozen files for it, and
/// there may be a thousand pools.
fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *PROCESSORS
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
        Arc::new(Pool {
            origin,
            tls: options.tls.clone(),
            idle: options.idle,
            shards: (0..processors()).map(|_| Mutex::default()).collect(),
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

    fn elapsed(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn shard(&self) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[thread_number() % self.shards.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection that is still open at this time, the one used last first.
    pub(super) async fn reuse(&self, now: Instant) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.shard().connections.pop()?;
            let is_fresh = now.saturating_duration_since(since) <= self.idle;
            if is_fresh && poll_fn(|context| Poll::Ready(connection.check(context))).await.is_ok() {
                return Some(connection);
            }
            connection.close();
        }
    }

    /// A new connection, before `by`.
    ///
    /// # Errors
    /// What the system said; the origin then rests.
    pub(super) async fn connect(&self, by: Instant) -> io::Result<Connection> {
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

    async fn open(&self) -> io::Result<Connection> {
        let stream = match &self.origin.address {
            Address::Http { host, port } => Stream::Tcp(tcp(host, *port).await?),
            Address::Https { host, port } => {
                let tls = self.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let name = match &tls.name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host.clone()).map_err(io::Error::other)?,
                };
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                let stream = connector.connect(name, tcp(host, *port).await?).await?;
                Stream::Tls(Box::new(stream))
            }
            Address::Unix(socket) => Stream::Unix(UnixStream::connect(socket).await?),
        };
        let mut connection = Connection::new(stream);
        poll_fn(|context| Poll::Ready(connection.check(context))).await?;
        Ok(connection)
    }

    /// Keeps a connection that can take another request, as of now.
    pub(super) fn put_back(self: &Arc<Self>, connection: Connection, now: Instant) {
        // Whoever tried it after its rest may have had a connection from before.
        self.end_rest();
        if self.idle.is_zero() {
            return connection.close();
        }
        let mut shard = self.shard();
        shard.connections.push(Idle { connection, since: now });
        if !shard.swept {
            shard.swept = true;
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Closes what nobody used in time, and what the upstream closed; ends when nothing is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.idle.min(SWEEP)).await;
            let left = poll_fn(|context| Poll::Ready(self.look_through(context))).await;
            if left == 0 {
                return;
            }
        }
    }

    fn look_through(&self, context: &mut Context<'_>) -> usize {
        let mut shard = self.shard();
        let ended = shard.connections.extract_if(.., |idle| {
            idle.since.elapsed() > self.idle || idle.connection.check(context).is_err()
        });
        ended.for_each(|idle| idle.connection.close());
        shard.swept = !shard.connections.is_empty();
        shard.connections.len()
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
