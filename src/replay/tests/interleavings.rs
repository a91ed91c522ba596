//! The claim map under a scheduler that tries the interleavings of its locks.

#![expect(clippy::duplicate_mod, reason = "the other copy has the locks of the standard library")]

use prometheus::IntGauge;
use shuttle::{check_pct, check_random, thread};

use self::{
    claims::Claims,
    in_flight::{ClaimEnd, ClaimState, Found},
};
use super::*;
use crate::{
    metrics::ReplayMetrics,
    replay::{
        clock::millis,
        record::{Identities, Record},
    },
};

// The shipped sources, with the scheduler's locks.
#[allow(dead_code, reason = "the map's work with a store behind is not tried here")]
#[path = "../capacity.rs"]
mod capacity;
#[allow(dead_code, reason = "the map's work with a store behind is not tried here")]
#[path = "../claims.rs"]
mod claims;
#[allow(dead_code, reason = "the map's work with a store behind is not tried here")]
#[path = "../expiry.rs"]
mod expiry;
#[allow(dead_code, reason = "the map's work with a store behind is not tried here")]
#[path = "../in_flight.rs"]
mod in_flight;
#[allow(dead_code, reason = "the test has one share")]
#[path = "../shares.rs"]
mod shares;
mod sync {
    pub(crate) use shuttle::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    };

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("a test that panics is over")
    }
}

const NOW: u64 = 1_000_000;

fn local(max_entries: usize) -> Claims {
    let gauge = || IntGauge::new("gauge", "gauge").unwrap();
    let metrics =
        ReplayMetrics { in_flight: gauge(), done: gauge(), failed: gauge(), capacity: gauge() };
    Claims::new(max_entries, false, None, metrics)
}

fn done() -> ClaimEnd {
    ClaimEnd::Done { status: 200, behind: false, answered: Identities::default(), lasts: 1_000_000 }
}

fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(test.clone(), 2_000);
    check_pct(test, 2_000, 3);
}

/// Concurrent copies: some forwards fail, some are withdrawn, at most one succeeds.
fn copies() {
    let map = Arc::new(local(10));
    let forwarding = Arc::new(AtomicU64::new(0));
    let successes = Arc::new(AtomicU64::new(0));
    let copies: Vec<_> = (0..4u8)
        .map(|copy| {
            let map = Arc::clone(&map);
            let (forwarding, successes) = (Arc::clone(&forwarding), Arc::clone(&successes));
            thread::spawn(move || {
                let arrival = arrival(1, copy + 1);
                match map.claim(&arrival, copy == 3, NOW).unwrap() {
                    Found::Free { ticket, .. } => {
                        if copy == 3 {
                            map.withdraw(&arrival, ticket, None);
                            return None;
                        }
                        assert_eq!(forwarding.fetch_add(1, Ordering::SeqCst), 0, "two forwards");
                        thread::yield_now();
                        forwarding.fetch_sub(1, Ordering::SeqCst);
                        let end = if copy == 0 {
                            ClaimEnd::Failed { unknown: true, behind: false }
                        } else {
                            successes.fetch_add(1, Ordering::SeqCst);
                            done()
                        };
                        map.end(&arrival, ticket, end, || Err(Reject::UpstreamReset), NOW);
                        None
                    }
                    Found::InFlight(claim) | Found::Requested(claim) => Some(claim),
                    Found::Done { answered } => {
                        assert!(!answered);
                        assert_eq!(successes.load(Ordering::SeqCst), 1, "done before it was");
                        None
                    }
                }
            })
        })
        .collect();
    let waiting: Vec<_> = copies.into_iter().filter_map(|copy| copy.join().unwrap()).collect();
    for claim in waiting {
        let notified =
            matches!(&*claim.borrow(), ClaimState::Settled(_) | ClaimState::Withdrawn(None));
        assert!(notified, "a copy is never notified: {:?}", claim.borrow());
    }
    assert!(successes.load(Ordering::SeqCst) <= 1, "forwarded again after its success");
    let record = map.record(&arrival(1, 1).key);
    assert_eq!(record.as_ref().is_some_and(Record::is_done), successes.load(Ordering::SeqCst) == 1);
    assert_eq!(map.used(), usize::from(record.is_some()));
}

/// More events than there is capacity for, while old records may be evicted.
fn crowd() {
    let map = Arc::new(local(2));
    let later = NOW + millis(PROTECTED) + 1;
    for event in [1, 2] {
        let arrival = arrival(event, 1);
        let Ok(Found::Free { ticket, .. }) = map.claim(&arrival, false, NOW) else { panic!() };
        map.end(&arrival, ticket, done(), || Err(Reject::InFlight), NOW);
    }
    let events: Vec<_> = (1..=4)
        .map(|event| {
            let map = Arc::clone(&map);
            thread::spawn(move || {
                let arrival = arrival(event, 2);
                match map.claim(&arrival, false, later) {
                    Ok(Found::Free { ticket, .. }) => {
                        assert!(map.used() <= 2, "more than there may be");
                        map.end(&arrival, ticket, done(), || Err(Reject::InFlight), later);
                        Some(event)
                    }
                    Ok(Found::Done { .. }) => Some(event),
                    Err(Reject::GuardFull) => None,
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let known: Vec<_> = events.into_iter().filter_map(|event| event.join().unwrap()).collect();
    assert_eq!(known.len(), 2, "every place is used, and none twice: {known:?}");
    for event in known {
        assert!(map.record(&arrival(event, 1).key).is_some_and(|record| record.is_done()));
    }
    assert_eq!(map.used(), 2);
}

#[test]
fn concurrent_copies_are_forwarded_one_by_one_until_one_succeeds() {
    explore(copies);
}

#[test]
fn one_record_is_evicted_for_each_new_event() {
    explore(crowd);
}
