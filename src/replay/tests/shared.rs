//! Tests of every store that processes share, against a real server on a free port.

use std::net::SocketAddr;

use self::relay::Relay;
use super::*;
use crate::replay::{
    record::LeaseToken,
    store::lease::{Attempt, ClaimReply},
};

#[path = "../../../tests/integration/kit/relay.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
pub(super) mod relay;

/// A server of a kind of store; killed when dropped.
pub(super) trait SharedServer: Sized {
    /// The label of the store in the metrics.
    const STORE: &'static str;

    /// Starts a server, if one is installed.
    async fn start() -> Option<Self>;

    fn address(&self) -> SocketAddr;

    /// Returns the options of a guard that reaches the server at another address.
    fn options_at(&self, address: SocketAddr, on_store_failure: OnStoreFailure) -> Options;

    fn options(&self, on_store_failure: OnStoreFailure) -> Options {
        self.options_at(self.address(), on_store_failure)
    }

    /// Expires the lease of an event.
    async fn end_lease(&self, event: u64);

    /// Expires all leases.
    async fn end_leases(&self);

    /// Closes the connections of all clients.
    async fn end_connections(&self);

    /// Turns the record of an event into one that cannot be read.
    async fn spoil(&self, event: u64);

    fn freeze(&self);

    fn thaw(&self);

    fn kill(&mut self);

    async fn restart(&mut self);
}

/// Opens a guard, and waits until it has reached the server.
pub(super) async fn replica<S: SharedServer>(server: &S, on_failure: OnStoreFailure) -> Fixture {
    let f = Fixture::open(server.options(on_failure), &Clock::system());
    f.until_store(1).await;
    f
}

impl Fixture {
    pub(super) async fn until_store(&self, up: i64) {
        let gauge = self.metrics.store_up(match self.store() {
            SharedStore::Redis(_) => "redis",
            SharedStore::Postgres(_) => "postgres",
            SharedStore::Simulated(_) => panic!("it has no gauge"),
        });
        let wait = async {
            while gauge.get() != up {
                self.store().check().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    pub(super) fn store(&self) -> &SharedStore {
        match &self.replay.0.store {
            Store::Shared(store) => store,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn flushed(&self) {
        self.replay.flush(Instant::now() + Duration::from_secs(20)).await;
        assert!(self.replay.0.write_behind.is_empty());
    }
}

/// Runs every test of this file against one kind of store.
macro_rules! test_store {
    ($server:ty) => {
        $crate::replay::tests::shared::test_store! { $server:
            replicas_share_retries_replays_and_contexts
            an_event_is_forgotten_by_all_replicas
            a_copy_on_another_replica_gets_the_outcome
            a_claim_of_a_dead_replica_is_taken_over_when_its_lease_expires
            a_released_claim_goes_to_a_waiting_copy
            a_lease_is_renewed_while_its_claim_is_held
            a_frozen_server_delays_a_rejection_by_a_second_and_loses_nothing
            a_killed_server_keeps_its_records_over_a_restart
            the_server_keeps_the_events_that_a_full_cache_evicts
            copies_on_two_replicas_are_forwarded_once
            thousands_of_leases_are_renewed_in_one_round_over_a_slow_network
            a_claim_is_requested_again_when_its_connection_is_lost
        }
    };
    ($server:ty: $($name:ident)*) => {
        $(
            // Relays run in the same runtime, which the start of a guard may block.
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                if let Some(server) = <$server as SharedServer>::start().await {
                    $crate::replay::tests::shared::$name(server).await;
                }
            }
        )*
    };
}
pub(super) use test_store;

pub(super) async fn replicas_share_retries_replays_and_contexts<S: SharedServer>(server: S) {
    let a = replica(&server, OnStoreFailure::Refuse).await;
    let b = replica(&server, OnStoreFailure::Refuse).await;

    // Done on one, known on the other: retry, replay, context.
    a.won(arrival(1, 1)).await.done(&ok(), false).await.written();
    a.flushed().await;
    let _ = b.retry(arrival(1, 2)).await;
    assert!(b.is_replay(arrival(1, 1)).await);
    let other = Arrival { pin: ContextPin([2; 16]), ..arrival(1, 3) };
    assert_eq!(b.rejected(other).await, Reject::NotAccepted(Reason::ContextMismatch));
    // Also where the other has it in its own memory already.
    a.retry(arrival(1, 4)).await.written();
    a.flushed().await;
    assert!(b.is_replay(arrival(1, 4)).await);

    // After a failure on one replica, the other has the pin and the mark.
    a.won(arrival(2, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    let other = Arrival { pin: ContextPin([2; 16]), ..arrival(2, 2) };
    assert_eq!(b.rejected(other).await, Reject::NotAccepted(Reason::ContextMismatch));
    let claim = b.won(Arrival { stale: true, ..arrival(2, 2) }).await;
    assert!(claim.possible_duplicate());
    claim.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    assert!(a.won(arrival(2, 3)).await.possible_duplicate(), "the first may still have arrived");

    let stale = Arrival { stale: true, ..arrival(3, 1) };
    assert_eq!(a.rejected(stale).await, Reject::NotAccepted(Reason::Stale));
    let _ = b.won(arrival(3, 1)).await;
}

pub(super) async fn an_event_is_forgotten_by_all_replicas<S: SharedServer>(server: S) {
    let (a, b) = (
        replica(&server, OnStoreFailure::Refuse).await,
        replica(&server, OnStoreFailure::Refuse).await,
    );
    let soon = || Instant::now() + Duration::from_secs(5);
    for (event, forgetting) in [(1, &a), (2, &b), (3, &b)] {
        let arrival = arrival(event, 1);
        a.won(arrival).await.done(&ok(), false).await.written();
        a.flushed().await;
        assert!(b.is_replay(arrival).await, "both replicas have the record");
        assert_eq!(forgetting.replay.forget(&arrival.key, soon()).await, Ok(()));
        let stale = Arrival { stale: true, ..arrival };
        assert_eq!(a.rejected(stale).await, Reject::NotAccepted(Reason::Stale));
    }
    // What a replica reports late is ignored.
    let claim = a.won(arrival(1, 1)).await;
    let shortly = Instant::now() + Duration::from_millis(200);
    let busy = b.replay.forget(&arrival(1, 1).key, shortly).await;
    assert_eq!(busy, Err(Reject::InFlight));
    server.end_lease(1).await;
    assert_eq!(b.replay.forget(&arrival(1, 1).key, soon()).await, Ok(()));
    claim.done(&ok(), false).await.written();
    a.flushed().await;
    for event in 1..=3 {
        assert!(!b.won(arrival(event, 1)).await.possible_duplicate(), "event {event}");
    }
    assert_eq!(b.replay.forget(&arrival(4, 1).key, soon()).await, Ok(()));
    let _ = a.won(Arrival { pin: ContextPin([2; 16]), ..arrival(4, 1) }).await;
}

pub(super) async fn a_copy_on_another_replica_gets_the_outcome<S: SharedServer>(server: S) {
    let a = replica(&server, OnStoreFailure::Refuse).await;
    let b = replica(&server, OnStoreFailure::Refuse).await;

    let claim = a.won(arrival(1, 1)).await;
    let joined = b.joined(arrival(1, 2)).await;
    let other = Arrival { pin: ContextPin([2; 16]), ..arrival(1, 3) };
    assert_eq!(b.rejected(other).await, Reject::NotAccepted(Reason::ContextMismatch));
    let answer = SanitizedResponse::empty(StatusCode::CREATED);
    let (_receipt, settled) = tokio::join!(claim.done(&answer, false), landed(joined));
    assert_eq!(settled.outcome.unwrap().status, StatusCode::CREATED);
    settled.receipt.unwrap().written();
    b.flushed().await;
    assert!(a.is_replay(arrival(1, 2)).await);

    let claim = a.won(arrival(2, 1)).await;
    let joined = b.joined(arrival(2, 2)).await;
    let failed = claim.failed(Failure::Unknown, Err(Reject::UpstreamTimeout));
    let ((), settled) = tokio::join!(failed, landed(joined));
    assert_eq!(settled.outcome.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    assert!(settled.receipt.is_none());

    // A claim that is dropped is released as well.
    let claim = a.won(arrival(3, 1)).await;
    let joined = b.joined(arrival(3, 2)).await;
    drop(claim);
    let ((), settled) = tokio::join!(a.flushed(), landed(joined));
    assert_eq!(settled.outcome.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(b.won(arrival(3, 3)).await.possible_duplicate());
}

pub(super) async fn a_claim_of_a_dead_replica_is_taken_over_when_its_lease_expires<
    S: SharedServer,
>(
    server: S,
) {
    let a = replica(&server, OnStoreFailure::Refuse).await;
    let b = replica(&server, OnStoreFailure::Refuse).await;
    let lost = a.won(arrival(1, 1)).await;
    let joined = b.joined(arrival(1, 2)).await;
    server.end_lease(1).await;
    let claim = released(joined).await;
    assert!(claim.possible_duplicate());

    // The dead come back: a failure releases nothing that another holds by now …
    lost.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    let c = replica(&server, OnStoreFailure::Refuse).await;
    let joined = c.joined(arrival(1, 3)).await;
    drop(joined);
    // … while a success is a fact.
    server.end_lease(1).await;
    let taken = c.won(arrival(1, 3)).await;
    let _ = claim.done(&ok(), false).await;
    taken.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    let _ = a.retry(arrival(1, 4)).await;
    let _ = c.retry(arrival(1, 5)).await;
}

/// Returns the claim that a waiting copy gets when the other process releases its claim.
async fn released(joined: Joined) -> Claim {
    match joined.outcome().await {
        Ok(Ended::Released(Claimed::Won(claim))) => claim,
        other => panic!("expected a claim, got {other:?}"),
    }
}

pub(super) async fn a_released_claim_goes_to_a_waiting_copy<S: SharedServer>(server: S) {
    let a = replica(&server, OnStoreFailure::Refuse).await;
    let b = replica(&server, OnStoreFailure::Refuse).await;
    // At the first attempt, and after one that failed.
    a.won(arrival(2, 1)).await.failed(Failure::Known, Ok(ok())).await;
    for event in [1, 2] {
        // The lease of a request whose sender went away before it knew of it.
        let token = LeaseToken([7; 16]);
        let until = Instant::now() + Duration::from_secs(20);
        let (early, answer) = (arrival(event, 2), ok());
        let asked = a.store().claim(&early, token, until).await;
        assert!(matches!(asked, Ok(ClaimReply::Won { .. })), "{asked:?}");
        let (first, second) =
            (b.joined(arrival(event, 3)).await, b.joined(arrival(event, 4)).await);
        let give_back = a.store().failed(&early, token, Attempt::None, 0, until);
        let (given, won) = tokio::join!(give_back, released(first));
        given.unwrap();
        assert!(!won.possible_duplicate());
        // The other one waits for the outcome of the first.
        let (_receipt, settled) = tokio::join!(won.done(&answer, false), landed(second));
        assert_eq!(settled.outcome.unwrap().status, StatusCode::OK);
    }
}

pub(super) async fn a_lease_is_renewed_while_its_claim_is_held<S: SharedServer>(server: S) {
    let a = Fixture::open(server.options(OnStoreFailure::Refuse), &Clock::manual(1_000_000));
    let b = replica(&server, OnStoreFailure::Refuse).await;
    let claim = a.won(arrival(1, 1)).await;
    server.end_lease(1).await;
    a.clock.advance(Duration::from_millis(RENEWAL));
    a.replay.0.renew().await.unwrap();
    let joined = b.joined(arrival(1, 2)).await;
    drop((claim, joined));
}

pub(super) async fn a_frozen_server_delays_a_rejection_by_a_second_and_loses_nothing<
    S: SharedServer,
>(
    server: S,
) {
    let refusing = replica(&server, OnStoreFailure::Refuse).await;
    let going_on = replica(&server, OnStoreFailure::Local).await;
    let _ = refusing.won(arrival(1, 1)).await.done(&ok(), false).await;
    let in_flight = refusing.won(arrival(2, 1)).await;
    server.freeze();
    let start = std::time::Instant::now();
    let answer = ok();
    let rejection = async { (refusing.rejected(arrival(3, 1)).await, start.elapsed()) };
    let ((rejected, after), receipt) = tokio::join!(rejection, in_flight.done(&answer, false));
    assert_eq!(rejected, Reject::StoreUnavailable);
    assert!(after < Duration::from_millis(1_500), "{after:?}");
    // A success waits for the store until the response is due, which is after five seconds.
    assert!(start.elapsed() < Duration::from_millis(5_500), "{:?}", start.elapsed());
    assert_eq!(refusing.metrics.store_up(S::STORE).get(), 0);
    receipt.written();
    // What is known here is answered here.
    let _ = refusing.retry(arrival(1, 2)).await;
    assert!(refusing.is_replay(arrival(2, 1)).await);

    let near = Instant::now() + Duration::from_millis(200);
    let start = std::time::Instant::now();
    let refused = decision::admit(&refusing.replay.0, arrival(4, 1), near).await.unwrap_err();
    assert_eq!(refused, Reject::StoreUnavailable);
    assert!(start.elapsed() < Duration::from_millis(700), "within its deadline");

    let claim = going_on.won(arrival(5, 1)).await;
    let joined = going_on.joined(arrival(5, 2)).await;
    let _ = claim.done(&ok(), false).await;
    assert!(landed(joined).await.outcome.is_ok());
    let unseen = Arrival { stale: true, ..arrival(6, 1) };
    assert_eq!(going_on.rejected(unseen).await, Reject::StoreUnavailable);
    going_on.won(arrival(7, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    assert!(going_on.won(arrival(7, 2)).await.possible_duplicate());

    server.thaw();
    refusing.until_store(1).await;
    refusing.flushed().await;
    going_on.flushed().await;
    let fresh = replica(&server, OnStoreFailure::Refuse).await;
    assert!(fresh.is_replay(arrival(2, 1)).await, "written behind, with its receipt");
    let _ = fresh.retry(arrival(5, 3)).await;
    assert!(fresh.won(arrival(7, 3)).await.possible_duplicate());
    // The lease that was asked for in vain was given back.
    assert!(!fresh.won(arrival(3, 2)).await.possible_duplicate());
}

pub(super) async fn a_killed_server_keeps_its_records_over_a_restart<S: SharedServer>(
    mut server: S,
) {
    let f = replica(&server, OnStoreFailure::Refuse).await;
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    let in_flight = f.won(arrival(2, 1)).await;
    server.kill();
    assert_eq!(f.rejected(arrival(3, 1)).await, Reject::StoreUnavailable);
    let _ = in_flight.done(&ok(), false).await;
    server.restart().await;
    f.until_store(1).await;
    f.flushed().await;
    let fresh = replica(&server, OnStoreFailure::Refuse).await;
    let _ = fresh.retry(arrival(1, 2)).await;
    let _ = fresh.retry(arrival(2, 2)).await;
    let _ = f.won(arrival(3, 1)).await.done(&ok(), false).await;
}

pub(super) async fn the_server_keeps_the_events_that_a_full_cache_evicts<S: SharedServer>(
    server: S,
) {
    let options = Options { max_entries: 10, ..server.options(OnStoreFailure::Refuse) };
    let f = Fixture::open(options, &Clock::system());
    f.until_store(1).await;
    for event in 0..50 {
        let _ = f.won(arrival(event, 1)).await.done(&ok(), false).await;
        // A record leaves only when it is older than the moment.
        let now = f.clock.now();
        while f.clock.now() == now {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(f.gauges(), (0, 10, 0));
    let _ = f.retry(arrival(0, 2)).await;
}

/// Copies of an event arrive at two replicas, from senders that retry until they get a 2xx.
pub(super) async fn copies_on_two_replicas_are_forwarded_once<S: SharedServer>(server: S) {
    const EVENTS: u64 = 100;
    let replicas = [
        Arc::new(replica(&server, OnStoreFailure::Refuse).await),
        Arc::new(replica(&server, OnStoreFailure::Refuse).await),
    ];
    let under_way = Arc::new(Mutex::new(HashSet::<u64>::new()));
    let successes = Arc::new(AtomicU64::new(0));
    let mut copies = tokio::task::JoinSet::new();
    for event in 0..EVENTS {
        for copy in 0..6u8 {
            let f = Arc::clone(&replicas[usize::from(copy % 2)]);
            let (under_way, successes) = (Arc::clone(&under_way), Arc::clone(&successes));
            copies.spawn(async move {
                let mut attempt = u64::from(copy);
                loop {
                    attempt += 1;
                    match f.admit(arrival(event, copy + 1)).await {
                        Ok(Claimed::Won(claim)) => {
                            assert!(under_way.lock().unwrap().insert(event), "two forwards");
                            tokio::task::yield_now().await;
                            assert!(under_way.lock().unwrap().remove(&event));
                            if (event + attempt) % 3 == 0 {
                                successes.fetch_add(1, Ordering::Relaxed);
                                return claim.done(&ok(), false).await.written();
                            }
                            claim.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
                        }
                        Ok(Claimed::InFlight(joined)) => {
                            if let Some(receipt) = landed(joined).await.receipt {
                                return receipt.written();
                            }
                        }
                        Ok(Claimed::Done(Repeat::Retry(receipt))) => return receipt.written(),
                        Ok(Claimed::Done(Repeat::Replay)) => {
                            panic!("copy {copy} has no answer yet")
                        }
                        Err(reject) => assert_eq!(reject, Reject::InFlight),
                    }
                }
            });
        }
    }
    while let Some(ended) = copies.join_next().await {
        ended.unwrap();
    }
    assert_eq!(successes.load(Ordering::Relaxed), EVENTS);
}

/// Requests claims for events, a few hundred at a time.
async fn admit_all(f: &Arc<Fixture>, events: std::ops::Range<u64>, request: u8) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    for first in events.clone().step_by(250) {
        let mut claiming = tokio::task::JoinSet::new();
        for event in first..events.end.min(first + 250) {
            let f = Arc::clone(f);
            claiming.spawn(async move { f.admit(arrival(event, request)).await.unwrap() });
        }
        claimed.extend(claiming.join_all().await);
    }
    claimed
}

pub(super) async fn thousands_of_leases_are_renewed_in_one_round_over_a_slow_network<
    S: SharedServer,
>(
    server: S,
) {
    const EVENTS: u64 = 5_000;
    let relay = Relay::start(server.address(), Duration::from_millis(20)).await;
    let slow = server.options_at(relay.address(), OnStoreFailure::Refuse);
    let a = Arc::new(Fixture::open(slow.clone(), &Clock::manual(1_000_000)));
    a.until_store(1).await;
    let claims = admit_all(&a, 0..EVENTS, 1).await;
    assert!(claims.iter().all(|claimed| matches!(claimed, Claimed::Won(_))));

    // Every lease has expired, one record cannot be read, and the connection is closed during the
    // round.
    server.end_leases().await;
    server.spoil(7).await;
    let start = std::time::Instant::now();
    a.clock.advance(Duration::from_millis(RENEWAL));
    let (_, ()) = tokio::join!(a.replay.0.renew(), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        relay.close();
    });
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());

    let b = Arc::new(Fixture::open(slow, &Clock::system()));
    b.until_store(1).await;
    for events in [0..7, 8..EVENTS] {
        let copies = admit_all(&b, events, 2).await;
        assert!(copies.iter().all(|claimed| matches!(claimed, Claimed::InFlight(_))));
    }
    drop(claims);
}

pub(super) async fn a_claim_is_requested_again_when_its_connection_is_lost<S: SharedServer>(
    server: S,
) {
    let relay = Relay::start(server.address(), Duration::ZERO).await;
    let options = server.options_at(relay.address(), OnStoreFailure::Refuse);
    let f = Fixture::open(options, &Clock::system());
    f.until_store(1).await;
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    server.end_connections().await;
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    relay.close();
    let _ = f.won(arrival(3, 1)).await.done(&ok(), false).await;
    // A firewall that forgot the connection drops its packets.
    relay.mute();
    let _ = f.won(arrival(4, 1)).await.done(&ok(), false).await;
    assert_eq!(f.metrics.store_up(S::STORE).get(), 1, "the store was available all the time");
    let fresh = replica(&server, OnStoreFailure::Refuse).await;
    for event in 1..=4 {
        let _ = fresh.retry(arrival(event, 2)).await;
    }
}
