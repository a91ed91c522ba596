use bytes::Bytes;
use http::{HeaderValue, Method};
use prometheus::IntGauge;
use tempfile::TempDir;

use super::*;
use crate::{
    events::model::{EventState, OrderKey, Refusal},
    scheme::ContextPin,
};

mod faults;
mod model;

const NOW: Millis = 1_764_500_000_000;
const HOUR: Millis = 3_600_000;

fn retention() -> Retention {
    Retention {
        keep: Duration::from_secs(7 * 24 * 3600),
        keep_dead: Duration::from_secs(30 * 24 * 3600),
        keep_refused: 1000,
        max_bytes: 4 << 30,
        max_pending: 1_000_000,
    }
}

fn gauge() -> IntGauge {
    IntGauge::new("up", "up").unwrap()
}

fn open(path: &Path) -> DiskStore {
    DiskStore::open(path, None, retention(), gauge()).unwrap()
}

fn opened() -> (TempDir, DiskStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (dir, store)
}

fn route() -> Arc<str> {
    "orders".into()
}

fn id(number: u64) -> EventId {
    EventId::new(NOW + number, number.into())
}

fn key(number: u64) -> EventKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    EventKey(key)
}

fn entry(number: u64, state: EventState) -> EventEntry {
    EventEntry {
        id: id(number),
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
        record: Some(key(number)),
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
        body: Bytes::from(format!("body {number}")),
        peer: "192.0.2.7".parse().unwrap(),
        tls: true,
        client: Some(("2001:db8::1".parse().unwrap(), 1)),
        request_id: HeaderValue::from_static("request"),
    }
}

fn event(number: u64, state: EventState) -> NewEvent {
    NewEvent { entry: entry(number, state), request: request(number) }
}

fn attempt(at: Millis, status: u16) -> DeliveryAttempt {
    DeliveryAttempt { at, status: Some(status), error: None, duration_ms: 20, resigned: false }
}

impl DiskStore {
    async fn accepted(&self, event: NewEvent) -> Option<AttemptLease> {
        match self.accept(event, soon()).await.unwrap() {
            Acceptance::New(_, lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    async fn due(&self, now: Millis) -> Vec<DueEvent> {
        self.take_due(&route(), now, 1000).await.unwrap()
    }

    async fn listed(&self, filter: EventFilter) -> Vec<EventId> {
        let page = self.list(&filter, None, 1000).await.unwrap();
        page.entries.into_iter().map(|entry| entry.id).collect()
    }

    async fn state(&self, number: u64) -> Option<EventState> {
        self.entry(id(number)).await.unwrap().map(|entry| entry.state)
    }
}

#[tokio::test]
async fn an_accepted_event_is_delivered_with_its_lease() {
    let (_dir, store) = opened();
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    assert_eq!(store.state(1).await, Some(EventState::Delivering));
    assert!(store.due(NOW + HOUR).await.is_empty());
    let settled = store.settle(lease, attempt(NOW + 5, 200), NextStep::Delivered).await.unwrap();
    let settled = settled.unwrap();
    assert_eq!((settled.state, settled.attempts), (EventState::Delivered, 1));
    assert_eq!(store.entry(id(1)).await.unwrap(), Some(settled));
    assert_eq!(store.request(id(1)).await.unwrap(), Some(request(1)));
    let again = store.settle(lease, attempt(NOW + 9, 200), NextStep::Delivered).await.unwrap();
    assert_eq!(again, None, "the lease ended");
    assert!(store.backlogs().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_attempt_is_due_again_at_its_time() {
    let (_dir, store) = opened();
    assert_eq!(store.accepted(event(1, EventState::Pending)).await, None);
    assert_eq!(store.next_due(&route()), Some(NOW + 1));
    let due = store.due(NOW + 1).await.pop().unwrap();
    assert_eq!((due.entry.attempts, due.entry.state), (1, EventState::Delivering));
    assert_eq!(due.request, request(1));
    assert_eq!(store.next_due(&route()), None);
    let next = NextStep::Retry { at: NOW + 5000, unknown: true };
    store.settle(due.lease, attempt(NOW + 1, 500), next).await.unwrap();
    assert_eq!(store.next_due(&route()), Some(NOW + 5000));
    assert!(store.due(NOW + 4999).await.is_empty());
    let due = store.due(NOW + 5000).await.pop().unwrap();
    assert!(due.entry.possible_duplicate);
    assert_eq!(due.entry.log, [attempt(NOW + 1, 500)]);
    let dead = NextStep::Dead { unknown: false };
    store.settle(due.lease, attempt(NOW + 5000, 410), dead).await.unwrap();
    let backlog = store.backlogs().await.unwrap()[&route()];
    assert_eq!(backlog, Backlog { dead: 1, ..Backlog::default() });
}

#[tokio::test]
async fn only_overdue_events_are_given_up() {
    let (dir, store) = opened();
    let over = |number| entry(number, EventState::Pending).expires;
    for number in 1..=3 {
        store.accepted(event(number, EventState::Pending)).await;
    }
    let entries = store.list(&EventFilter::default(), None, 10).await.unwrap().entries;
    let taken = store.take_due(&route(), NOW + 1, 1).await.unwrap().pop().unwrap();
    assert_eq!(store.give_up(entries.clone(), over(2) - 1).await.unwrap(), []);
    store.redeliver(id(3), NOW + 9, over(3) + HOUR).await.unwrap();
    let dead = store.give_up(entries, over(2)).await.unwrap();
    assert_eq!(dead.iter().map(|entry| entry.id).collect::<Vec<_>>(), [id(2)]);
    let state = (dead[0].state, dead[0].next_attempt, dead[0].attempts);
    assert_eq!(state, (EventState::Dead, None, 0));
    drop((taken, store));
    let store = open(dir.path());
    assert_eq!(store.entry(id(2)).await.unwrap().as_ref(), dead.first());
    let backlog = store.backlogs().await.unwrap()[&route()];
    assert_eq!((backlog.pending, backlog.dead), (2, 1));
}

#[tokio::test]
async fn events_survive_a_restart_and_an_interrupted_attempt_is_marked() {
    let (dir, store) = opened();
    store.accepted(event(1, EventState::Delivering)).await.unwrap();
    store.accepted(event(2, EventState::Pending)).await;
    drop(store);
    let store = open(dir.path());
    let due = store.due(NOW + 10).await;
    let due: Vec<_> = due.iter().map(|due| (due.entry.id, due.entry.possible_duplicate)).collect();
    assert_eq!(due, [(id(1), true), (id(2), false)]);
}

#[tokio::test]
async fn a_known_event_is_not_stored_again() {
    let (_dir, store) = opened();
    store.accepted(event(1, EventState::Pending)).await;
    let mut copy = event(2, EventState::Pending);
    copy.entry.record = Some(key(1));
    let known = store.accept(copy, soon()).await.unwrap();
    assert!(matches!(known, Acceptance::Known(entry) if entry.id == id(1)));
    assert_eq!(store.listed(EventFilter::default()).await, [id(1)]);
    let found = store.find(&route(), key(1)).await.unwrap();
    assert_eq!(found.map(|entry| entry.id), Some(id(1)));
    assert_eq!(store.find(&"other".into(), key(1)).await.unwrap(), None);
}

#[tokio::test]
async fn events_of_one_order_are_due_one_at_a_time() {
    let (_dir, store) = opened();
    for number in 1..=3 {
        let mut event = event(number, EventState::Delivering);
        // IDs do not have the order of acceptance.
        event.entry.id = id(10 - number);
        event.entry.order = Some(OrderKey([7; 16]));
        let lease = store.accepted(event).await;
        assert_eq!(lease.is_some(), number == 1);
        if let Some(lease) = lease {
            let next = NextStep::Retry { at: NOW + 100, unknown: false };
            store.settle(lease, attempt(NOW, 500), next).await.unwrap();
        }
    }
    assert!(store.due(NOW + 99).await.is_empty(), "the first one blocks the others");
    for expected in [9, 8, 7] {
        let due = store.due(NOW + 100).await;
        let [due] = &due[..] else { panic!("{due:?}") };
        assert_eq!(due.entry.id, id(expected));
        let next = NextStep::Delivered;
        store.settle(due.lease, attempt(NOW + 100, 200), next).await.unwrap();
    }
    assert!(store.due(NOW + HOUR).await.is_empty());
}

#[tokio::test]
async fn filters_select_events_newest_first() {
    let (_dir, store) = opened();
    for number in 0..20 {
        let mut event = event(number, EventState::Delivering);
        if number % 2 == 1 {
            event.entry.route = "other".into();
        }
        let lease = store.accepted(event).await.unwrap();
        if number % 4 < 2 {
            store.settle(lease, attempt(NOW, 200), NextStep::Delivered).await.unwrap();
        }
    }
    let select = |filter: &dyn Fn(u64) -> bool| -> Vec<_> {
        (0..20).rev().filter(|number| filter(*number)).map(id).collect()
    };
    let all = EventFilter::default;
    let delivered = Some(EventState::Delivered);
    let delivering = Some(EventState::Delivering);
    for (filter, expected) in [
        (all(), select(&|_| true)),
        (EventFilter { route: Some(route()), ..all() }, select(&|number| number % 2 == 0)),
        (EventFilter { state: delivering, ..all() }, select(&|number| number % 4 >= 2)),
        (
            EventFilter { state: delivering, route: Some(route()), ..all() },
            select(&|number| number % 4 == 2),
        ),
        (EventFilter { state: Some(EventState::Pending), ..all() }, vec![]),
        (EventFilter { state: delivered, ..all() }, select(&|number| number % 4 < 2)),
        (
            EventFilter { state: delivered, route: Some(route()), ..all() },
            select(&|number| number % 4 == 0),
        ),
        (EventFilter { event_id: Some("evt_7".into()), ..all() }, vec![id(7)]),
        (
            EventFilter { since: Some(NOW + 3), until: Some(NOW + 9), ..all() },
            select(&|number| (3..9).contains(&number)),
        ),
        (EventFilter { route: Some("unknown".into()), ..all() }, vec![]),
    ] {
        assert_eq!(store.listed(filter.clone()).await, expected, "{filter:?}");
        let (mut paged, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.list(&filter, cursor, 3).await.unwrap();
            paged.extend(page.entries.iter().map(|entry| entry.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(paged, expected, "in pages: {filter:?}");
    }
}

#[tokio::test]
async fn expired_events_are_removed() {
    let (_dir, store) = opened();
    let day = 24 * HOUR;
    for number in 0..200 {
        let lease = store.accepted(event(number, EventState::Delivering)).await.unwrap();
        let next = if number == 0 {
            NextStep::Dead { unknown: false }
        } else if number == 1 {
            NextStep::Retry { at: NOW, unknown: false }
        } else {
            NextStep::Delivered
        };
        store.settle(lease, attempt(NOW + 1000, 200), next).await.unwrap();
    }
    let mut refused = entry(300, EventState::Refused);
    refused.record = None;
    refused.refusal =
        Some(Refusal { reason: "stale".into(), diagnosis: None, network: "192.0.2.0/24".into() });
    store.record(vec![(refused.clone(), None)]).await.unwrap();
    refused.has_request = false;
    assert_eq!(store.entry(id(300)).await.unwrap(), Some(refused));
    store.expire(NOW + 1020 + 7 * day).await.unwrap();
    assert_eq!(store.listed(EventFilter::default()).await.len(), 200, "none is too old");
    store.expire(NOW + 1021 + 7 * day).await.unwrap();
    assert_eq!(store.listed(EventFilter::default()).await, [id(1), id(0)]);
    assert_eq!(store.request(id(2)).await.unwrap(), None);
    assert_eq!(store.find(&route(), key(2)).await.unwrap(), None);
    store.expire(NOW + 2000 + 30 * day).await.unwrap();
    assert_eq!(store.listed(EventFilter::default()).await, [id(1)], "pending events are kept");
}

#[tokio::test]
async fn a_list_reads_only_what_it_shows() {
    let (_dir, store) = opened();
    for number in 0..100 {
        let lease = store.accepted(event(number, EventState::Delivering)).await.unwrap();
        let next = NextStep::Delivered;
        store.settle(lease, attempt(NOW + number, 200), next).await.unwrap();
    }
    for number in 100..105 {
        store.accepted(event(number, EventState::Pending)).await;
    }
    store.accepted(event(105, EventState::Delivering)).await;
    let files = store.view.files().unwrap();
    let all = EventFilter::default;
    let state = |state| EventFilter { state: Some(state), ..all() };
    for (filter, newest, reads) in [
        (state(EventState::Pending), &[104, 103, 102][..], 4),
        (state(EventState::Delivering), &[105], 1),
        (state(EventState::Delivered), &[99, 98, 97], 9),
        (state(EventState::Dead), &[], 0),
        // Of each other state of the index, the newest event is read ahead.
        (EventFilter { route: Some(route()), ..all() }, &[105, 104, 103], 5),
        (EventFilter { event_id: Some("evt_7".into()), ..all() }, &[7], 1),
        (all(), &[105, 104, 103], 4),
    ] {
        let before = files.reads.load(std::sync::atomic::Ordering::Relaxed);
        let page = store.list(&filter, None, 3).await.unwrap();
        let ids: Vec<_> = page.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, newest.iter().copied().map(id).collect::<Vec<_>>(), "{filter:?}");
        let after = files.reads.load(std::sync::atomic::Ordering::Relaxed);
        assert!(after - before <= reads, "{} reads: {filter:?}", after - before);
    }
}

#[tokio::test]
async fn expired_events_are_removed_in_small_batches() {
    let (_dir, store) = opened();
    let events = (0..200).map(|number| (entry(number, EventState::Failed), None));
    store.record(events.collect()).await.unwrap();
    let before = store.batches();
    store.expire(NOW + 8 * 24 * HOUR).await.unwrap();
    assert_eq!(store.listed(EventFilter::default()).await, []);
    assert_eq!(store.batches() - before, 200_u64.div_ceil(64), "other commands run in between");
}

#[tokio::test]
async fn expired_events_leave_the_files() {
    let (dir, store) = opened();
    let mut number = 0;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for _ in 0..40 {
            number += 1;
            let mut large = event(number, EventState::Delivering);
            large.request.body = vec![number as u8; 1 << 20].into();
            let lease = store.accepted(large).await.unwrap();
            store.settle(lease, attempt(NOW, 200), NextStep::Delivered).await.unwrap();
        }
        store.expire(NOW + 8 * 24 * HOUR).await.unwrap();
        sizes.push(bytes_below(dir.path()) >> 20);
    }
    assert!(sizes.iter().all(|size| *size < 100), "MiB after each 40 MiB: {sizes:?}");
}

/// Returns the bytes that the files below a directory take.
fn bytes_below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| match std::fs::metadata(&path) {
            Ok(file) if file.is_dir() => bytes_below(&path),
            Ok(file) => file.blocks() * 512,
            // Removed in the meantime.
            Err(_) => 0,
        })
        .sum()
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_all(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}
