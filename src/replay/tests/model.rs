//! The delivery invariants, over random schedules of the shipped code.
//!
//! A schedule is a list of small numbers. They select which request arrives or continues, what the
//! upstream does, which sender disconnects, which process crashes, and what the store and the clock
//! do. The world below knows nothing of records and claims: it keeps the ledgers of the upstream
//! and of the senders, and checks them against the invariants.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use prometheus::IntGauge;
use proptest::prelude::*;

use super::*;
use crate::{
    metrics::ReplayMetrics,
    replay::{
        claims::Claims,
        clock::{Millis, millis},
        guard::Guard,
        store::{
            lease::LEASE,
            simulated::{Simulated, SimulatedServer},
        },
    },
};

/// The number of schedules in each of the three tests, 102,000 in all.
const SCHEDULES: u32 = 34_000;
const EVENTS: u64 = 3;
const WINDOW: Millis = 20_000;
const LIVES: Duration = Duration::from_secs(1_000);
/// The route of most events, and the quiet route of one.
const ROUTES: [ShareId; 2] = [ShareId(1), ShareId(2)];
const QUIET: u64 = 1;

fn route_of(event: u64) -> ShareId {
    ROUTES[usize::from(event == QUIET)]
}

/// The settings of a world.
#[derive(Clone, Copy, Debug)]
struct Setting {
    processes: usize,
    shared: bool,
    on_store_failure: OnStoreFailure,
    max_entries: usize,
}

impl Setting {
    /// How long a success must be known, in milliseconds.
    fn protects(&self) -> Millis {
        if !self.shared && self.max_entries < 10 { WINDOW } else { millis(LIVES) }
    }

    /// Returns whether the quiet route is guaranteed its one event.
    fn guarantees(&self) -> bool {
        self.max_entries / 2 / ROUTES.len() > 0
    }
}

/// What the upstream does with a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    Success,
    Failure,
    Reset,
    /// Nothing of it is sent.
    Connect,
    /// It takes it; but the task that forwards panics.
    Panic,
}

/// A process, and which of its lives.
type Life = (usize, u32);

/// An entry in the ledger of the upstream.
#[derive(Debug)]
struct Forward {
    event: u64,
    pin: u8,
    life: Life,
    at: Millis,
    /// What comes of it; set by the schedule.
    upstream: Option<Upstream>,
    over: bool,
    /// The process has seen what came of it.
    seen: bool,
    /// The guard has recorded the outcome.
    recorded: bool,
    crashed: bool,
    /// Its lease may have ended before it did.
    lapsed: bool,
    /// Claimed without the store.
    alone: bool,
}

/// An entry in the ledger of the senders: a 2xx that was written out.
#[derive(Clone, Copy, Debug)]
struct Written {
    event: u64,
    identity: u8,
    life: Life,
    at: Millis,
}

#[derive(Default)]
struct Ledger {
    forwards: Vec<Forward>,
    written: Vec<Written>,
    /// Event, life and time of every success that the guard had recorded.
    done: Vec<(u64, Life, Millis)>,
    /// How often leases may have ended.
    lapses: u32,
    crashes: u32,
    /// How often a lease may have been left behind by a request that had not yet heard of it.
    left: u32,
    wrong: Vec<String>,
}

impl Ledger {
    fn of(&self, event: u64) -> impl Iterator<Item = &Forward> {
        self.forwards.iter().filter(move |forward| forward.event == event)
    }

    fn succeeded(&self, event: u64) -> impl Iterator<Item = &Forward> {
        self.of(event).filter(|f| f.upstream == Some(Upstream::Success) && f.seen)
    }

    fn last_done(&self, event: u64, life: Option<Life>) -> Option<Millis> {
        let done = self.done.iter().filter(|(e, l, _)| *e == event && life.is_none_or(|x| x == *l));
        done.map(|(_, _, at)| *at).max()
    }
}

struct Task {
    run: Pin<Box<dyn Future<Output = ()>>>,
    /// The event is being forwarded: the sender's absence no longer matters.
    detached: Rc<Cell<bool>>,
}

impl Task {
    /// Polls the task; returns whether it has ended.
    fn poll(&mut self) -> bool {
        self.run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

struct Process {
    guard: Arc<Guard>,
    life: u32,
    tasks: Vec<Task>,
}

struct World {
    setting: Setting,
    clock: Clock,
    server: Arc<Mutex<SimulatedServer>>,
    processes: Vec<Process>,
    ledger: Rc<RefCell<Ledger>>,
}

impl World {
    fn new(setting: Setting) -> Self {
        let mut world = World {
            setting,
            clock: Clock::manual(1_000_000),
            server: Arc::default(),
            processes: Vec::new(),
            ledger: Rc::default(),
        };
        for index in 0..setting.processes {
            let guard = world.guard((index, 0));
            world.processes.push(Process { guard, life: 0, tasks: Vec::new() });
        }
        world
    }

    fn guard(&self, (index, life): Life) -> Arc<Guard> {
        let Setting { shared, on_store_failure, max_entries, .. } = self.setting;
        let gauge = || IntGauge::new("gauge", "gauge").unwrap();
        let metrics =
            ReplayMetrics { in_flight: gauge(), done: gauge(), failed: gauge(), capacity: gauge() };
        let claims = Arc::new(Claims::new(max_entries, shared, None, metrics));
        claims.assign_shares(&ROUTES.map(|route| (route, vec![route.of_key("key")])));
        let (server, clock) = (Arc::clone(&self.server), self.clock.clone());
        let backend = if shared {
            Store::Shared(SharedStore::Simulated(Simulated { server, clock: clock.clone() }))
        } else {
            Store::Memory
        };
        let mut name = [7; 8];
        name[0] = u8::try_from(index).unwrap();
        name[4..].copy_from_slice(&life.to_le_bytes());
        Arc::new(Guard::new(claims, backend, clock, on_store_failure, name))
    }

    fn step(&mut self, (what, which, how): (u8, u8, u8)) {
        let process = usize::from(which) % self.processes.len();
        let choice = usize::from(which / 4);
        match what % 16 {
            0..=3 => self.arrive(process, choice, how),
            4..=6 => self.proceed(process, choice),
            7 | 8 => self.proceed_all(),
            9 | 10 => self.answer(choice, how),
            11 => self.hang_up(process, choice),
            12 => self.advance(how),
            13 if self.setting.shared && how % 2 == 0 => self.trouble(how / 2),
            13 => drop(finish(self.processes[process].guard.write_behind())),
            14 if how % 2 == 0 => self.crash(process),
            14 if how % 4 == 1 => self.flood(process, how / 4),
            _ => {
                let claims = &self.processes[process].guard.claims;
                claims.remove_expired(self.clock.now());
                claims.compact();
            }
        }
        let wrong = &self.ledger.borrow().wrong;
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    fn arrive(&mut self, index: usize, choice: usize, how: u8) {
        let event = choice as u64 % EVENTS;
        let identity = 1 + how % 3;
        // One of eight comes in another context, one of eight is stale.
        let pin = if (how / 8).is_multiple_of(8) { 2 } else { 1 };
        let stale = how / 8 % 8 == 1;
        let arrival =
            Arrival { pin: ContextPin([pin; 16]), stale, ..timed(super::arrival(event, identity)) };
        let late = choice % 8 == 3;
        let process = &mut self.processes[index];
        let detached = Rc::new(Cell::new(false));
        let request = Request {
            setting: self.setting,
            arrival,
            event,
            identity,
            pin,
            life: (index, process.life),
            guard: Arc::clone(&process.guard),
            ledger: Rc::clone(&self.ledger),
            server: Arc::clone(&self.server),
            clock: self.clock.clone(),
            detached: Rc::clone(&detached),
            late,
        };
        process.tasks.push(Task { run: Box::pin(request.run()), detached });
    }

    /// Other events of the busy route arrive and succeed.
    fn flood(&mut self, process: usize, how: u8) {
        let guard = &self.processes[process].guard;
        for event in 0..u64::from(how % 8) {
            let arrival = timed(super::arrival(1_000 + u64::from(how) * 8 + event, 1));
            let claimed = decision::admit(guard, arrival, Instant::now());
            let Some(Ok(Claimed::Won(claim))) = poll_some(claimed) else { continue };
            let _ = poll_some(claim.done(&ok(), false));
        }
    }

    fn proceed(&mut self, process: usize, task: usize) {
        let tasks = &mut self.processes[process].tasks;
        if !tasks.is_empty() {
            let task = task % tasks.len();
            if tasks[task].poll() {
                drop(tasks.swap_remove(task));
            }
        }
    }

    fn proceed_all(&mut self) {
        for process in &mut self.processes {
            process.tasks.retain_mut(|task| !task.poll());
        }
    }

    fn answer(&mut self, which: usize, how: u8) {
        let mut ledger = self.ledger.borrow_mut();
        let mut open: Vec<_> = ledger
            .forwards
            .iter_mut()
            .filter(|forward| !forward.over && forward.upstream.is_none())
            .collect();
        let count = open.len().max(1);
        if let Some(forward) = open.get_mut(which % count) {
            forward.upstream = Some(match how % 8 {
                0..=2 => Upstream::Success,
                3 => Upstream::Failure,
                4 | 5 => Upstream::Reset,
                6 => Upstream::Connect,
                _ => Upstream::Panic,
            });
        }
    }

    fn hang_up(&mut self, process: usize, task: usize) {
        let tasks = &mut self.processes[process].tasks;
        let count = tasks.len().max(1);
        if tasks.get(task % count).is_some_and(|task| !task.detached.get()) {
            drop(tasks.swap_remove(task % count));
            self.ledger.borrow_mut().left += 1;
        }
    }

    fn crash(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let life = (index, process.life);
        {
            let mut ledger = self.ledger.borrow_mut();
            ledger.crashes += 1;
            for forward in &mut ledger.forwards {
                if forward.life == life && !forward.recorded {
                    (forward.over, forward.crashed) = (true, true);
                }
            }
        }
        // Dropping a task sends nothing to the store: for that, it would have to be polled.
        process.tasks.clear();
        process.life += 1;
        let life = (index, process.life);
        self.processes[index].guard = self.guard(life);
    }

    fn advance(&mut self, how: u8) {
        match how % 4 {
            // Some time, in which leases are prolonged.
            0 | 1 => {
                for _ in 0..=how / 64 {
                    self.clock.advance(Duration::from_millis(LEASE / 3));
                    self.renew();
                }
                // Only claims that are held are prolonged, not those still asked for.
                self.ledger.borrow_mut().left += 1;
            }
            // No sign of life from anybody for longer than a lease.
            2 => {
                self.clock.advance(Duration::from_millis(LEASE + 1));
                self.lapse();
            }
            _ => {
                self.clock.advance(Duration::from_secs(u64::from(how)));
                self.lapse();
            }
        }
    }

    fn lapse(&mut self) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.lapses += 1;
        for forward in &mut ledger.forwards {
            forward.lapsed |= !forward.recorded;
        }
    }

    fn renew(&mut self) {
        let failed = self.processes.iter().any(|process| finish(process.guard.renew()).is_err());
        if failed {
            self.lapse();
        }
    }

    fn trouble(&mut self, how: u8) {
        let mut server = self.server.lock().unwrap();
        match how % 5 {
            0 => server.lose_reply = true,
            1 => server.down = true,
            2 => server.hangs = true,
            _ => (server.down, server.hangs) = (false, false),
        }
    }

    /// The upstream resets what it has, updates are written behind, and requests that wait
    /// continue.
    fn wind_down(&mut self) {
        for _ in 0..60 {
            for forward in &mut self.ledger.borrow_mut().forwards {
                forward.upstream.get_or_insert(Upstream::Reset);
            }
            self.proceed_all();
            for process in &self.processes {
                while finish(process.guard.write_behind()).is_some() {}
            }
            if self.processes.iter().all(|process| process.tasks.is_empty()) {
                return;
            }
            // Copies that wait for another process ask again.
            self.clock.advance(Duration::from_millis(60));
        }
    }

    /// Ends everything and checks that nothing hangs and nothing was lost.
    fn settle(&mut self) {
        {
            let mut server = self.server.lock().unwrap();
            server.down = false;
            server.hangs = false;
            server.lose_reply = false;
        }
        self.wind_down();
        // The leases of the dead end, and a full guard has records that it can give up.
        self.clock.advance(Duration::from_millis(LEASE + 41_000));
        // Those who waited for the dead make forwards of their own.
        self.wind_down();
        for process in &mut self.processes {
            while process.tasks.iter_mut().any(Task::poll) {
                process.tasks.clear();
            }
            process.tasks.retain_mut(|task| !task.poll());
            assert!(process.tasks.is_empty(), "I8: a request waits for ever");
            assert!(
                process.guard.claims.leases_due(Millis::MAX).is_empty(),
                "I8: a claim has not ended"
            );
        }
        let wrong = &self.ledger.borrow().wrong;
        assert!(wrong.is_empty(), "{wrong:?}");
        for event in 0..EVENTS {
            if self.ledger.borrow().succeeded(event).next().is_some() {
                continue;
            }
            // The context that counts is that of the first request, which may not have been
            // forwarded.
            let answers = [1, 2].map(|pin| {
                let arrival = timed(super::arrival(event, 9));
                let arrival = Arrival { pin: ContextPin([pin; 16]), ..arrival };
                let guard = &self.processes[0].guard;
                finish(decision::admit(guard, arrival, Instant::now() + Duration::from_secs(9)))
            });
            let full = self.setting.max_entries < 10
                && answers.iter().any(|answer| matches!(answer, Err(Reject::GuardFull)));
            let forwarded = answers.iter().any(|answer| matches!(answer, Ok(Claimed::Won(_))));
            assert!(
                forwarded || full,
                "I3: event {event} never succeeded, and is not forwarded: {answers:?}"
            );
        }
    }
}

/// A request and, if it wins, its forward.
struct Request {
    setting: Setting,
    arrival: Arrival,
    event: u64,
    identity: u8,
    pin: u8,
    life: Life,
    guard: Arc<Guard>,
    ledger: Rc<RefCell<Ledger>>,
    server: Arc<Mutex<SimulatedServer>>,
    clock: Clock,
    detached: Rc<Cell<bool>>,
    /// The sender no longer waits when the upstream responds.
    late: bool,
}

impl Request {
    async fn run(self) {
        let now = self.clock.now();
        let protects = |at: Millis| self.clock.now() < at + self.setting.protects();
        let done_here = self.ledger.borrow().last_done(self.event, Some(self.life));
        let done_there = self.ledger.borrow().last_done(self.event, None);
        let stored = self.server.lock().unwrap().is_done(&self.arrival.key, now);
        let failures = || self.server.lock().unwrap().failures;
        let (failures_then, lapses_then) = (failures(), self.ledger.borrow().lapses);
        let written = self.ledger.borrow().written.clone();
        let written =
            written.iter().filter(|w| (w.event, w.identity) == (self.event, self.identity));
        let answered_here = written
            .clone()
            .any(|w| w.life == self.life && done_here.is_some_and(|at| at <= w.at && protects(at)));
        let waits = Duration::from_secs(if self.late { 0 } else { 3_600 });
        let answer_by = Instant::now() + waits;
        let mut result = decision::admit(&self.guard, self.arrival, answer_by).await;
        while let Ok(Claimed::InFlight(joined)) = result {
            result = match joined.outcome().await {
                Ok(Ended::Settled(settled)) => return self.relay(settled),
                Ok(Ended::Released(claimed)) => Ok(claimed),
                Err(reject) => Err(reject),
            };
        }
        // With `local`, a claim may have been made without the store.
        let alone =
            self.setting.on_store_failure == OnStoreFailure::Local && failures() != failures_then;
        match result {
            Ok(Claimed::Won(claim)) => {
                self.detached.set(true);
                let tight = self.setting.max_entries < 10;
                // A store that never failed has every success of which the guard said so.
                let stored = stored || self.setting.shared && failures() == 0;
                let known = done_here.is_some_and(protects) && !(alone && tight)
                    || stored && done_there.is_some_and(protects) && !alone;
                if known {
                    self.wrong("I2, I9: forwarded again after its success was recorded");
                }
                let lapsed = self.ledger.borrow().lapses != lapses_then;
                self.forward(claim, alone, lapsed).await;
            }
            Ok(Claimed::Done(Repeat::Retry(receipt))) => {
                if answered_here && !self.setting.shared {
                    self.wrong("a replay is taken for a retry");
                }
                self.acknowledge(receipt);
            }
            Ok(Claimed::Done(Repeat::Replay)) => {
                let same = |w: &Written| (w.event, w.identity) == (self.event, self.identity);
                let known = self.ledger.borrow().written.iter().any(same);
                if !known {
                    self.wrong("a retry is taken for a replay");
                }
            }
            Err(Reject::NotAccepted(Reason::Stale)) if !self.arrival.stale => {
                self.wrong("a fresh request is rejected as stale");
            }
            Err(Reject::StoreUnavailable) if !self.setting.shared => {
                self.wrong("a store that does not exist is out of reach");
            }
            Err(Reject::GuardFull) if self.setting.max_entries >= 1_000 => {
                self.wrong("a guard with capacity is full");
            }
            Err(Reject::GuardFull) if self.event == QUIET && self.setting.guarantees() => {
                self.wrong("a route below its share is rejected");
            }
            Ok(Claimed::InFlight(_)) | Err(_) => {}
        }
    }

    /// The outcome of the copy that was forwarded goes to this one's sender too.
    fn relay(&self, settled: Settled) {
        match (settled.outcome, settled.receipt) {
            (Ok(answer), Some(receipt)) if answer.status.is_success() => self.acknowledge(receipt),
            (Ok(answer), _) if answer.status.is_success() => {
                self.wrong("a success without a receipt");
            }
            (Ok(_) | Err(_), _) => {}
        }
    }

    async fn forward(&self, claim: Claim, alone: bool, lapsed: bool) {
        let number = self.begin(&claim, alone, lapsed);
        let upstream = std::future::poll_fn(|_| {
            let mut ledger = self.ledger.borrow_mut();
            let forward = &mut ledger.forwards[number];
            forward.over = forward.upstream.is_some();
            forward.seen = forward.over;
            forward.upstream.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        match upstream {
            Upstream::Success => {
                // Half of the senders have hung up by then.
                let waits = number.is_multiple_of(2);
                let receipt = claim.done(&ok(), waits).await;
                let mut ledger = self.ledger.borrow_mut();
                ledger.done.push((self.event, self.life, self.clock.now()));
                drop(ledger);
                if waits {
                    self.acknowledge(receipt);
                }
            }
            Upstream::Failure => {
                let answer = SanitizedResponse::empty(StatusCode::INTERNAL_SERVER_ERROR);
                claim.failed(Failure::Known, Ok(answer)).await;
            }
            Upstream::Reset => claim.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await,
            Upstream::Connect => claim.failed(Failure::Known, Err(Reject::UpstreamConnect)).await,
            Upstream::Panic => drop(claim),
        }
        self.ledger.borrow_mut().forwards[number].recorded = true;
    }

    fn begin(&self, claim: &Claim, alone: bool, lapsed: bool) -> usize {
        let mut ledger = self.ledger.borrow_mut();
        let marked = claim.possible_duplicate();
        let now = self.clock.now();
        let calm = self.server.lock().unwrap().failures == 0;
        let mut wrong = Vec::new();
        // A lease that ends without an outcome marks the event, even if nothing was forwarded under
        // it.
        let left = ledger.crashes + ledger.lapses + ledger.left > 0;
        let (mut must, mut may) = (false, left || !calm);
        for other in ledger.of(self.event) {
            let same = other.life == self.life;
            // A process without its store may have evicted what the store still has.
            let tight = self.setting.max_entries < 10;
            let seen = same && !(alone && tight) || self.setting.shared && !(alone || other.alone);
            let recent = now < other.at + self.setting.protects();
            if !other.over && seen && (other.life == self.life || !other.lapsed) {
                wrong.push("I4: two concurrent forwards");
            }
            // What the store knows takes precedence over what a process pinned alone.
            let pinned = match (other.alone, alone) {
                (true, _) => false,
                (false, true) => same && !tight,
                (false, false) => same || self.setting.shared,
            };
            if other.pin != self.pin && pinned && recent {
                wrong.push("I7: forwarded in another context");
            }
            let known = other.seen
                && matches!(
                    other.upstream,
                    Some(Upstream::Success | Upstream::Failure | Upstream::Connect)
                );
            let unknown = other.over && !known;
            may |= unknown;
            must |= unknown && recent && (same && !(alone && tight) || self.setting.shared && calm);
        }
        if marked && !may {
            wrong.push("marked as a possible duplicate without a reason");
        }
        if must && !marked {
            wrong.push("not marked as a possible duplicate");
        }
        let event = self.event;
        ledger.wrong.extend(wrong.into_iter().map(|what| format!("event {event}: {what}")));
        ledger.forwards.push(Forward {
            event,
            pin: self.pin,
            life: self.life,
            at: now,
            upstream: None,
            over: false,
            seen: false,
            recorded: false,
            crashed: false,
            lapsed,
            alone,
        });
        ledger.forwards.len() - 1
    }

    /// The sender gets a 2xx.
    fn acknowledge(&self, receipt: Receipt) {
        let mut ledger = self.ledger.borrow_mut();
        // Processes without their store may each have pinned another context.
        let alone = ledger.of(self.event).any(|forward| forward.alone);
        if !ledger.succeeded(self.event).any(|forward| forward.pin == self.pin || alone) {
            let what = format!("I1, I7: 200 for event {}, which no upstream took so", self.event);
            ledger.wrong.push(what);
        }
        let (event, identity, life, at) = (self.event, self.identity, self.life, self.clock.now());
        ledger.written.push(Written { event, identity, life, at });
        drop(ledger);
        receipt.written();
    }

    fn wrong(&self, what: &str) {
        self.ledger.borrow_mut().wrong.push(format!("event {}: {what}", self.event));
    }
}

/// Gives an arrival the times and the share of its route.
fn timed(arrival: Arrival) -> Arrival {
    let event = u64::from_le_bytes(*arrival.key.0.first_chunk().unwrap());
    let terms = Terms { route: route_of(event), ttl: LIVES, forwards_repeats: false };
    Arrival { terms, fresh_for: Some(WINDOW), share: terms.route.of_key("key"), ..arrival }
}

/// Polls a future that may not complete now.
fn poll_some<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..10).find_map(|_| match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Completes a future that only needs to be polled.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    for _ in 0..10_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("a future that does not complete");
}

fn run(setting: impl Strategy<Value = Setting>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _context = runtime.enter();
    let schedule = prop::collection::vec(any::<(u8, u8, u8)>(), 10..60);
    let config =
        ProptestConfig { cases: SCHEDULES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(setting in setting, schedule in schedule)| {
        let mut world = World::new(setting);
        for step in schedule {
            world.step(step);
        }
        world.settle();
    });
}

#[test]
fn invariants_hold_in_one_process() {
    let capacity = prop_oneof![Just(2usize), Just(8), Just(1_000)];
    run(capacity.prop_map(|max_entries| Setting {
        processes: 1,
        shared: false,
        on_store_failure: OnStoreFailure::Refuse,
        max_entries,
    }));
}

#[test]
fn invariants_hold_in_replicas_that_reject_without_their_store() {
    let capacity = prop_oneof![Just(2usize), Just(8), Just(1_000)];
    run((1..=3usize, capacity).prop_map(|(processes, max_entries)| Setting {
        processes,
        shared: true,
        on_store_failure: OnStoreFailure::Refuse,
        max_entries,
    }));
}

#[test]
fn invariants_hold_in_replicas_that_continue_without_their_store() {
    let capacity = prop_oneof![Just(2usize), Just(8), Just(1_000)];
    run((1..=3usize, capacity).prop_map(|(processes, max_entries)| Setting {
        processes,
        shared: true,
        on_store_failure: OnStoreFailure::Local,
        max_entries,
    }));
}
