//! Redis demotes, moves, delays and drops: two gateways lose no event and double none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kit::{
    Answer, Connection, Entry, Event, Ledger, Process, Redis, RedisCluster, Relay, Setup, Upstream,
    WatchedRedis, ask, now_ms, until,
};

const STORE_UP: &str = "sealgate_store_up{store=\"redis\"}";
const UNAVAILABLE: &str = "the replay store is unavailable";
const AVAILABLE: &str = "the replay store is available";

/// Starts a gateway with this section `[replay]`.
async fn start(upstream: &Upstream, section: &str, route: &str) -> (Arc<Process>, Setup) {
    let setup = Setup::new(upstream).plain().section(section).route(route);
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    (Arc::new(process), setup)
}

/// Starts two gateways, and waits until they have reached their store.
async fn start_two(upstream: &Upstream, section: &str) -> [(Arc<Process>, Setup); 2] {
    let gateways = [start(upstream, section, "").await, start(upstream, section, "").await];
    for (gateway, _) in &gateways {
        store_is(gateway, 1.0).await;
    }
    gateways
}

async fn store_is(gateway: &Process, up: f64) {
    until("the metric shows it", || async { gateway.metric(STORE_UP).await == up }).await;
}

async fn send(gateway: &Process, ledger: &Ledger, event: &Event) -> u16 {
    let mut connection = gateway.connect().await;
    ask(&mut connection, ledger, event).await.expect("a response").status
}

fn acknowledged(ledger: &Ledger) -> usize {
    ledger.count(|entry| matches!(entry, Entry::Told(200, _)))
}

fn forwards(ledger: &Ledger) -> usize {
    ledger.count(|entry| matches!(entry, Entry::Forwarded { .. }))
}

/// Senders that send one event after the other, each until it is acknowledged, to both gateways in
/// turn.
struct Load {
    stop: Arc<AtomicBool>,
    senders: JoinSet<Vec<Event>>,
    ledger: Ledger,
}

impl Load {
    fn start(gateways: &[(Arc<Process>, Setup); 2], ledger: &Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for sender in 0..8 {
            let gateways = [0, 1].map(|at| Arc::clone(&gateways[at].0));
            let (ledger, stop) = (ledger.clone(), Arc::clone(&stop));
            senders.spawn(async move {
                let mut events = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let event = Event::default();
                    deliver(&gateways, sender, &ledger, &event).await;
                    events.push(event);
                }
                events
            });
        }
        Load { stop, senders, ledger: ledger.clone() }
    }

    /// Waits until so many more events are acknowledged.
    async fn progress(&self, events: usize) {
        let target = acknowledged(&self.ledger) + events;
        until("events are delivered", || async { acknowledged(&self.ledger) >= target }).await;
    }

    /// Stops the senders, and returns what they have sent.
    async fn stop(self) -> Vec<Event> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.join_all().await.concat()
    }
}

/// Sends an event to the gateways in turn until one acknowledges it.
async fn deliver(gateways: &[Arc<Process>; 2], first: usize, ledger: &Ledger, event: &Event) {
    for attempt in first.. {
        let mut connection = gateways[attempt % 2].connect().await;
        let reply = ask(&mut connection, ledger, &event.retried()).await;
        match reply.map(|reply| reply.status) {
            Some(200) => return,
            Some(502..=504) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

/// Every fourth event breaks off at first.
fn plan(event: &str, count: usize) -> Answer {
    let breaks_off = event.bytes().last().is_some_and(|last| last % 4 == 0);
    if breaks_off && count == 1 { Answer::Reset } else { Answer::Status(200) }
}

/// Every event is known as done to both gateways.
async fn is_known_to_all(gateways: &[(Arc<Process>, Setup); 2], ledger: &Ledger, events: &[Event]) {
    let before = forwards(ledger);
    for (gateway, _) in gateways {
        let mut connection = gateway.connect().await;
        for event in events {
            let reply = ask(&mut connection, ledger, &event.retried()).await.expect("a response");
            assert_eq!(reply.status, 200, "{:?}", ledger.of(&event.id));
        }
    }
    assert_eq!(forwards(ledger), before, "nothing is forwarded again");
    ledger.agree_that_all_is_done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_failover_under_load_loses_and_doubles_nothing() {
    fails_over(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_failover_with_tls_loses_and_doubles_nothing() {
    fails_over(true).await;
}

async fn fails_over(tls: bool) {
    let Some(redis) = WatchedRedis::start(tls).await else { return };
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, plan).await;
    let gateways = start_two(&upstream, &redis.section()).await;
    let load = Load::start(&gateways, &ledger);
    load.progress(100).await;
    redis.kill_primary().await;
    for (gateway, _) in &gateways {
        store_is(gateway, 0.0).await;
    }
    redis.failed_over().await;
    let start = Instant::now();
    for (gateway, _) in &gateways {
        let event = Event::default();
        until("the first event is delivered", || async {
            send(gateway, &ledger, &event.retried()).await == 200
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        store_is(gateway, 1.0).await;
    }
    load.progress(100).await;
    let events = load.stop().await;
    let all = events.len() + gateways.len();
    until("every success is recorded", || async { redis.replica.successes().await == all }).await;
    is_known_to_all(&gateways, &ledger, &events).await;
    for (gateway, _) in &gateways {
        assert_eq!(gateway.lines(UNAVAILABLE).len(), 1, "{}", gateway.log());
        assert_eq!(gateway.lines(AVAILABLE).len(), 2, "{}", gateway.log());
        assert!(!gateway.log().contains(WatchedRedis::PASSWORD));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_migration_under_load_loses_and_doubles_nothing() {
    migrates(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_migration_with_tls_loses_and_doubles_nothing() {
    migrates(true).await;
}

async fn migrates(tls: bool) {
    let Some(redis) = RedisCluster::start(tls).await else { return };
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, plan).await;
    let gateways = start_two(&upstream, &redis.section()).await;
    let load = Load::start(&gateways, &ledger);
    load.progress(100).await;
    redis.migrate(0..=2999, load.progress(100)).await;
    load.progress(100).await;
    let events = load.stop().await;
    until("every success is recorded", || async { redis.successes().await == events.len() }).await;
    is_known_to_all(&gateways, &ledger, &events).await;
    for (gateway, _) in &gateways {
        store_is(gateway, 1.0).await;
    }
}

/// Sends an event, and hangs up when the upstream has it. Returns `false` after a 503.
async fn reaches(gateway: &Process, ledger: &Ledger, event: &Event) -> bool {
    let mut connection = gateway.connect().await;
    tokio::select! {
        () = ledger.reached(event) => {
            ledger.note(&event.id, Entry::Unheard);
            true
        }
        reply = ask(&mut connection, ledger, event) => {
            assert_eq!(reply.expect("a response").status, 503);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_events_in_flight_keep_their_leases_with_a_slow_redis() {
    const EVENTS: usize = 5_000;
    const SENDERS: usize = 50;
    let Some(redis) = Redis::each().await.into_iter().next() else { return };
    let relay = Relay::start(redis.address(), Duration::from_millis(20)).await;
    let section = format!(
        "[limits]\naddress_share = 100\n[replay]\nstore = \"redis\"\nurl = \"redis://{}\"",
        relay.address()
    );
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Held).await;
    let (first, _first) = start(&upstream, &section, "upstream_timeout = \"120s\"").await;
    let (second, _second) = start(&upstream, &section, "answer_within = \"500ms\"").await;
    for gateway in [&first, &second] {
        store_is(gateway, 1.0).await;
    }

    // The senders hang up as soon as the upstream has their event.
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (first, ledger) = (Arc::clone(&first), ledger.clone());
        senders.spawn(async move {
            let mut events = Vec::new();
            for _ in 0..EVENTS / SENDERS {
                let event = Event::default();
                while !reaches(&first, &ledger, &event.retried()).await {}
                events.push(event);
            }
            events
        });
    }
    let events = senders.join_all().await.concat();
    let first_end = now_ms() + 15_000;
    until("every lease is renewed", || async {
        // Counting keeps the server busy.
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.leases_beyond(first_end).await == EVENTS
    })
    .await;
    for event in events.iter().step_by(100) {
        assert_eq!(send(&second, &ledger, &event.retried()).await, 503, "it is in flight");
    }
    assert_eq!(forwards(&ledger), EVENTS);

    for released in (1..=EVENTS).step_by(100) {
        (0..100).for_each(|_| upstream.release());
        let answered = |entry: &Entry| *entry == Entry::Answered(200);
        until("the upstream responds", || async { ledger.count(answered) >= released }).await;
    }
    let in_flight = "sealgate_replay_entries{state=\"in_flight\"}";
    until("no event is in flight", || async { first.metric(in_flight).await == 0.0 }).await;
    until("every success is recorded", || async {
        // Counting keeps the server busy.
        tokio::time::sleep(Duration::from_millis(200)).await;
        redis.successes().await == EVENTS
    })
    .await;
    let mut senders = JoinSet::new();
    for chunk in events.chunks(EVENTS / SENDERS) {
        let (second, ledger, chunk) = (Arc::clone(&second), ledger.clone(), chunk.to_vec());
        senders.spawn(async move {
            let mut connection: Connection = second.connect().await;
            for event in chunk {
                let reply = ask(&mut connection, &ledger, &event.retried()).await;
                assert_eq!(reply.expect("a response").status, 200);
            }
        });
    }
    senders.join_all().await;
    assert_eq!(forwards(&ledger), EVENTS, "no event is forwarded twice");
    ledger.agree_that_all_is_done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_primary_is_unavailable_until_there_is_a_new_one() {
    let mut servers = Redis::each().await;
    servers.extend(Redis::each().await);
    let [old, new, ..] = servers.as_slice() else { return };
    let relay = Relay::start(old.address(), Duration::ZERO).await;
    let section = format!("[replay]\nstore = \"redis\"\nurl = \"redis://{}\"", relay.address());
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
    let (gateway, _setup) = start(&upstream, &section, "").await;
    store_is(&gateway, 1.0).await;
    assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200);

    // The connections stay open.
    let (ip, port) = (new.address().ip().to_string(), new.address().port().to_string());
    let _: String = old.command(&["REPLICAOF", &ip, &port]).await;
    let event = Event::default();
    for _ in 0..3 {
        assert_eq!(send(&gateway, &ledger, &event.retried()).await, 503);
        assert_eq!(gateway.metric(STORE_UP).await, 0.0);
    }
    relay.lead_to(new.address());
    let start = Instant::now();
    until("the event is delivered", || async {
        send(&gateway, &ledger, &event.retried()).await == 200
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    store_is(&gateway, 1.0).await;
    assert_eq!(gateway.lines(UNAVAILABLE).len(), 1, "{}", gateway.log());
    assert_eq!(gateway.lines(AVAILABLE).len(), 2, "{}", gateway.log());
    let of_event = ledger.of(&event.id);
    assert_eq!(of_event.iter().filter(|e| matches!(e, Entry::Forwarded { .. })).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_after_a_dropped_connection_is_delivered() {
    for redis in Redis::each().await {
        let relay = Relay::start(redis.address(), Duration::ZERO).await;
        let section = format!("[replay]\nstore = \"redis\"\nurl = \"redis://{}\"", relay.address());
        let ledger = Ledger::default();
        let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
        let (gateway, _setup) = start(&upstream, &section, "").await;
        store_is(&gateway, 1.0).await;
        let _: usize = redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200, "CLIENT KILL");
        relay.close();
        assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200, "closed on the way");
        relay.mute();
        assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200, "forgotten on the way");

        let _: String = redis.command(&["CONFIG", "SET", "timeout", "1"]).await;
        until("the idle connection is closed", || async {
            let clients: String = redis.command(&["CLIENT", "LIST"]).await;
            clients.lines().count() == 1
        })
        .await;
        assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200, "timeout");

        redis.kill();
        redis.restart().await;
        assert_eq!(send(&gateway, &ledger, &Event::default()).await, 200, "restart");
        ledger.agree_that_all_is_done();
        assert_eq!(forwards(&ledger), 5);
    }
}

#[tokio::test]
async fn a_store_that_is_down_at_start_is_logged_once() {
    let upstream = Upstream::start().await;
    let nobody = crate::kit::free_address();
    let section = format!("[replay]\nstore = \"redis\"\nurl = \"redis://:hunter2@{nobody}\"");
    let (gateway, _setup) = start(&upstream, &section, "").await;
    let at_start = "the replay store is unavailable at start";
    until("it is logged", || async { gateway.lines(at_start).len() == 1 }).await;
    for _ in 0..2 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 503);
    }
    assert_eq!(gateway.lines(at_start).len(), 1);
    assert_eq!(gateway.lines(at_start)[0]["level"], "WARN");
    assert_eq!(gateway.metric(STORE_UP).await, 0.0);
    assert!(!gateway.log().contains("hunter2"), "{}", gateway.log());
}
