//! Admission: which client addresses may call a route, and how often. It is checked before the body
//! is read.
//!
//! A route's limit counts all requests, authentic or not, because that is known only later. The limit
//! of the address is therefore charged first, and a request that it rejects is not charged to the
//! route. IPv6 addresses count by /64, the smallest network that a customer gets. At most
//! [`MAX_ADDRESSES`] addresses are counted separately; beyond that, new ones share one limit.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};

use crate::{
    reject::{Reason, Reject},
    upstream::Networks,
};

/// How many addresses a route tells apart.
const MAX_ADDRESSES: usize = 65_536;
/// How long a search for addresses that no longer count is not repeated if the map stays full.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// Stands for every address that found no room. As a /64 no client has it.
const EVERYBODY_ELSE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

type Limiter<K, S> = RateLimiter<K, S, MonotonicClock, NoOpMiddleware<Instant>>;

/// How many requests may come: `burst` at once, then one every `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The most at once.
    pub burst: NonZeroU32,
    /// Between two requests in the long run; more than nothing.
    pub interval: Duration,
}

impl Rate {
    fn quota(self) -> Quota {
        Quota::with_period(self.interval.max(Duration::from_nanos(1)))
            .expect("it is more than nothing")
            .allow_burst(self.burst)
    }
}

/// The admission rules of a route, as configured.
#[derive(Debug, Default)]
pub struct AdmissionOptions {
    /// Where clients may call from; `None`: anywhere.
    pub allow: Option<Networks>,
    /// The limit of all clients together.
    pub rate: Option<Rate>,
    /// The limit of each address.
    pub rate_per_address: Option<Rate>,
}

/// The admission rules of a route with the state of its limits.
pub(super) struct Admission {
    allow: Option<Networks>,
    all: Option<Limiter<NotKeyed, InMemoryState>>,
    each: Option<Limiter<IpAddr, Addresses>>,
}

impl Admission {
    pub(super) fn new(options: AdmissionOptions) -> Self {
        let each = |rate: Rate| {
            RateLimiter::new(rate.quota(), Addresses::new(rate, MAX_ADDRESSES), MonotonicClock)
        };
        Admission {
            allow: options.allow,
            all: options
                .rate
                .map(|rate| RateLimiter::direct_with_clock(rate.quota(), MonotonicClock)),
            each: options.rate_per_address.map(each),
        }
    }

    /// Checks an address against the allowlist, and charges its request to the limits.
    ///
    /// # Errors
    /// [`Reason::NotAllowed`]; [`Reject::RateLimited`].
    pub(super) fn admit(&self, client: IpAddr) -> Result<(), Reject> {
        if self.allow.as_ref().is_some_and(|allow| !allow.contains(client)) {
            return Err(Reason::NotAllowed.into());
        }
        if let Some(each) = &self.each {
            each.check_key(&counted(client)).map_err(|until| limited(&until))?;
        }
        if let Some(all) = &self.all {
            all.check().map_err(|until| limited(&until))?;
        }
        Ok(())
    }
}

/// The refusal of a request that may come again at a later time.
fn limited(until: &NotUntil<Instant>) -> Reject {
    let wait = until.wait_time_from(MonotonicClock.now());
    Reject::RateLimited { seconds: wait.as_millis().div_ceil(1000).clamp(1, 86_400) as u64 }
}

/// What an address is counted as.
fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX))),
    }
}

/// When each address will have used up nothing (the theoretical arrival time of the generic cell rate
/// algorithm, in nanoseconds since the limiter was made).
struct Addresses {
    arrivals: Mutex<Arrivals>,
    interval: u64,
    most: usize,
}

#[derive(Default)]
struct Arrivals {
    by_address: HashMap<IpAddr, u64>,
    searched: u64,
}

impl Addresses {
    fn new(rate: Rate, most: usize) -> Self {
        let interval = u64::try_from(rate.interval.as_nanos()).unwrap_or(u64::MAX);
        Addresses { arrivals: Mutex::default(), interval, most }
    }
}

impl Arrivals {
    /// Whether an address has an entry or can have one; makes room if need be. `now` is in nanoseconds.
    fn has_room(&mut self, address: &IpAddr, most: usize, now: u64) -> bool {
        if self.by_address.len() < most || self.by_address.contains_key(address) {
            return true;
        }
        if now >= self.searched {
            self.by_address.retain(|_, arrival| *arrival > now);
            self.searched = now.saturating_add(SEARCH_PAUSE.as_nanos() as u64);
        }
        self.by_address.len() < most
    }
}

impl StateStore for Addresses {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, address: &IpAddr, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        // For an address that is new, the decision is one interval after now.
        let (_, first) = decide(None)?;
        let now = u64::from(first).saturating_sub(self.interval);
        let room = arrivals.has_room(address, self.most, now);
        let address = if room { *address } else { EVERYBODY_ELSE };
        let known = arrivals.by_address.get(&address).copied();
        let (result, arrival) = decide(known.map(Nanos::from))?;
        arrivals.by_address.insert(address, arrival.into());
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(burst: u32, interval: Duration) -> Rate {
        Rate { burst: NonZeroU32::new(burst).expect("not 0"), interval }
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn limiter(
        rate: Rate,
        most: usize,
        clock: &FakeRelativeClock,
    ) -> RateLimiter<IpAddr, Addresses, FakeRelativeClock, NoOpMiddleware<Nanos>> {
        RateLimiter::new(rate.quota(), Addresses::new(rate, most), clock.clone())
    }

    #[test]
    fn ipv6_addresses_count_by_their_network() {
        let of = |text: &str| counted(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn addresses_are_limited_one_by_one_and_come_back() {
        let clock = FakeRelativeClock::default();
        let rate = rate(2, Duration::from_secs(1));
        let limiter = limiter(rate, 10, &clock);
        let enters = |number| limiter.check_key(&address(number)).is_ok();
        assert_eq!([enters(1), enters(1), enters(1), enters(2)], [true, true, false, true]);
        clock.advance(Duration::from_secs(1));
        assert_eq!([enters(1), enters(1)], [true, false]);
    }

    #[test]
    fn the_map_of_addresses_never_outgrows_its_bound() {
        let clock = FakeRelativeClock::default();
        let rate = rate(2, Duration::from_secs(10));
        let limiter = limiter(rate, 100, &clock);
        let enters = |number| limiter.check_key(&address(number)).is_ok();
        assert!((0..100).all(enters), "each has its own limit");
        let newcomers = (100..10_000).filter(|number| enters(*number)).count();
        assert_eq!(newcomers, 2, "those without room share one limit");
        assert!(enters(7), "who is on record keeps its own");
        let on_record = |addresses: Addresses| {
            addresses.arrivals.into_inner().expect("not poisoned").by_address.len()
        };
        assert_eq!(on_record(limiter.into_state_store()), 101);
    }

    #[test]
    fn addresses_that_no_longer_count_make_room() {
        let clock = FakeRelativeClock::default();
        let rate = rate(1, Duration::from_secs(10));
        let limiter = limiter(rate, 100, &clock);
        let enters = |number| limiter.check_key(&address(number)).is_ok();
        assert!((0..101).all(enters) && !enters(101), "the map is full");
        clock.advance(Duration::from_secs(11));
        assert!((200..300).all(enters) && !enters(250), "there was room for each");
    }
}
