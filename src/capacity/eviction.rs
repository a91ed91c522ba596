//! What can be evicted, oldest first, of one network or of all.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::account::{Account, Network, SHARDS};

/// Holders of one resource that have shown no authentic request.
#[derive(Debug)]
pub(super) struct EvictionQueue<H> {
    shards: [Mutex<QueueShard<H>>; SHARDS],
    hasher: RandomState,
    next: AtomicU64,
}

/// A holder's place in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    network: Network,
    age: Age,
}

/// The order of eviction: holders of unknown networks first, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Age {
    is_known: bool,
    number: u64,
}

#[derive(Debug)]
struct QueueShard<H> {
    by_network: HashMap<Network, BTreeMap<Age, H>>,
    by_age: BTreeMap<Age, Network>,
}

impl<H> EvictionQueue<H> {
    pub(super) fn new() -> Self {
        let shard =
            || Mutex::new(QueueShard { by_network: HashMap::new(), by_age: BTreeMap::new() });
        EvictionQueue {
            shards: std::array::from_fn(|_| shard()),
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
        }
    }

    /// Adds a holder as the youngest.
    pub(super) fn push(&self, account: &Account, holder: H) -> Ticket {
        let (network, number) = (account.network(), self.next.fetch_add(1, Ordering::Relaxed));
        let age = Age { is_known: account.is_known(), number };
        let mut shard = self.shard(network);
        shard.by_network.entry(network).or_default().insert(age, holder);
        shard.by_age.insert(age, network);
        Ticket { network, age }
    }

    /// Removes a holder, which may have been evicted already.
    pub(super) fn remove(&self, ticket: Ticket) {
        self.shard(ticket.network).take(ticket);
    }

    /// Removes and returns the oldest holder of a network.
    pub(super) fn pop_oldest_of(&self, network: Network) -> Option<H> {
        let mut shard = self.shard(network);
        let age = *shard.by_network.get(&network)?.first_key_value()?.0;
        shard.take(Ticket { network, age })
    }

    /// Removes and returns the oldest holder of all unknown networks or, if there is none and the
    /// capacity is for a known network, of all known ones.
    pub(super) fn pop_oldest(&self, for_known: bool) -> Option<H> {
        let oldest = |shard: &Mutex<QueueShard<H>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.by_age.first_key_value().map(|(age, network)| (*age, *network))
        };
        let (age, network) = self.shards.iter().filter_map(oldest).min()?;
        if age.is_known && !for_known {
            return None;
        }
        self.shard(network).take(Ticket { network, age })
    }

    fn shard(&self, network: Network) -> MutexGuard<'_, QueueShard<H>> {
        let shard = &self.shards[self.hasher.hash_one(network) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> QueueShard<H> {
    fn take(&mut self, Ticket { network, age }: Ticket) -> Option<H> {
        self.by_age.remove(&age);
        let holders = self.by_network.get_mut(&network)?;
        let holder = holders.remove(&age);
        if holders.is_empty() {
            self.by_network.remove(&network);
        }
        holder
    }
}
