//! Permits, and how routes share them and the memory for authentic requests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::account::Account;
use crate::reject::{Reject, Shed};

/// What one route holds of what is guaranteed to it.
#[derive(Debug)]
pub struct RouteShare {
    /// How many routes share the guaranteed half.
    routes: u64,
    permits: AtomicU64,
    bytes: AtomicU64,
}

impl RouteShare {
    /// Returns the share of one of so many routes.
    pub fn of(routes: usize) -> Arc<Self> {
        let routes = routes.max(1) as u64;
        Arc::new(RouteShare { routes, permits: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    }

    pub(super) fn bytes(&self) -> &AtomicU64 {
        &self.bytes
    }

    /// Returns how much of `limit` is guaranteed to the route.
    fn guaranteed(&self, limit: u64) -> u64 {
        limit / 2 / self.routes
    }
}

/// A part of a pool: what its route was guaranteed, and what all routes compete for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    guaranteed: u64,
    common: u64,
}

impl Part {
    pub(super) fn add(&mut self, other: Part) {
        self.guaranteed += other.guaranteed;
        self.common += other.common;
    }
}

/// A resource of authentic requests: half of it guaranteed to the routes in equal parts.
#[derive(Debug)]
pub(super) struct Pool {
    limit: u64,
    /// How much of the common half is used.
    common: AtomicU64,
}

impl Pool {
    pub(super) fn new(limit: u64) -> Self {
        Pool { limit, common: AtomicU64::new(0) }
    }

    /// Takes `amount` from the route's guaranteed part, of which it uses `used`, and what that part
    /// lacks from the common one. The pool is at least `least` large.
    pub(super) fn take(
        &self,
        (route, used): (&RouteShare, &AtomicU64),
        amount: u64,
        least: u64,
        authentic: bool,
    ) -> Option<Part> {
        let limit = self.limit.max(least);
        let guaranteed = route.guaranteed(limit);
        let mut part = Part { guaranteed: 0, common: amount };
        if authentic {
            let free = |used: u64| amount.min(guaranteed.saturating_sub(used));
            let add = |used| (free(used) > 0).then(|| used + free(used));
            if let Ok(before) = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
                part.guaranteed = free(before);
                part.common = amount - part.guaranteed;
            }
        }
        if part.common > 0 {
            let common = self.common.fetch_add(part.common, Ordering::Relaxed) + part.common;
            if common > limit - guaranteed * route.routes {
                self.give_back(used, part);
                return None;
            }
        }
        Some(part)
    }

    pub(super) fn give_back(&self, used: &AtomicU64, part: Part) {
        if part.guaranteed > 0 {
            used.fetch_sub(part.guaranteed, Ordering::Relaxed);
        }
        if part.common > 0 {
            self.common.fetch_sub(part.common, Ordering::Relaxed);
        }
    }
}

/// The permits of all requests.
#[derive(Debug)]
pub(super) struct Permits {
    pool: Pool,
    /// How many one network may hold.
    share: u64,
}

impl Permits {
    pub(super) fn new(limit: u64, share: u64) -> Arc<Self> {
        Arc::new(Permits { pool: Pool::new(limit), share })
    }
}

/// The permit of a request, released when dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    account: Account,
    route: Arc<RouteShare>,
    part: Part,
}

impl Permit {
    pub(super) fn take(
        permits: &Arc<Permits>,
        account: &Account,
        route: &Arc<RouteShare>,
        authentic: bool,
    ) -> Result<Self, Reject> {
        let own = account.permits().fetch_add(1, Ordering::Relaxed) + 1;
        let take = || permits.pool.take((route, &route.permits), 1, 0, authentic);
        let Some(part) = (own <= permits.share).then(take).flatten() else {
            account.permits().fetch_sub(1, Ordering::Relaxed);
            return Err(Reject::Overloaded(Shed::Requests));
        };
        let (permits, account, route) = (Arc::clone(permits), account.clone(), Arc::clone(route));
        Ok(Permit { permits, account, route, part })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.permits().fetch_sub(1, Ordering::Relaxed);
        self.permits.pool.give_back(&self.route.permits, self.part);
    }
}
