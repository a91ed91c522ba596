//! Metrics and traces of a running gateway: docs/metrics.md is complete, and the log has trace IDs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::json;

use crate::{
    kit::{
        Answer, Event, Gateway, Issuer, Postgres, Process, Reply, Setup, Upstream, key_set,
        sealgate, until,
    },
    senders::pitchpoint::route,
};

/// Type and label names of a metric.
type Shape = (String, BTreeSet<String>);

/// Returns the parts of a text that are in code font.
fn in_code_font(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the metrics in the table of `docs/metrics.md`, and everything in code font on the page.
fn documented() -> (BTreeMap<String, Shape>, BTreeSet<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(path).expect("the page");
    let rows = page.lines().filter_map(|line| {
        let name = line.strip_prefix("| `sealgate_")?.split_once("` | ")?;
        let cells: Vec<_> = name.1.split(" | ").collect();
        (cells.len() == 3).then(|| {
            let shape = (cells[0].to_owned(), in_code_font(cells[1].trim_end_matches('|')));
            (format!("sealgate_{}", name.0), shape)
        })
    });
    (rows.collect(), in_code_font(&page))
}

/// Returns the metrics of a scrape, and every value of the labels with fixed values.
fn exported(page: &str) -> (BTreeMap<String, Shape>, BTreeSet<String>) {
    let mut metrics = BTreeMap::<String, Shape>::new();
    let mut values = BTreeSet::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            name.clone_into(&mut current);
            metrics.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.split_once('}').expect("the end of the labels").0;
            for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                if label == "le" {
                    continue;
                }
                metrics.get_mut(&current).expect("a type").1.insert(label.to_owned());
                if !["route", "name", "version", "key", "secret"].contains(&label) {
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics.retain(|name, _| name.starts_with("sealgate_"));
    (metrics, values)
}

/// Returns a gateway that exports every metric.
pub(crate) fn with_all_metrics(upstream: &Upstream) -> Gateway {
    let setup = Setup::new(upstream)
        .section("[events]\npath = \"events\"\n[replay]\nstore = \"disk\"\npath = \"replay\"")
        .route(&route(upstream, "jwks = \"file:keys.json\""));
    let keys = key_set(&[&Issuer::new("a-key")]);
    fs::write(setup.dir.path().join("keys.json"), keys).expect("written");
    setup.start()
}

#[tokio::test]
async fn the_metrics_page_lists_exactly_the_exported_metrics() {
    let upstream = Upstream::start().await;
    let gateway = with_all_metrics(&upstream);
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    let page = gateway.admin("/metrics").await.text();
    for counted in [
        "sealgate_store_duration_seconds_count{operation=\"done\",store=\"disk\"} 1",
        "sealgate_key_set_fetches_total{name=\"",
    ] {
        assert!(page.contains(counted), "{counted}: {page}");
    }
    let (metrics, values) = exported(&page);
    let (listed, words) = documented();
    assert!(metrics.len() >= 15, "{metrics:?}");
    assert_eq!(listed, metrics);
    assert!(values.len() > 30, "{values:?}");
    let missing: Vec<_> = values.difference(&words).collect();
    assert!(missing.is_empty(), "{missing:?} are label values that the page does not list");
}

#[tokio::test]
async fn passes_traces_on_and_logs_valid_trace_ids() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    let good = format!("00-{id}-b7ad6b7169203331-01");
    let forged = format!("00-{id}-b7ad6b7169203331-canary-of-a-stranger");
    for (trace, logged) in [(Some(&good), Some(id)), (Some(&forged), None), (None, None)] {
        let lines: Vec<_> = trace.iter().map(|trace| format!("traceparent: {trace}")).collect();
        let event = Event::default().with(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let reply = gateway.connect().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
        let seen = upstream.requests().pop().expect("forwarded");
        assert_eq!(seen.header("traceparent"), trace.map(String::as_str), "as it came");
        let request_id = reply.header("sealgate-request-id").expect("an id");
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains(request_id)).expect("a line");
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["trace_id"].as_str(), logged, "{line}");
    }
    let log = gateway.log();
    assert!(!log.contains("canary") && log.matches(id).count() == 1, "{log}");
}

/// Returns the number in a field of each log line with this message.
fn numbers(log: &str, message: &str, field: &str) -> Vec<u64> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines = lines.filter(|line| line["message"] == message);
    lines.filter_map(|line| line[field].as_u64()).collect()
}

/// A request of a few bytes must not write a log line of hundreds, again and again.
#[tokio::test]
async fn samples_the_log_lines_of_rejected_requests_and_counts_the_rest() {
    const REQUESTS: u64 = 3000;
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let began = std::time::Instant::now();
    let mut connection = gateway.connect().await;
    for _ in 0..REQUESTS / 100 {
        connection.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100).as_bytes()).await;
        for _ in 0..100 {
            assert_eq!(connection.read().await.expect("a response").status, 404);
        }
    }
    let seconds = began.elapsed().as_secs() + 2;
    let counted = || {
        let log = gateway.log();
        let lines = numbers(&log, "request", "status").len() as u64;
        let omitted =
            numbers(&log, "more requests without a verified sender, not logged", "requests");
        assert!(lines <= 4 * seconds && omitted.len() as u64 <= seconds, "{lines} {omitted:?}");
        lines + omitted.iter().sum::<u64>()
    };
    until("every request is logged or counted", || async { counted() == REQUESTS }).await;
    // The line of an authentic request is never omitted.
    for _ in 0..10 {
        let reply = connection.exchange(&Event::default().request()).await;
        let id = reply.header("sealgate-request-id").expect("an ID");
        assert!(gateway.log().contains(id));
    }
}

/// Returns the request line with this request ID.
fn line_of(gateway: &Process, message: &str, reply: &Reply) -> Option<serde_json::Value> {
    let id = reply.header("sealgate-request-id").expect("an ID");
    gateway.lines(message).into_iter().find(|line| line["request_id"] == id)
}

#[tokio::test]
async fn a_line_says_what_was_called_and_who_served_it() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let send = async |request: Vec<u8>| gateway.connect().await.exchange(&request).await;

    let reply = send(Event::new(b"{\"a\":1}").request()).await;
    let line = line_of(&gateway, "request", &reply).expect("a line");
    assert_eq!((&line["level"], &line["method"]), (&json!("INFO"), &json!("POST")), "{line}");
    assert_eq!(line["bytes"], 7);
    assert_eq!(line["upstream"], format!("http://{}", upstream.address()));
    for absent in ["reason", "detail", "path", "host", "subject", "trace_id"] {
        assert!(line.get(absent).is_none(), "{absent}: {line}");
    }

    upstream.answer([Answer::Status(500)]);
    let reply = send(Event::default().request()).await;
    let line = line_of(&gateway, "request", &reply).expect("a line");
    assert_eq!((&line["level"], &line["status"]), (&json!("WARN"), &json!(500)), "{line}");

    let long = format!("GET /secret-{} HTTP/1.1\r\nHost: wrong.example\r\n\r\n", "x".repeat(500));
    let reply = send(long.into_bytes()).await;
    let line = line_of(&gateway, "request", &reply).expect("a line");
    let path = line["path"].as_str().expect("a path");
    assert_eq!((&line["level"], &line["host"]), (&json!("INFO"), &json!("wrong.example")));
    assert!(path.starts_with("/secret-xxx") && path.chars().count() == 201, "{path}");

    let unsigned = b"POST /webhooks/vivoldi HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    let reply = send(unsigned.to_vec()).await;
    let line = line_of(&gateway, "request", &reply).expect("a line");
    assert_eq!((&line["level"], &line["reason"]), (&json!("INFO"), &json!("missing_header")));
    assert_eq!(line["detail"], "header `x-vivoldi-signature` is absent");
    let ready = gateway.lines("ready").remove(0);
    assert!(ready["http"][0].as_str().is_some_and(|address| address.contains(':')), "{ready}");
}

/// Returns the lines about the outcome of an event at the handler, other than that of the request.
fn outcomes(gateway: &Process, event: &Event) -> Vec<serde_json::Value> {
    let lines = ["late outcome", "attempt"].map(|message| gateway.lines(message)).concat();
    lines.into_iter().filter(|line| line["event_id"] == json!(event.id)).collect()
}

#[tokio::test]
async fn an_outcome_after_the_response_is_logged_once() {
    for (lines, status, message) in [
        ("", 504, "late outcome"),
        ("history = \"metadata\"", 504, "late outcome"),
        ("delivery = \"fallback\"", 200, "attempt"),
        ("delivery = \"async\"", 200, "attempt"),
    ] {
        let upstream = Upstream::start().await;
        let setup = Setup::new(&upstream)
            .plain()
            .section("[events]\npath = \"events\"")
            .route(&format!("answer_within = \"400ms\"\n{lines}"));
        let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
        upstream.answer([Answer::Held]);
        let event = Event::default();
        let reply = gateway.connect().await.exchange(&event.request()).await;
        assert_eq!(reply.status, status, "{lines}");
        upstream.seen(1).await;
        assert!(outcomes(&gateway, &event).is_empty(), "{lines}");
        upstream.release();
        let is_logged = async || !outcomes(&gateway, &event).is_empty();
        until("the outcome is logged", is_logged).await;
        let reply_to_retry = gateway.connect().await.exchange(&event.retried().request()).await;
        assert_eq!(reply_to_retry.header("sealgate-answer"), Some("duplicate"), "{lines}");
        let logged = outcomes(&gateway, &event);
        let [line] = &logged[..] else { panic!("{lines}: {logged:?}") };
        assert_eq!((&line["message"], &line["level"]), (&json!(message), &json!("INFO")), "{line}");
        assert_eq!((&line["status"], &line["route"]), (&json!(200), &json!("vivoldi")), "{line}");
        let id = reply.header("sealgate-request-id").expect("an ID");
        assert_eq!(line["request_id"], id, "{line}");
        let request = line_of(&gateway, "request", &reply).expect("a line");
        assert_eq!(request["event_id"], line["event_id"]);
    }
}

#[tokio::test]
async fn the_outcome_of_a_sender_that_hung_up_is_logged_once() {
    for lines in ["", "history = \"metadata\"", "delivery = \"fallback\""] {
        let upstream = Upstream::start().await;
        let setup =
            Setup::new(&upstream).plain().section("[events]\npath = \"events\"").route(lines);
        let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
        upstream.answer([Answer::Held]);
        let event = Event::default();
        let mut connection = gateway.connect().await;
        connection.write(&event.request()).await;
        upstream.seen(1).await;
        drop(connection);
        let open = async || gateway.metric("sealgate_connections{listener=\"http\"}").await;
        until("the connection is closed", async || open().await < 0.5).await;
        upstream.release();
        until("the outcome is logged", async || !outcomes(&gateway, &event).is_empty()).await;
        let reply = gateway.connect().await.exchange(&event.retried().request()).await;
        assert_eq!(reply.header("sealgate-answer"), Some("duplicate"), "{lines}");
        let logged = outcomes(&gateway, &event);
        assert_eq!(logged.len(), 1, "{lines}: {logged:?}");
        assert_eq!(logged[0]["status"], 200, "{lines}: {logged:?}");
    }
}

#[tokio::test]
async fn the_replica_that_forwarded_logs_the_outcome() {
    let Some(database) = Postgres::start().await else { return };
    let shared = format!(
        "[events]\nstore = \"postgres\"\nurl = \"{}\"\n[replay]\nstore = \"postgres\"",
        database.url()
    );
    let upstream = Upstream::start().await;
    for (lines, message) in [("", "late outcome"), ("delivery = \"fallback\"", "attempt")] {
        let setup = || {
            let route = format!("answer_within = \"1s\"\n{lines}");
            Setup::new(&upstream).plain().section(&shared).route(&route)
        };
        let (one, two) = (setup(), setup());
        let one = Process::start(one.dir.path(), &one.toml()).await;
        let two = Process::start(two.dir.path(), &two.toml()).await;
        for replica in [&one, &two] {
            let is_up = async || {
                let page = replica.page().await;
                page.contains("sealgate_store_up{store=\"postgres\"} 1")
            };
            until("the store is reached", is_up).await;
        }
        upstream.answer([Answer::Held]);
        let event = Event::default();
        let before = upstream.requests().len();
        let first = async { one.connect().await.exchange(&event.request()).await };
        let (first, ()) = tokio::join!(first, upstream.seen(before + 1));
        assert!([200, 504].contains(&first.status), "{}", first.head);
        let second = async || two.connect().await.exchange(&event.retried().request()).await;
        assert!([200, 503].contains(&second().await.status));
        upstream.release();
        until("the outcome is logged", async || !outcomes(&one, &event).is_empty()).await;
        until("the other replica knows it", async || second().await.status == 200).await;
        let logged = outcomes(&one, &event);
        assert_eq!((logged.len(), &logged[0]["message"]), (1, &json!(message)), "{logged:?}");
        assert_eq!(outcomes(&two, &event), Vec::<serde_json::Value>::new());
        assert_eq!(upstream.requests().len(), before + 1);
    }
}

#[tokio::test]
async fn sigusr1_is_logged_and_ends_nothing() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    gateway.signal("-USR1");
    let is_logged = || async {
        !gateway.lines("SIGUSR1 is ignored: SIGHUP reloads the configuration").is_empty()
    };
    until("the signal is logged", is_logged).await;
    let reply = gateway.connect().await.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_tls_port_behind_an_http_upstream_is_named() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    // What OpenSSL sends to a client that does not begin with TLS.
    upstream.answer([Answer::Raw(b"\x15\x03\x01\x00\x02\x02\x46".to_vec())]);
    let reply = gateway.connect().await.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 502);
    let lines = gateway.lines("no usable response from the upstream");
    let error = lines[0]["error"].as_str().expect("an error");
    assert!(error.contains("the upstream has TLS, so its URL begins with https://"), "{error}");
}

#[test]
fn startup_errors_are_json_too() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("gateway.toml"), "[server]\nlisen = 1\n").expect("written");
    let output = sealgate(&["--log-format", "json"], dir.path());
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["level"], "ERROR", "{line}");
    }
}

#[tokio::test]
async fn a_reload_changes_the_level_and_the_sampling_of_the_log() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let toml = setup.toml();
    let dir = setup.dir.path();
    let gateway = Process::start(dir, &toml).await;
    let unrouted = async || {
        let request = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n";
        gateway.connect().await.exchange(request).await
    };
    let reply = unrouted().await;
    until("a line", || async { line_of(&gateway, "request", &reply).is_some() }).await;
    let sampled = async || gateway.metric("sealgate_log_dropped_total{cause=\"sampled\"}").await;
    for (round, log) in ["unverified_lines = 0", "level = \"warning\""].iter().enumerate() {
        fs::write(dir.join("gateway.toml"), format!("{toml}[log]\n{log}\n")).expect("written");
        gateway.signal("-HUP");
        let reloads = format!("sealgate_config_reloads_total{{result=\"ok\"}} {}", round + 1);
        until("a reload", || async { gateway.page().await.contains(&reloads) }).await;
        let reply = unrouted().await;
        if round == 0 {
            until("the line is counted", || async { sampled().await > 0.5 }).await;
        }
        assert_eq!(line_of(&gateway, "request", &reply), None, "{log}");
    }
}
