//! The requests to the handler.

use super::{Handler, attempted};
use crate::kit::{Answer, Event, Recorded};

const RETRY: &str = "[route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"";

/// Returns the head without the headers that the gateway sets.
fn of_the_sender(request: &Recorded) -> Vec<&str> {
    let ours = ["sealgate-", "x-forwarded-"];
    let is_ours = |line: &str| ours.iter().any(|name| line.to_lowercase().starts_with(name));
    request.head.lines().filter(|line| !is_ours(line)).collect()
}

#[tokio::test]
async fn an_attempt_has_the_bytes_of_the_request_and_says_what_it_is() {
    let handler = Handler::start().await;
    let sync = handler.setup("delivery = \"sync\"").start();
    let mode = format!("delivery = \"async\"\n{RETRY}");
    let stored = handler.setup(&mode).start();
    let mut event = Event::default().with(&["X-Twice: 1", "x-Other:", "X-TWICE: 2"]);
    event.path.push_str("?b=%20&a=|");
    handler.upstream.answer([Answer::Status(200), Answer::Status(500), Answer::Reset]);
    for gateway in [&sync, &stored] {
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
    }
    attempted(&stored, "delivered", 1.0).await;
    let requests = handler.upstream.requests();
    let [forwarded, attempts @ ..] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(attempts.len(), 3);
    for (attempt, number) in attempts.iter().zip(1..) {
        // The ports of the two gateways differ in nothing that is forwarded.
        assert_eq!(of_the_sender(attempt), of_the_sender(forwarded));
        assert_eq!(attempt.body, forwarded.body);
        for same in ["sealgate-verified", "sealgate-key", "sealgate-event-id", "x-forwarded-for"] {
            assert_eq!(attempt.header(same), forwarded.header(same), "{same}");
        }
        assert_eq!(attempt.header("sealgate-attempt"), Some(&*number.to_string()));
        let received = attempt.header("sealgate-received").expect("a time");
        assert!(received.starts_with("20") && received.ends_with('Z'), "{received}");
        assert_eq!(attempt.header("sealgate-redelivery"), None);
        assert_eq!(attempt.header("sealgate-resigned"), None);
    }
    let marks = attempts.iter().map(|attempt| attempt.header("sealgate-possible-duplicate"));
    assert_eq!(marks.collect::<Vec<_>>(), [None, None, Some("1")]);
}

#[tokio::test]
async fn the_handlers_retry_after_is_honored() {
    let handler = Handler::start().await;
    let mode = "delivery = \"async\"\n[route.retry]\nfirst = \"10ms\"\nmax = \"10s\"";
    let gateway = handler.setup(mode).start();
    let busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n";
    handler.upstream.answer([Answer::Raw(busy.to_vec())]);
    gateway.connect_plain().await.exchange(&Event::default().request()).await;
    handler.upstream.seen(1).await;
    let first = std::time::Instant::now();
    handler.upstream.seen(2).await;
    assert!(first.elapsed() >= std::time::Duration::from_millis(950), "{:?}", first.elapsed());
}

#[tokio::test]
async fn events_with_one_value_are_delivered_one_at_a_time_and_in_order() {
    let handler = Handler::start().await;
    let mode = format!("delivery = \"async\"\norder_by = \"json:/cardIdx\"\n{RETRY}");
    let gateway = handler.setup(&mode).start();
    // The first event of card 1 fails twice; card 2 and events without a card do not wait for it.
    handler.upstream.answer([Answer::Status(500), Answer::Status(500), Answer::Status(500)]);
    let bodies = [
        r#"{"cardIdx":1,"n":1}"#,
        r#"{"cardIdx":1,"n":2}"#,
        r#"{"cardIdx":2,"n":1}"#,
        r#"{"cardIdx":1,"n":3}"#,
        r#"{"n":1}"#,
        r#"{"cardIdx":2,"n":2}"#,
    ];
    for body in bodies {
        let event = Event::new(body.as_bytes());
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
    }
    attempted(&gateway, "delivered", 6.0).await;
    let text = |request: &Recorded| String::from_utf8_lossy(&request.body).into_owned();
    let seen: Vec<String> = handler.upstream.requests().iter().map(text).collect();
    for card in ["\"cardIdx\":1", "\"cardIdx\":2"] {
        let mut of_card: Vec<_> = seen.iter().filter(|body| body.contains(card)).collect();
        of_card.dedup();
        assert!(of_card.is_sorted(), "{seen:?}");
    }
}

#[tokio::test]
async fn a_late_attempt_is_signed_again() {
    let mut handler = Handler::start().await;
    let mode = format!("delivery = \"async\"\n{RETRY}");
    let setup = handler.setup(&mode);
    // The sender's scheme with a window of one second.
    let scheme = std::fs::read_to_string("schemes/vivoldi.toml").expect("the scheme");
    let start = scheme.find("window = ").expect("a window");
    let line = scheme[start..].lines().next().expect("a line");
    let scheme = scheme.replacen(line, "window = \"1s\"", 1);
    std::fs::write(setup.dir.path().join("own.toml"), scheme).expect("written");
    let toml = setup.toml().replace("scheme = \"vivoldi\"", "scheme_file = \"own.toml\"");
    let config = crate::kit::parse(&toml, setup.dir.path());
    let gateway = setup.start_with(config);
    handler.stop().await;
    let event = Event::default();
    let reply = gateway.connect_plain().await.exchange(&event.request()).await;
    assert_eq!(reply.status, 200);
    let sent: u64 = event.timestamp.parse().expect("a time");
    let half = || async { crate::kit::now_ms() > sent + 600 };
    crate::kit::until("half of the window is over", half).await;
    handler.resume().await;
    attempted(&gateway, "delivered", 1.0).await;
    let request = handler.upstream.only();
    assert_eq!(request.header("sealgate-resigned"), Some("1"));
    let fresh = request.header("x-vivoldi-timestamp").expect("a time").to_owned();
    assert!(fresh > event.timestamp, "{fresh} {}", event.timestamp);
    // As the sender would have signed it at that time, with the same IDs.
    let again = Event { timestamp: fresh, ..event };
    for line in again.header_lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.body, again.body);
}
