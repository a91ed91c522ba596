//! Delivery: one test for each row of the response table.

use std::time::Duration;

use tokio::net::TcpListener;

use crate::kit::{Answer, Event, Setup, Upstream, until};

#[tokio::test]
async fn a_retry_of_a_done_event_is_acknowledged_and_not_forwarded() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    assert_eq!(gateway.send(&event).await.status, 200);
    let reply = gateway.send(&event.retried()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("sealgate-answer"), Some("duplicate"));
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(gateway.outcomes("duplicate").await, 1.0);
}

#[tokio::test]
async fn a_replay_is_rejected_or_acknowledged_and_never_forwarded() {
    for (on_replay, status) in [("reject", 409), ("acknowledge", 200)] {
        let upstream = Upstream::start().await;
        let gateway = Setup::new(&upstream)
            .section(&format!("[replay]\non_replay = \"{on_replay}\""))
            .start();
        let event = Event::default();
        assert_eq!(gateway.send(&event).await.status, 200);
        let reply = gateway.send(&event).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("sealgate-answer"), Some("replay"));
        let retry = event.retried();
        assert_eq!(gateway.send(&retry).await.status, 200);
        assert_eq!(gateway.send(&retry).await.status, status, "a retry can be replayed too");
        assert_eq!(upstream.requests().len(), 1);
        assert_eq!(gateway.outcomes("replay").await, 2.0);
    }
}

#[tokio::test]
async fn failures_are_passed_on_and_the_retry_is_forwarded() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    for (answer, status, duplicate) in [
        (Answer::Status(500), 500, None),
        (Answer::Status(404), 404, None),
        (Answer::Status(302), 502, None),
        (Answer::Reset, 502, Some("1")),
        (Answer::Raw(b"nonsense\r\n\r\n".to_vec()), 502, Some("1")),
    ] {
        let event = Event::default();
        let before = upstream.requests().len();
        upstream.answer([answer.clone()]);
        let reply = gateway.send(&event).await;
        assert_eq!(reply.status, status, "{answer:?}");
        let reply = gateway.send(&event.retried()).await;
        assert_eq!(reply.status, 200, "{answer:?}");
        assert_eq!(reply.header("sealgate-answer"), None, "{answer:?}");
        let requests = upstream.requests();
        assert_eq!(requests.len(), before + 2, "{answer:?}");
        let mark = requests[before + 1].header("sealgate-possible-duplicate");
        assert_eq!(mark, duplicate, "{answer:?}");
    }
}

#[tokio::test]
async fn forwards_identical_bytes_after_a_failure() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    upstream.answer([Answer::Status(503)]);
    assert_eq!(gateway.send(&event).await.status, 503);
    assert_eq!(gateway.send(&event).await.status, 200);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_success_of_any_kind_becomes_the_senders_success() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let accepted = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\nX-App: yes\r\n\
                     Connection: X-Hop\r\nX-Hop: 1\r\nSealgate-Answer: forged\r\n\r\ntaken";
    upstream.answer([Answer::Raw(accepted[..accepted.len() - 1].to_vec())]);
    let reply = gateway.send(&Event::default()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, b"take");
    assert_eq!(reply.header("x-app"), Some("yes"));
    assert_eq!(reply.header("x-hop"), None);
    assert_eq!(reply.header("sealgate-answer"), None);
}

#[tokio::test]
async fn copies_in_flight_get_the_first_ones_outcome() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    upstream.answer([Answer::Held]);
    let (first, second) = (event.clone(), event.retried());
    let (first, second, ()) = tokio::join!(gateway.send(&first), gateway.send(&second), async {
        upstream.seen(1).await;
        let joined =
            || async { gateway.metric("sealgate_connections{listener=\"https\"}").await >= 2.0 };
        until("both copies are there", joined).await;
        upstream.release();
    });
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_late_answer_is_504_for_the_sender_and_done_for_its_retry() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).route("answer_within = \"600ms\"").start();
    let event = Event::default();
    upstream.answer([Answer::Held]);
    let reply = gateway.send(&event).await;
    assert_eq!(reply.status, 504);
    assert_eq!(reply.header("sealgate-answer"), Some("error"));
    let reply = gateway.send(&event.retried()).await;
    assert_eq!(reply.status, 503, "still in flight");
    assert!(reply.header("retry-after").is_some());
    upstream.release();
    let done = "sealgate_replay_entries{state=\"done\"}";
    until("the late answer is recorded", || async { gateway.metric(done).await == 1.0 }).await;
    let reply = gateway.send(&event.retried()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("sealgate-answer"), Some("duplicate"));
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_never_responds_is_an_unknown_outcome() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .route("answer_within = \"600ms\"\nupstream_timeout = \"700ms\"")
        .start();
    let event = Event::default();
    upstream.answer([Answer::Silence]);
    assert_eq!(gateway.send(&event).await.status, 504);
    let failed = "sealgate_replay_entries{state=\"failed\"}";
    until("the attempt has failed", || async { gateway.metric(failed).await == 1.0 }).await;
    assert_eq!(gateway.send(&event.retried()).await.status, 200);
    assert_eq!(upstream.requests()[1].header("sealgate-possible-duplicate"), Some("1"));
}

#[tokio::test]
async fn a_sender_that_disconnects_cancels_nothing() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    upstream.answer([Answer::Held]);
    let mut connection = gateway.connect().await;
    connection.write(&event.request()).await;
    upstream.seen(1).await;
    drop(connection);
    let connections = "sealgate_connections{listener=\"https\"}";
    until("the sender is gone", || async { gateway.metric(connections).await == 0.0 }).await;
    upstream.release();
    let done = "sealgate_replay_entries{state=\"done\"}";
    until("the forward went on", || async { gateway.metric(done).await == 1.0 }).await;
    let reply = gateway.send(&event).await;
    assert_eq!(reply.status, 200, "the 2xx was never written out: a retry and no replay");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn another_context_for_the_same_event_is_a_conflict() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    assert_eq!(gateway.send(&event).await.status, 200);
    for header in ["X-Vivoldi-Action-Type", "X-Vivoldi-Comp-Idx", "X-Vivoldi-Resource-Type"] {
        let mut other = event.retried();
        other.set(header, "7");
        assert_eq!(gateway.send(&other).await.status, 409, "{header}");
    }
    let mut elsewhere = event.retried();
    elsewhere.path.push_str("?also=this");
    assert_eq!(gateway.send(&elsewhere).await.status, 409);
    assert_eq!(gateway.rejections("context_mismatch").await, 4.0);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_restarts_loses_nothing() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let any = Upstream::start().await;
    let routes = format!(
        "[[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
         upstream = \"http://{address}\"\nsecret = \"{}\"\n",
        crate::kit::SECRET
    );
    let gateway = Setup::new(&any).routes(&routes).start();
    let (gateway, events) = (&gateway, [(); 5].map(|()| Event::default()));
    let connect = "sealgate_connections{listener=\"https\"}";
    let back = async {
        until("the five clicks wait", || async { gateway.metric(connect).await >= 5.0 }).await;
        Upstream::on(TcpListener::bind(address).await.expect("the port is free"))
    };
    let clicks = async {
        tokio::join!(
            gateway.send(&events[0]),
            gateway.send(&events[1]),
            gateway.send(&events[2]),
            gateway.send(&events[3]),
            gateway.send(&events[4]),
        )
    };
    let ((a, b, c, d, e), upstream) = tokio::join!(clicks, back);
    assert_eq!([a, b, c, d, e].map(|reply| reply.status), [200; 5]);
    assert_eq!(upstream.requests().len(), 5);
    assert!(upstream.requests().iter().all(|r| r.header("sealgate-possible-duplicate").is_none()));
}

#[tokio::test]
async fn an_upstream_that_is_away_is_502_before_the_sender_gives_up() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let any = Upstream::start().await;
    let routes = format!(
        "[[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
         upstream = \"http://{address}\"\nsecret = \"{}\"\nanswer_within = \"1s\"\n",
        crate::kit::SECRET
    );
    let gateway = Setup::new(&any).routes(&routes).start();
    let started = std::time::Instant::now();
    let reply = gateway.send(&Event::default()).await;
    assert_eq!(reply.status, 502);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let connect = "sealgate_upstream_requests_total{code=\"connect\",route=\"vivoldi\"}";
    assert_eq!(gateway.metric(connect).await, 1.0);
    assert_eq!(gateway.metric("sealgate_consecutive_failures{route=\"vivoldi\"}").await, 1.0);
}

#[tokio::test]
async fn an_old_copy_of_a_known_event_is_its_retry() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).route("tolerance = \"1s\"").start();
    let event = Event::default();
    upstream.answer([Answer::Status(500)]);
    assert_eq!(gateway.send(&event).await.status, 500);
    let age = || async { crate::kit::now_ms() > event.timestamp.parse::<u64>().unwrap() + 1500 };
    until("the first request is past its window", age).await;
    assert_eq!(gateway.send(&event).await.status, 200, "failed: forwarded again");
    assert_eq!(gateway.send(&event).await.status, 409, "done and written out: a replay");
    let stranger = Event { timestamp: event.timestamp.clone(), ..Event::default() };
    assert_eq!(gateway.send(&stranger).await.status, 401, "never seen fresh");
    assert_eq!(gateway.rejections("stale").await, 1.0);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn observe_mode_forwards_and_marks_everything() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).route("mode = \"observe\"").start();
    let event = Event::default();
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    for (event, mark) in [
        (&event, None),
        (&event, Some("replay")),
        (&event.retried(), Some("duplicate")),
        (&forged, Some("bad_signature")),
    ] {
        assert_eq!(gateway.send(event).await.status, 200);
        let seen = upstream.requests().pop().expect("forwarded");
        assert_eq!(seen.header("sealgate-observed"), mark);
        assert_eq!(seen.header("sealgate-verified"), None);
    }
    assert_eq!(upstream.requests().len(), 4);
    assert_eq!(gateway.rejections("bad_signature").await, 1.0);
    // Whatever is HTTP, also what an enforcing route rejects before it verifies.
    let text = String::from_utf8(Event::default().request()).expect("text");
    for (request, mark) in [
        (text.replacen("POST", "PUT", 1), "method"),
        (text.replacen("POST", "OPTIONS", 1), "method"),
        (text.replacen("Host:", "Content-Encoding: gzip\r\nHost:", 1), "content_encoding"),
        ("HEAD /webhooks/vivoldi HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "method"),
    ] {
        let mut connection = gateway.connect().await;
        connection.write(request.as_bytes()).await;
        upstream.seen(upstream.requests().len() + 1).await;
        let seen = upstream.requests().pop().expect("forwarded");
        assert_eq!(seen.header("sealgate-observed"), Some(mark), "{request}");
        assert_eq!(seen.head.split(' ').next(), request.split(' ').next());
    }
    let labels = "sealgate_observed_total{mark=\"method\",route=\"vivoldi\"}";
    until("all are counted", || async { gateway.metric(labels).await > 2.5 }).await;
}

#[tokio::test]
async fn a_token_that_fills_the_guard_leaves_the_share_of_another_route() {
    let upstream = Upstream::start().await;
    let telegram = format!(
        "[[route]]\nname = \"telegram\"\npath = \"/webhooks/telegram\"\nscheme = \"telegram\"\n\
         upstream = \"http://{}\"\nsecret = \"a-token-of-the-tests\"",
        upstream.address()
    );
    let setup = Setup::new(&upstream).plain().section("[replay]\nmax_entries = 40");
    let gateway = setup.route(&telegram).start();
    let mut connection = gateway.connect_plain().await;
    let mut taken = 0;
    let full = loop {
        let body = format!("{{\"update_id\": {taken}}}");
        let request = format!(
            "POST /webhooks/telegram HTTP/1.1\r\nHost: localhost\r\n\
             X-Telegram-Bot-Api-Secret-Token: a-token-of-the-tests\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = connection.exchange(request.as_bytes()).await;
        if reply.status != 200 {
            break reply.status;
        }
        taken += 1;
    };
    // A quarter of the guard is guaranteed to each of the two routes, and half is for both.
    assert_eq!((full, taken), (503, 30));
    for _ in 0..10 {
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    }
    assert_eq!(connection.exchange(&Event::default().request()).await.status, 503);
}
