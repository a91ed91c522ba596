//! Senders that disconnect, over HTTP/1.1 and HTTP/2.

use http_body_util::Full;

use crate::kit::{Answer, Entry, Event, Gateway, Ledger, Setup, Upstream, ask, until};

const CONNECTIONS: &str = "sealgate_connections{listener=\"https\"}";
const DONE: &str = "sealgate_replay_entries{state=\"done\"}";

/// How a sender disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HangUp {
    /// HTTP/1.1: the connection is closed.
    Http1,
    /// HTTP/2: the connection is closed.
    Http2,
    /// HTTP/2: the stream is reset, the connection continues.
    Stream,
}

/// Sends a request and disconnects when the upstream has received it; returns when the gateway has
/// noticed that.
async fn send_and_hang_up(how: HangUp, gateway: &Gateway, ledger: &Ledger, event: &Event) {
    ledger.note(&event.id, Entry::Asked);
    let gone = || async { gateway.metric(CONNECTIONS).await == 0.0 };
    if how == HangUp::Http1 {
        let mut connection = gateway.connect().await;
        connection.write(&event.request()).await;
        ledger.reached(event).await;
        drop(connection);
        until("the sender is gone", gone).await;
    } else {
        let mut connection = gateway.connect_http2().await;
        let pending = tokio::spawn(connection.send(event.http2_request()));
        ledger.reached(event).await;
        pending.abort();
        if how == HangUp::Stream {
            // A request after the reset on the same connection is handled after it.
            let greeting = http::Request::get("https://localhost/nowhere");
            let greeting = greeting.body(Full::default()).expect("a request");
            let reply = connection.send(greeting).await.expect("an answer");
            assert_eq!(reply.status(), 404);
        } else {
            drop(connection);
            until("the sender is gone", gone).await;
        }
    }
    ledger.note(&event.id, Entry::Unheard);
}

#[tokio::test]
async fn a_late_success_is_done_and_its_retry_is_not_forwarded() {
    for how in [HangUp::Http1, HangUp::Http2, HangUp::Stream] {
        for same_bytes in [false, true] {
            let ledger = Ledger::default();
            let upstream = Upstream::keeping(&ledger, |_, _| Answer::Held).await;
            let gateway = Setup::new(&upstream).start();
            let event = Event::default();
            send_and_hang_up(how, &gateway, &ledger, &event).await;
            assert_eq!(gateway.metric(DONE).await, 0.0, "{how:?}");
            upstream.release();
            until("the late success is recorded", || async { gateway.metric(DONE).await == 1.0 })
                .await;
            let retry = if same_bytes { event.clone() } else { event.retried() };
            let reply = ask(&mut gateway.connect().await, &ledger, &retry).await;
            let reply = reply.expect("an answer");
            assert_eq!(
                (reply.status, reply.header("sealgate-answer")),
                (200, Some("duplicate")),
                "{how:?}: nobody was told of the success"
            );
            assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), 1);
            ledger.agree_that_all_is_done();
        }
    }
}

#[tokio::test]
async fn a_late_failure_is_forgotten_and_its_retry_is_forwarded() {
    for how in [HangUp::Http1, HangUp::Http2, HangUp::Stream] {
        let ledger = Ledger::default();
        let upstream = Upstream::keeping(&ledger, |_, count| match count {
            1 => Answer::Gathered(2, 500),
            _ => Answer::Status(200),
        })
        .await;
        let gateway = Setup::new(&upstream).start();
        let event = Event::default();
        send_and_hang_up(how, &gateway, &ledger, &event).await;
        let reply = ask(&mut gateway.connect().await, &ledger, &event.retried()).await;
        let status = reply.expect("an answer").status;
        if status != 200 {
            assert_eq!(status, 500, "{how:?}: the copy joined the attempt that failed");
            let reply = ask(&mut gateway.connect().await, &ledger, &event.retried()).await;
            assert_eq!(reply.expect("an answer").status, 200);
        }
        assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), 2);
        ledger.agree_that_all_is_done();
    }
}

#[tokio::test]
async fn an_incomplete_request_changes_nothing() {
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    let bytes = event.request();
    for cut in [20, bytes.len() / 2, bytes.len() - 1] {
        let mut connection = gateway.connect().await;
        connection.write(&bytes[..cut]).await;
        drop(connection);
    }
    until("all are gone", || async { gateway.metric(CONNECTIONS).await == 0.0 }).await;
    let reply = ask(&mut gateway.connect().await, &ledger, &event).await;
    assert_eq!(reply.expect("an answer").status, 200, "the first whole request, and no replay");
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), 1);
    ledger.agree_that_all_is_done();
}
