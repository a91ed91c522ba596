//! What the operator sees: admin pages, metrics, draining, reloading, the command line, and a real
//! PHP handler as the upstream.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::net::TcpStream;

use crate::kit::{self, Answer, Event, SECRET, Setup, Upstream, sealgate, tool, until};

#[tokio::test]
async fn the_admin_listener_serves_its_pages_and_rejects_writes() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    assert_eq!(gateway.admin("/livez").await.status, 200);
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    assert_eq!(gateway.admin("/nothing").await.status, 404);
    let post = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let admin = gateway.addresses().admin[0];
    let reply = kit::Connection::plain(admin).await.exchange(post).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn the_metrics_are_those_of_the_interface_and_promtool_likes_them() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default();
    assert_eq!(gateway.send(&event).await.status, 200);
    assert_eq!(gateway.send(&event.retried()).await.status, 200);
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    assert_eq!(gateway.send(&forged).await.status, 401);
    let page = gateway.admin("/metrics").await.text();
    for (sample, value) in [
        ("sealgate_requests_total{outcome=\"forwarded\",route=\"vivoldi\"}", "1"),
        ("sealgate_requests_total{outcome=\"duplicate\",route=\"vivoldi\"}", "1"),
        ("sealgate_requests_total{outcome=\"rejected\",route=\"vivoldi\"}", "1"),
        ("sealgate_requests_total{outcome=\"unavailable\",route=\"vivoldi\"}", "0"),
        ("sealgate_rejections_total{reason=\"bad_signature\",route=\"vivoldi\"}", "1"),
        ("sealgate_request_duration_seconds_count{route=\"vivoldi\"}", "3"),
        ("sealgate_upstream_requests_total{code=\"2xx\",route=\"vivoldi\"}", "1"),
        ("sealgate_upstream_duration_seconds_count{route=\"vivoldi\"}", "1"),
        ("sealgate_replay_entries{state=\"done\"}", "1"),
        ("sealgate_replay_entries{state=\"in_flight\"}", "0"),
        ("sealgate_replay_entries{state=\"failed\"}", "0"),
        ("sealgate_replay_capacity", "1000000"),
        ("sealgate_store_up{store=\"memory\"}", "1"),
        ("sealgate_timestamp_skew_seconds_count{route=\"vivoldi\"}", "2"),
        ("sealgate_consecutive_failures{route=\"vivoldi\"}", "0"),
        ("sealgate_config_reloads_total{result=\"ok\"}", "0"),
        ("sealgate_connections{listener=\"https\"}", "0"),
    ] {
        let line = format!("{sample} {value}");
        if sample.starts_with("sealgate_connections") {
            assert!(page.contains(sample), "{sample}\n{page}");
        } else {
            assert!(page.lines().any(|known| known == line), "{line}\n{page}");
        }
    }
    for name in [
        "sealgate_last_verified_timestamp_seconds{",
        "sealgate_tls_certificate_expiry_timestamp_seconds{",
        "sealgate_build_info{",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(page.contains(name), "{name}");
    }
    let Some(mut promtool) = tool("promtool") else { return };
    let mut check = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    check.stdin.take().expect("piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = check.wait_with_output().expect("promtool ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_accepts_nothing_new() {
    let upstream = Upstream::start().await;
    let mut gateway = Setup::new(&upstream).start();
    upstream.answer([Answer::Held]);
    let event = Event::default();
    let request = event.request();
    let mut connection = gateway.connect().await;
    connection.write(&request).await;
    upstream.seen(1).await;
    let public = gateway.addresses().https[0];
    let ((), reply) = tokio::join!(gateway.drain(), async {
        until("the listener is closed", || async { TcpStream::connect(public).await.is_err() })
            .await;
        upstream.release();
        connection.read().await.expect("the response of what was in flight")
    });
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_reload_takes_new_secrets_and_forgets_no_event() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    let changed = setup.toml().replace(SECRET, "the-secret-after-the-rotation");
    let gateway = setup.start();
    let event = Event::default();
    assert_eq!(gateway.send(&event).await.status, 200);
    let config = kit::parse(&changed, gateway.dir.path());
    gateway.running().reload(config).await.expect("the new configuration is taken");
    assert_eq!(gateway.send(&Event::default()).await.status, 401, "the old secret is gone");
    let renewed = Event { secret: "the-secret-after-the-rotation".into(), ..event.retried() };
    let reply = gateway.send(&renewed).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
    assert_eq!(upstream.requests().len(), 1);
}

/// An unmodified handler: what a shop has today.
const HANDLER: &str = r#"<?php
$body = file_get_contents('php://input');
$line = json_encode([
    'method' => $_SERVER['REQUEST_METHOD'],
    'uri' => $_SERVER['REQUEST_URI'],
    'type' => $_SERVER['HTTP_X_VIVOLDI_WEBHOOK_TYPE'] ?? null,
    'signature' => $_SERVER['HTTP_X_VIVOLDI_SIGNATURE'] ?? null,
    'length' => $_SERVER['CONTENT_LENGTH'] ?? null,
    'sha256' => hash('sha256', $body),
]);
file_put_contents(__DIR__ . '/seen.log', $line . "\n", FILE_APPEND | LOCK_EX);
http_response_code(200);
echo json_encode(['status' => 'success']);
"#;

#[tokio::test]
async fn an_unmodified_php_handler_sees_only_what_is_authentic() {
    let Some(mut php) = tool("php") else { return };
    let any = Upstream::start().await;
    let setup = Setup::new(&any);
    std::fs::write(setup.dir.path().join("handler.php"), HANDLER).expect("written");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut server = php
        .args(["-S", &address.to_string(), "handler.php"])
        .current_dir(setup.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("php starts");
    let up = || async { TcpStream::connect(address).await.is_ok() };
    until("php listens", up).await;
    let gateway = Setup::new(&any)
        .routes(&format!(
            "[[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{address}\"\nsecret = \"{SECRET}\"\n"
        ))
        .start();
    let event = Event::new("{\"nm\": \"Kaffee \u{2615}\", \"disc\": 10.0}".as_bytes());
    let reply = gateway.send(&event).await;
    let again = gateway.send(&event.retried()).await;
    let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
    let forged = gateway.send(&forged).await;
    server.kill().expect("php runs");
    server.wait().expect("php ends");
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"status\":\"success\"}"));
    assert_eq!((again.status, forged.status), (200, 401));
    let seen = std::fs::read_to_string(setup.dir.path().join("seen.log")).expect("seen");
    let lines: Vec<serde_json::Value> =
        seen.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1, "{seen}");
    assert_eq!(lines[0]["sha256"], kit::sha256(&event.body));
    assert_eq!(lines[0]["type"], "GLOBAL");
    assert_eq!(lines[0]["length"], event.body.len().to_string());
}

#[tokio::test]
async fn check_tells_all_that_is_wrong_and_binds_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let wrong = sealgate(&["check"], dir.path());
    assert_eq!(wrong.status.code(), Some(2), "no gateway.toml");
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    std::fs::write(dir.path().join("gateway.toml"), setup.toml()).expect("written");
    let good = sealgate(&["check"], dir.path());
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    let bad = setup.toml().replace("scheme =", "sceme =").replace("listen =", "lisen =");
    std::fs::write(dir.path().join("bad.toml"), bad).expect("written");
    let bad = sealgate(&["check", "--config", "bad.toml"], dir.path());
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8_lossy(&bad.stderr);
    for part in ["did you mean `scheme`?", "did you mean `listen`?", "bad.toml:2:1"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!dir.path().join("tls.key").exists(), "check writes nothing");
    assert_eq!(sealgate(&["--no-such-flag"], dir.path()).status.code(), Some(2));
}

#[tokio::test]
async fn the_binary_serves_reloads_and_drains() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    let ports: Vec<u16> = (0..2)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
        .map(|listener| listener.local_addr().expect("an address").port())
        .collect();
    let text = setup
        .toml()
        .replacen("127.0.0.1:0", &format!("127.0.0.1:{}", ports[0]), 1)
        .replacen("http_listen = \"127.0.0.1:0\"", "", 1)
        .replacen("127.0.0.1:0", &format!("127.0.0.1:{}", ports[1]), 1);
    let file = setup.dir.path().join("gateway.toml");
    std::fs::write(&file, &text).expect("written");
    let running = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["--log-format", "json"])
        .current_dir(setup.dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let health = || async { sealgate(&["health"], setup.dir.path()).status.success() };
    until("the gateway is ready", health).await;
    let signal = |name: &str| {
        let id = running.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill runs").success());
    };
    let public = std::net::SocketAddr::from(([127, 0, 0, 1], ports[0]));
    let certificate = || std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let send = |event: Event| async move {
        kit::Connection::tls(public, certificate()).await.exchange(&event.request()).await
    };
    assert_eq!(send(Event::default()).await.status, 200);

    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], ports[1]));
    let reloads = |result: &'static str| async move {
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let page = kit::Connection::plain(admin).await.exchange(request).await.text();
        page.contains(&format!("sealgate_config_reloads_total{{result=\"{result}\"}} 1"))
    };
    std::fs::write(&file, "nonsense").expect("written");
    signal("-HUP");
    until("the bad configuration is refused", || reloads("refused")).await;
    assert_eq!(send(Event::default()).await.status, 200, "the running configuration stays");
    std::fs::write(&file, text.replace(SECRET, "the-secret-after-the-rotation")).expect("written");
    signal("-HUP");
    until("the good configuration is taken", || reloads("ok")).await;
    assert_eq!(send(Event::default()).await.status, 401, "the old secret is gone");

    signal("-TERM");
    let ended = tokio::task::spawn_blocking(move || running.wait_with_output());
    let output = tokio::time::timeout(Duration::from_secs(20), ended).await;
    let output = output.expect("it ends").expect("joined").expect("waited for");
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(
        log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{log}"
    );
    assert!(!log.contains("v1=") && !log.contains(SECRET) && !log.contains("cpnNo"), "{log}");
    let line: serde_json::Value = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &serde_json::Value| line["outcome"] == "forwarded")
        .expect("a line a request");
    for field in ["route", "event_id", "request_id", "key", "ms"] {
        assert!(!line[field].is_null(), "{field}: {line}");
    }
}

#[tokio::test]
async fn what_is_signed_is_judged_authentic_and_sent() {
    let upstream = Upstream::start().await;
    let setup =
        Setup::new(&upstream).route("[route.secrets.coupon]\n574 = \"the-coupon-secret-574\"");
    let toml = setup.toml();
    let gateway = setup.start();
    let dir = gateway.dir.path();
    std::fs::write(dir.join("gateway.toml"), toml).expect("written");
    std::fs::write(dir.join("body.json"), "{\"grpIdx\":574}").expect("written");

    for (arguments, key) in [
        (&["--route", "vivoldi", "body.json"][..], "global"),
        (&["--route", "vivoldi", "--key", "coupon/574", "body.json"][..], "coupon/574"),
    ] {
        let signed = sealgate(&[&["sign"], arguments].concat(), dir);
        assert_eq!(signed.status.code(), Some(0), "{}", String::from_utf8_lossy(&signed.stderr));
        let headers = String::from_utf8(signed.stdout).expect("text");
        let request =
            format!("POST /webhooks/vivoldi HTTP/1.1\nHost: a\n{headers}\n{{\"grpIdx\":574}}");
        std::fs::write(dir.join("request"), &request).expect("written");
        let verify = ["verify", "--route", "vivoldi", "--json", "request"];
        let judged = sealgate(&verify, dir);
        assert_eq!(judged.status.code(), Some(0), "{}", String::from_utf8_lossy(&judged.stdout));
        let verdict: serde_json::Value = serde_json::from_slice(&judged.stdout).expect("JSON");
        assert_eq!((&verdict["verdict"], &verdict["key"]), (&"accept".into(), &key.into()));

        std::fs::write(dir.join("request"), request.replace(":574}", ":575}")).expect("written");
        let judged = sealgate(&verify, dir);
        assert_eq!(judged.status.code(), Some(1));
        let verdict: serde_json::Value = serde_json::from_slice(&judged.stdout).expect("JSON");
        let reason = if key == "global" { "bad_signature" } else { "unknown_key" };
        assert_eq!((&verdict["verdict"], &verdict["reason"]), (&"reject".into(), &reason.into()));
    }
    let late = ["verify", "--route", "vivoldi", "--at", "4000000000", "--json", "request"];
    let judged = sealgate(&late, dir);
    assert_eq!(judged.status.code(), Some(1));

    let url = format!("https://localhost:{}/webhooks/vivoldi", gateway.addresses().https[0].port());
    let send = ["send", "--route", "vivoldi", "--to", &url, "body.json"].map(str::to_owned);
    let dir = dir.to_owned();
    let sent = tokio::task::spawn_blocking(move || {
        sealgate(&send.iter().map(String::as_str).collect::<Vec<_>>(), &dir)
    });
    let sent = sent.await.expect("joined");
    assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(upstream.only().body, b"{\"grpIdx\":574}");

    let dir = gateway.dir.path().to_owned();
    let sent = tokio::task::spawn_blocking(move || {
        let many = ["--to", &url, "--repeat", "20", "--rate", "1000", "body.json"];
        sealgate(&[&["send", "--route", "vivoldi"], &many[..]].concat(), &dir)
    });
    let sent = sent.await.expect("joined");
    assert_eq!(sent.status.code(), Some(0), "{}", String::from_utf8_lossy(&sent.stderr));
    let summary = String::from_utf8(sent.stdout).expect("text");
    assert!(summary.starts_with("20 sent  200: 20\np50 "), "{summary}");
    assert!(summary.contains(" ms  p99 ") && summary.contains(" ms  max "), "{summary}");
    assert!(sent.stderr.is_empty(), "no progress where there is no terminal");
    assert_eq!(upstream.requests().len(), 21, "each is an event of its own");
}

#[tokio::test]
async fn wrong_inputs_of_commands_have_their_exit_status() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    let dir = setup.dir.path();
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    std::fs::write(dir.join("request"), "no request").expect("written");
    for (arguments, status, said) in [
        (&["verify", "--route", "other", "request"][..], 2, "the routes are: vivoldi"),
        (&["verify", "--route", "vivoldi", "request"][..], 2, "is not a captured HTTP request"),
        (&["verify", "--route", "vivoldi", "absent"][..], 2, "cannot be read"),
        (&["sign", "--route", "vivoldi", "absent"][..], 2, "cannot be read"),
        (&["sign", "--route", "vivoldi", "--key", "coupon/1"][..], 1, "no key"),
        (&["sign", "--config", "absent.toml", "--route", "vivoldi"][..], 2, "absent.toml"),
        (&["schemes", "no-such-scheme"][..], 2, "unknown scheme `no-such-scheme`"),
        (&["schemes", "opnai"][..], 2, "did you mean `openai`?"),
        (&["health"][..], 1, "nothing listens"),
    ] {
        let output = sealgate(arguments, dir);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    let listed = sealgate(&["schemes"], dir);
    let listed = String::from_utf8(listed.stdout).expect("text");
    for scheme in ["vivoldi", "govalid", "vivreal"] {
        assert!(listed.contains(scheme), "{listed}");
        let one = sealgate(&["schemes", scheme], dir);
        assert_eq!(one.status.code(), Some(0));
    }
}

#[tokio::test]
async fn the_demo_is_as_it_must_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().to_owned();
    let demo = tokio::task::spawn_blocking(move || sealgate(&["demo", "--exit"], &dir));
    let demo = demo.await.expect("joined");
    let table = String::from_utf8_lossy(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{table}");
    for word in ["forwarded", "duplicate", "replay", "rejected", "bad_signature", "stale", "queued"]
    {
        assert!(table.contains(word), "{word}\n{table}");
    }
}
