//! The responses to the sender: one test for each row of the table in docs/delivery-modes.md.

use super::{Handler, attempted, stored};
use crate::kit::{Answer, Event, Gateway, Reply};

const ASYNC: &str = "delivery = \"async\"\n[route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"";
const FALLBACK: &str = "delivery = \"fallback\"\nanswer_within = \"2s\"\n[route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"";

async fn send(gateway: &Gateway, event: &Event) -> Reply {
    gateway.connect_plain().await.exchange(&event.request()).await
}

fn is_queued(reply: &Reply) {
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("queued")));
    assert!(reply.body.is_empty());
}

#[tokio::test]
async fn an_asynchronous_event_is_acknowledged_before_it_is_delivered() {
    let handler = Handler::start().await;
    let gateway = handler.setup(ASYNC).start();
    handler.upstream.answer([Answer::Held]);
    is_queued(&send(&gateway, &Event::default()).await);
    handler.upstream.seen(1).await;
    stored(&gateway, "delivering", 1.0).await;
    handler.upstream.release();
    attempted(&gateway, "delivered", 1.0).await;
    assert_eq!(gateway.outcomes("queued").await, 1.0);
    stored(&gateway, "delivering", 0.0).await;
}

#[tokio::test]
async fn copies_of_a_stored_event_are_acknowledged_and_not_stored_again() {
    let mut handler = Handler::start().await;
    let gateway = handler.setup(ASYNC).start();
    handler.stop().await;
    let event = Event::default();
    is_queued(&send(&gateway, &event).await);
    let reply = send(&gateway, &event.retried()).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
    assert_eq!(send(&gateway, &event).await.status, 409, "a replay");
    let mut other = event.retried();
    other.set("X-Vivoldi-Action-Type", "REMOVE");
    assert_eq!(send(&gateway, &other).await.status, 409, "another context");
    stored(&gateway, "pending", 1.0).await;
    handler.resume().await;
    attempted(&gateway, "delivered", 1.0).await;
    assert_eq!(send(&gateway, &event.retried()).await.status, 200);
    assert_eq!(handler.upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_event_that_the_store_cannot_take_gets_503() {
    let mut handler = Handler::start().await;
    let setup = handler.setup(ASYNC);
    let full = setup.toml().replace("path = \"events\"", "path = \"events\"\nmax_pending = 1");
    let gateway = {
        let config = crate::kit::parse(&full, setup.dir.path());
        setup.start_with(config)
    };
    handler.stop().await;
    let (first, second) = (Event::default(), Event::default());
    is_queued(&send(&gateway, &first).await);
    let reply = send(&gateway, &second).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (503, Some("unavailable")));
    assert!(reply.header("retry-after").is_some());
    handler.resume().await;
    attempted(&gateway, "delivered", 1.0).await;
    is_queued(&send(&gateway, &second.retried()).await);
    attempted(&gateway, "delivered", 2.0).await;
}

#[tokio::test]
async fn a_restart_forgets_no_event() {
    for mode in [ASYNC, FALLBACK] {
        let mut handler = Handler::start().await;
        let setup = handler.setup(mode);
        let (toml, event) = (setup.toml(), Event::default());
        let mut gateway = setup.start();
        handler.stop().await;
        is_queued(&send(&gateway, &event).await);
        gateway.drain().await;
        let gateway = gateway.restarted(&toml).await;
        // The replay records were in memory; the event is in the store all the same.
        let reply = send(&gateway, &event.retried()).await;
        assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
        handler.resume().await;
        attempted(&gateway, "delivered", 1.0).await;
        assert_eq!(handler.upstream.requests().len(), 1, "{mode}");
    }
}

#[tokio::test]
async fn a_healthy_handler_responds_to_the_sender_itself() {
    let handler = Handler::start().await;
    let gateway = handler.setup(FALLBACK).start();
    let reply = send(&gateway, &Event::default()).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, None));
    assert_eq!(reply.body, b"ok");
    assert_eq!(handler.upstream.only().header("sealgate-attempt"), None);
    assert_eq!(gateway.outcomes("forwarded").await, 1.0);
}

#[tokio::test]
async fn a_failed_fallback_event_is_stored_and_delivered() {
    for (answer, mark) in [
        (Answer::Status(500), None),
        (Answer::Status(404), None),
        (Answer::Status(302), None),
        (Answer::Reset, Some("1")),
        (Answer::Raw(b"nonsense\r\n\r\n".to_vec()), Some("1")),
    ] {
        let handler = Handler::start().await;
        let gateway = handler.setup(FALLBACK).start();
        handler.upstream.answer([answer.clone()]);
        is_queued(&send(&gateway, &Event::default()).await);
        attempted(&gateway, "delivered", 1.0).await;
        let requests = handler.upstream.requests();
        assert_eq!(requests.len(), 2, "{answer:?}");
        assert_eq!(requests[1].header("sealgate-attempt"), Some("2"), "{answer:?}");
        assert_eq!(requests[1].header("sealgate-possible-duplicate"), mark, "{answer:?}");
    }
}

#[tokio::test]
async fn a_fallback_event_without_a_handler_is_stored_and_delivered() {
    let mut handler = Handler::start().await;
    let gateway = handler.setup(FALLBACK).start();
    handler.stop().await;
    is_queued(&send(&gateway, &Event::default()).await);
    handler.resume().await;
    attempted(&gateway, "delivered", 1.0).await;
    let request = handler.upstream.only();
    assert_eq!(request.header("sealgate-possible-duplicate"), None);
    assert!(request.header("sealgate-attempt").is_some_and(|attempt| attempt != "1"));
}

#[tokio::test]
async fn a_fallback_event_without_a_slot_is_stored_and_delivered() {
    let handler = Handler::start().await;
    let limit = format!("upstream_concurrency = 1\nupstream_queue = 0\n{FALLBACK}");
    let gateway = handler.setup(&limit).start();
    handler.upstream.answer([Answer::Held]);
    let (first, second) = (Event::default(), Event::default());
    let (first, second) = tokio::join!(send(&gateway, &first), async {
        handler.upstream.seen(1).await;
        let second = send(&gateway, &second).await;
        handler.upstream.release();
        second
    });
    assert_eq!((first.status, first.header("sealgate-answer")), (200, None));
    is_queued(&second);
    attempted(&gateway, "delivered", 1.0).await;
    assert_eq!(handler.upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_late_success_settles_a_fallback_event() {
    let handler = Handler::start().await;
    let gateway = handler.setup(FALLBACK).start();
    handler.upstream.answer([Answer::Held]);
    let event = Event::default();
    is_queued(&send(&gateway, &event).await);
    stored(&gateway, "delivering", 1.0).await;
    assert_eq!(send(&gateway, &event.retried()).await.status, 200);
    handler.upstream.release();
    attempted(&gateway, "delivered", 1.0).await;
    stored(&gateway, "delivering", 0.0).await;
    assert_eq!(handler.upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_fallback_event_whose_late_attempt_fails_is_retried() {
    let handler = Handler::start().await;
    let timeout = format!("upstream_timeout = \"2500ms\"\n{FALLBACK}");
    let gateway = handler.setup(&timeout).start();
    handler.upstream.answer([Answer::Silence]);
    is_queued(&send(&gateway, &Event::default()).await);
    attempted(&gateway, "unknown", 1.0).await;
    attempted(&gateway, "delivered", 1.0).await;
    let requests = handler.upstream.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].header("sealgate-attempt"), Some("2"));
    assert_eq!(requests[1].header("sealgate-possible-duplicate"), Some("1"));
}

#[tokio::test]
async fn a_410_to_the_synchronous_attempt_is_passed_on_and_not_stored() {
    let handler = Handler::start().await;
    let gateway = handler.setup(FALLBACK).start();
    handler.upstream.answer([Answer::Status(410)]);
    let event = Event::default();
    let reply = send(&gateway, &event).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (410, None));
    assert_eq!(send(&gateway, &event.retried()).await.header("sealgate-answer"), None);
    assert_eq!(handler.upstream.requests().len(), 2, "the retry is forwarded");
}

#[tokio::test]
async fn a_retry_of_a_dead_event_makes_it_pending_again() {
    for mode in [ASYNC, FALLBACK] {
        let handler = Handler::start().await;
        let gateway = handler.setup(mode).start();
        let first = if mode == ASYNC { Answer::Status(410) } else { Answer::Status(500) };
        handler.upstream.answer([first, Answer::Status(410), Answer::Status(410)]);
        let event = Event::default();
        is_queued(&send(&gateway, &event).await);
        stored(&gateway, "dead", 1.0).await;
        let reply = send(&gateway, &event.retried()).await;
        assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
        if mode == ASYNC {
            attempted(&gateway, "dead", 2.0).await;
            stored(&gateway, "dead", 1.0).await;
            assert_eq!(send(&gateway, &event.retried()).await.status, 200);
            attempted(&gateway, "dead", 3.0).await;
            stored(&gateway, "dead", 1.0).await;
            assert_eq!(send(&gateway, &event.retried()).await.status, 200);
        } else {
            attempted(&gateway, "dead", 2.0).await;
            stored(&gateway, "dead", 1.0).await;
            assert_eq!(send(&gateway, &event.retried()).await.status, 200);
        }
        attempted(&gateway, "delivered", 1.0).await;
        stored(&gateway, "dead", 0.0).await;
    }
}

#[tokio::test]
async fn with_duplicates_forwarded_a_retry_is_delivered_again_with_a_mark() {
    for mode in ["sync", "async", "fallback"] {
        let handler = Handler::start().await;
        let lines = format!("delivery = \"{mode}\"\nduplicates = \"forward\"");
        let gateway = handler.setup(&lines).start();
        let event = Event::default();
        let mut copies = vec![event.clone(), event.retried()];
        copies.push(copies[1].retried());
        for (copy, count) in copies.iter().zip(1..) {
            assert_eq!(send(&gateway, copy).await.status, 200, "{mode}");
            handler.upstream.seen(count).await;
            if mode == "async" || (mode == "fallback" && count > 1) {
                attempted(
                    &gateway,
                    "delivered",
                    if mode == "async" { count } else { count - 1 } as f64,
                )
                .await;
            }
        }
        assert_eq!(send(&gateway, &event).await.status, 409, "{mode}: a replay");
        let requests = handler.upstream.requests();
        let marks = requests.iter().map(|request| request.header("sealgate-possible-duplicate"));
        assert_eq!(marks.collect::<Vec<_>>(), [None, Some("1"), Some("1")], "{mode}");
    }
}
