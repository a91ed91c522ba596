use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;

use super::{
    decision::Joined,
    in_flight::{ClaimEnd, Found},
    record::{ContextPin, EventKey, Identities, RequestIdentity},
    *,
};
use crate::{reject::Reason, response::SanitizedResponse};

mod disk;
mod interleavings;
mod model;
mod postgres;
mod redis;
mod shared;
mod shares;

const WINDOW: Duration = Duration::from_secs(300);
const TTL: Duration = Duration::from_secs(86_400);
/// For how long a record protects an event of this window.
const PROTECTED: Duration = Duration::from_millis(327_680);
const ROUTE: ShareId = ShareId(1);
const TERMS: Terms = Terms { route: ROUTE, ttl: TTL, forwards_repeats: false };

/// A request for event `event`, with identity `request`.
fn arrival(event: u64, request: u8) -> Arrival {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&event.to_le_bytes());
    key[8..].copy_from_slice(&event.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Arrival {
        key: EventKey(key),
        identity: Some(RequestIdentity([request; 16])),
        pin: ContextPin([1; 16]),
        stale: false,
        fresh_for: Some(300_000),
        share: ShareId(2),
        terms: TERMS,
    }
}

struct Fixture {
    replay: Replay,
    clock: Clock,
    metrics: Metrics,
}

fn fixture(max_entries: usize) -> Fixture {
    let options = Options {
        store: StoreOptions::Memory,
        max_entries,
        on_store_failure: OnStoreFailure::Refuse,
    };
    Fixture::open(options, &Clock::manual(1_000_000))
}

impl Fixture {
    fn open(options: Options, clock: &Clock) -> Fixture {
        let metrics = Metrics::new().unwrap();
        let clock = clock.clone();
        let replay = Replay::open(options, clock.clone(), &metrics).unwrap();
        Fixture { replay, clock, metrics }
    }

    async fn admit(&self, arrival: Arrival) -> Result<Claimed, Reject> {
        self.admit_within(arrival, Duration::from_secs(5)).await
    }

    async fn admit_within(&self, arrival: Arrival, time: Duration) -> Result<Claimed, Reject> {
        decision::admit(&self.replay.0, arrival, Instant::now() + time).await
    }

    /// Claims the event of a request whose sender waits for so long.
    async fn won_within(&self, arrival: Arrival, time: Duration) -> Claim {
        match self.admit_within(arrival, time).await {
            Ok(Claimed::Won(claim)) => claim,
            other => panic!("expected a claim, got {other:?}"),
        }
    }

    async fn won(&self, arrival: Arrival) -> Claim {
        match self.admit(arrival).await {
            Ok(Claimed::Won(claim)) => claim,
            other => panic!("expected a claim, got {other:?}"),
        }
    }

    async fn joined(&self, arrival: Arrival) -> Joined {
        match self.admit(arrival).await {
            Ok(Claimed::InFlight(joined)) => joined,
            other => panic!("expected to join, got {other:?}"),
        }
    }

    async fn retry(&self, arrival: Arrival) -> Receipt {
        match self.admit(arrival).await {
            Ok(Claimed::Done(Repeat::Retry(receipt))) => receipt,
            other => panic!("expected a retry, got {other:?}"),
        }
    }

    async fn rejected(&self, arrival: Arrival) -> Reject {
        match self.admit(arrival).await {
            Err(reject) => reject,
            other => panic!("expected a rejection, got {other:?}"),
        }
    }

    async fn is_replay(&self, arrival: Arrival) -> bool {
        matches!(self.admit(arrival).await, Ok(Claimed::Done(Repeat::Replay)))
    }

    /// in flight, done, failed
    fn gauges(&self) -> (i64, i64, i64) {
        let gauges = &self.metrics.replay;
        (gauges.in_flight.get(), gauges.done.get(), gauges.failed.get())
    }
}

/// Returns the outcome of the copy that was joined.
async fn landed(joined: Joined) -> Settled {
    match joined.outcome().await {
        Ok(Ended::Settled(settled)) => settled,
        other => panic!("expected an outcome, got {other:?}"),
    }
}

fn ok() -> SanitizedResponse {
    SanitizedResponse::empty(StatusCode::OK)
}

#[tokio::test]
async fn a_copy_of_an_event_in_flight_gets_its_response() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    assert!(!claim.possible_duplicate());
    let joined = f.joined(arrival(1, 2)).await;
    assert_eq!(f.gauges(), (1, 0, 0));
    let mut answer = SanitizedResponse::empty(StatusCode::CREATED);
    answer.body = "made".into();
    let _receipt = claim.done(&answer, false).await;
    let settled = landed(joined).await;
    let got = settled.outcome.unwrap();
    assert_eq!((got.status, got.body), (StatusCode::CREATED, answer.body));
    assert!(settled.receipt.is_some());
    assert_eq!(f.gauges(), (0, 1, 0));
}

#[tokio::test]
async fn a_request_is_a_replay_once_its_response_was_written_out() {
    let f = fixture(10);
    let first = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    // The sender disconnected before the response: the same request again is a retry.
    let again = f.retry(arrival(1, 1)).await;
    first.written();
    assert!(f.is_replay(arrival(1, 1)).await);
    again.written();
    f.retry(arrival(1, 2)).await.written();
    f.retry(arrival(1, 3)).await.written();
    for request in [1, 2, 3] {
        assert!(f.is_replay(arrival(1, request)).await, "request {request}");
    }
    let _ = f.retry(arrival(1, 4)).await;
    assert!(!f.is_replay(arrival(2, 1)).await, "another event");
}

#[tokio::test]
async fn a_success_counts_as_written_out_if_the_sender_waits() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    let joined = f.joined(arrival(1, 2)).await;
    let _ = claim.done(&ok(), true).await;
    assert!(f.is_replay(arrival(1, 1)).await);
    let receipt = f.retry(arrival(1, 2)).await;
    landed(joined).await.receipt.expect("a success").written();
    assert!(f.is_replay(arrival(1, 2)).await);
    drop(receipt);
    let _ = f.retry(arrival(1, 3)).await;
}

#[tokio::test]
async fn a_joined_copy_is_a_replay_once_its_response_was_written_out() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    let joined = f.joined(arrival(1, 2)).await;
    let _ = claim.done(&ok(), false).await;
    landed(joined).await.receipt.unwrap().written();
    assert!(f.is_replay(arrival(1, 2)).await);
    let _ = f.retry(arrival(1, 1)).await;
}

#[tokio::test]
async fn a_scheme_that_signs_nothing_fresh_has_no_replays() {
    let f = fixture(10);
    let plain = Arrival { identity: None, fresh_for: None, ..arrival(1, 0) };
    f.won(plain).await.done(&ok(), false).await.written();
    f.retry(plain).await.written();
    let _ = f.retry(plain).await;
}

#[tokio::test]
async fn a_failure_releases_the_event_and_is_not_stored_as_a_response() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    let joined = f.joined(arrival(1, 2)).await;
    let failure = SanitizedResponse::empty(StatusCode::INTERNAL_SERVER_ERROR);
    claim.failed(Failure::Known, Ok(failure)).await;
    let settled = landed(joined).await;
    assert_eq!(settled.outcome.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(settled.receipt.is_none());
    assert_eq!(f.gauges(), (0, 0, 1));
    let claim = f.won(arrival(1, 1)).await;
    assert!(!claim.possible_duplicate());
    assert_eq!(f.gauges(), (1, 0, 0));
}

#[tokio::test]
async fn an_unknown_outcome_marks_every_later_attempt() {
    let f = fixture(10);
    f.won(arrival(1, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    let claim = f.won(arrival(1, 2)).await;
    assert!(claim.possible_duplicate());
    claim.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    assert!(f.won(arrival(1, 3)).await.possible_duplicate(), "the first may still have arrived");
}

#[tokio::test]
async fn a_dropped_claim_is_released_as_unknown() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    let joined = f.joined(arrival(1, 2)).await;
    drop(claim);
    assert_eq!(landed(joined).await.outcome.unwrap_err(), Reject::InFlight);
    assert_eq!(f.gauges(), (0, 0, 1));
    assert!(f.won(arrival(1, 1)).await.possible_duplicate());
}

#[tokio::test]
async fn another_context_is_rejected_in_every_state() {
    let f = fixture(10);
    let other = |request| Arrival { pin: ContextPin([2; 16]), ..arrival(1, request) };
    let mismatch = Reject::NotAccepted(Reason::ContextMismatch);
    let claim = f.won(arrival(1, 1)).await;
    assert_eq!(f.rejected(other(2)).await, mismatch, "in flight");
    claim.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    assert_eq!(f.rejected(other(3)).await, mismatch, "failed");
    f.won(arrival(1, 1)).await.done(&ok(), false).await.written();
    assert_eq!(f.rejected(other(4)).await, mismatch, "done");
    assert_eq!(f.rejected(Arrival { stale: true, ..other(4) }).await, mismatch, "done, stale");
    assert_eq!(f.gauges(), (0, 1, 0));
}

#[tokio::test]
async fn a_stale_copy_is_accepted_only_for_an_event_on_record() {
    let f = fixture(10);
    let stale = |event| Arrival { stale: true, ..arrival(event, 1) };
    assert_eq!(f.rejected(stale(1)).await, Reject::NotAccepted(Reason::Stale));
    assert_eq!(f.gauges(), (0, 0, 0));
    let claim = f.won(arrival(1, 1)).await;
    let _ = f.joined(stale(1)).await;
    claim.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    let _ = f.won(stale(1)).await.done(&ok(), false).await;
    let _ = f.retry(stale(1)).await;
    f.clock.advance(TTL);
    assert_eq!(f.rejected(stale(1)).await, Reject::NotAccepted(Reason::Stale));
}

#[tokio::test]
async fn a_forgotten_event_is_new_again() {
    let f = fixture(10);
    f.won(arrival(1, 1)).await.done(&ok(), false).await.written();
    f.won(arrival(2, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    assert_eq!(f.gauges(), (0, 1, 1));
    let soon = Instant::now() + Duration::from_secs(5);
    for event in [1, 2, 3] {
        assert_eq!(f.replay.forget(&arrival(event, 1).key, soon).await, Ok(()));
    }
    assert_eq!(f.gauges(), (0, 0, 0));
    // The same request again, and even with another context.
    let claim = f.won(Arrival { pin: ContextPin([2; 16]), ..arrival(1, 1) }).await;
    assert!(!claim.possible_duplicate());
    assert!(!f.won(arrival(2, 1)).await.possible_duplicate());
}

#[tokio::test]
async fn an_event_in_flight_is_forgotten_after_its_outcome() {
    let f = fixture(10);
    let claim = f.won(arrival(1, 1)).await;
    let key = arrival(1, 1).key;
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(f.replay.forget(&key, soon).await, Err(Reject::InFlight));
    let later = Instant::now() + Duration::from_secs(5);
    let (forgotten, ()) = tokio::join!(f.replay.forget(&key, later), async {
        claim.done(&ok(), false).await.written();
    });
    assert_eq!(forgotten, Ok(()));
    let _ = f.won(arrival(1, 1)).await;
}

#[tokio::test]
async fn a_record_expires_with_its_time_to_live() {
    let f = fixture(10);
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    f.clock.advance(TTL - Duration::from_millis(1));
    let _ = f.retry(arrival(1, 2)).await;
    f.clock.advance(Duration::from_millis(1));
    let claim = f.won(arrival(1, 3)).await;
    assert_eq!(f.gauges(), (1, 0, 0));
    claim.failed(Failure::Unknown, Err(Reject::UpstreamTimeout)).await;
    f.clock.advance(TTL);
    f.replay.expire();
    assert_eq!(f.gauges(), (0, 0, 0));
    assert_eq!(f.replay.0.claims.used(), 0);
    assert!(!f.won(arrival(1, 4)).await.possible_duplicate());
}

#[tokio::test]
async fn a_full_guard_rejects_new_events_and_evicts_no_record_that_protects() {
    let f = fixture(3);
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    f.won(arrival(2, 1)).await.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    let claim = f.won(arrival(3, 1)).await;
    assert_eq!(f.rejected(arrival(4, 1)).await, Reject::GuardFull);
    // A copy of an event on record needs no capacity.
    let _ = f.retry(arrival(1, 2)).await;
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    let _ = f.joined(arrival(3, 1)).await;
    f.clock.advance(PROTECTED);
    assert_eq!(f.rejected(arrival(4, 1)).await, Reject::GuardFull, "still protected");
    f.clock.advance(Duration::from_millis(1));
    let _ = f.won(arrival(4, 1)).await.done(&ok(), false).await;
    let _ = f.won(arrival(5, 1)).await.done(&ok(), false).await;
    assert_eq!(f.rejected(arrival(6, 1)).await, Reject::GuardFull, "only in flight and fresh");
    assert_eq!(f.gauges(), (1, 2, 0));
    let _ = claim.done(&ok(), false).await;
    assert_eq!(f.gauges(), (0, 3, 0));
    assert_eq!(f.replay.0.claims.used(), 3);
}

#[tokio::test]
async fn a_record_that_is_written_behind_is_passed_over_by_an_eviction() {
    let f = fixture(2);
    let claims = &f.replay.0.claims;
    for (event, behind) in [(1, true), (2, false)] {
        let now = f.clock.now();
        let Ok(Found::Free { ticket, .. }) = claims.claim(&arrival(event, 1), false, now) else {
            panic!("event {event} is not free");
        };
        let answered = Identities::default();
        let end = ClaimEnd::Done { status: 200, behind, answered, lasts: clock::millis(TTL) };
        claims.end(&arrival(event, 1), ticket, end, || Ok(ok()), now);
        f.clock.advance(Duration::from_millis(1));
    }
    f.clock.advance(PROTECTED);
    let _ = f.won(arrival(3, 1)).await.done(&ok(), false).await;
    assert!(claims.record(&arrival(1, 1).key).is_some(), "the store does not have it yet");
    assert!(claims.record(&arrival(2, 1).key).is_none());
    assert_eq!(f.rejected(arrival(4, 1)).await, Reject::GuardFull);
}

#[tokio::test]
async fn a_fresh_copy_extends_the_protection() {
    let f = fixture(2);
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    f.clock.advance(WINDOW);
    // Signed again, so its copies are fresh for another window.
    f.retry(arrival(1, 2)).await.written();
    let _ = f.retry(Arrival { stale: true, ..arrival(2, 1) }).await;
    f.clock.advance(PROTECTED - WINDOW + Duration::from_millis(1));
    let _ = f.won(arrival(3, 1)).await.done(&ok(), false).await;
    assert!(f.is_replay(arrival(1, 2)).await);
    assert_eq!(
        f.rejected(Arrival { stale: true, ..arrival(2, 1) }).await,
        Reject::NotAccepted(Reason::Stale),
        "evicted",
    );
}

#[tokio::test]
async fn records_of_a_scheme_without_a_window_are_never_evicted() {
    let f = fixture(1);
    let untimed = |event| Arrival { fresh_for: None, ..arrival(event, 1) };
    let _ = f.won(untimed(1)).await.done(&ok(), false).await;
    f.clock.advance(TTL - Duration::from_millis(1));
    assert_eq!(f.rejected(untimed(2)).await, Reject::GuardFull);
    f.clock.advance(Duration::from_millis(1));
    let _ = f.won(untimed(2)).await;
}

#[tokio::test]
async fn unrecorded_claims_leave_no_record() {
    let f = fixture(1);
    let claim = Claim::unrecorded();
    assert!(!claim.possible_duplicate());
    claim.done(&ok(), false).await.written();
    Claim::unrecorded().failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    assert_eq!(f.gauges(), (0, 0, 0));
}

#[tokio::test]
async fn repeated_attempts_leave_no_queue_entries() {
    let f = fixture(100);
    for _ in 0..10_000 {
        f.clock.advance(Duration::from_millis(1));
        f.won(arrival(1, 1)).await.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
        f.replay.0.claims.compact();
    }
    assert!(f.replay.0.claims.queued() < 5_000, "{}", f.replay.0.claims.queued());
    assert_eq!(f.gauges(), (0, 0, 1));
}

#[test]
fn identities_are_bounded_and_the_newest_are_kept() {
    let mut identities = Identities::default();
    let identity = |n: usize| RequestIdentity([u8::try_from(n + 1).unwrap(); 16]);
    for n in 0..2 * Identities::LIMIT {
        assert!(identities.insert(identity(n)));
        assert!(!identities.insert(identity(n)));
    }
    assert_eq!(identities.iter().count(), Identities::LIMIT);
    assert!(identities.contains(&identity(2 * Identities::LIMIT - 1)));
    assert!(identities.contains(&identity(Identities::LIMIT)));
    assert!(!identities.contains(&identity(Identities::LIMIT - 1)));
}

/// Every copy is retried by its sender until it gets a 2xx; four of five forwards fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_events_in_fifty_copies_are_forwarded_once_each() {
    const EVENTS: u64 = 1_000;
    const COPIES: u8 = 50;
    let f = Arc::new(fixture(10_000));
    let forwarding = Arc::new(Mutex::new(HashSet::<u64>::new()));
    let successes = Arc::new(AtomicU64::new(0));
    let failures = Arc::new(AtomicU64::new(0));
    let mut copies = tokio::task::JoinSet::new();
    for copy in 0..COPIES {
        for event in 0..EVENTS {
            let f = Arc::clone(&f);
            let forwarding = Arc::clone(&forwarding);
            let (successes, failures) = (Arc::clone(&successes), Arc::clone(&failures));
            copies.spawn(async move {
                let mut attempt = 0u64;
                loop {
                    attempt += 1;
                    match f.admit(arrival(event, copy + 1)).await.unwrap() {
                        Claimed::Won(claim) => {
                            let only = forwarding.lock().unwrap().insert(event);
                            assert!(only, "two concurrent forwards of event {event}");
                            tokio::task::yield_now().await;
                            forwarding.lock().unwrap().remove(&event);
                            match (event + u64::from(copy) + attempt) % 5 {
                                0 => {
                                    successes.fetch_add(1, Ordering::Relaxed);
                                    claim.done(&ok(), false).await.written();
                                    return;
                                }
                                1 => drop(claim),
                                _ => {
                                    failures.fetch_add(1, Ordering::Relaxed);
                                    claim.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await
                                }
                            }
                        }
                        Claimed::InFlight(joined) => {
                            if let Some(receipt) = landed(joined).await.receipt {
                                receipt.written();
                                return;
                            }
                        }
                        Claimed::Done(Repeat::Retry(receipt)) => return receipt.written(),
                        Claimed::Done(Repeat::Replay) => panic!("copy {copy} has no response yet"),
                    }
                }
            });
        }
    }
    while let Some(ended) = copies.join_next().await {
        ended.unwrap();
    }
    assert_eq!(successes.load(Ordering::Relaxed), EVENTS);
    assert!(failures.load(Ordering::Relaxed) > EVENTS, "the upstream failed sometimes");
    assert_eq!(f.gauges(), (0, 1_000, 0));
    for event in 0..EVENTS {
        for copy in 0..COPIES {
            assert!(f.is_replay(arrival(event, copy + 1)).await);
        }
    }
}

#[tokio::test]
async fn a_route_that_forwards_repeats_claims_done_events_again() {
    let f = fixture(100);
    let terms = Terms { forwards_repeats: true, ..TERMS };
    let copy = |request| Arrival { terms, ..arrival(1, request) };
    let first = f.won(copy(1)).await;
    assert!(!first.possible_duplicate());
    first.done(&ok(), false).await.written();
    assert_eq!(f.gauges(), (0, 1, 0));
    let second = f.won(copy(2)).await;
    assert!(second.possible_duplicate());
    assert_eq!(f.gauges(), (1, 0, 0));
    let joined = f.joined(copy(3)).await;
    second.failed(Failure::Known, Ok(SanitizedResponse::empty(StatusCode::BAD_GATEWAY))).await;
    assert!(landed(joined).await.receipt.is_none());
    assert_eq!(f.gauges(), (0, 0, 1));
    assert!(f.is_replay(copy(1)).await, "answered before the event was claimed again");
    let third = f.won(copy(3)).await;
    assert!(third.possible_duplicate(), "the first one was done");
    third.done(&ok(), false).await.written();
    assert!(f.is_replay(copy(1)).await && f.is_replay(copy(3)).await);
    assert_eq!(f.gauges(), (0, 1, 0));
}
