//! The requests of the last hour by route and outcome. Counters are read once a minute, so that
//! counting a request costs nothing more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{metrics::RouteMetrics, reject::Outcome};

/// The length of a slot.
pub(super) const SLOT: Duration = Duration::from_secs(60);
/// The number of slots, the current one included.
const SLOTS: usize = 60;

/// Requests by outcome.
pub(super) type Outcomes = [u64; Outcome::ALL.len()];

/// What the counters of each route were at the beginning of each slot.
#[derive(Debug, Default)]
pub(super) struct LastHour(Mutex<HashMap<Arc<str>, VecDeque<Outcomes>>>);

impl LastHour {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, VecDeque<Outcomes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a slot for these routes, and drops the counts of all others.
    pub(super) fn begin_slot<'r>(
        &self,
        routes: impl Iterator<Item = (&'r Arc<str>, &'r RouteMetrics)>,
    ) {
        let mut known = self.lock();
        let mut next = HashMap::new();
        for (name, metrics) in routes {
            let mut starts = known.remove(name).unwrap_or_else(from_zero);
            starts.push_back(counts(metrics));
            if starts.len() > SLOTS {
                starts.pop_front();
            }
            next.insert(Arc::clone(name), starts);
        }
        *known = next;
    }

    /// Returns the requests of each slot, oldest first, the current one last. Slots before the
    /// start of the process are zero.
    pub(super) fn slots(&self, name: &str, metrics: &RouteMetrics) -> Vec<Outcomes> {
        let now = counts(metrics);
        let starts = self.lock().get(name).cloned().unwrap_or_else(from_zero);
        let ends = starts.iter().skip(1).chain([&now]);
        let within = |(start, end): (&Outcomes, &Outcomes)| {
            std::array::from_fn(|outcome| end[outcome].saturating_sub(start[outcome]))
        };
        let known: Vec<Outcomes> = starts.iter().zip(ends).map(within).collect();
        let missing = SLOTS - known.len();
        std::iter::repeat_n(Outcomes::default(), missing).chain(known).collect()
    }
}

/// Returns the beginning of a route's first slot: its counters begin with the route.
fn from_zero() -> VecDeque<Outcomes> {
    VecDeque::from([Outcomes::default()])
}

fn counts(metrics: &RouteMetrics) -> Outcomes {
    Outcome::ALL.map(|outcome| metrics.requests(outcome).get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn requests_leave_the_last_hour_after_sixty_slots() {
        let metrics = Metrics::new().expect("metrics");
        let route = metrics.route("a");
        let (hour, name) = (LastHour::default(), Arc::<str>::from("a"));
        let total = || {
            let slots = hour.slots("a", &route);
            assert_eq!(slots.len(), SLOTS);
            slots.iter().map(|slot| slot[Outcome::Forwarded as usize]).sum::<u64>()
        };
        let next = || hour.begin_slot([(&name, &*route)].into_iter());
        assert_eq!(total(), 0);
        route.requests(Outcome::Forwarded).inc();
        assert_eq!(total(), 1);
        for _ in 1..SLOTS {
            next();
            assert_eq!(total(), 1);
        }
        route.requests(Outcome::Forwarded).inc();
        assert_eq!(total(), 2);
        next();
        assert_eq!(total(), 1, "the first one has left");
    }
}
