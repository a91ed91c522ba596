//! Shares of the guard: what a busy route or key cannot take from another.

use super::*;

const BUSY: ShareId = ShareId(10);
const QUIET: ShareId = ShareId(20);

fn shared(max_entries: usize) -> Fixture {
    let f = fixture(max_entries);
    let routes = [BUSY, QUIET].map(|route| (route, ["a", "b"].map(|key| route.of_key(key)).into()));
    f.replay.0.claims.assign_shares(&routes);
    f
}

fn of(route: ShareId, key: &str, event: u64) -> Arrival {
    let terms = Terms { route, ttl: TTL, forwards_repeats: false };
    Arrival { terms, share: route.of_key(key), ..arrival(event, 1) }
}

impl Fixture {
    /// Sends events until the guard is full; returns how many succeeded.
    async fn fill(&self, first: u64, arrival: impl Fn(u64) -> Arrival) -> u64 {
        let mut count = 0;
        loop {
            match self.admit(arrival(first + count)).await {
                Ok(Claimed::Won(claim)) => drop(claim.done(&ok(), false).await),
                Err(Reject::GuardFull) => return count,
                other => panic!("{other:?}"),
            }
            count += 1;
        }
    }
}

#[tokio::test]
async fn a_key_that_fills_the_guard_leaves_every_other_share() {
    let f = shared(80);
    // 20 for each route, of which 5 for each key; 40 for all.
    assert_eq!(f.fill(0, |event| of(BUSY, "a", event)).await, 40 + 10 + 5);
    assert_eq!(f.fill(1_000, |event| of(BUSY, "b", event)).await, 5);
    assert_eq!(f.fill(2_000, |event| of(QUIET, "a", event)).await, 10 + 5);
    assert_eq!(f.fill(3_000, |event| of(QUIET, "b", event)).await, 5);
    assert_eq!(f.gauges(), (0, 80, 0));
}

#[tokio::test]
async fn capacity_that_is_given_back_is_shared_again() {
    let f = shared(80);
    let quiet = f.fill(0, |event| of(QUIET, "a", event)).await;
    f.clock.advance(PROTECTED + Duration::from_millis(1));
    // Records of the quiet key above its share no longer protect and give way.
    assert_eq!(f.fill(1_000, |event| of(BUSY, "a", event)).await, 55);
    assert_eq!((quiet, f.gauges()), (55, (0, 55 + 15, 0)));
    // Expired records leave nothing charged.
    f.clock.advance(TTL);
    f.replay.expire();
    assert_eq!(f.replay.0.claims.used(), 0);
    assert_eq!(f.fill(2_000, |event| of(QUIET, "b", event)).await, 55);
}

#[tokio::test]
async fn no_record_below_its_share_is_evicted_for_another_route() {
    let f = shared(80);
    for event in 0..5 {
        let _ = f.won(of(QUIET, "a", event)).await.done(&ok(), false).await;
    }
    f.clock.advance(PROTECTED + Duration::from_millis(1));
    f.fill(1_000, |event| of(BUSY, "a", event)).await;
    for event in 0..5 {
        let _ = f.retry(Arrival { stale: true, ..of(QUIET, "a", event) }).await;
    }
}

#[tokio::test]
async fn unknown_keys_and_routes_compete_for_the_rest() {
    let f = shared(80);
    assert_eq!(f.fill(0, |event| of(BUSY, "unknown", event)).await, 40 + 10);
    assert_eq!(f.fill(1_000, |event| of(ShareId(99), "a", event)).await, 0);
    assert_eq!(f.fill(2_000, |event| of(BUSY, "a", event)).await, 5);
}

#[tokio::test]
async fn shares_can_be_assigned_again_while_they_are_in_use() {
    let f = shared(80);
    f.fill(0, |event| of(BUSY, "a", event)).await;
    let only_quiet = [(QUIET, vec![QUIET.of_key("a")])];
    f.replay.0.claims.assign_shares(&only_quiet);
    // 40 for the one route; 55 of 40 that are shared are in use.
    assert_eq!(f.fill(1_000, |event| of(QUIET, "a", event)).await, 40);
    assert_eq!(f.fill(2_000, |event| of(BUSY, "a", event)).await, 0);
    f.clock.advance(TTL);
    f.replay.expire();
    assert_eq!(f.replay.0.claims.used(), 0);
    assert_eq!(f.fill(3_000, |event| of(QUIET, "a", event)).await, 80);
}

#[tokio::test]
async fn a_record_protects_its_event_until_a_copy_would_be_rejected() {
    let long = |event| Arrival { fresh_for: Some(3_600_000), ..arrival(event, 1) };
    let f = fixture(1);
    let _ = f.won(long(1)).await.done(&ok(), false).await;
    f.clock.advance(Duration::from_millis(3_600_000));
    assert_eq!(f.rejected(arrival(2, 1)).await, Reject::GuardFull);
    f.clock.advance(Duration::from_millis(900_000));
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    // A copy with a newer token extends the protection of the same event.
    let _ = f.retry(Arrival { identity: None, ..long(2) }).await;
    f.clock.advance(PROTECTED * 2);
    assert_eq!(f.rejected(arrival(3, 1)).await, Reject::GuardFull);
}

#[test]
fn protection_is_rounded_up_by_at_most_a_quarter() {
    for exponent in 0..40 {
        for offset in [0, 1, 7] {
            let fresh_for = (1u64 << exponent) + offset;
            let rounded = Arrival { fresh_for: Some(fresh_for), ..arrival(1, 1) }.protection();
            assert!((fresh_for..=fresh_for + fresh_for / 4).contains(&rounded), "{fresh_for}");
        }
    }
    assert_eq!(Arrival { fresh_for: Some(0), ..arrival(1, 1) }.protection(), 0);
}
