use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::*;
use crate::{
    events::{
        model::{
            Acceptance, Backlog, DeliveryAttempt, DueEvent, EventFilter, EventState, NewEvent,
            NextStep, OrderKey, Refusal, StoredRequest,
        },
        store::{EventStore, RecordedAcceptance, RecordingStore, Redelivery},
    },
    postgres::tests::cluster::Postgres,
    reject::Reason,
    replay::{ClaimReply, LeaseToken, Millis, ReplayRecord},
    scheme::ContextPin,
};

const NOW: Millis = 1_764_500_000_000;
const HOUR: Millis = 3_600_000;
const RETENTION: Retention = Retention {
    keep: Duration::from_secs(7 * 24 * 3600),
    keep_dead: Duration::from_secs(30 * 24 * 3600),
    keep_refused: 1000,
    max_bytes: 4 << 30,
    max_pending: 1_000_000,
};

fn open_with(
    server: &Postgres,
    key: Option<&[u8]>,
    retention: Retention,
) -> Result<PostgresStore, PostgresError> {
    let url = Secret::new(server.url().into_bytes());
    let key = key.map(|key| Secret::new(key.to_vec()));
    let options = DatabaseOptions { url, ca: None };
    let up = IntGauge::new("up", "up").unwrap();
    PostgresStore::open(&options, key.as_ref(), retention, true, up)
}

fn open(server: &Postgres) -> PostgresStore {
    open_with(server, None, RETENTION).unwrap()
}

fn route() -> Arc<str> {
    "orders".into()
}

fn event_number(number: u64) -> EventId {
    EventId::new(NOW + number, number.into())
}

fn entry(number: u64, state: EventState) -> EventEntry {
    let mut record = [0; 16];
    record[..8].copy_from_slice(&number.to_le_bytes());
    EventEntry {
        id: event_number(number),
        route: route(),
        scheme: "vivoldi".into(),
        event_id: Some(format!("evt_{number}").into()),
        key: "main".into(),
        secret: 1,
        state,
        received: NOW + number,
        attempts: u32::from(state == EventState::Delivering),
        next_attempt: (state == EventState::Pending).then_some(NOW + number),
        expires: NOW + 72 * HOUR,
        bytes: 4,
        record: Some(EventKey(record)),
        pin: ContextPin([3; 16]),
        order: None,
        possible_duplicate: false,
        redelivery: false,
        has_request: true,
        log: Vec::new(),
        refusal: None,
    }
}

fn request(number: u64) -> StoredRequest {
    StoredRequest {
        method: Method::POST,
        target: "/hooks?a=b".into(),
        is_http2: false,
        headers: vec![("X-Number".into(), HeaderValue::from(number))],
        body: Bytes::from(format!("canary body {number}")),
        peer: "192.0.2.7".parse().unwrap(),
        tls: true,
        client: None,
        request_id: HeaderValue::from_static("request"),
    }
}

fn event(number: u64, state: EventState) -> NewEvent {
    NewEvent { entry: entry(number, state), request: request(number) }
}

fn ordered(number: u64, order: u8) -> NewEvent {
    let mut event = event(number, EventState::Delivering);
    event.entry.order = Some(OrderKey([order; 16]));
    event
}

fn attempt(at: Millis, status: u16) -> DeliveryAttempt {
    DeliveryAttempt { at, status: Some(status), error: None, duration_ms: 20, resigned: false }
}

impl PostgresStore {
    async fn accepted(&self, event: NewEvent) -> Option<AttemptLease> {
        match EventStore::accept(self, event, soon()).await.unwrap() {
            Acceptance::New(_, lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    async fn due(&self, now: Millis) -> Vec<DueEvent> {
        self.take_due(&route(), now, 1000).await.unwrap()
    }

    async fn settled(&self, lease: AttemptLease, at: Millis, next: NextStep) -> EventEntry {
        self.settle(lease, attempt(at, 500), next).await.unwrap().unwrap()
    }

    async fn state(&self, number: u64) -> Option<EventState> {
        self.entry(event_number(number)).await.unwrap().map(|entry| entry.state)
    }

    async fn listed(&self, filter: EventFilter) -> Vec<EventId> {
        let page = self.list(&filter, None, 1000).await.unwrap();
        page.entries.into_iter().map(|entry| entry.id).collect()
    }
}

/// Expires all leases.
async fn end_leases(server: &Postgres) {
    server.sql("UPDATE sealgate.event SET lease_ends = to_timestamp(0) WHERE state = 1").await;
}

#[tokio::test]
async fn an_event_is_delivered_retried_dead_and_revived() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    assert_eq!(store.state(1).await, Some(EventState::Delivering));
    assert!(store.due(NOW + HOUR).await.is_empty());
    let delivered = store.settle(lease, attempt(NOW + 5, 200), NextStep::Delivered).await;
    let delivered = delivered.unwrap().unwrap();
    assert_eq!((delivered.state, delivered.attempts), (EventState::Delivered, 1));
    assert_eq!(store.entry(event_number(1)).await.unwrap(), Some(delivered.clone()));
    assert_eq!(store.request(event_number(1)).await.unwrap(), Some(request(1)));
    let repeated = store.settle(lease, attempt(NOW + 5, 200), NextStep::Delivered).await;
    assert_eq!(repeated.unwrap(), Some(delivered), "its reply may have been lost");
    let again = store.settle(lease, attempt(NOW + 9, 200), NextStep::Delivered).await;
    assert_eq!(again.unwrap(), None, "the lease ended");

    assert_eq!(store.accepted(event(2, EventState::Pending)).await, None);
    assert!(store.next_due(&route()) <= Some(NOW + 2));
    let due = store.due(NOW + 2).await.pop().unwrap();
    assert_eq!((due.entry.attempts, due.entry.state), (1, EventState::Delivering));
    assert_eq!(due.request, request(2));
    let retry = NextStep::Retry { at: NOW + 500, unknown: true };
    let pending = store.settled(due.lease, NOW + 2, retry).await;
    assert!(pending.possible_duplicate);
    assert!(store.next_due(&route()) <= Some(NOW + 500));
    assert!(store.due(NOW + 499).await.is_empty());
    let due = store.due(NOW + 500).await.pop().unwrap();
    assert!(due.entry.possible_duplicate, "the mark stays");
    assert_eq!(due.entry.attempts, 2);
    let dead = store.settled(due.lease, NOW + 500, NextStep::Dead { unknown: false }).await;
    assert_eq!((dead.state, dead.log.len()), (EventState::Dead, 2));

    let mut copy = event(2, EventState::Pending);
    copy.entry.id = event_number(12);
    copy.entry.expires = NOW + 99 * HOUR;
    let revived = EventStore::accept(&store, copy.clone(), soon()).await.unwrap();
    assert!(matches!(revived, Acceptance::Revived(id) if id == event_number(2)), "{revived:?}");
    let known = EventStore::accept(&store, copy, soon()).await.unwrap();
    let Acceptance::Known(known) = known else { panic!("{known:?}") };
    assert_eq!((known.state, known.expires), (EventState::Pending, NOW + 99 * HOUR));
    let backlogs = store.backlogs().await.unwrap();
    let expected = Backlog { pending: 1, oldest: Some(NOW + 2), ..Backlog::default() };
    assert_eq!(backlogs[&route()], expected);
}

#[tokio::test]
async fn only_overdue_events_are_given_up() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let over = NOW + 72 * HOUR;
    for number in 1..=3 {
        store.accepted(event(number, EventState::Pending)).await;
    }
    let entries = store.list(&EventFilter::default(), None, 10).await.unwrap().entries;
    let taken = store.take_due(&route(), NOW + 1, 1).await.unwrap().pop().unwrap();
    assert_eq!(store.give_up(entries.clone(), over - 1).await.unwrap(), []);
    store.redeliver(event_number(3), NOW + 9, over + HOUR).await.unwrap();
    let dead = store.give_up(entries, over).await.unwrap();
    assert_eq!(dead.iter().map(|entry| entry.id).collect::<Vec<_>>(), [event_number(2)]);
    assert_eq!((dead[0].state, dead[0].next_attempt), (EventState::Dead, None));
    assert_eq!(store.entry(event_number(2)).await.unwrap().as_ref(), dead.first());
    let delivered = store.settled(taken.lease, over + 1, NextStep::Delivered).await;
    assert_eq!(delivered.state, EventState::Delivered, "an attempt in flight may still end");
}

#[tokio::test]
async fn a_dead_redelivery_of_a_delivered_event_keeps_its_mark() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let id = event_number(1);
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    store.settle(lease, attempt(NOW + 5, 200), NextStep::Delivered).await.unwrap().unwrap();
    store.redeliver(id, NOW + 6, NOW + HOUR).await.unwrap();
    let due = store.due(NOW + 6).await.pop().unwrap();
    let dead = store.settled(due.lease, NOW + 6, NextStep::Dead { unknown: false }).await;
    assert_eq!((dead.state, dead.possible_duplicate), (EventState::Dead, true));
    assert_eq!(store.entry(id).await.unwrap(), Some(dead));
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_with_a_mark() {
    let Some(server) = Postgres::start().await else { return };
    let (a, b) = (open(&server), open(&server));
    let lost = a.accepted(event(1, EventState::Delivering)).await.unwrap();
    assert!(b.due(NOW + HOUR).await.is_empty(), "the lease is held");
    end_leases(&server).await;
    a.renew(&[lost]).await.unwrap();
    assert!(b.due(NOW + HOUR).await.is_empty(), "the lease was renewed");
    end_leases(&server).await;
    let due = b.due(NOW + HOUR).await.pop().unwrap();
    assert!(due.entry.possible_duplicate);
    assert_eq!(due.entry.attempts, 2);
    let late = a.settle(lost, attempt(NOW + 5, 200), NextStep::Delivered).await.unwrap();
    assert_eq!(late, None, "the fencing token is another one");
    a.renew(&[lost]).await.unwrap();
    let delivered = b.settled(due.lease, NOW + 9, NextStep::Delivered).await;
    assert_eq!(delivered.state, EventState::Delivered);
    assert!(!delivered.possible_duplicate);
}

#[tokio::test]
async fn a_repeated_accept_begins_one_attempt() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    for (number, expected) in [(1, EventState::Delivering), (2, EventState::Pending)] {
        let first = store.accepted(event(number, expected)).await;
        // The same statement again, as after a lost reply.
        let again = store.accepted(event(number, expected)).await;
        assert_eq!((first.is_some(), again), (expected == EventState::Delivering, None));
    }
    assert_eq!(server.number("SELECT count(*) FROM sealgate.event_request").await, 2);
}

/// Returns the replay record of an event, claimed with a token.
fn record(number: u64, token: u8) -> ReplayRecord {
    let key = entry(number, EventState::Pending).record.unwrap();
    let (token, pin) = (LeaseToken([token; 16]), ContextPin([3; 16]));
    ReplayRecord { key, token, pin, stale: false, lifetime: HOUR }
}

impl PostgresStore {
    async fn recorded(&self, event: NewEvent, record: ReplayRecord) -> RecordedAcceptance {
        self.accept_recorded(event, record, soon()).await.unwrap()
    }
}

/// Returns the reply to a request that does not store its event.
fn declined(accepted: RecordedAcceptance) -> ClaimReply {
    match accepted {
        RecordedAcceptance::Declined(reply) => reply,
        other => panic!("{other:?}"),
    }
}

const REPLAY: &str = "SELECT state || ' ' || unknown || ' ' || (token IS NULL) \
                      FROM sealgate.replay ORDER BY key";

async fn replay_records(server: &Postgres) -> Vec<String> {
    server.sql(REPLAY).await.into_iter().map(|mut row| row[0].take().unwrap()).collect()
}

#[tokio::test]
async fn an_event_and_its_replay_record_are_stored_together() {
    let Some(server) = Postgres::start().await else { return };
    let (store, other) = (open(&server), open(&server));
    let new = event(1, EventState::Delivering);
    let accepted = store.recorded(new.clone(), record(1, 1)).await;
    let RecordedAcceptance::Recorded { acceptance, unknown: false } = accepted else { panic!() };
    let Acceptance::New(_, Some(lease)) = acceptance else { panic!("{acceptance:?}") };
    assert_eq!(replay_records(&server).await, ["2 false true"]);

    // The same statement again, as after a lost reply; and a copy at another replica.
    let again = store.recorded(new, record(1, 1)).await;
    assert!(matches!(again, RecordedAcceptance::Recorded { .. }), "{again:?}");
    let mut copy = event(1, EventState::Delivering);
    copy.entry.id = event_number(11);
    let ClaimReply::Done(done) = declined(other.recorded(copy.clone(), record(1, 2)).await) else {
        panic!("it is done");
    };
    assert_eq!(done.status, 200);
    assert_eq!(other.state(11).await, None);
    let pin = ContextPin([4; 16]);
    let foreign = other.recorded(copy.clone(), ReplayRecord { pin, ..record(1, 3) }).await;
    assert_eq!(declined(foreign), ClaimReply::Rejected(Reason::ContextMismatch));
    let stale = ReplayRecord { stale: true, ..record(2, 4) };
    let unknown_and_stale = store.recorded(event(2, EventState::Pending), stale).await;
    assert_eq!(declined(unknown_and_stale), ClaimReply::Rejected(Reason::Stale));
    assert_eq!(store.state(2).await, None);
    assert_eq!(server.number("SELECT count(*) FROM sealgate.event").await, 1);
    store.settled(lease, NOW + 5, NextStep::Delivered).await;

    // The replay record was lost: the event is known.
    server.sql("DELETE FROM sealgate.replay").await;
    let known = other.recorded(copy, record(1, 5)).await;
    let RecordedAcceptance::Recorded { acceptance: Acceptance::Known(entry), .. } = known else {
        panic!("{known:?}");
    };
    assert_eq!(entry.id, event_number(1));
    assert_eq!(replay_records(&server).await, ["2 false true"]);
}

#[tokio::test]
async fn an_event_waits_for_the_claim_of_another_replica_and_takes_over_its_mark() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let key = data_encoding::HEXLOWER.encode(&record(1, 1).key.0);
    let pin = "'\\x03030303030303030303030303030303'";
    let claim = format!(
        "SELECT reply FROM sealgate.replay_claim('\\x{key}', 'other', {pin}, false, 15000, 60000)"
    );
    server.sql(&claim).await;
    let busy = store.recorded(event(1, EventState::Delivering), record(1, 1)).await;
    assert_eq!(declined(busy), ClaimReply::Busy);
    assert_eq!(store.state(1).await, None, "nothing is stored");

    server.sql("UPDATE sealgate.replay SET lease_ends = to_timestamp(0)").await;
    let taken = store.recorded(event(1, EventState::Delivering), record(1, 1)).await;
    let RecordedAcceptance::Recorded { unknown: true, .. } = taken else { panic!("{taken:?}") };
    assert!(store.entry(event_number(1)).await.unwrap().unwrap().possible_duplicate);
    assert_eq!(replay_records(&server).await, ["2 false true"]);
}

#[tokio::test]
async fn the_record_of_an_event_that_takes_another_request_is_written_with_it() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let mut failed = entry(1, EventState::Failed);
    (failed.attempts, failed.log) = (1, vec![attempt(NOW, 500)]);
    store.record(vec![(failed, None)]).await.unwrap();
    let mut copy = event(1, EventState::Delivering);
    copy.entry.id = event_number(11);
    copy.request = request(11);
    let accepted = store.recorded(copy, record(1, 1)).await;
    let RecordedAcceptance::Recorded { acceptance, .. } = accepted else { panic!("{accepted:?}") };
    let Acceptance::New(id, Some(_)) = acceptance else { panic!("{acceptance:?}") };
    assert_eq!(id, event_number(1));
    assert_eq!(store.request(id).await.unwrap(), Some(request(11)));
    assert_eq!(replay_records(&server).await, ["2 false true"]);
}

#[tokio::test]
async fn events_that_arrive_together_are_stored_and_settled_in_few_transactions() {
    let Some(server) = Postgres::start().await else { return };
    let stores = [open(&server), open(&server)];
    let transactions = "SELECT txid_snapshot_xmax(txid_current_snapshot())";
    let before = server.number(transactions).await;
    let accept = |number: u64| {
        let store = &stores[usize::from(number.is_multiple_of(2))];
        async move {
            // Pairs of replicas get the same event, every fourth event has an order.
            let mut new = event(number / 2, EventState::Delivering);
            new.entry.id = event_number(1000 + number);
            if (number / 2).is_multiple_of(4) {
                new.entry.order = Some(OrderKey([(number / 2 % 8) as u8; 16]));
            }
            (store, store.recorded(new, record(number / 2, number as u8)).await)
        }
    };
    let accepted = futures_all((0..200).map(accept)).await;
    let (mut new, mut repeated, mut leases) = (0, 0, Vec::new());
    for (store, accepted) in accepted {
        match accepted {
            RecordedAcceptance::Recorded { acceptance: Acceptance::New(_, lease), .. } => {
                new += 1;
                leases.extend(lease.map(|lease| (store, lease)));
            }
            RecordedAcceptance::Declined(ClaimReply::Done(_)) => repeated += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new, repeated), (100, 100));
    assert_eq!(server.number("SELECT count(*) FROM sealgate.replay WHERE state = 2").await, 100);
    let settle = |(store, lease): (_, AttemptLease)| async move {
        let store: &PostgresStore = store;
        store.settled(lease, NOW + 5000, NextStep::Delivered).await
    };
    let began = leases.len();
    futures_all(leases.into_iter().map(settle)).await;
    let delivered = server.number("SELECT count(*) FROM sealgate.event WHERE state = 2").await;
    assert_eq!(usize::try_from(delivered).unwrap(), began);
    let spent = server.number(transactions).await - before;
    assert!(spent <= 40, "{spent} transactions for 200 requests and {began} attempts");
}

/// Runs futures concurrently in this task.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

#[tokio::test]
async fn another_copy_replaces_the_request_of_an_event_that_was_not_taken() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let mut failed = entry(1, EventState::Failed);
    (failed.attempts, failed.log) = (1, vec![attempt(NOW, 500)]);
    store.record(vec![(failed, None)]).await.unwrap();
    assert_eq!(store.state(1).await, Some(EventState::Failed));
    let mut copy = event(1, EventState::Delivering);
    copy.entry.id = event_number(11);
    copy.request = request(11);
    let lease = store.accepted(copy).await.unwrap();
    assert_eq!(lease.id, event_number(1));
    assert_eq!(store.request(event_number(1)).await.unwrap(), Some(request(11)));
    let delivered = store.settled(lease, NOW + 50, NextStep::Delivered).await;
    assert_eq!((delivered.attempts, delivered.log.len()), (2, 2));

    let mut again = event(1, EventState::Delivering);
    (again.entry.id, again.entry.possible_duplicate) = (event_number(21), true);
    let lease = store.accepted(again).await.unwrap();
    assert_eq!((lease.id, store.state(1).await), (event_number(1), Some(EventState::Delivering)));
}

#[tokio::test]
async fn an_operator_redelivers_and_forgets() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let id = event_number(1);
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    let during = store.redeliver(id, NOW + 5, NOW + HOUR).await.unwrap();
    assert_eq!(during, Redelivery::Started);
    let again = store.settled(lease, NOW + 6, NextStep::Delivered).await;
    assert_eq!((again.state, again.redelivery), (EventState::Pending, true));
    let due = store.due(NOW + HOUR).await.pop().unwrap();
    assert!(due.entry.redelivery);
    let delivered = store.settled(due.lease, NOW + 9, NextStep::Delivered).await;
    assert_eq!((delivered.state, delivered.redelivery), (EventState::Delivered, false));
    assert_eq!(store.redeliver(id, NOW + 9, NOW + HOUR).await.unwrap(), Redelivery::Started);
    assert_eq!(store.state(1).await, Some(EventState::Pending));
    assert_eq!(store.redeliver(event_number(7), NOW, NOW).await.unwrap(), Redelivery::Unknown);
    store.record(vec![(entry(2, EventState::Delivered), None)]).await.unwrap();
    assert_eq!(store.redeliver(event_number(2), NOW, NOW).await.unwrap(), Redelivery::NotKept);

    let forgotten = store.forget(id).await.unwrap().unwrap();
    assert_eq!(forgotten.state, EventState::Pending);
    assert_eq!(store.entry(id).await.unwrap(), None, "pending events are removed");
    assert_eq!(store.request(id).await.unwrap(), None);
    store.forget(event_number(2)).await.unwrap().unwrap();
    assert_eq!(store.entry(event_number(2)).await.unwrap().unwrap().record, None);
    let record = entry(2, EventState::Delivered).record.unwrap();
    assert_eq!(store.find(&route(), record).await.unwrap(), None);
}

#[tokio::test]
async fn entries_are_listed_newest_first_and_merged_by_their_record() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let refusal =
        Refusal { reason: "stale".into(), diagnosis: None, network: "192.0.2.0/24".into() };
    let mut refused = entry(3, EventState::Refused);
    (refused.record, refused.event_id, refused.refusal) = (None, None, Some(refusal));
    let mut other = entry(4, EventState::Delivered);
    other.route = "other".into();
    let mut failed = entry(1, EventState::Failed);
    (failed.attempts, failed.log) = (1, vec![attempt(NOW, 500)]);
    let mut later = entry(5, EventState::Delivered);
    (later.record, later.attempts) = (failed.record, 1);
    later.log = vec![attempt(NOW + 9, 200)];
    let events = [failed, entry(2, EventState::Delivered), refused, other, later];
    store.record(events.map(|entry| (entry, Some(request(1)))).to_vec()).await.unwrap();
    let merged = store.entry(event_number(1)).await.unwrap().unwrap();
    assert_eq!((merged.state, merged.log.len()), (EventState::Delivered, 2));

    let all = EventFilter::default();
    let ids = |numbers: &[u64]| numbers.iter().map(|n| event_number(*n)).collect::<Vec<_>>();
    assert_eq!(store.listed(all.clone()).await, ids(&[4, 3, 2, 1]));
    let by = |filter: EventFilter| store.listed(filter);
    assert_eq!(by(EventFilter { route: Some(route()), ..all.clone() }).await, ids(&[3, 2, 1]));
    let refused = Some(EventState::Refused);
    assert_eq!(by(EventFilter { state: refused, ..all.clone() }).await, ids(&[3]));
    let event_id = Some("evt_2".into());
    assert_eq!(by(EventFilter { event_id, ..all.clone() }).await, ids(&[2]));
    let (since, until) = (Some(NOW + 2), Some(NOW + 4));
    assert_eq!(by(EventFilter { since, until, ..all.clone() }).await, ids(&[3, 2]));
    let page = store.list(&all, None, 3).await.unwrap();
    assert_eq!(page.next, Some(event_number(2)));
    let last = store.list(&all, page.next, 3).await.unwrap();
    assert_eq!((last.entries.len(), last.next), (1, None));
}

#[tokio::test]
async fn retention_removes_what_is_old_and_never_what_is_pending() {
    let Some(server) = Postgres::start().await else { return };
    let retention = Retention { keep_refused: 2, max_pending: 3, ..RETENTION };
    let store = open_with(&server, None, retention).unwrap();
    let mut recorded = Vec::new();
    for (number, state) in [
        (1, EventState::Delivered),
        (2, EventState::Failed),
        (3, EventState::Dead),
        (4, EventState::Refused),
        (5, EventState::Refused),
        (6, EventState::Refused),
    ] {
        recorded.push((entry(number, state), None));
    }
    store.record(recorded).await.unwrap();
    for number in 11..14 {
        store.accepted(event(number, EventState::Pending)).await;
    }
    // The measurement at the start may have counted fewer.
    while !store.0.usage.is_full(0, &retention) {
        store.0.measure().await.unwrap();
    }
    let full = EventStore::accept(&store, event(14, EventState::Pending), soon()).await;
    assert_eq!(full.unwrap_err(), StoreError::Full);
    store.expire(NOW + 100).await.unwrap();
    assert_eq!(store.state(4).await, None, "more than two are rejected");
    assert_eq!(store.state(5).await, Some(EventState::Refused));
    store.expire(NOW + 8 * 24 * HOUR).await.unwrap();
    let left = store.listed(EventFilter::default()).await;
    assert_eq!(left, [13, 12, 11, 3].map(event_number));
    store.expire(NOW + 40 * 24 * HOUR).await.unwrap();
    assert_eq!(store.listed(EventFilter::default()).await.len(), 3);

    // Delivered events make room for others.
    for due in store.due(NOW + HOUR).await {
        store.settled(due.lease, NOW + HOUR, NextStep::Delivered).await;
    }
    let small = open_with(&server, None, Retention { max_bytes: 1, ..RETENTION }).unwrap();
    let full = EventStore::accept(&small, event(20, EventState::Pending), soon()).await;
    assert_eq!(full.unwrap_err(), StoreError::Full);
    server.sql("UPDATE sealgate.event_store SET measured_at = to_timestamp(0)").await;
    small.0.measure().await.unwrap();
    small.expire(NOW + HOUR).await.unwrap();
    assert_eq!(server.number("SELECT count(*) FROM sealgate.event").await, 0);
    assert_eq!(server.number("SELECT count(*) FROM sealgate.event_request").await, 0);
}

#[tokio::test]
async fn without_the_key_nothing_is_readable() {
    let Some(server) = Postgres::start().await else { return };
    let (key, other) = ([7; 32], [8; 32]);
    let store = open_with(&server, Some(&key), RETENTION).unwrap();
    store.accepted(event(1, EventState::Pending)).await;
    store.record(vec![(entry(2, EventState::Delivered), Some(request(2)))]).await.unwrap();
    assert_eq!(store.due(NOW + HOUR).await.pop().unwrap().request, request(1));
    let event_id = Some("evt_2".into());
    let filter = EventFilter { event_id, ..EventFilter::default() };
    assert_eq!(store.listed(filter).await, [event_number(2)]);
    server.sql("CHECKPOINT").await;
    for text in ["canary", "evt_1", "X-Number"] {
        let find = format!(
            "SELECT count(*) FROM sealgate.event e LEFT JOIN sealgate.event_request r USING (id) \
             WHERE position('{text}'::bytea IN entry) > 0 OR position('{text}'::bytea IN request) > 0"
        );
        assert_eq!(server.number(&find).await, 0, "{text}");
    }
    let missing = open_with(&server, None, RETENTION).unwrap_err();
    assert!(matches!(missing, PostgresError::MissingKey), "{missing}");
    let wrong = open_with(&server, Some(&other), RETENTION).unwrap_err();
    assert!(matches!(wrong, PostgresError::WrongKey), "{wrong}");
    assert!(matches!(open_with(&server, Some(&[1]), RETENTION), Err(PostgresError::Key(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_wakes_other_replicas() {
    let Some(server) = Postgres::start().await else { return };
    let (a, b) = (open(&server), open(&server));
    let listeners = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    while server.number(listeners).await < 2 {
        tokio::task::yield_now().await;
    }
    assert!(b.due(NOW).await.is_empty());
    assert_eq!(b.next_due(&route()), Some(NOW + 1_000), "asked again after a second");
    let changed = b.due_changed();
    a.accepted(event(1, EventState::Pending)).await;
    tokio::time::timeout(Duration::from_secs(20), changed).await.unwrap();
    assert_eq!(b.next_due(&route()), Some(0));
    assert_eq!(b.due(NOW + 1).await.len(), 1);
}

#[tokio::test]
async fn an_unreachable_database_is_unavailable_in_time_and_keeps_what_was_accepted() {
    let Some(server) = Postgres::start().await else { return };
    let store = open(&server);
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    for fault in [Postgres::kill, Postgres::freeze] {
        fault(&server);
        let start = Instant::now();
        let until = start + Duration::from_secs(1);
        let failed = EventStore::accept(&store, event(2, EventState::Pending), until).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
        assert!(!store.is_up());
        match server.number_of_processes() {
            0 => server.restart().await,
            _ => server.thaw(),
        }
        let available = async {
            while !store.is_up() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), available).await.expect("up again");
    }
    assert_eq!(store.settled(lease, NOW, NextStep::Delivered).await.state, EventState::Delivered);
}

/// Two replicas take and settle the same events; some attempts fail, some leases expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_replicas_keep_the_order_and_never_overlap() {
    const EVENTS: u64 = 120;
    const ORDERS: u64 = 7;
    #[derive(Default)]
    struct Ledger {
        in_flight: HashSet<EventId>,
        busy: HashSet<u64>,
        delivered: Vec<u64>,
        attempts: u64,
    }
    let Some(server) = Postgres::start().await else { return };
    let replicas = [Arc::new(open(&server)), Arc::new(open(&server))];
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..6 {
        let store = Arc::clone(&replicas[worker % 2]);
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            loop {
                for DueEvent { entry, lease, .. } in
                    store.take_due(&route(), NOW + HOUR, 3).await.unwrap()
                {
                    let number = u64::try_from(entry.id.0 & 0xffff).unwrap();
                    let fails = {
                        let mut ledger = ledger.lock().unwrap();
                        assert!(ledger.in_flight.insert(entry.id), "two attempts of {number}");
                        assert!(ledger.busy.insert(number % ORDERS), "two attempts of one order");
                        ledger.attempts += 1;
                        ledger.attempts % 4 == 0
                    };
                    tokio::task::yield_now().await;
                    {
                        let mut ledger = ledger.lock().unwrap();
                        ledger.in_flight.remove(&entry.id);
                        ledger.busy.remove(&(number % ORDERS));
                        if !fails {
                            ledger.delivered.push(number);
                        }
                    }
                    let next = match fails {
                        true => NextStep::Retry { at: NOW + number, unknown: false },
                        false => NextStep::Delivered,
                    };
                    store.settle(lease, attempt(NOW, 200), next).await.unwrap().unwrap();
                }
                if ledger.lock().unwrap().delivered.len() as u64 == EVENTS {
                    return;
                }
            }
        });
    }
    for number in 0..EVENTS {
        let mut event = ordered(number, u8::try_from(number % ORDERS).unwrap());
        event.entry.state = EventState::Pending;
        replicas[usize::try_from(number % 2).unwrap()].accepted(event).await;
    }
    let all = tokio::time::timeout(Duration::from_secs(100), tasks.join_all()).await;
    all.expect("every event is delivered");
    let delivered = std::mem::take(&mut ledger.lock().unwrap().delivered);
    for order in 0..ORDERS {
        let of_order: Vec<_> = delivered.iter().filter(|n| **n % ORDERS == order).collect();
        assert!(of_order.is_sorted(), "{of_order:?}");
        assert_eq!(of_order.len() as u64, (EVENTS - order).div_ceil(ORDERS));
    }
}

#[tokio::test]
async fn a_successor_waits_and_a_redelivery_does_not_overlap() {
    let Some(server) = Postgres::start().await else { return };
    let (a, b) = (open(&server), open(&server));
    let first = a.accepted(ordered(1, 9)).await.unwrap();
    assert_eq!(b.accepted(ordered(2, 9)).await, None, "it waits for the first");
    let mut unordered = event(3, EventState::Delivering);
    unordered.entry.order = None;
    assert!(b.accepted(unordered).await.is_some());
    assert!(b.due(NOW + HOUR).await.is_empty());
    // A retry of the first still blocks the second.
    a.settled(first, NOW + 5, NextStep::Retry { at: NOW + 99, unknown: false }).await;
    assert!(b.due(NOW + 98).await.is_empty());
    let due = b.due(NOW + 99).await;
    assert_eq!(due.iter().map(|due| due.entry.id).collect::<Vec<_>>(), [event_number(1)]);
    b.settled(due[0].lease, NOW + 99, NextStep::Delivered).await;
    let second = a.due(NOW + 100).await.pop().unwrap();
    assert_eq!((second.entry.id, second.entry.attempts), (event_number(2), 1));
    a.redeliver(event_number(1), NOW + 100, NOW + HOUR).await.unwrap();
    assert!(b.due(NOW + HOUR).await.is_empty(), "the second is in flight");
    a.settled(second.lease, NOW + 101, NextStep::Dead { unknown: false }).await;
    assert_eq!(b.due(NOW + HOUR).await.len(), 1);
}
