//! Random operations have the same results as in a simple store in memory.

use super::*;
use crate::events::store::simulated::SimulatedEventStore;

/// A generator of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

struct Model {
    random: Random,
    /// The directories of stores that were copied, too.
    dir: TempDir,
    key: Option<Secret>,
    store: DiskStore,
    simulated: SimulatedEventStore,
    now: Millis,
    /// The leases of the same attempt in both stores.
    leases: Vec<(AttemptLease, AttemptLease)>,
}

fn small() -> Retention {
    Retention { keep_refused: 3, max_pending: 12, ..retention() }
}

impl Model {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = (seed % 2 == 1).then(|| Secret::new(vec![7; 32]));
        let store = DiskStore::open(dir.path(), key.as_ref(), small(), gauge()).unwrap();
        let simulated = SimulatedEventStore::new(small());
        Model { random: Random(seed), dir, key, store, simulated, now: NOW, leases: Vec::new() }
    }

    fn route(&mut self) -> Arc<str> {
        if self.random.chance(3) { "other".into() } else { route() }
    }

    /// Returns the ID of a stored event, or rarely an unknown one.
    async fn any_id(&mut self) -> EventId {
        let all = self.simulated.list(&EventFilter::default(), None, 1000).await.unwrap().entries;
        match all.len() as u64 {
            count if count > 0 && !self.random.chance(20) => {
                all[usize::try_from(self.random.below(count)).unwrap()].id
            }
            _ => EventId(1),
        }
    }

    fn entry(&mut self, state: EventState) -> EventEntry {
        let number = self.now - NOW;
        let mut entry = entry(number, state);
        entry.id = EventId::new(self.now, self.random.below(u64::MAX).into());
        entry.route = self.route();
        entry.record = (!self.random.chance(6)).then(|| key(self.random.below(30)));
        entry.order = self.random.chance(2).then(|| OrderKey([self.random.below(3) as u8; 16]));
        entry.possible_duplicate = self.random.chance(8);
        entry.event_id = (!self.random.chance(5)).then(|| "evt_1".into());
        entry
    }

    async fn step(&mut self) {
        self.now += 1 + self.random.below(50);
        match self.random.below(16) {
            0..=4 => self.accept().await,
            5..=6 => self.take().await,
            7..=9 => self.settle().await,
            10 => self.record().await,
            11 => {
                let (id, now) = (self.any_id().await, self.now);
                let expected = self.simulated.redeliver(id, now, now + HOUR).await;
                assert_eq!(self.store.redeliver(id, now, now + HOUR).await, expected);
            }
            12 => {
                let id = self.any_id().await;
                let expected = self.simulated.forget(id).await;
                assert_eq!(self.store.forget(id).await, expected);
            }
            13 => {
                let (route, record, now) = (self.route(), key(self.random.below(30)), self.now);
                let expected = self.simulated.revive(&route, record, now, now + HOUR).await;
                assert_eq!(self.store.revive(&route, record, now, now + HOUR).await, expected);
            }
            14 => {
                let age = if self.random.chance(4) { 200 } else { 100_000 };
                let now = self.now + 7 * 24 * HOUR - age;
                self.simulated.expire(now).await.unwrap();
                self.store.expire(now).await.unwrap();
            }
            _ if self.random.chance(3) => self.restart(),
            _ => self.store.faults.unknown.store(true, std::sync::atomic::Ordering::Relaxed),
        }
    }

    async fn accept(&mut self) {
        let is_delivering = self.random.chance(2);
        let state = if is_delivering { EventState::Delivering } else { EventState::Pending };
        let event = NewEvent { entry: self.entry(state), request: request(self.now) };
        let expected = self.simulated.accept(event.clone(), soon()).await;
        let accepted = self.store.accept(event, soon()).await;
        match (&accepted, &expected) {
            (Ok(Acceptance::New(id, lease)), Ok(Acceptance::New(other, simulated))) => {
                assert_eq!((id, lease.is_some()), (other, simulated.is_some()));
                self.leases.extend(lease.zip(*simulated));
            }
            (accepted, expected) => {
                assert_eq!(format!("{accepted:?}"), format!("{expected:?}"));
            }
        }
    }

    async fn take(&mut self) {
        let (route, limit) = (self.route(), 1 + self.random.below(4) as usize);
        let expected = self.simulated.take_due(&route, self.now, limit).await.unwrap();
        let due = self.store.take_due(&route, self.now, limit).await.unwrap();
        assert_eq!(due.len(), expected.len());
        for (due, expected) in due.into_iter().zip(expected) {
            assert_eq!((due.entry, due.request), (expected.entry, expected.request));
            self.leases.push((due.lease, expected.lease));
        }
    }

    async fn settle(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.random.below(self.leases.len() as u64) as usize;
        let (lease, simulated) = self.leases[index];
        // A lease that ended is kept sometimes: it must not change anything.
        if !self.random.chance(5) {
            self.leases.swap_remove(index);
        }
        let unknown = self.random.chance(2);
        let next = match self.random.below(4) {
            0 => NextStep::Dead { unknown },
            1 => NextStep::Retry { at: self.now + self.random.below(300), unknown },
            _ => NextStep::Delivered,
        };
        let attempt = attempt(self.now, 500);
        let expected = self.simulated.settle(simulated, attempt.clone(), next).await;
        assert_eq!(self.store.settle(lease, attempt, next).await, expected);
    }

    async fn record(&mut self) {
        let mut events = Vec::new();
        for _ in 0..=self.random.below(2) {
            self.now += 1;
            let state = match self.random.below(3) {
                0 => EventState::Failed,
                1 => EventState::Refused,
                _ => EventState::Delivered,
            };
            let mut entry = self.entry(state);
            if state == EventState::Refused {
                entry.record = None;
            } else {
                entry.log.push(attempt(self.now, 500));
                entry.attempts = 1;
            }
            let request = self.random.chance(2).then(|| request(self.now));
            events.push((entry, request));
        }
        self.simulated.record(events.clone()).await.unwrap();
        self.store.record(events).await.unwrap();
    }

    /// Continues with the files as they are after the end of the process, orderly or not.
    fn restart(&mut self) {
        self.simulated.restart();
        self.leases.clear();
        let dir = tempfile::tempdir().unwrap();
        copy_all(self.dir.path(), dir.path());
        self.store = DiskStore::open(dir.path(), self.key.as_ref(), small(), gauge()).unwrap();
        self.dir = dir;
    }

    async fn compare(&mut self) {
        for filter in [
            EventFilter::default(),
            EventFilter { route: Some(route()), ..EventFilter::default() },
            EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() },
            EventFilter { event_id: Some("evt_1".into()), ..EventFilter::default() },
        ] {
            let expected = self.simulated.list(&filter, None, 1000).await.unwrap().entries;
            let listed = self.store.list(&filter, None, 1000).await.unwrap().entries;
            assert_eq!(listed, expected, "{filter:?}");
            for entry in listed {
                let expected = self.simulated.request(entry.id).await;
                assert_eq!(self.store.request(entry.id).await, expected);
            }
        }
        for route in [route(), "other".into()] {
            assert_eq!(self.store.next_due(&route), self.simulated.next_due(&route));
        }
        let mut expected = self.simulated.backlogs().await.unwrap();
        expected.retain(|_, backlog| *backlog != Backlog::default());
        assert_eq!(self.store.backlogs().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn random_operations_have_the_results_of_a_simple_store() {
    for seed in 0..6 {
        let mut model = Model::new(seed);
        for _ in 0..120 {
            model.step().await;
            if model.random.chance(10) {
                model.compare().await;
            }
        }
        model.compare().await;
        model.store.expire(NOW + 365 * 24 * HOUR).await.unwrap();
        let pending = model.store.list(&EventFilter::default(), None, 1000).await.unwrap().entries;
        for entry in pending {
            model.store.forget(entry.id).await.unwrap();
        }
        for filter in [EventState::Delivering, EventState::Delivered] {
            let filter = EventFilter { state: Some(filter), ..EventFilter::default() };
            let listed = model.store.listed(filter).await;
            assert!(listed.iter().all(|id| model.leases.iter().any(|(lease, _)| lease.id == *id)));
        }
    }
}
