//! Admission: which client addresses may call a route, and how often. It is checked before the body
//! is read.
//!
//! A route's limit counts all requests, authentic or not, because that is known only later. The
//! limit of the address is therefore charged first, and a request that it rejects is not charged to
//! the route. IPv6 addresses count by /64, the smallest network that a customer gets. The limits of
//! at most [`MAX_ADDRESSES`] addresses are kept; beyond that, the ones unused for the longest time
//! are forgotten.

use std::{
    collections::HashMap,
    mem,
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

/// How many addresses a route keeps limits for.
const MAX_ADDRESSES: usize = 65_536;

type Limiter<K, S> = RateLimiter<K, S, MonotonicClock, NoOpMiddleware<Instant>>;

/// How many requests are admitted: `burst` at once, then one every `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The most requests at once.
    pub burst: NonZeroU32,
    /// The average time between two requests; more than zero.
    pub interval: Duration,
}

impl Rate {
    fn quota(self) -> Quota {
        Quota::with_period(self.interval.max(Duration::from_nanos(1)))
            .expect("it is more than zero")
            .allow_burst(self.burst)
    }
}

/// The admission rules of a route, as configured.
#[derive(Debug, Default)]
pub struct AdmissionOptions {
    /// The networks that may call; `None` means all.
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
    each: Option<Limiter<IpAddr, AddressLimiters>>,
}

impl Admission {
    pub(super) fn new(options: AdmissionOptions) -> Self {
        let each = |rate: Rate| {
            RateLimiter::new(rate.quota(), AddressLimiters::new(MAX_ADDRESSES), MonotonicClock)
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

/// Returns the rejection of a request that is admitted again later.
fn limited(until: &NotUntil<Instant>) -> Reject {
    let wait = until.wait_time_from(MonotonicClock.now());
    Reject::RateLimited { seconds: wait.as_millis().div_ceil(1000).clamp(1, 86_400) as u64 }
}

/// Returns the address that an address is counted as.
fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX))),
    }
}

/// The state of the limit of each address: its theoretical arrival time (of the generic cell rate
/// algorithm), in nanoseconds since the limiter was made. An address without state has its full
/// burst.
struct AddressLimiters {
    generations: Mutex<Generations>,
    /// The most addresses of one generation.
    limit: usize,
}

/// The addresses that were used last, in two generations. When the current one is full, it replaces
/// the previous one. An address that keeps calling always stays, so its limit holds; and one that
/// is new never shares the limit of others.
#[derive(Default)]
struct Generations {
    current: HashMap<IpAddr, u64>,
    previous: HashMap<IpAddr, u64>,
}

impl AddressLimiters {
    fn new(most: usize) -> Self {
        AddressLimiters { generations: Mutex::default(), limit: (most / 2).max(1) }
    }
}

impl StateStore for AddressLimiters {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, address: &IpAddr, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let Generations { current, previous } = &mut *generations;
        let known = current.get(address).or_else(|| previous.get(address)).copied();
        let decision = decide(known.map(Nanos::from));
        let arrival = decision.as_ref().map_or(known, |(_, arrival)| Some((*arrival).into()));
        if let Some(arrival) = arrival {
            if current.len() >= self.limit && !current.contains_key(address) {
                mem::swap(current, previous);
                current.clear();
            }
            current.insert(*address, arrival);
        }
        decision.map(|(result, _)| result)
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
    ) -> RateLimiter<IpAddr, AddressLimiters, FakeRelativeClock, NoOpMiddleware<Nanos>> {
        RateLimiter::new(rate.quota(), AddressLimiters::new(most), clock.clone())
    }

    #[test]
    fn ipv6_addresses_count_by_their_network() {
        let of = |text: &str| counted(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn each_address_has_its_own_limit() {
        let clock = FakeRelativeClock::default();
        let limiter = limiter(rate(2, Duration::from_secs(1)), 10, &clock);
        let admits = |number| limiter.check_key(&address(number)).is_ok();
        assert_eq!([admits(1), admits(1), admits(1), admits(2)], [true, true, false, true]);
        clock.advance(Duration::from_secs(1));
        assert_eq!([admits(1), admits(1)], [true, false]);
    }

    #[test]
    fn new_addresses_never_share_a_limit_and_the_map_stays_bounded() {
        let clock = FakeRelativeClock::default();
        let limiter = limiter(rate(2, Duration::from_secs(10)), 100, &clock);
        let admits = |number| limiter.check_key(&address(number)).is_ok();
        assert!((0..10_000).all(|number| admits(number) && admits(number)));
        let generations =
            limiter.into_state_store().generations.into_inner().expect("not poisoned");
        assert!(generations.current.len() + generations.previous.len() <= 100);
    }

    #[test]
    fn an_address_that_keeps_calling_stays_limited_among_many_others() {
        let clock = FakeRelativeClock::default();
        let limiter = limiter(rate(2, Duration::from_secs(10)), 100, &clock);
        let admits = |number| limiter.check_key(&address(number)).is_ok();
        assert!(admits(0) && admits(0));
        for other in 1..10_000 {
            assert!(admits(other));
            assert!(other % 25 != 0 || !admits(0), "after {other} others");
        }
    }
}
