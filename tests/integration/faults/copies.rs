//! Many concurrent copies of many events.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::kit::{Answer, Entry, Event, Gateway, Ledger, Setup, Upstream, ask};

const EVENTS: usize = 1_000;
const COPIES: usize = 50;
/// Number of concurrent events.
const LANES: usize = 4;

/// Sends each event in [`COPIES`] concurrent requests, half of them identical and half of them
/// signed again. A sender that gets no acknowledgement retries. The upstream responds to the first
/// request only after all of them were sent.
async fn send_all(gateway: &Arc<Gateway>, ledger: &Ledger) {
    let mut senders = JoinSet::new();
    for lane in 0..LANES {
        let events: Arc<Vec<_>> =
            Arc::new((lane..EVENTS).step_by(LANES).map(|_| Event::default()).collect());
        for copy in 0..COPIES {
            let (gateway, ledger, events) =
                (Arc::clone(gateway), ledger.clone(), Arc::clone(&events));
            senders.spawn(async move {
                let mut connection = gateway.connect_plain().await;
                for event in &*events {
                    let mut event = if copy % 2 == 0 { event.clone() } else { event.retried() };
                    loop {
                        let reply = ask(&mut connection, &ledger, &event).await;
                        match reply.expect("an answer").status {
                            200 | 409 => break,
                            500 | 502 | 503 => event = event.retried(),
                            other => panic!("{other}"),
                        }
                    }
                }
            });
        }
    }
    while let Some(ended) = senders.join_next().await {
        ended.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwards_a_thousand_events_in_fifty_copies_once() {
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Gathered(COPIES, 200)).await;
    let gateway = Arc::new(Setup::new(&upstream).plain().start());
    send_all(&gateway, &ledger).await;
    ledger.agree_that_all_is_done();
    assert_eq!(ledger.events().len(), EVENTS);
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), EVENTS);
    assert_eq!(ledger.count(|entry| *entry == Entry::Answered(200)), EVENTS);
    assert_eq!(ledger.count(|entry| *entry == Entry::Asked), EVENTS * COPIES);
    assert_eq!(gateway.outcomes("forwarded").await, EVENTS as f64);
    assert!(gateway.outcomes("joined").await > EVENTS as f64, "copies do come at one time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwards_events_once_although_the_upstream_fails_in_between() {
    // The faults before the success, by the first letter of the event's number.
    const FAILURES: [&[Answer]; 4] =
        [&[], &[Answer::Status(500)], &[Answer::Reset], &[Answer::Reset, Answer::Status(503)]];
    let failures = |event: &str| FAILURES[event.bytes().last().map_or(0, usize::from) % 4];
    let ledger = Ledger::default();
    let upstream =
        Upstream::keeping(&ledger, move |event, count| match failures(event).get(count - 1) {
            Some(failure) => failure.clone(),
            None => Answer::Gathered(COPIES, 200),
        })
        .await;
    let gateway = Arc::new(Setup::new(&upstream).plain().start());
    send_all(&gateway, &ledger).await;
    ledger.agree_that_all_is_done();
    let calls = ledger.events().iter().map(|event| failures(event).len() + 1).sum::<usize>();
    assert!(calls > EVENTS, "some fail");
    assert_eq!(ledger.events().len(), EVENTS);
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), calls);
    assert_eq!(ledger.count(|entry| *entry == Entry::Answered(200)), EVENTS);
}
