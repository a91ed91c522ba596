//! Capacity: connections, memory for bodies, and permits, shared so that no client and no route can
//! take all of it.
//!
//! - A **connection** counts from its accept to its end.
//! - A **body** is charged to the memory while it is received, and no request holds a permit until
//!   its body is complete and it is authentic.
//! - A **permit** is held from then until the exchange with the upstream has ended, which can be
//!   long after the sender has hung up.
//!
//! Clients are distinguished by network (IPv4 /32, IPv6 /56), each of which has a share of
//! everything. Connections and bodies without an authentic request can be evicted: the oldest of a
//! network that exceeds its share, or the oldest of all networks if the whole capacity is used up.
//! Networks that sent a new authentic event within a day are known: they have a reserve, and are
//! evicted only for each other. A copy of an event does not count, because anyone who holds a
//! captured request can send it. Half of the permits, and of the memory for authentic requests, is
//! guaranteed to the routes in equal parts, so that a slow upstream of one route cannot use up the
//! parts of the others.
//!
//! Cost: additions to atomic numbers. A lock is taken once per connection, for a body that is not
//! there yet when its head is, and for a request that names its client behind a trusted proxy.

mod account;
mod connections;
mod eviction;
mod memory;
mod permits;

use std::{net::IpAddr, sync::Arc};

pub use self::{
    account::Account,
    connections::ConnectionSlot,
    memory::Reservation,
    permits::{Permit, RouteShare},
};
use self::{account::Accounts, connections::Connections, memory::Memory, permits::Permits};
use crate::{metrics::Metrics, reject::Reject};

/// However small a capacity is, one network may hold this many connections or permits.
const SMALLEST_SHARE: u64 = 16;

/// The limits of the capacity.
#[derive(Clone, Copy, Debug)]
pub struct CapacityOptions {
    /// Public connections open concurrently.
    pub connections: usize,
    /// Permits.
    pub requests: usize,
    /// Bytes of all bodies.
    pub memory: u64,
    /// Percentage of each that one network may hold.
    pub address_share: u64,
}

/// The capacity of the gateway.
#[derive(Clone)]
pub struct Capacity {
    accounts: Arc<Accounts>,
    connections: Arc<Connections>,
    memory: Arc<Memory>,
    permits: Arc<Permits>,
}

impl Capacity {
    /// Returns a capacity of which nothing is used.
    pub fn new(options: CapacityOptions, metrics: &Metrics) -> Self {
        let share = |limit: u64| limit.saturating_mul(options.address_share.min(100)) / 100;
        let count_share = |limit: u64| share(limit).max(SMALLEST_SHARE).min(limit);
        let (connections, requests) = (options.connections as u64, options.requests as u64);
        Capacity {
            accounts: Arc::default(),
            connections: Connections::new(connections, count_share(connections), metrics.shed()),
            memory: Memory::new(options.memory, share(options.memory)),
            permits: Permits::new(requests, count_share(requests)),
        }
    }

    /// Returns the account of the network that an address belongs to.
    pub fn account(&self, address: IpAddr) -> Account {
        self.accounts.account(address)
    }

    /// Admits a connection, evicting an older one if necessary; `None` if none can be evicted. A
    /// trusted proxy's connections carry the requests of many clients: its share is not limited,
    /// and they are not evicted.
    pub fn connect(&self, account: Account, is_proxy: bool) -> Option<ConnectionSlot> {
        Connections::admit(&self.connections, account, is_proxy)
    }

    /// Reserves memory for a request whose body of at most `longest` bytes is to be received.
    ///
    /// # Errors
    /// [`Reject::Overloaded`].
    pub fn receive(&self, account: &Account, longest: u64) -> Result<Reservation, Reject> {
        Memory::receive(&self.memory, account, longest)
    }

    /// Takes a permit for a request whose body was received. Only an authentic request may take
    /// what is guaranteed to its route.
    ///
    /// # Errors
    /// [`Reject::Overloaded`].
    pub fn permit(
        &self,
        account: &Account,
        route: &Arc<RouteShare>,
        authentic: bool,
    ) -> Result<Permit, Reject> {
        Permit::take(&self.permits, account, route, authentic)
    }
}

#[cfg(test)]
mod tests;
