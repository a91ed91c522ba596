//! Headers added for the upstream, the limit on concurrent requests, and memory for responses.

use std::time::{Duration, Instant};

use crate::kit::{Answer, Event, Process, Recorded, Setup, Upstream, until};

/// A value that only the upstream may see.
const TOKEN: &str = "a-canary-for-the-upstream-only";

#[tokio::test]
async fn added_headers_replace_the_senders() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain().route(
        "[route.upstream_headers]\nX-Gateway-Token = { file = \"token\" }\n\
         Authorization = { file = \"authorization\" }",
    );
    std::fs::write(setup.dir.path().join("token"), format!("{TOKEN}\n")).expect("written");
    let basic = format!("Basic {TOKEN}");
    std::fs::write(setup.dir.path().join("authorization"), &basic).expect("written");
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let event = Event::default().with(&[
        "X-Gateway-Token: forged",
        "x-gateway-token: forged",
        "X_Gateway_Token: forged",
        "X-Gateway_Token: forged",
        "Authorization: Basic forged",
        "Connection: X-Gateway-Token, Authorization",
    ]);
    upstream.answer([Answer::Status(500), Answer::Reset]);
    for (event, status) in [(&event, 500), (&event.retried(), 502), (&event.retried(), 200)] {
        let reply = gateway.connect().await.exchange(&event.request()).await;
        assert_eq!(reply.status, status);
        assert!(!reply.head.contains(TOKEN), "{}", reply.head);
    }
    assert_eq!(upstream.requests().len(), 3);
    for seen in upstream.requests() {
        assert_eq!(seen.header("x-gateway-token"), Some(TOKEN));
        assert_eq!(seen.header("authorization"), Some(basic.as_str()));
        assert!(!seen.head.contains("forged"), "{}", seen.head);
    }
    assert!(gateway.log().contains("\"outcome\""), "{}", gateway.log());
    assert!(!gateway.log().contains(TOKEN), "{}", gateway.log());
}

#[tokio::test]
async fn requests_wait_for_a_permit_in_their_order() {
    let upstream = Upstream::start().await;
    let gateway =
        Setup::new(&upstream).plain().route("upstream_concurrency = 1\nanswer_within = \"20s\"");
    let gateway = gateway.start();
    let waiting = "sealgate_upstream_waiting{route=\"vivoldi\"}";
    upstream.answer([Answer::Held, Answer::Held, Answer::Held]);
    let events = [(); 3].map(|()| Event::default());
    let send = async |event: &Event| gateway.connect_plain().await.exchange(&event.request()).await;
    let queued = async |count: f64| {
        until("one more request waits", || async { gateway.metric(waiting).await == count }).await;
    };
    let (first, second, third, ()) = tokio::join!(
        send(&events[0]),
        async {
            upstream.seen(1).await;
            send(&events[1]).await
        },
        async {
            queued(1.0).await;
            send(&events[2]).await
        },
        async {
            queued(2.0).await;
            let in_flight = "sealgate_upstream_in_flight{route=\"vivoldi\"}";
            assert_eq!(gateway.metric(in_flight).await, 1.0);
            for count in 1..=3 {
                upstream.seen(count).await;
                assert_eq!(upstream.requests().len(), count, "one at a time");
                upstream.release();
            }
        }
    );
    assert_eq!([first, second, third].map(|reply| reply.status), [200; 3]);
    let ids = |seen: &Recorded| seen.header("sealgate-event-id").map(str::to_owned);
    let order: Vec<_> = upstream.requests().iter().filter_map(ids).collect();
    assert_eq!(order, events.map(|event| event.id));
    assert_eq!(gateway.metric(waiting).await, 0.0);
}

#[tokio::test]
async fn a_request_without_a_permit_in_time_was_not_sent_and_its_retry_is_forwarded() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .route("upstream_concurrency = 1\nupstream_queue = 1\nanswer_within = \"1500ms\"")
        .start();
    upstream.answer([Answer::Held]);
    let send = async |event: &Event| gateway.connect_plain().await.exchange(&event.request()).await;
    let [first, second, third] = [(); 3].map(|()| Event::default());
    let waiting = "sealgate_upstream_waiting{route=\"vivoldi\"}";
    let started = Instant::now();
    let (held, waited, turned_away) = tokio::join!(
        send(&first),
        async {
            upstream.seen(1).await;
            send(&second).await
        },
        async {
            until("one request waits", || async { gateway.metric(waiting).await == 1.0 }).await;
            let reply = send(&third).await;
            assert_eq!(gateway.metric(waiting).await, 1.0, "the queue is full: rejected at once");
            reply
        }
    );
    assert_eq!(held.status, 504);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    for reply in [&waited, &turned_away] {
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
        assert_eq!(reply.header("sealgate-answer"), Some("unavailable"));
    }
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(gateway.metric("sealgate_replay_entries{state=\"failed\"}").await, 2.0);
    upstream.release();
    let in_flight = "sealgate_upstream_in_flight{route=\"vivoldi\"}";
    until("the permit is free", || async { gateway.metric(in_flight).await == 0.0 }).await;
    for event in [&second, &third.retried()] {
        assert_eq!(send(event).await.status, 200);
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|seen| seen.header("sealgate-possible-duplicate").is_none()));
}

#[tokio::test]
async fn an_unknown_outcome_is_remembered_while_the_queue_is_full() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .route("upstream_concurrency = 1\nupstream_queue = 0\nanswer_within = \"20s\"")
        .start();
    let send = async |event: &Event| gateway.connect_plain().await.exchange(&event.request()).await;
    let [unknown, held] = [(); 2].map(|()| Event::default());
    upstream.answer([Answer::Reset, Answer::Held]);
    assert_eq!(send(&unknown).await.status, 502);
    let (reply, ()) = tokio::join!(send(&held), async {
        upstream.seen(2).await;
        assert_eq!(send(&unknown.retried()).await.status, 503);
        upstream.release();
    });
    assert_eq!(reply.status, 200);
    assert_eq!(send(&unknown.retried()).await.status, 200);
    let seen = &upstream.requests()[2];
    assert_eq!(seen.header("sealgate-possible-duplicate"), Some("1"));
}

#[tokio::test]
async fn response_bodies_count_against_the_memory() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .section("[limits]\nmemory = \"256KiB\"\nbody = \"64KiB\"")
        .start();
    let response = |status: u16, length: usize| {
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
        Answer::Raw([head.as_bytes(), &vec![b'x'; length]].concat())
    };
    let chunked = format!(
        "HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n4b000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(300 << 10)
    );
    let send = async |event: &Event| gateway.connect_plain().await.exchange(&event.request()).await;
    // What fits is passed on, and its memory is released soon afterwards.
    for _ in 0..5 {
        upstream.answer([response(200, 200 << 10)]);
        let is_passed_on = || async {
            let reply = send(&Event::default()).await;
            (reply.status, reply.text().len()) == (200, 200 << 10)
        };
        until("the response is passed on", is_passed_on).await;
    }
    // A success that does not fit loses its body and is done.
    for success in [response(200, 300 << 10), Answer::Raw(chunked.into_bytes())] {
        upstream.answer([success]);
        let event = Event::default();
        let reply = send(&event).await;
        assert_eq!((reply.status, reply.text().len()), (200, 0));
        let copy = send(&event.retried()).await;
        assert_eq!(copy.header("sealgate-answer"), Some("duplicate"));
    }
    // Anything else becomes a 503, and the retry is forwarded as a known failure.
    upstream.answer([response(500, 300 << 10)]);
    let event = Event::default();
    let reply = send(&event).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
    assert_eq!(send(&event.retried()).await.status, 200);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 9);
    assert!(requests.iter().all(|seen| seen.header("sealgate-possible-duplicate").is_none()));
    let code = "sealgate_upstream_requests_total{code=\"5xx\",route=\"vivoldi\"}";
    assert_eq!(gateway.metric(code).await, 1.0);
}
