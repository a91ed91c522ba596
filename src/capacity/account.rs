//! What each network holds, and which networks have sent authentic requests.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Locks for networks, so that workers seldom wait for each other.
pub(super) const SHARDS: usize = 16;
/// How long a network is known after an authentic request, in seconds.
const KNOWN: u64 = 86_400;
/// Known networks that hold nothing and are still remembered, per shard.
const MAX_KNOWN: usize = 4096;
/// Accounts of a shard that are not worth a search for unused ones.
const FEW: usize = 64;

/// A network that counts as one client: an IPv4 address, or an IPv6 /56, which is what one customer
/// of a provider gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        Network(match address.to_canonical() {
            four @ IpAddr::V4(_) => four,
            IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & !(u128::MAX >> 56))),
        })
    }
}

/// What one network holds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Account(Arc<Holdings>);

#[derive(Debug)]
struct Holdings {
    network: Network,
    connections: AtomicU64,
    bytes: AtomicU64,
    permits: AtomicU64,
    /// The second of the last authentic request, from 1; 0 if there was none.
    authentic: AtomicU64,
}

impl Account {
    pub(super) fn network(&self) -> Network {
        self.0.network
    }

    pub(super) fn connections(&self) -> &AtomicU64 {
        &self.0.connections
    }

    pub(super) fn bytes(&self) -> &AtomicU64 {
        &self.0.bytes
    }

    pub(super) fn permits(&self) -> &AtomicU64 {
        &self.0.permits
    }

    /// Notes that the network has sent an authentic request.
    pub fn note_authentic(&self) {
        let now = second();
        if self.0.authentic.load(Ordering::Relaxed) != now {
            self.0.authentic.store(now, Ordering::Relaxed);
        }
    }

    /// Returns whether the network has recently sent an authentic request.
    pub(super) fn is_known(&self) -> bool {
        let last = self.0.authentic.load(Ordering::Relaxed);
        last > 0 && second() - last < KNOWN
    }
}

/// Returns the seconds since the first call, from 1.
fn second() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs() + 1
}

/// The accounts of all networks that hold something or are known.
#[derive(Debug)]
pub(super) struct Accounts {
    shards: [Mutex<AccountShard>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct AccountShard {
    accounts: HashMap<Network, Account>,
    /// How many accounts there may be until the unused ones are searched for.
    search_at: usize,
}

impl Default for Accounts {
    fn default() -> Self {
        let shard = || Mutex::new(AccountShard { accounts: HashMap::new(), search_at: FEW });
        Accounts { shards: std::array::from_fn(|_| shard()), hasher: RandomState::new() }
    }
}

impl Accounts {
    pub(super) fn account(&self, address: IpAddr) -> Account {
        let network = Network::of(address);
        let shard = &self.shards[self.hasher.hash_one(network) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = shard.accounts.get(&network) {
            return account.clone();
        }
        if shard.accounts.len() >= shard.search_at {
            shard.forget_unused();
        }
        let account = Account(Arc::new(Holdings {
            network,
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            permits: AtomicU64::new(0),
            authentic: AtomicU64::new(0),
        }));
        shard.accounts.insert(network, account.clone());
        account
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("not poisoned").accounts.len()).sum()
    }
}

impl AccountShard {
    /// Removes accounts that nothing holds: of known networks those that are known for longest.
    fn forget_unused(&mut self) {
        let is_used = |account: &Account| Arc::strong_count(&account.0) > 1;
        let last = |account: &Account| account.0.authentic.load(Ordering::Relaxed);
        let unused = self.accounts.values().filter(|account| !is_used(account));
        let mut known: Vec<_> = unused.filter(|account| account.is_known()).map(last).collect();
        known.sort_unstable_by(|one, other| other.cmp(one));
        let oldest = known.get(MAX_KNOWN).copied().unwrap_or(0);
        self.accounts.retain(|_, account| {
            is_used(account) || (account.is_known() && last(account) > oldest)
        });
        self.search_at = (2 * self.accounts.len()).max(FEW);
    }
}
