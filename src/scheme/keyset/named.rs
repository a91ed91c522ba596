//! Keys that requests name, fetched one at a time: certificates, and keys of an API.
//!
//! Nothing in a request chooses where a key is fetched from: the host and the path are pinned, and
//! a name is a word. Verification reads what is in memory and never waits. A request with a key
//! that is not in memory gets 503, and the key is fetched in the background: one fetch at a time,
//! and at most [`FETCHES_A_MINUTE`]. Keys in memory are fetched again every [`PERIOD`] while they
//! are used, before other keys, and serve for [`LASTING`] while that fails.
//!
//! Anyone can name keys that do not exist, and each costs a fetch. So the clients that wait take
//! turns, and one client causes at most [`FETCHES_A_CLIENT`] in a minute. A name that the sender
//! does not know is known to be unknown for a minute.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{
    KeyLookup, LASTING, MAX_UNKNOWN, MINUTE, POLL,
    fetch::{FetchBackoff, FetchLimit, PERIOD},
    request::{FetchFailure, Fetched, KeyRequest},
};
use crate::scheme::public_key::PublicKey;

/// The most keys in memory.
const MAX_KEYS: usize = 64;
/// The longest name of a key.
const MAX_NAME: usize = 128;
/// The most clients that wait for keys.
const MAX_CLIENTS: usize = 64;
/// The most keys for which one client waits.
const MAX_PER_CLIENT: usize = 4;

/// The time after which a key in memory that could not be fetched again is due once more.
const RETRY: Duration = Duration::from_secs(300);
/// The most fetches within any minute for one client.
const FETCHES_A_CLIENT: usize = 3;
/// The most fetches of a key that the host does not respond to, until another request names it.
const ATTEMPTS: u8 = 5;

#[derive(Clone)]
struct CachedKey {
    key: PublicKey,
    /// When it may be used, in seconds since the Unix epoch.
    valid: RangeInclusive<i64>,
    fetched: Instant,
    /// When it is fetched again, if it is used.
    due: Instant,
}

/// The names that a client waits for, each with the number of fetches that failed.
type WantedNames = VecDeque<(Arc<str>, u8)>;

/// A name to fetch, and the client that waits for it with the number of fetches that failed; none
/// waits for a key that is in memory.
type NextFetch = (Arc<str>, Option<(IpAddr, u8)>);

/// The keys that are to be fetched.
#[derive(Default)]
struct FetchQueue {
    /// Keys in memory that are due.
    due: VecDeque<Arc<str>>,
    /// The names that clients wait for; the next client first.
    clients: VecDeque<(IpAddr, WantedNames)>,
    /// The fetches of the last minute, each with the client that waited for it.
    begun: VecDeque<(Instant, IpAddr)>,
    /// The names that the sender did not know, each with the time of the fetch.
    unknown: HashMap<Arc<str>, Instant>,
}

/// The keys of a sender, each fetched when a request names it.
pub struct NamedKeys {
    request: KeyRequest,
    keys: ArcSwap<HashMap<Arc<str>, CachedKey>>,
    queue: Mutex<FetchQueue>,
    wanted: Notify,
    /// Limits confirmations, which are sent to the same host.
    confirmations: Mutex<FetchLimit>,
    /// The time at which captured requests are verified, in seconds since the Unix epoch; 0 for
    /// the current time.
    time: AtomicI64,
}

impl NamedKeys {
    pub(in crate::scheme) fn new(request: KeyRequest) -> Arc<NamedKeys> {
        Arc::new(NamedKeys {
            request,
            keys: ArcSwap::default(),
            queue: Mutex::default(),
            wanted: Notify::new(),
            confirmations: Mutex::default(),
            time: AtomicI64::new(0),
        })
    }

    /// Returns whether the other keys are fetched in the same way.
    pub fn is_same(&self, other: &NamedKeys) -> bool {
        self.request == other.request
    }

    /// Verifies requests as at this time, in seconds since the Unix epoch.
    pub fn set_time(&self, seconds: i64) {
        self.time.store(seconds, Ordering::Relaxed);
    }

    fn now(&self) -> i64 {
        match self.time.load(Ordering::Relaxed) {
            0 => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
            }
            fixed => fixed,
        }
    }

    /// Returns the name of the key at an address, if this is exactly the pinned address.
    pub(in crate::scheme) fn name_in<'a>(&self, address: &'a [u8]) -> Option<&'a str> {
        self.request.name_in(std::str::from_utf8(address).ok()?)
    }

    /// Returns the key with this name.
    pub(in crate::scheme) fn find(&self, name: &str) -> KeyLookup {
        if !is_name(name) {
            return KeyLookup::Unknown;
        }
        if let Some(known) = self.keys.load().get(name) {
            if !known.valid.contains(&self.now()) {
                return KeyLookup::Unknown;
            }
            if known.fetched.elapsed() < LASTING {
                if known.due <= Instant::now() {
                    self.note_due(name);
                }
                return KeyLookup::Found(vec![known.key.clone()]);
            }
        }
        match self.queue().unknown.get(name) {
            Some(since) if since.elapsed() < MINUTE => KeyLookup::Unknown,
            Some(_) | None => KeyLookup::Pending,
        }
    }

    /// Requests a key for a client, in the background.
    pub fn want(&self, name: &str, client: IpAddr) {
        if self.queue().add(name, 0, network(client)) {
            self.wanted.notify_one();
        }
    }

    fn note_due(&self, name: &str) {
        let mut queue = self.queue();
        if !queue.due.iter().any(|known| **known == *name) {
            queue.due.push_back(name.into());
            self.wanted.notify_one();
        }
    }

    /// Fetches the keys that requests name; never returns.
    pub async fn maintain(self: Arc<Self>) {
        let (mut limit, mut backoff) = (FetchLimit::default(), FetchBackoff::default());
        let mut token = None;
        loop {
            while self.queue().is_empty() {
                self.wanted.notified().await;
            }
            limit.wait().await;
            let Some((name, waits)) = self.queue().next() else {
                // All that wait have had their fetches for now.
                tokio::time::sleep(POLL).await;
                continue;
            };
            limit.begin();
            let begun = Instant::now();
            match self.request.fetch(&name, &mut token, self.seconds()).await {
                Ok(fetched) => {
                    backoff = FetchBackoff::default();
                    self.store(&name, fetched, begun);
                }
                Err(failure) => {
                    let (FetchFailure::Host(error) | FetchFailure::Rejected(error)) = &failure;
                    tracing::warn!(url = %self.request.url(&name), %error, "cannot fetch the key");
                    match (waits, &failure) {
                        (None, _) => self.postpone(&name),
                        (Some((client, failed)), FetchFailure::Host(_))
                            if failed + 1 < ATTEMPTS =>
                        {
                            self.queue().add(&name, failed + 1, client);
                        }
                        (Some(_), _) => {}
                    }
                    if let FetchFailure::Host(_) = failure {
                        backoff.wait().await;
                    }
                }
            }
        }
    }

    /// Keeps a key that cannot be fetched again now.
    fn postpone(&self, name: &Arc<str>) {
        let mut keys = HashMap::clone(&self.keys.load());
        if let Some(key) = keys.get_mut(name) {
            key.due = Instant::now() + RETRY;
        }
        self.keys.store(Arc::new(keys));
    }

    /// Fetches one key at once.
    ///
    /// # Errors
    /// Says why that failed.
    pub async fn load(&self, name: &str) -> Result<(), String> {
        let begun = Instant::now();
        match self.request.fetch(name, &mut None, self.seconds()).await {
            Ok(fetched) => {
                self.store(&name.into(), fetched, begun);
                Ok(())
            }
            Err(FetchFailure::Host(error) | FetchFailure::Rejected(error)) => Err(error),
        }
    }

    /// Requests a path of the pinned host, for a sender that sends events only after a
    /// confirmation.
    ///
    /// # Errors
    /// Says why there is no confirmation.
    pub async fn confirm(&self, path: &str) -> Result<(), String> {
        if !self.confirmations.lock().unwrap_or_else(PoisonError::into_inner).try_begin() {
            return Err("too many confirmations within a minute".to_owned());
        }
        self.request.confirm(path).await
    }

    /// Takes over the keys of an earlier configuration that come from the same source.
    pub fn inherit(&self, other: &NamedKeys) {
        if self.request.has_same_source(&other.request) {
            self.keys.store(other.keys.load_full());
        }
    }

    /// Puts a response into memory, as if it had been fetched.
    #[cfg(test)]
    pub(in crate::scheme) fn put(&self, name: &str, response: &[u8]) -> Result<(), String> {
        let fetched = self.request.read(response, self.seconds());
        self.store(
            &name.into(),
            fetched.map_err(|failure| format!("{failure:?}"))?,
            Instant::now(),
        );
        Ok(())
    }

    fn store(&self, name: &Arc<str>, fetched: Fetched, begun: Instant) {
        self.queue().remove(name);
        let mut keys = HashMap::clone(&self.keys.load());
        match fetched {
            Fetched::Key { key, valid } => {
                if keys.len() >= MAX_KEYS
                    && !keys.contains_key(name)
                    && let Some(oldest) = keys.iter().min_by_key(|(_, key)| key.fetched)
                {
                    let oldest = Arc::clone(oldest.0);
                    keys.remove(&oldest);
                }
                keys.insert(
                    Arc::clone(name),
                    CachedKey { key, valid, fetched: begun, due: begun + PERIOD },
                );
            }
            Fetched::None(why) => {
                tracing::warn!(url = %self.request.url(name), why, "the key cannot be used");
                keys.remove(name);
                self.queue().note_unknown(name, begun);
            }
        }
        self.keys.store(Arc::new(keys));
    }

    fn seconds(&self) -> u64 {
        u64::try_from(self.now()).unwrap_or_default()
    }

    fn queue(&self) -> MutexGuard<'_, FetchQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FetchQueue {
    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.clients.is_empty()
    }

    /// Adds a name for a client, unless the client already waits for it or for too many.
    fn add(&mut self, name: &str, failed: u8, client: IpAddr) -> bool {
        let names = match self.clients.iter().position(|(known, _)| *known == client) {
            Some(at) => &mut self.clients[at].1,
            None if self.clients.len() < MAX_CLIENTS => {
                self.clients.push_back((client, VecDeque::new()));
                &mut self.clients.back_mut().expect("just added").1
            }
            None => return false,
        };
        let new = names.len() < MAX_PER_CLIENT && !names.iter().any(|(known, _)| **known == *name);
        if new {
            names.push_back((name.into(), failed));
        }
        new
    }

    /// Takes out the next name: a due key, or one of the client whose turn it is.
    fn next(&mut self) -> Option<NextFetch> {
        if let Some(name) = self.due.pop_front() {
            return Some((name, None));
        }
        while self.begun.front().is_some_and(|(begun, _)| begun.elapsed() >= MINUTE) {
            self.begun.pop_front();
        }
        let fetches = |client| self.begun.iter().filter(|(_, known)| *known == client).count();
        let may = |(client, _): &(IpAddr, _)| fetches(*client) < FETCHES_A_CLIENT;
        let at = self.clients.iter().position(may)?;
        let (client, mut names) = self.clients.remove(at)?;
        self.begun.push_back((Instant::now(), client));
        let name = names.pop_front();
        if !names.is_empty() {
            self.clients.push_back((client, names));
        }
        name.map(|(name, failed)| (name, Some((client, failed))))
    }

    fn remove(&mut self, name: &str) {
        self.due.retain(|known| **known != *name);
        self.clients.iter_mut().for_each(|(_, names)| names.retain(|(known, _)| **known != *name));
        self.clients.retain(|(_, names)| !names.is_empty());
        self.unknown.remove(name);
    }

    fn note_unknown(&mut self, name: &Arc<str>, since: Instant) {
        self.unknown.retain(|_, since| since.elapsed() < MINUTE);
        if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.insert(Arc::clone(name), since);
        }
    }
}

/// Returns whether `name` is one that a request may contain: no part of an address but a segment.
fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(known) && !name.starts_with('.')
}

/// Returns the network that a client counts as: its address, or its /64 of IPv6.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl fmt::Debug for NamedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamedKeys({})", self.request.host())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, number])
    }

    #[test]
    fn clients_take_turns() {
        let mut queue = FetchQueue::default();
        for number in 0..100 {
            queue.add(&format!("flood-{number}"), 0, client(1));
        }
        assert!(queue.add("genuine", 0, client(2)));
        assert!(!queue.add("genuine", 0, client(2)), "it already waits");
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).map(|(name, _)| name).collect();
        let order: Vec<_> = order.iter().map(|name| &**name).collect();
        assert_eq!(order, ["flood-0", "genuine", "flood-1", "flood-2"], "three for each");
        for number in 0..=u8::MAX {
            queue.add("x", 0, client(number));
        }
        assert_eq!(queue.clients.len(), MAX_CLIENTS);
    }

    #[test]
    fn keys_in_use_come_first() {
        let mut queue = FetchQueue::default();
        queue.add("new", 0, client(1));
        queue.due.push_back("due".into());
        assert_eq!(queue.next().map(|(name, waits)| (&*name == "due", waits)), Some((true, None)));
        queue.add("new", 0, client(2));
        queue.remove("new");
        assert!(queue.is_empty(), "nobody waits for a key that was fetched");
    }

    #[test]
    fn names_are_segments_of_a_path() {
        for name in ["CERT-360caa42-fca2a594", "a.b_c", "6c5516e1-92dc-479e-a8ff-5a51992e0001"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a%2fb", "a?b", "a#b", "a b", "\u{e9}"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&"x".repeat(MAX_NAME + 1)));
    }

    #[test]
    fn networks_count_as_clients() {
        let six: IpAddr = "2001:db8:1:2:3:4:5:6".parse().expect("an address");
        assert_eq!(network(six), "2001:db8:1:2::".parse::<IpAddr>().expect("an address"));
        assert_eq!(network(client(1)), client(1));
    }
}
