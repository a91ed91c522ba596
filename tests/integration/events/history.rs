//! What is kept about events, and what the API shows of it.

use serde_json::{Value, json};

use super::Handler;
use crate::kit::{Event, Gateway, Reply, SECRET, TOKEN, VIEWER, sealgate};

const GITLAB: &str = "a-token-of-gitlab-for-the-tests";

/// Returns a route for each `history`, each with its own path, and one of a sender that
/// authenticates with a token in a header.
fn routes(handler: &Handler) -> String {
    let upstream = handler.address;
    let route = |name: &str, more: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{upstream}\"\nsecret = \"{SECRET}\"\n{more}\n"
        )
    };
    let histories = ["off", "metadata", "full"];
    let sync = histories.map(|history| route(history, &format!("history = \"{history}\"")));
    let stored = route("stored", "history = \"metadata\"\ndelivery = \"async\"");
    let token = route("token", "history = \"full\"")
        .replace("\"vivoldi\"", "\"gitlab\"")
        .replace(SECRET, GITLAB);
    format!("{}{stored}{token}", sync.concat())
}

async fn start(handler: &Handler) -> Gateway {
    let setup = handler.setup("").routes(&routes(handler));
    let tokens = format!("[admin]\ntoken = \"{TOKEN}\"\nviewer_token = \"{VIEWER}\"");
    let toml = setup.toml().replacen("[admin]", &tokens, 1);
    let config = crate::kit::parse(&toml, setup.dir.path());
    setup.start_with(config)
}

async fn send(gateway: &Gateway, request: &[u8]) -> Reply {
    gateway.connect_plain().await.exchange(request).await
}

fn event(route: &str) -> Event {
    let event = Event { path: format!("/{route}"), ..Event::default() };
    event.with(&["Authorization: Bearer hidden-1", "Cookie: a=hidden-2"])
}

#[tokio::test]
async fn history_decides_what_is_kept_and_shown() {
    let handler = Handler::start().await;
    let gateway = start(&handler).await;
    let operator = gateway.operator();
    let events = ["off", "metadata", "stored", "full"].map(event);
    for event in &events {
        assert_eq!(send(&gateway, &event.request()).await.status, 200, "{}", event.path);
    }
    // Entries of synchronous events are written in order, so the last one shows that all are.
    let is_delivered = |event: &Value| event["state"] == "delivered";
    operator.only("?route=full", is_delivered).await;
    operator.only("?route=stored", is_delivered).await;
    assert_eq!(operator.events("?route=off").await, Vec::<Value>::new());
    for (route, event, keeps_request) in [
        ("metadata", &events[1], false),
        // What the store delivers is always kept in full.
        ("stored", &events[2], true),
        ("full", &events[3], true),
    ] {
        let listed = operator.only(&format!("?route={route}"), is_delivered).await;
        assert_eq!((&listed["event_id"], &listed["attempts"]), (&json!(event.id), &json!(1)));
        assert_eq!((&listed["key"], &listed["secret"]), (&json!("global"), &json!(1)));
        assert_eq!(listed["has_request"], keeps_request, "{route}");
        assert!(listed.get("request").is_none(), "{listed}");
        let path = format!("/api/v1/events/{}", event.id);
        for reply in [operator.get(&path).await, viewer(&gateway).get(&path).await] {
            let text = reply.text();
            let shown: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(shown.get("request").is_some(), keeps_request, "{route}");
            assert_eq!(shown["log"].as_array().map(Vec::len), Some(1), "{route}");
            for secret in ["hidden-1", "hidden-2", SECRET, TOKEN, VIEWER] {
                assert!(!text.contains(secret), "{route}: {text}");
            }
        }
        let again = operator.post(&format!("{path}/redeliver"), "").await;
        assert_eq!(again.status, if keeps_request { 202 } else { 409 }, "{route}");
    }
}

fn viewer(gateway: &Gateway) -> crate::kit::Caller {
    crate::kit::Caller::with_token(gateway.addresses().admin[0], VIEWER)
}

#[tokio::test]
async fn nothing_that_authenticates_a_sender_is_shown() {
    let handler = Handler::start().await;
    let gateway = start(&handler).await;
    let operator = gateway.operator();
    let request = |token: &str| {
        format!(
            "POST /token HTTP/1.1\r\nHost: a\r\nX-Gitlab-Token: {token}\r\n\
             X-Gitlab-Event: Push Hook\r\nContent-Length: 2\r\n\r\n{{}}"
        )
    };
    assert_eq!(send(&gateway, request(GITLAB).as_bytes()).await.status, 200);
    let wrong = "a-token-that-gitlab-does-not-have";
    assert_eq!(send(&gateway, request(wrong).as_bytes()).await.status, 401);
    let kept = operator.only("?state=delivered", |_| true).await;
    let refused = operator.only("?state=refused", |_| true).await;
    assert_eq!((&refused["secret"], &refused["key"]), (&Value::Null, &json!("")));
    assert_eq!((&refused["event_id"], &refused["has_request"]), (&Value::Null, &json!(false)));
    for event in [kept, refused] {
        let path = format!("/api/v1/events/{}", event["id"].as_str().expect("an ID"));
        let text = operator.get(&path).await.text();
        assert!(!text.contains(GITLAB) && !text.contains(wrong), "{text}");
        let shown: Value = serde_json::from_str(&text).expect("JSON");
        let headers = shown["request"]["headers"].as_array().cloned().unwrap_or_default();
        let token = headers.iter().find(|header| header[0] == "X-Gitlab-Token");
        let expected = (event["state"] == "delivered").then(|| json!("[redacted]"));
        assert_eq!(token.map(|header| header[1].clone()), expected);
    }
    let routes = operator.get("/api/v1/routes").await.text();
    assert!(!routes.contains(GITLAB) && !routes.contains(SECRET), "{routes}");
}

/// Returns whether a file below a directory contains a text.
fn contains(dir: &std::path::Path, text: &str) -> bool {
    std::fs::read_dir(dir).expect("a directory").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return contains(&path, text);
        }
        let content = std::fs::read(&path).unwrap_or_default();
        content.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn a_store_opens_only_with_its_key() {
    let mut handler = Handler::start().await;
    let setup = handler.setup("delivery = \"async\"");
    let toml = |events: &str| {
        setup.toml().replace("path = \"events\"", &format!("path = \"events\"\n{events}"))
    };
    let key = |digit: &str| format!("key = \"{}\"", digit.repeat(64));
    let dir = setup.dir.path();
    let run = |toml: &str| {
        std::fs::write(dir.join("gateway.toml"), toml).expect("written");
        let output = sealgate(&["run"], dir);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    handler.stop().await;
    let gateway = crate::kit::Process::start(dir, &toml(&key("a"))).await;
    let event = Event::new(b"{\"note\":\"canary-of-the-body\"}").with(&["X-Note: canary-header"]);
    assert_eq!(gateway.connect().await.exchange(&event.request()).await.status, 200);
    gateway.kill();
    for plain in ["canary-of-the-body", "canary-header", &event.id] {
        assert!(!contains(&dir.join("events"), plain), "{plain} is on the disk");
    }
    for (events, parts) in [
        (key("b"), ["encrypted with another `key`", "the key with which it was created"]),
        (String::new(), ["`key` is not configured", "the key with which it was created"]),
    ] {
        let (status, error) = run(&toml(&events));
        assert_eq!(status, Some(2), "{error}");
        for part in parts.iter().chain(&["events"]) {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains(&"b".repeat(64)), "{error}");
    }
    // A wrong key changes nothing: with the right one, the event is delivered.
    let gateway = crate::kit::Process::start(dir, &toml(&key("a"))).await;
    handler.resume().await;
    handler.upstream.seen(1).await;
    assert_eq!(handler.upstream.only().body, event.body);
    gateway.kill();

    let plain = toml("").replace("\"events\"", "\"plain\"");
    crate::kit::Process::start(dir, &plain).await.kill();
    let (status, error) = run(&toml(&key("a")).replace("\"events\"", "\"plain\""));
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("not encrypted, and `key` is configured"), "{error}");
}
