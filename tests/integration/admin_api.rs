//! The admin API: tokens, hosts, sessions, and what it shows and changes.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::kit::{
    Answer, Caller, Connection, Event, Gateway, PATIENCE, Reply, Setup, TOKEN, Upstream, VIEWER,
    until,
};

const EVENTS: &str = "[events]\nstore = \"disk\"\npath = \"events\"";

/// Returns a gateway with an admin API and an event store, whose route delivers in this mode.
fn setup(upstream: &Upstream, delivery: &str) -> Setup {
    Setup::new(upstream)
        .plain()
        .admin_api()
        .section(EVENTS)
        .route(&format!("delivery = \"{delivery}\"\nhistory = \"full\""))
}

async fn send(gateway: &Gateway, event: &Event) -> Reply {
    gateway.connect_plain().await.exchange(&event.request()).await
}

fn error(reply: &Reply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    body["error"].as_str().expect("an explanation").to_owned()
}

#[tokio::test]
async fn without_a_token_there_is_no_api() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().start();
    for path in ["/", "/login", "/api/v1/events", "/api/v1/routes", "/api/v1/stream"] {
        assert_eq!(gateway.operator().get(path).await.status, 404, "{path}");
        assert_eq!(gateway.operator().post(path, "").await.status, 404, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(gateway.admin(path).await.status, 200, "{path}");
        let reply = gateway.operator().post(path, "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
}

#[tokio::test]
async fn every_call_needs_a_token_that_permits_it() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let address = gateway.addresses().admin[0];
    let anonymous = Caller::anonymous(address);
    let paths = ["events", "events/x", "events/x/export", "routes", "stream", "session", "nothing"];
    for path in paths.map(|path| format!("/api/v1/{path}")) {
        let reply = anonymous.get(&path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"sealgate\""));
        assert_eq!(anonymous.post(&path, "").await.status, 401, "{path}");
    }
    for wrong in ["", "x", &TOKEN[1..], &format!("{TOKEN}x"), &TOKEN.to_uppercase()] {
        let caller = Caller::with_token(address, wrong);
        assert_eq!(caller.get("/api/v1/events").await.status, 401, "{wrong}");
    }
    for wrong in [format!("Basic {TOKEN}"), TOKEN.to_owned(), format!("Bearer{TOKEN}")] {
        let caller = anonymous.clone().with(&format!("Authorization: {wrong}"));
        assert_eq!(caller.get("/api/v1/events").await.status, 401, "{wrong}");
    }
    let lower = anonymous.clone().with(&format!("Authorization: bearer {TOKEN}"));
    assert_eq!(lower.get("/api/v1/events").await.status, 200);

    let viewer = Caller::with_token(address, VIEWER);
    for path in ["events", "routes", "session"] {
        assert_eq!(viewer.get(&format!("/api/v1/{path}")).await.status, 200, "{path}");
    }
    assert_eq!(viewer.json("/api/v1/session").await, json!({ "role": "viewer", "csrf": null }));
    for path in ["redeliver", "events/x/redeliver", "events/x/forget", "events", "nothing"] {
        let path = format!("/api/v1/{path}");
        assert_eq!(viewer.post(&path, "{\"state\":\"dead\"}").await.status, 403, "{path}");
    }
    assert_eq!(viewer.get("/api/v1/events/x/export").await.status, 403);
    // The open paths need none.
    assert_eq!(gateway.admin("/metrics").await.status, 200);
}

#[tokio::test]
async fn a_reload_replaces_the_tokens() {
    let upstream = Upstream::start().await;
    let setup = setup(&upstream, "sync");
    let toml = setup.toml();
    let gateway = setup.start();
    assert_eq!(gateway.operator().get("/api/v1/routes").await.status, 200);
    let cookie = login(&gateway.operator(), TOKEN).await.0;
    let replaced = toml.replace(TOKEN, "another-token-of-the-operator");
    let config = crate::kit::parse(&replaced, gateway.dir.path());
    gateway.running().reload(config).await.expect("valid");
    assert_eq!(gateway.operator().get("/api/v1/routes").await.status, 401);
    let session = Caller::anonymous(gateway.addresses().admin[0]).with(&cookie);
    assert_eq!(session.get("/api/v1/routes").await.status, 401, "its token is not accepted");
}

#[tokio::test]
async fn an_unknown_host_is_rejected() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let operator = gateway.operator();
    for host in ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.nip.io"]
    {
        let rebound = operator.clone().with(&format!("Host: {host}"));
        for path in ["/", "/api/v1/events", "/api/v1/stream"] {
            assert_eq!(rebound.get(path).await.status, 403, "{host} {path}");
        }
        assert_eq!(rebound.post("/login", &format!("{{\"token\":\"{TOKEN}\"}}")).await.status, 403);
        assert_eq!(rebound.get("/livez").await.status, 200);
    }
    for host in ["localhost:9464", "LOCALHOST", "127.0.0.1", "[::1]:1", "127.1.2.3:80"] {
        let known = operator.clone().with(&format!("Host: {host}"));
        assert_eq!(known.get("/api/v1/events").await.status, 200, "{host}");
    }
    let named = setup_with_hosts(&upstream).start();
    for (host, status) in [("admin.example", 200), ("localhost", 200), ("other.example", 403)] {
        let caller = named.operator().with(&format!("Host: {host}"));
        assert_eq!(caller.get("/api/v1/events").await.status, status, "{host}");
    }
}

fn setup_with_hosts(upstream: &Upstream) -> Setup {
    let hosts = "hosts = [\"admin.example\"]";
    Setup::new(upstream).plain().admin_api().section(hosts).section(EVENTS)
}

#[tokio::test]
async fn events_are_listed_with_every_field() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let operator = gateway.operator();
    assert_eq!(operator.json("/api/v1/events").await, json!({ "events": [], "next": null }));
    let event = Event::default();
    let reply = send(&gateway, &event).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("queued")));
    let listed = operator.only("", |event| event["state"] == "delivered").await;
    let id = listed["id"].as_str().expect("an ID");
    assert_eq!(id.len(), 26);
    let received = listed["received"].as_str().expect("a time");
    assert!(received.len() == 24 && received.ends_with('Z'), "{received}");
    let expected = json!({
        "id": id,
        "route": "vivoldi",
        "scheme": "vivoldi",
        "event_id": event.id,
        "key": "global",
        "secret": 1,
        "state": "delivered",
        "received": received,
        "attempts": 1,
        "last_status": 200,
        "last_error": null,
        "next_attempt": null,
        "bytes": event.body.len(),
        "possible_duplicate": false,
        "redelivery": false,
        "has_request": true,
    });
    assert_eq!(listed, expected);
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

#[tokio::test]
async fn a_rejected_request_is_listed_with_its_reason() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let operator = gateway.operator();
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    assert_eq!(send(&gateway, &forged).await.status, 401);
    let refused = operator.only("?state=refused", |_| true).await;
    assert_eq!(refused["reason"], "bad_signature");
    assert_eq!(refused["network"], "127.0.0.0/24");
    assert_eq!((&refused["has_request"], &refused["attempts"]), (&json!(false), &json!(0)));
    let path = format!("/api/v1/events/{}", text(&refused["id"]));
    let details = operator.json(&path).await;
    assert_eq!((&details["reason"], &details["state"]), (&refused["reason"], &refused["state"]));
    assert!(details.get("request").is_none());
    assert_eq!(operator.post(&format!("{path}/redeliver"), "").await.status, 409);
    assert_eq!(operator.get(&format!("{path}/export")).await.status, 409);
    assert_eq!(operator.post(&format!("{path}/forget"), "").await.status, 204);
}

#[tokio::test]
async fn a_list_is_filtered_and_paged() {
    let upstream = Upstream::start().await;
    let other = format!(
        "\n[[route]]\nname = \"other\"\npath = \"/other\"\nscheme = \"vivoldi\"\n\
         upstream = \"http://{}\"\nsecret = \"{}\"\n",
        upstream.address(),
        crate::kit::SECRET
    );
    let gateway = setup(&upstream, "sync").route(&other).start();
    let operator = gateway.operator();
    let mut sent = Vec::new();
    for number in 0..5 {
        let mut event = Event::default();
        if number == 4 {
            "/other".clone_into(&mut event.path);
            upstream.answer([Answer::Status(500)]);
        }
        send(&gateway, &event).await;
        sent.push(event.id);
    }
    until("all are listed", async || operator.events("").await.len() == 5).await;
    let ids = |events: &[Value]| {
        events.iter().map(|event| text(&event["event_id"]).to_owned()).collect::<Vec<_>>()
    };
    let newest_first: Vec<_> = sent.iter().rev().cloned().collect();
    assert_eq!(ids(&operator.events("").await), newest_first);
    for (query, count) in [
        ("?route=other", 1),
        ("?route=nothing", 0),
        ("?state=failed", 1),
        ("?state=delivered", 4),
        ("?state=delivered&route=other", 0),
        (&format!("?event={}", sent[2]), 1),
        ("?since=1h", 5),
        ("?until=1h", 0),
        ("?since=2000-01-01T00:00:00Z&until=2100-01-01T00:00:00%2B09:00", 5),
        ("?since=2100-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(operator.events(query).await.len(), count, "{query}");
    }
    // `until` is exclusive, `since` is not.
    let third = operator.events(&format!("?event={}", sent[2])).await;
    let at = text(&third[0]["received"]);
    let before = ids(&operator.events(&format!("?until={at}")).await);
    let after = ids(&operator.events(&format!("?since={at}")).await);
    assert!(!before.contains(&sent[2]) && after.contains(&sent[2]));
    // Pages without gaps and repetitions.
    let (mut paged, mut next) = (Vec::new(), String::new());
    loop {
        let page = operator.json(&format!("/api/v1/events?limit=2{next}")).await;
        let events = page["events"].as_array().expect("a list");
        assert!(events.len() <= 2);
        paged.extend(ids(events));
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, newest_first);
}

#[tokio::test]
async fn a_malformed_call_is_explained() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let operator = gateway.operator();
    for (query, part) in [
        ("?state=lost", "pending, delivering"),
        ("?since=yesterday", "since"),
        ("?limit=0", "limit"),
        ("?cursor=x", "cursor"),
        ("?status=500", "status"),
        ("?route=a&route=b", "twice"),
        ("?event=%ff", "UTF-8"),
    ] {
        let reply = operator.get(&format!("/api/v1/events{query}")).await;
        assert_eq!(reply.status, 400, "{query}");
        assert!(error(&reply).contains(part), "{query}: {}", error(&reply));
    }
    for body in ["", "{}", "[]", "{\"state\":\"lost\"}", "{\"state\":\"dead\",\"rout\":\"a\"}"] {
        assert_eq!(operator.post("/api/v1/redeliver", body).await.status, 400, "{body}");
    }
    let long = format!("{{\"state\":\"dead\",\"route\":\"{}\"}}", "a".repeat(70_000));
    assert_eq!(operator.post("/api/v1/redeliver", &long).await.status, 413);
    for path in ["nothing", "events/a/b", "events/a/redeliver/b", "events/%ff", "events/", ""] {
        assert_eq!(operator.get(&format!("/api/v1/{path}")).await.status, 404, "{path}");
    }
    for (method, path, allowed) in [
        ("POST", "events", "GET, HEAD"),
        ("DELETE", "events/a", "GET, HEAD"),
        ("GET", "events/a/redeliver", "POST"),
        ("PUT", "events/a/forget", "POST"),
        ("GET", "redeliver", "POST"),
        ("POST", "routes", "GET, HEAD"),
    ] {
        let reply = operator.call(method, &format!("/api/v1/{path}"), "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    assert_eq!(operator.call("GET", "/login", "").await.status, 405);
    // Without a store, everything about events is 404 and explained.
    let bare = Setup::new(&upstream).plain().admin_api().start();
    let reply = bare.operator().get("/api/v1/events").await;
    assert_eq!(reply.status, 404);
    assert!(error(&reply).contains("[events]"));
    assert_eq!(bare.operator().json("/api/v1/routes").await["routes"][0]["delivery"], "sync");
}

#[tokio::test]
async fn an_event_is_shown_with_its_request_and_without_credentials() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let operator = gateway.operator();
    upstream.answer([Answer::Status(503), Answer::Status(200)]);
    let mut event =
        Event::new("{\"grpIdx\":1,\"html\":\"<script>alert('\u{202e}한')</script>\"}".as_bytes())
            .with(&[
                "Authorization: Bearer hidden",
                "COOKIE: hidden=1",
                "X-Html: <img src=x>\u{e9}",
            ]);
    event.path.push_str("?q=%3Cb%3E");
    assert_eq!(send(&gateway, &event).await.status, 503);
    operator.only("", |event| event["state"] == "failed").await;
    assert_eq!(send(&gateway, &event.retried()).await.status, 200);
    let listed = operator.only("", |event| event["state"] == "delivered").await;
    let reply = operator.get(&format!("/api/v1/events/{}", text(&listed["id"]))).await;
    assert!(!reply.text().contains("hidden"), "{}", reply.text());
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let shown: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(shown["attempts"], 2);
    let log = shown["log"].as_array().expect("a list");
    let names: BTreeSet<_> = log[0].as_object().expect("an object").keys().map(|k| &**k).collect();
    assert_eq!(names, BTreeSet::from(["at", "duration_ms", "error", "resigned", "status"]));
    assert_eq!([&log[0]["status"], &log[1]["status"]], [&json!(503), &json!(200)]);
    let request = &shown["request"];
    assert_eq!(request["method"], "POST");
    assert_eq!(request["path"], "/webhooks/vivoldi?q=%3Cb%3E");
    assert_eq!(request["encoding"], "utf8");
    assert_eq!(text(&request["body"]).as_bytes(), event.body);
    let header = |name: &str| {
        let headers = request["headers"].as_array().expect("a list").iter();
        let mut found = headers.filter(|header| text(&header[0]) == name);
        text(&found.next().expect(name)[1]).to_owned()
    };
    assert_eq!(header("Authorization"), "[redacted]");
    assert_eq!(header("COOKIE"), "[redacted]");
    assert_eq!(header("X-Html"), "<img src=x>\u{e9}");
    assert_eq!(header("X-Vivoldi-Event-Id"), event.id);

    // By the sender's ID, and without the body.
    let shown = operator.json(&format!("/api/v1/events/{}?body=false", event.id)).await;
    assert_eq!(shown["id"], listed["id"]);
    assert!(shown["request"].get("body").is_none());
    // A body that is not text.
    let binary = Event::new(b"\xff\x00");
    send(&gateway, &binary).await;
    until("it is kept", async || {
        operator.get(&format!("/api/v1/events/{}", binary.id)).await.status == 200
    })
    .await;
    let shown = operator.json(&format!("/api/v1/events/{}", binary.id)).await;
    assert_eq!(shown["request"]["encoding"], "base64");
    assert_eq!(shown["request"]["body"], "/wA=");
    let unknown = operator.get("/api/v1/events/%3Cscript%3E%1B%5B2J").await;
    assert_eq!((unknown.status, unknown.header("content-type")), (404, Some("application/json")));
    assert!(!unknown.text().contains(['<', '\u{1b}']), "{}", unknown.text());
}

#[tokio::test]
async fn a_rejected_request_is_shown_with_its_reason_and_diagnosis() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let mut near = Event::default();
    near.tampered = Some([near.body.as_slice(), b"\n"].concat());
    let forged = Event { signature: Some("no signature".to_owned()), ..Event::default() };
    for (event, reason) in [(near, "bad_signature"), (forged, "malformed_signature")] {
        assert_eq!(send(&gateway, &event).await.status, 401);
        let operator = gateway.operator();
        let rejected = async {
            loop {
                let events = operator.events("?state=refused").await;
                if let Some(event) = events.into_iter().find(|event| event["reason"] == reason) {
                    return event;
                }
            }
        };
        let listed = tokio::time::timeout(PATIENCE, rejected).await.expect("listed in time");
        let path = format!("/api/v1/events/{}", listed["id"].as_str().expect("an ID"));
        let shown = operator.json(&path).await;
        assert_eq!((&shown["state"], &shown["reason"]), (&"refused".into(), &reason.into()));
        assert_eq!(shown["network"], "127.0.0.0/24");
        let diagnosis = shown.as_object().expect("an object").get("diagnosis");
        let diagnosis = diagnosis.expect("present, even without a near miss");
        assert_eq!(diagnosis.is_string(), reason == "bad_signature", "{diagnosis}");
        assert_eq!(operator.post(&format!("{path}/redeliver"), "").await.status, 409);
    }
}

#[tokio::test]
async fn a_rejected_request_is_shown_with_the_part_at_fault() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let operator = gateway.operator();
    let unsigned = Event { without: vec!["X-Vivoldi-Signature"], ..Event::default() };
    let twice = Event::default().with(&["X-Vivoldi-Timestamp: <b>"]);
    let group = Event::group("COUPON", "not-checked", b"{\"grpIdx\":\"<b>\"}");
    for (event, reason, cause) in [
        (unsigned, "missing_header", "header `x-vivoldi-signature` is absent"),
        (twice, "duplicate_header", "header `x-vivoldi-timestamp` is present twice"),
        (group, "malformed_body", "the body has no integer `/grpIdx`"),
    ] {
        assert_eq!(send(&gateway, &event).await.status, 401, "{reason}");
        let diagnosis = async || {
            let events = operator.events("?state=refused").await;
            let event = events.iter().find(|event| event["reason"] == reason)?.clone();
            event["diagnosis"].as_str().map(str::to_owned)
        };
        until(reason, async || diagnosis().await.is_some()).await;
        let diagnosis = diagnosis().await.expect("still listed");
        assert!(diagnosis.starts_with(cause), "{reason}: {diagnosis}");
        assert!(!diagnosis.contains('<'), "nothing from the request: {diagnosis}");
    }
}

#[tokio::test]
async fn an_export_is_what_arrived() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let event = Event::default().with(&["Authorization: Bearer shown", "x-CASE: 1"]);
    send(&gateway, &event).await;
    let path = format!("/api/v1/events/{}/export", event.id);
    let reply = gateway.operator().get(&path).await;
    assert_eq!(reply.status, 200);
    let text = reply.text();
    assert!(text.starts_with("POST /webhooks/vivoldi HTTP/1.1\r\nHost: localhost\r\n"), "{text}");
    assert!(text.contains("Authorization: Bearer shown\r\nx-CASE: 1\r\n"), "{text}");
    assert!(text.as_bytes().ends_with(&[b"\r\n\r\n", &*event.body].concat()), "{text}");
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test]
async fn an_event_is_delivered_again_on_request() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let operator = gateway.operator();
    let event = Event::default();
    send(&gateway, &event).await;
    let listed = operator.only("", |event| event["state"] == "delivered").await;
    let path = format!("/api/v1/events/{}/redeliver", text(&listed["id"]));
    assert_eq!(operator.post(&path, "").await.status, 202);
    upstream.seen(2).await;
    let again = &upstream.requests()[1];
    assert_eq!(again.header("sealgate-redelivery"), Some("1"));
    assert_eq!(again.header("sealgate-attempt"), Some("2"));
    operator.only("", |event| event["state"] == "delivered" && event["attempts"] == 2).await;
    assert_eq!(operator.post("/api/v1/events/unknown/redeliver", "").await.status, 404);
}

#[tokio::test]
async fn an_event_without_its_request_cannot_be_delivered_again() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().admin_api().section(EVENTS).start();
    let operator = gateway.operator();
    let event = Event::default();
    send(&gateway, &event).await;
    let listed = operator.only("", |_| true).await;
    assert_eq!((&listed["has_request"], &listed["state"]), (&json!(false), &json!("delivered")));
    let path = format!("/api/v1/events/{}", text(&listed["id"]));
    assert!(operator.json(&path).await.get("request").is_none());
    assert_eq!(operator.post(&format!("{path}/redeliver"), "").await.status, 409);
    assert_eq!(operator.get(&format!("{path}/export")).await.status, 409);
    let all = operator.post("/api/v1/redeliver", "{\"state\":\"delivered\"}").await;
    assert_eq!(all.text(), "{\"redelivered\":0}");
    assert_eq!(operator.post(&format!("{path}/forget"), "").await.status, 204);
    send(&gateway, &event).await;
    upstream.seen(2).await;
}

#[tokio::test]
async fn events_are_delivered_again_in_bulk_and_in_order() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let operator = gateway.operator();
    let events: Vec<_> = (0..3).map(|_| Event::default()).collect();
    for event in &events {
        upstream.answer([Answer::Status(410)]);
        send(&gateway, event).await;
        until("it is dead", async || {
            operator.events(&format!("?state=dead&event={}", event.id)).await.len() == 1
        })
        .await;
    }
    let redeliver = async |body: Value| {
        let reply = operator.post("/api/v1/redeliver", &body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice::<Value>(&reply.body).expect("JSON")
    };
    assert_eq!(redeliver(json!({"state": "dead", "until": "1h"})).await, json!({"redelivered": 0}));
    let none = json!({"state": "dead", "route": "other"});
    assert_eq!(redeliver(none).await, json!({"redelivered": 0}));
    let all = json!({"state": "dead", "route": "vivoldi", "since": "1h", "until": null});
    assert_eq!(redeliver(all).await, json!({"redelivered": 3}));
    until("all are delivered", async || operator.events("?state=delivered").await.len() == 3).await;
    assert_eq!(upstream.requests().len(), 6);
}

#[tokio::test]
async fn a_forgotten_event_counts_as_new() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let operator = gateway.operator();
    let forget =
        async |id: &str| operator.post(&format!("/api/v1/events/{id}/forget"), "").await.status;
    // A delivered event stays in the history.
    let event = Event::default();
    send(&gateway, &event).await;
    let delivered = operator.only("", |event| event["state"] == "delivered").await;
    assert_eq!(forget(text(&delivered["id"])).await, 204);
    send(&gateway, &event).await;
    upstream.seen(2).await;
    until("both are listed", async || operator.events("?state=delivered").await.len() == 2).await;
    // Two events have this ID of the sender now.
    let reply = operator.post(&format!("/api/v1/events/{}/redeliver", event.id), "").await;
    assert_eq!(reply.status, 409);
    // A dead event is removed.
    let event = Event::default();
    upstream.answer([Answer::Status(410)]);
    send(&gateway, &event).await;
    operator.only("?state=dead", |_| true).await;
    assert_eq!(forget(&event.id).await, 204);
    assert!(operator.events("?state=dead").await.is_empty());
    assert_eq!(forget(&event.id).await, 404);
    send(&gateway, &event).await;
    let listed =
        operator.only(&format!("?event={}", event.id), |e| e["state"] == "delivered").await;
    assert_eq!(listed["attempts"], 1);
}

#[tokio::test]
async fn routes_show_their_health() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async")
        .route(
            "[route.secrets.coupon]\n3570 = [\"the-new-coupon-secret\", \"the-old-coupon-secret\"]",
        )
        .start();
    let operator = gateway.operator();
    let route = async || operator.json("/api/v1/routes").await["routes"][0].clone();
    let idle = route().await;
    assert_eq!(idle["name"], "vivoldi");
    assert_eq!(idle["last_verified"], Value::Null);
    assert_eq!(idle["last_hour"]["queued"], 0);
    let unused = |key: &str, secret| json!({"key": key, "secret": secret, "last_used": null});
    let secrets = [unused("coupon/3570", 1), unused("coupon/3570", 2), unused("global", 1)];
    assert_eq!(idle["secrets"], json!(secrets));
    upstream.answer([Answer::Status(500)]);
    let event = Event::group("COUPON", "the-old-coupon-secret", b"{\"grpIdx\":3570}");
    send(&gateway, &event).await;
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    send(&gateway, &forged).await;
    until("it waits", async || route().await["pending"] == 1).await;
    let shown = route().await;
    for (name, expected) in [
        ("scheme", json!("vivoldi")),
        ("mode", json!("enforce")),
        ("delivery", json!("async")),
        ("history", json!("full")),
        ("delivering", json!(0)),
        ("dead", json!(0)),
        ("consecutive_failures", json!(0)),
    ] {
        assert_eq!(shown[name], expected, "{name}");
    }
    assert!(shown["oldest_pending_seconds"].as_u64().expect("a number") < 60);
    assert!(text(&shown["last_verified"]).ends_with('Z'));
    let hour = shown["last_hour"].as_object().expect("an object");
    let counted: Vec<_> = hour.iter().filter(|(_, count)| **count != 0).collect();
    assert_eq!(json!(counted), json!([["queued", 1], ["rejected", 1]]));
    let minutes = shown["minutes"]["queued"].as_array().expect("a list");
    assert_eq!((minutes.len(), &minutes[59]), (60, &json!(1)));
    let old = &shown["secrets"][1];
    assert!(text(&old["last_used"]).ends_with('Z'), "{old}");
    assert_eq!(shown["secrets"][0], unused("coupon/3570", 1));
}

/// Reads a stream of events until `count` objects have arrived.
async fn streamed(stream: &mut TcpStream, count: usize) -> Vec<Value> {
    let mut text = Vec::new();
    let reading = async {
        loop {
            let whole = String::from_utf8_lossy(&text).into_owned();
            let data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
            let found: Vec<Value> =
                data.filter_map(|data| serde_json::from_str(data).ok()).collect();
            if found.len() >= count {
                return found;
            }
            assert!(stream.read_buf(&mut text).await.expect("a stream") > 0, "{whole}");
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the events in time")
}

/// Opens a stream, whose first bytes are the head and a comment. The kernel holds little of it.
async fn open_stream(gateway: &Gateway, query: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    let mut stream = socket.connect(gateway.addresses().admin[0]).await.expect("connected");
    let request = gateway.operator().request("GET", &format!("/api/v1/stream{query}"), "");
    stream.write_all(&request).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b": heartbeat\n\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
    stream
}

#[tokio::test]
async fn changes_are_streamed_as_they_are_listed() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let mut all = open_stream(&gateway, "").await;
    let mut delivered = open_stream(&gateway, "?route=vivoldi&state=delivered").await;
    let mut other = open_stream(&gateway, "?route=other").await;
    let event = Event::default();
    send(&gateway, &event).await;
    let seen = streamed(&mut delivered, 1).await;
    let listed = gateway.operator().only("", |event| event["state"] == "delivered").await;
    assert_eq!(seen, [listed]);
    let states: Vec<_> = streamed(&mut all, 2).await.iter().map(|e| e["state"].clone()).collect();
    assert_eq!(states.last(), Some(&json!("delivered")));
    let mut nothing = [0];
    let read = tokio::time::timeout(Duration::from_millis(50), other.read(&mut nothing)).await;
    assert!(read.is_err(), "no event of another route");
    let wrong = gateway.operator().get("/api/v1/stream?since=1h").await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn a_slow_reader_is_disconnected_and_delays_nothing() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let mut slow = open_stream(&gateway, "").await;
    let mut connection = gateway.connect_plain().await;
    // More than the kernel, the connection and the buffer hold together.
    let mut sent = 0;
    while gateway.metric("sealgate_connections{listener=\"admin\"}").await > 1.0 {
        for _ in 0..500 {
            let mut event = Event::default();
            event.id.push_str(&"x".repeat(90));
            assert_eq!(connection.exchange(&event.request()).await.status, 200);
            sent += 1;
        }
        assert!(sent < 50_000, "the reader is still connected");
    }
    let mut rest = Vec::new();
    // Closed or reset, with what was on its way.
    let _ = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("an end");
}

/// Logs in; returns the line with the cookie and the CSRF token.
async fn login(caller: &Caller, token: &str) -> (String, String) {
    let reply = caller.post("/login", &json!({ "token": token }).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let cookie = reply.header("set-cookie").expect("a cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let cookie = cookie.split(';').next().expect("a pair");
    (format!("Cookie: {cookie}"), text(&body["csrf"]).to_owned())
}

#[tokio::test]
async fn a_session_may_change_something_with_its_csrf_token_only() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "async").start();
    let anonymous = Caller::anonymous(gateway.addresses().admin[0]);
    send(&gateway, &Event::default()).await;
    let listed = gateway.operator().only("", |event| event["state"] == "delivered").await;
    let path = format!("/api/v1/events/{}/redeliver", text(&listed["id"]));
    let (cookie, csrf) = login(&anonymous, TOKEN).await;
    let session = anonymous.clone().with(&cookie);
    let described = session.json("/api/v1/session").await;
    assert_eq!(described, json!({ "role": "operator", "csrf": csrf }));
    assert_eq!(session.get("/api/v1/events").await.status, 200);
    assert_eq!(session.post(&path, "").await.status, 403, "no CSRF token");
    let wrong = session.clone().with("X-CSRF-Token: wrong");
    assert_eq!(wrong.post(&path, "").await.status, 403);
    let complete = session.clone().with(&format!("X-CSRF-Token: {csrf}"));
    let foreign = complete.clone().with("Origin: http://evil.example");
    assert_eq!(foreign.post(&path, "").await.status, 403, "another origin");
    let own = complete.clone().with("Origin: http://localhost");
    assert_eq!(own.post(&path, "").await.status, 202);

    // Logout ends the session; a viewer can log out too.
    assert_eq!(session.post("/logout", "").await.status, 403);
    let reply = complete.post("/logout", "").await;
    assert_eq!(reply.status, 204);
    assert!(reply.header("set-cookie").expect("a cookie").contains("Max-Age=0"));
    assert_eq!(session.get("/api/v1/events").await.status, 401);
    let (cookie, csrf) = login(&anonymous, VIEWER).await;
    let viewer = anonymous.clone().with(&cookie).with(&format!("X-CSRF-Token: {csrf}"));
    assert_eq!(viewer.post(&path, "").await.status, 403, "a viewer");
    assert_eq!(viewer.post("/logout", "").await.status, 204);
}

#[tokio::test]
async fn a_login_form_leads_to_the_page() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let form = Caller::anonymous(gateway.addresses().admin[0])
        .with("Content-Type: application/x-www-form-urlencoded");
    let reply = form.post("/login", &format!("token={TOKEN}")).await;
    assert_eq!((reply.status, reply.header("location")), (303, Some("/")));
    assert!(reply.header("set-cookie").is_some());
    for body in ["", "token=", "token=wrong", "tokn=x", "{\"token\":1}"] {
        assert_eq!(form.post("/login", body).await.status, 401, "{body}");
    }
}

#[tokio::test]
async fn failed_logins_are_throttled() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let anonymous = Caller::anonymous(gateway.addresses().admin[0]);
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(anonymous.post("/login", "{\"token\":\"guess\"}").await.status);
    }
    assert_eq!(statuses, [vec![401; 10], vec![429]].concat());
    let correct = json!({ "token": TOKEN }).to_string();
    let reply = anonymous.post("/login", &correct).await;
    assert_eq!(reply.status, 429, "not even with the token");
    let wait: u64 = reply.header("retry-after").expect("a delay").parse().expect("seconds");
    assert!((1..=61).contains(&wait));
    // Commands are not locked out.
    assert_eq!(gateway.operator().get("/api/v1/events").await.status, 200);
}

#[tokio::test]
async fn a_head_has_no_body_and_a_stream_of_one_stays_closed() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, "sync").start();
    let mut connection = Connection::plain(gateway.addresses().admin[0]).await;
    let operator = gateway.operator();
    connection.write(&operator.request("HEAD", "/api/v1/stream", "")).await;
    assert!(connection.stirs().await);
    assert_eq!(operator.get("/api/v1/routes").await.status, 200);
}
