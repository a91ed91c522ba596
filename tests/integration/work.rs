//! The work that an unauthenticated request can cause: what the head decides is decided before the
//! body arrives, and the cost of a body is linear in its length.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use crate::kit::{Call, Event, Gateway, Setup, Upstream};

const TOKEN: &str = "a-client-state-of-the-tests";

/// A gateway with a route for each of these schemes, at `/<scheme>`.
fn routes(upstream: &Upstream, schemes: &[(&str, &str)]) -> Gateway {
    let mut text = String::new();
    for (scheme, secret) in schemes {
        writeln!(
            text,
            "[[route]]\nname = \"{scheme}\"\npath = \"/{scheme}\"\nscheme = \"{scheme}\"\n\
             upstream = \"http://{}\"\npublic_url = \"https://hooks.example.com/{scheme}\"\n\
             secret = \"{secret}\"",
            upstream.address()
        )
        .expect("memory");
    }
    Setup::new(upstream).routes(&text).start()
}

#[tokio::test]
async fn what_the_head_decides_is_decided_before_the_body_arrives() {
    let upstream = Upstream::start().await;
    let gateway = routes(
        &upstream,
        &[("postmark", "user:a-password-of-the-tests"), ("gitlab", TOKEN), ("github", TOKEN)],
    );
    let cases = [
        ("postmark", "Authorization: Basic dXNlcjp3cm9uZw==", "bad_signature"),
        ("postmark", "X-Other: 1", "missing_header"),
        ("gitlab", "X-Gitlab-Token: wrong\r\nX-Gitlab-Event-UUID: 1", "bad_signature"),
        ("github", "X-GitHub-Delivery: 1", "missing_header"),
        ("github", "X-GitHub-Delivery: 1\r\nX-Hub-Signature-256: x", "malformed_signature"),
    ];
    for (path, headers, reason) in cases {
        for expect in ["", "Expect: 100-continue\r\n"] {
            let counter =
                format!("sealgate_rejections_total{{reason=\"{reason}\",route=\"{path}\"}}");
            let before = gateway.metric(&counter).await;
            let head = format!(
                "POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\
                 {expect}{headers}\r\n\r\n"
            );
            let mut connection = gateway.connect().await;
            let reply =
                tokio::time::timeout(Duration::from_secs(5), connection.exchange(head.as_bytes()));
            let reply = reply.await.expect("the response does not wait for the body");
            assert_eq!(reply.status, 401, "{path} {headers}: {}", reply.head);
            assert_eq!(gateway.metric(&counter).await, before + 1.0, "{path} {headers}");
        }
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn the_reason_is_the_same_with_and_without_a_body() {
    let upstream = Upstream::start().await;
    let gateway = routes(&upstream, &[("flutterwave", TOKEN)]);
    for body in ["", "not JSON", "{\"event\":\"a b\",\"data\":{\"id\":1}}"] {
        let call = Call::post("/flutterwave", body).with("verif-hash", "wrong");
        assert_eq!(gateway.refused(&call).await.1, "bad_signature", "{body}");
    }
    let body = "{\"event\":\"a b\",\"data\":{\"id\":1}}";
    let call = Call::post("/flutterwave", body).with("verif-hash", TOKEN);
    assert_eq!(gateway.refused(&call).await.1, "malformed_signature", "the head is authentic");
}

#[tokio::test]
async fn many_items_members_and_fields_cost_no_more_than_their_length() {
    let upstream = Upstream::start().await;
    let hex = "c0ffee".repeat(8);
    let gateway =
        routes(&upstream, &[("microsoft-graph", TOKEN), ("adyen", &hex), ("twilio", TOKEN)]);
    let repeated = |start: &str, part: &str, end: &str| {
        let count = 950_000 / part.len();
        format!("{start}{}{}{end}", part.repeat(count - 1), part.trim_end_matches(','))
    };
    let item = r#"{"NotificationRequestItem":{"additionalData":{"hmacSignature":"AA=="}}},"#;
    let bodies = [
        ("microsoft-graph", repeated("{\"value\":[", "{\"clientState\":1},", "]}")),
        ("microsoft-graph", repeated("{\"value\":[{}],\"x\":[", "1,", "]}")),
        ("adyen", repeated("{\"notificationItems\":[", item, "]}")),
        ("twilio", repeated("", "&a", "")),
    ];
    for (path, body) in bodies {
        let call = Call::post(&format!("/{path}"), &body)
            .with("X-Twilio-Signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let started = Instant::now();
        let (reply, reason) = gateway.refused(&call).await;
        let took = started.elapsed();
        assert_eq!((reply.status, reason.as_str()), (401, "malformed_body"), "{path}");
        // Work that grows with the square of the body takes many times as long.
        assert!(took < Duration::from_secs(3), "{path}: {took:?}");
    }
    let fit = "{\"clientState\":\"wrong\"},".repeat(4000);
    let call = Call::post("/microsoft-graph", &format!("{{\"value\":[{fit}{{}}]}}"));
    assert_eq!(gateway.refused(&call).await.1, "malformed_signature");
}

#[tokio::test]
async fn a_large_body_is_verified_and_forwarded_whole() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let body = vec![b'x'; 900_000];
    let event = Event::new(&body);
    assert_eq!(gateway.send(&event).await.status, 200);
    assert_eq!(upstream.only().body, body);
    let tampered = Event { tampered: Some(vec![b'y'; 900_000]), ..Event::new(&body) };
    assert_eq!(gateway.send(&tampered).await.status, 401);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn members_that_nobody_reads_may_be_anything() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .route("[route.secrets.coupon]\n574 = \"the-secret-of-coupon-574\"")
        .start();
    for note in [r#""\ud83d""#, "1e400", r#"["\udc00", -1e999]"#] {
        let body = format!(r#"{{"grpIdx":574,"note":{note}}}"#);
        let mut event = Event::new(body.as_bytes());
        event.secret = "the-secret-of-coupon-574".to_owned();
        event.set("X-Vivoldi-Webhook-Type", "GROUP");
        event.set("X-Vivoldi-Resource-Type", "COUPON");
        assert_eq!(gateway.send(&event).await.status, 200, "{note}");
        let twice = format!(r#"{{"grpIdx":574,"GRPIDX":575,"note":{note}}}"#);
        event.tampered = Some(twice.into_bytes());
        assert_eq!(gateway.send(&event).await.status, 401, "{note}");
    }
}
