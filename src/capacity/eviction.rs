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
    shards: [Mutex<Shard<H>>; SHARDS],
    hasher: RandomState,
    next: AtomicU64,
}

/// A holder's place in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    network: Network,
    number: u64,
}

#[derive(Debug)]
struct Shard<H> {
    by_network: HashMap<Network, BTreeMap<u64, H>>,
    /// The holders that other networks may evict: not those of known networks.
    by_age: BTreeMap<u64, Network>,
}

impl<H> EvictionQueue<H> {
    pub(super) fn new() -> Self {
        let shard = || Mutex::new(Shard { by_network: HashMap::new(), by_age: BTreeMap::new() });
        EvictionQueue {
            shards: std::array::from_fn(|_| shard()),
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
        }
    }

    /// Adds a holder as the youngest.
    pub(super) fn push(&self, account: &Account, holder: H) -> Ticket {
        let (network, known) = (account.network(), account.is_known());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(network);
        shard.by_network.entry(network).or_default().insert(number, holder);
        if !known {
            shard.by_age.insert(number, network);
        }
        Ticket { network, number }
    }

    /// Removes a holder, which may have been evicted already.
    pub(super) fn remove(&self, ticket: Ticket) {
        self.shard(ticket.network).take(ticket);
    }

    /// Removes and returns the oldest holder of a network.
    pub(super) fn pop_oldest_of(&self, network: Network) -> Option<H> {
        let mut shard = self.shard(network);
        let number = *shard.by_network.get(&network)?.first_key_value()?.0;
        shard.take(Ticket { network, number })
    }

    /// Removes and returns the oldest holder of all networks that are not known.
    pub(super) fn pop_oldest(&self) -> Option<H> {
        let oldest = |shard: &Mutex<Shard<H>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.by_age.first_key_value().map(|(number, network)| (*number, *network))
        };
        let (number, network) = self.shards.iter().filter_map(oldest).min()?;
        self.shard(network).take(Ticket { network, number })
    }

    fn shard(&self, network: Network) -> MutexGuard<'_, Shard<H>> {
        let shard = &self.shards[self.hasher.hash_one(network) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> Shard<H> {
    fn take(&mut self, Ticket { network, number }: Ticket) -> Option<H> {
        self.by_age.remove(&number);
        let holders = self.by_network.get_mut(&network)?;
        let holder = holders.remove(&number);
        if holders.is_empty() {
            self.by_network.remove(&network);
        }
        holder
    }
}
