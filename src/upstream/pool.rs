//! Idle connections to one origin.
//!
//! Idle connections are kept for a short time (2 s by default, less than the keep-alive of Node,
//! PHP-FPM front ends and Java servers): one that the upstream closes while a request is being
//! written leaves an unknown outcome. A connection belongs to the thread that opened it, so each
//! thread has its own shard.

use std::{
    future::poll_fn,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::exchange::UpstreamConnection;

/// The longest interval between checks of the idle connections.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The idle connections to one origin.
#[derive(Debug)]
pub(super) struct ConnectionPool {
    /// How long an idle connection is kept; zero: not at all.
    lifetime: Duration,
    shards: Vec<Mutex<PoolShard>>,
}

#[derive(Debug, Default)]
struct PoolShard {
    connections: Vec<IdleConnection>,
    /// Whether a task checks this shard.
    is_checked: bool,
}

#[derive(Debug)]
struct IdleConnection {
    connection: UpstreamConnection,
    since: Instant,
}

/// Returns how many threads can run concurrently. The system is asked only once, because it reads a
/// dozen files for this and there may be a thousand pools.
fn parallelism() -> usize {
    static PARALLELISM: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *PARALLELISM
}

/// Returns the number of this thread, for choosing a shard.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

impl ConnectionPool {
    pub(super) fn new(lifetime: Duration) -> Arc<Self> {
        let shards = (0..parallelism()).map(|_| Mutex::default()).collect();
        Arc::new(ConnectionPool { lifetime, shards })
    }

    fn shard(&self) -> MutexGuard<'_, PoolShard> {
        let shard = &self.shards[thread_number() % self.shards.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection that is still open, the most recently used one first.
    pub(super) async fn take(&self, now: Instant) -> Option<UpstreamConnection> {
        loop {
            let IdleConnection { mut connection, since } = self.shard().connections.pop()?;
            let is_fresh = now.saturating_duration_since(since) <= self.lifetime;
            if is_fresh && poll_fn(|context| Poll::Ready(connection.check(context))).await.is_ok() {
                return Some(connection);
            }
            connection.close();
        }
    }

    /// Keeps a connection that can serve another request.
    pub(super) fn put_back(self: &Arc<Self>, connection: UpstreamConnection, now: Instant) {
        if self.lifetime.is_zero() {
            return connection.close();
        }
        let mut shard = self.shard();
        shard.connections.push(IdleConnection { connection, since: now });
        if !shard.is_checked {
            shard.is_checked = true;
            tokio::spawn(Arc::clone(self).keep_checking());
        }
    }

    /// Closes connections that were idle for too long or that the upstream closed; ends when none
    /// is left.
    async fn keep_checking(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.lifetime.min(CHECK_INTERVAL)).await;
            let left = poll_fn(|context| Poll::Ready(self.check_all(context))).await;
            if left == 0 {
                return;
            }
        }
    }

    fn check_all(&self, context: &mut Context<'_>) -> usize {
        let mut shard = self.shard();
        let closed = shard.connections.extract_if(.., |idle| {
            idle.since.elapsed() > self.lifetime || idle.connection.check(context).is_err()
        });
        closed.for_each(|idle| idle.connection.close());
        shard.is_checked = !shard.connections.is_empty();
        shard.connections.len()
    }
}
