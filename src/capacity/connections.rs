//! Connections: how many there are, and which is closed for another.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::task::AbortHandle;

use super::{
    account::Account,
    eviction::{EvictionQueue, Ticket},
};
use crate::{metrics::ShedCounters, reject::Shed};

/// The connections of all clients.
pub(super) struct Connections {
    limit: u64,
    /// What only known networks may use.
    reserve: u64,
    share: u64,
    open: AtomicU64,
    unproven: EvictionQueue<Arc<Open>>,
    shed: ShedCounters,
}

/// A connection that is counted.
struct Open {
    account: Account,
    /// Whether it is counted; an evicted one no longer is.
    counted: AtomicBool,
    task: Arc<Task>,
}

/// The task that serves a connection. It is known soon after the connection was admitted.
#[derive(Default)]
struct Task {
    handle: OnceLock<AbortHandle>,
    aborted: AtomicBool,
}

/// A connection's part of the capacity, released when dropped.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    open: Arc<Open>,
    ticket: Option<Ticket>,
    /// Whether an authentic request has come over the connection, which is then not evicted.
    proven: AtomicBool,
}

/// Why a connection cannot be counted.
enum ConnectionsExceeded {
    Share,
    Limit,
}

impl Connections {
    pub(super) fn new(limit: u64, share: u64, shed: ShedCounters) -> Arc<Self> {
        let unproven = EvictionQueue::new();
        Arc::new(Connections {
            limit,
            reserve: limit / 4,
            share,
            open: AtomicU64::new(0),
            unproven,
            shed,
        })
    }

    /// Admits a connection, and evicts another if necessary.
    pub(super) fn admit(
        this: &Arc<Self>,
        account: Account,
        is_proxy: bool,
    ) -> Option<ConnectionSlot> {
        Self::admit_task(this, account, is_proxy, Arc::default())
    }

    fn admit_task(
        this: &Arc<Self>,
        account: Account,
        is_proxy: bool,
        task: Arc<Task>,
    ) -> Option<ConnectionSlot> {
        while let Err(exceeded) = this.count(&account, is_proxy) {
            this.shed.count(Shed::Connections);
            let evicted = match exceeded {
                ConnectionsExceeded::Share => this.unproven.pop_oldest_of(account.network()),
                ConnectionsExceeded::Limit => this.unproven.pop_oldest(account.is_known()),
            };
            this.evict(&*evicted?);
        }
        let open = Arc::new(Open { account, counted: AtomicBool::new(true), task });
        let ticket = (!is_proxy).then(|| this.unproven.push(&open.account, Arc::clone(&open)));
        let proven = AtomicBool::new(is_proxy);
        Some(ConnectionSlot { connections: Arc::clone(this), open, ticket, proven })
    }

    fn count(&self, account: &Account, is_proxy: bool) -> Result<(), ConnectionsExceeded> {
        let own = account.connections().fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let exceeded = if own > self.share && !is_proxy {
            ConnectionsExceeded::Share
        } else if all > self.limit
            || (all > self.limit - self.reserve && !is_proxy && !account.is_known())
        {
            ConnectionsExceeded::Limit
        } else {
            return Ok(());
        };
        self.discount(account);
        Err(exceeded)
    }

    fn discount(&self, account: &Account) {
        account.connections().fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn evict(&self, open: &Open) {
        self.release(open);
        open.task.abort();
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Releases a connection once.
    fn release(&self, open: &Open) {
        if open.counted.swap(false, Ordering::SeqCst) {
            self.discount(&open.account);
        }
    }
}

impl Task {
    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.get() {
            handle.abort();
        }
    }
}

impl ConnectionSlot {
    /// Returns the account of the other end.
    pub fn account(&self) -> &Account {
        &self.open.account
    }

    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        self.open.counted.load(Ordering::Relaxed)
    }

    /// Names the task that is aborted if the connection is evicted.
    pub fn set_task(&self, handle: AbortHandle) {
        let task = &self.open.task;
        let handle = task.handle.get_or_init(|| handle);
        if task.aborted.load(Ordering::SeqCst) {
            handle.abort();
        }
    }

    /// Admits the connection again as one of `account`, for which a trusted proxy opened it.
    pub fn transfer(&self, account: Account) -> Option<ConnectionSlot> {
        self.connections.release(&self.open);
        let task = Arc::clone(&self.open.task);
        Connections::admit_task(&self.connections, account, false, task)
    }

    /// Notes that an authentic request has come over the connection.
    pub fn note_authentic(&self) {
        if !self.proven.load(Ordering::Relaxed)
            && !self.proven.swap(true, Ordering::Relaxed)
            && let Some(ticket) = self.ticket
        {
            self.connections.unproven.remove(ticket);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        if !self.proven.load(Ordering::Relaxed)
            && let Some(ticket) = self.ticket
        {
            self.connections.unproven.remove(ticket);
        }
        self.connections.release(&self.open);
    }
}
