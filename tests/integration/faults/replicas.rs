//! Two gateways with one Redis; each of the three can be stopped, killed and restarted.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kit::{
    Answer, Entry, Event, Gateway, Ledger, Process, Redis, Setup, Upstream, ask, until,
};

const STORE_UP: &str = "sealgate_store_up{store=\"redis\"}";

fn setup(upstream: &Upstream, redis: &Redis, on_store_failure: &str) -> Setup {
    Setup::new(upstream).plain().section(&format!(
        "[replay]\nstore = \"redis\"\nurl = \"{}\"\non_store_failure = \"{on_store_failure}\"",
        redis.url()
    ))
}

/// Starts a gateway and waits until it has reached its store.
async fn replica(upstream: &Upstream, redis: &Redis, on_store_failure: &str) -> Gateway {
    let gateway = setup(upstream, redis, on_store_failure).start();
    store_is(&gateway, 1.0).await;
    gateway
}

async fn store_is(gateway: &Gateway, up: f64) {
    until("the metric tells", || async { gateway.metric(STORE_UP).await == up }).await;
}

/// Sends an event's request on a new connection.
async fn send(gateway: &Gateway, ledger: &Ledger, event: &Event) -> u16 {
    let mut connection = gateway.connect_plain().await;
    ask(&mut connection, ledger, event).await.expect("an answer").status
}

/// Returns whether the last forward of an event was marked as a possible duplicate.
fn marked(ledger: &Ledger, event: &Event) -> Option<bool> {
    ledger.of(&event.id).iter().rev().find_map(|entry| match entry {
        Entry::Forwarded { marked } => Some(*marked),
        _ => None,
    })
}

fn forwards(ledger: &Ledger, event: &Event) -> usize {
    ledger.of(&event.id).iter().filter(|entry| matches!(entry, Entry::Forwarded { .. })).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_to_two_gateways_are_forwarded_once() {
    const EVENTS: usize = 60;
    const COPIES: usize = 8;
    for redis in Redis::each().await {
        let ledger = Ledger::default();
        // Every other event fails first.
        let upstream = Upstream::keeping(&ledger, |event, count| {
            match (event.bytes().last().is_some_and(|last| last % 2 == 0), count) {
                (true, 1) => Answer::Reset,
                _ => Answer::Gathered(COPIES, 200),
            }
        })
        .await;
        let gateways = [
            Arc::new(replica(&upstream, &redis, "refuse").await),
            Arc::new(replica(&upstream, &redis, "refuse").await),
        ];
        let events: Arc<Vec<_>> = Arc::new((0..EVENTS).map(|_| Event::default()).collect());
        let mut senders = JoinSet::new();
        for copy in 0..COPIES {
            let gateway = Arc::clone(&gateways[copy % 2]);
            let (ledger, events) = (ledger.clone(), Arc::clone(&events));
            senders.spawn(async move {
                let mut connection = gateway.connect_plain().await;
                for event in &*events {
                    loop {
                        let reply = ask(&mut connection, &ledger, &event.retried()).await;
                        match reply.expect("an answer").status {
                            200 => break,
                            502 | 503 => {}
                            other => panic!("{other}"),
                        }
                    }
                }
            });
        }
        while let Some(ended) = senders.join_next().await {
            ended.expect("no panic");
        }
        ledger.agree_that_all_is_done();
        assert_eq!(ledger.count(|entry| *entry == Entry::Answered(200)), EVENTS);
        let failed = ledger.count(|entry| *entry == Entry::BrokenOff);
        assert!(failed >= EVENTS / 4, "{failed}");
        for gateway in &gateways {
            assert!(gateway.outcomes("joined").await > 0.0);
        }
    }
}

#[tokio::test]
async fn a_frozen_store_is_503_in_time_or_does_without() {
    for redis in Redis::each().await {
        let ledger = Ledger::default();
        let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
        let refusing = replica(&upstream, &redis, "refuse").await;
        let going_on = replica(&upstream, &redis, "local").await;
        let before = Event::default();
        assert_eq!(send(&refusing, &ledger, &before).await, 200);

        redis.freeze();
        let (refused, taken) = (Event::default(), Event::default());
        let start = Instant::now();
        assert_eq!(send(&refusing, &ledger, &refused).await, 503);
        assert!(start.elapsed() < Duration::from_secs(4), "within 4.5 s: {:?}", start.elapsed());
        assert_eq!(refusing.metric(STORE_UP).await, 0.0);
        assert_eq!(refusing.admin("/readyz").await.status, 200, "not out of service for that");
        assert_eq!(send(&going_on, &ledger, &taken).await, 200);
        assert_eq!(going_on.metric(STORE_UP).await, 0.0);
        assert_eq!(forwards(&ledger, &taken), 1);
        assert_eq!(send(&going_on, &ledger, &taken.retried()).await, 200, "known here");
        assert_eq!(send(&refusing, &ledger, &before.retried()).await, 200, "known here");

        redis.thaw();
        store_is(&refusing, 1.0).await;
        store_is(&going_on, 1.0).await;
        // If the lease of the failed claim is not released yet, the retry waits for it.
        assert_eq!(send(&refusing, &ledger, &refused.retried()).await, 200);
        assert_eq!(forwards(&ledger, &refused), 1);
        assert_eq!(marked(&ledger, &refused), Some(false), "it was never forwarded before");
        // The success that could not be recorded is written later; only then do other replicas see
        // it.
        let fresh = replica(&upstream, &redis, "refuse").await;
        let written = || async { redis.successes().await == 3 };
        until("the success is written behind", written).await;
        assert_eq!(send(&fresh, &ledger, &taken.retried()).await, 200);
        assert_eq!(send(&refusing, &ledger, &taken.retried()).await, 200);
        ledger.agree_that_all_is_done();
    }
}

#[tokio::test]
async fn a_store_that_is_killed_and_restarted_loses_no_event() {
    for redis in Redis::each().await {
        let ledger = Ledger::default();
        let held = Event::default();
        let held_id = held.id.clone();
        let upstream = Upstream::keeping(&ledger, move |event, _| {
            if event == held_id { Answer::Held } else { Answer::Status(200) }
        })
        .await;
        let gateway = replica(&upstream, &redis, "refuse").await;
        let before = Event::default();
        assert_eq!(send(&gateway, &ledger, &before).await, 200);
        let (status, ()) = tokio::join!(send(&gateway, &ledger, &held), async {
            ledger.reached(&held).await;
            redis.kill();
            upstream.release();
        });
        assert_eq!(status, 200, "the upstream did take it");
        let refused = Event::default();
        assert_eq!(send(&gateway, &ledger, &refused).await, 503);
        assert_eq!(gateway.metric(STORE_UP).await, 0.0);

        redis.restart().await;
        store_is(&gateway, 1.0).await;
        until("the success is written behind", || async { redis.successes().await == 2 }).await;
        let fresh = replica(&upstream, &redis, "refuse").await;
        for event in [&before, &held, &refused] {
            assert_eq!(send(&fresh, &ledger, &event.retried()).await, 200);
            assert_eq!(forwards(&ledger, event), 1);
        }
        ledger.agree_that_all_is_done();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_gateways_claim_is_taken_over_when_its_lease_expires() {
    for redis in Redis::each().await {
        let ledger = Ledger::default();
        let doomed: Arc<Mutex<Option<Process>>> = Arc::default();
        let (killing, killed) = (Arc::clone(&doomed), ledger.clone());
        let upstream = Upstream::keeping(&ledger, move |_, count| {
            if count > 1 {
                return Answer::Status(200);
            }
            killed.kill(|| drop(killing.lock().expect("not poisoned").take()));
            Answer::Silence
        })
        .await;
        let setup_of_doomed = setup(&upstream, &redis, "refuse");
        let toml = setup_of_doomed.toml();
        let process = Process::start(setup_of_doomed.dir.path(), &toml).await;
        let mut connection = process.connect().await;
        *doomed.lock().expect("not poisoned") = Some(process);
        let event = Event::default();
        assert!(ask(&mut connection, &ledger, &event).await.is_none(), "killed before it answers");
        upstream.deserted().await;
        ledger.killed();

        let other = setup(&upstream, &redis, "refuse").route("answer_within = \"600ms\"").start();
        store_is(&other, 1.0).await;
        assert_eq!(send(&other, &ledger, &event.retried()).await, 503, "the lease still holds");
        let patient = replica(&upstream, &redis, "refuse").await;
        let retry = event.retried();
        let (status, ()) = tokio::join!(send(&patient, &ledger, &retry), redis.end_leases());
        assert_eq!(status, 200, "taken over, by one that waits for it too");
        assert_eq!(marked(&ledger, &event), Some(true), "the dead may have reached the upstream");
        let again = Process::start(setup_of_doomed.dir.path(), &toml).await;
        let mut connection = again.connect().await;
        let reply = ask(&mut connection, &ledger, &event.retried()).await.expect("an answer");
        assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
        assert_eq!(forwards(&ledger, &event), 2);
        ledger.agree_that_all_is_done();
    }
}
