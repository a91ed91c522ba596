//! Search for leaks: secrets and personal data are sent through a gateway with verbose logs, and no
//! log, metric, response or command line contains a trace of them.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::kit::{Answer, Connection, Event, PATIENCE, Upstream, hmac_sha256, until};

const ENV_SECRET: &str = "canary-env-secret-93d1";
const FILE_SECRET: &str = "canary-file-secret-58c0";
const GATE_SECRET: &str = "canary-gate-secret-77aa";
/// Private parts of the requests, which only the handler may receive.
const PRIVATE: [&str; 6] = [
    "canary-person",
    "canary-bearer",
    "canary-cookie",
    "canary-query",
    "canary-answer",
    "canary-garbage",
];

fn toml(upstream: &Upstream) -> String {
    let route = |name: &str, lines: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{}\"\nsecret = {{ env = \"ENV_SECRET\" }}\n{lines}\n",
            upstream.address()
        )
    };
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
         [[server.tls]]\ncert = \"tls.crt\"\nkey = \"tls.key\"\nself_signed = [\"localhost\"]\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[limits]\nrequest_body = \"300ms\"\nbody = \"4KiB\"\n\
         {}{}{}",
        route("enforced", "[route.secrets.coupon]\n574 = { file = \"secret\" }"),
        route(
            "observed",
            "mode = \"observe\"\n[route.upstream_headers]\nX-Gate = { env = \"GATE_SECRET\" }",
        ),
        route("late", "answer_within = \"200ms\"\nupstream_timeout = \"300ms\""),
    )
}

/// Gateway with this log format and level; killed when dropped.
struct Talkative {
    child: Child,
    log: std::path::PathBuf,
}

impl Talkative {
    fn start(dir: &Path, format: &str, level: &str) -> Self {
        let log = dir.join(format!("{format}-{level}.log"));
        // The shell removes any inherited limit, so that only the gateway's own limit applies.
        let script = "ulimit -c unlimited 2>/dev/null; exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_sealgate")])
            .args(["--log-format", format, "--log-level", level])
            .env("ENV_SECRET", ENV_SECRET)
            .env("GATE_SECRET", GATE_SECRET)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the binary starts");
        Talkative { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Returns the TLS, plain and admin addresses from the line `ready`, in either format.
    async fn addresses(&self) -> [SocketAddr; 3] {
        until("it is ready", || async { self.log().contains("admin") }).await;
        let log = self.log().replace(['"', ' '], "").replace("=[", ":[");
        ["https:[", "http:[", "admin:["].map(|name| {
            let (_, rest) = log.split_once(name).expect("a listener");
            let (address, _) = rest.split_once(']').expect("an end");
            address.parse().expect("an address")
        })
    }

    fn proc(&self, name: &str) -> String {
        let bytes = fs::read(format!("/proc/{}/{name}", self.child.id())).expect("readable");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Talkative {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a request with private data.
fn private(path: &str) -> Event {
    let body = br#"{"grpIdx": 574, "name": "canary-person", "mail": "canary-person@example.com"}"#;
    let mut event = Event::new(body).with(&[
        "Authorization: Bearer canary-bearer",
        "Cookie: session=canary-cookie",
        "X-Customer: canary-person",
    ]);
    event.path = format!("{path}?token=canary-query");
    event.secret = ENV_SECRET.to_owned();
    event
}

/// Returns all requests with their expected statuses; `None` where no response is required.
fn requests() -> Vec<(Vec<u8>, Option<u16>)> {
    let good = private("/enforced");
    let forged = Event { secret: "canary-person-guesses".to_owned(), ..private("/enforced") };
    let group = {
        let mut event = private("/enforced");
        event.set("X-Vivoldi-Webhook-Type", "GROUP");
        Event { secret: FILE_SECRET.to_owned(), ..event }
    };
    let odd =
        Event { signature: Some("t=canary-garbage,v1=canary-garbage".into()), ..good.clone() };
    let stale = Event { timestamp: "1000000000000".into(), ..private("/enforced") };
    let tampered = Event { tampered: Some(b"{\"canary-person\": 1}".to_vec()), ..good.clone() };
    let long = Event { body: b"canary-person".repeat(1000), ..private("/enforced") };
    let cut = good.request();
    let cut = cut[..cut.len() - 5].to_vec();
    vec![
        (good.request(), Some(200)),
        (good.request(), Some(409)),
        (group.request(), Some(200)),
        (forged.request(), Some(401)),
        (odd.request(), Some(401)),
        (stale.request(), Some(401)),
        (tampered.request(), Some(401)),
        (long.request(), Some(413)),
        (cut, Some(408)),
        (private("/observed").request(), Some(200)),
        (Event { secret: "canary-person".into(), ..private("/observed") }.request(), Some(200)),
        (private("/no-such-path").request(), Some(404)),
        (b"canary-garbage\x00 canary-garbage\r\n\r\n".to_vec(), None),
        (b"POST /enforced HTTP/1.1\r\nHost: a\r\nHost: canary-garbage\r\n\r\n".to_vec(), Some(400)),
    ]
}

/// Fails if `text` contains a secret, personal data or a signature.
fn clean(what: &str, text: &str, signatures: &[String]) {
    let canaries = [ENV_SECRET, FILE_SECRET, GATE_SECRET].into_iter().chain(PRIVATE);
    for canary in canaries.chain(signatures.iter().map(String::as_str)) {
        let line = text.lines().find(|line| line.contains(canary));
        assert!(line.is_none(), "{what} holds {canary}: {}", line.unwrap_or_default());
    }
}

async fn hunt(format: &str, level: &str) {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("gateway.toml"), toml(&upstream)).expect("written");
    fs::write(dir.path().join("secret"), FILE_SECRET).expect("written");
    let mut gateway = Talkative::start(dir.path(), format, level);
    let [https, http, admin] = gateway.addresses().await;
    let answer =
        b"HTTP/1.1 200 OK\r\nX-Secret: canary-answer\r\nContent-Length: 13\r\n\r\ncanary-answer";
    upstream.answer((0..4).map(|_| Answer::Raw(answer.to_vec())));

    let mut signatures = Vec::new();
    let certificate = fs::read(dir.path().join("tls.crt")).expect("made at start");
    for (index, (request, expected)) in requests().into_iter().enumerate() {
        let text = String::from_utf8_lossy(&request).into_owned();
        signatures
            .extend(text.split("v1=").nth(1).map(|rest| rest[..14.min(rest.len())].to_owned()));
        let mut connection = if index % 2 == 0 {
            Connection::plain(http).await
        } else {
            Connection::tls(https, certificate.clone()).await
        };
        connection.write(&request).await;
        let reply = connection.read().await;
        if expected.is_some() {
            assert_eq!(reply.as_ref().map(|reply| reply.status), expected, "{text}");
        }
        if let Some(reply) = reply.filter(|reply| reply.status >= 400) {
            clean("a response", &(reply.head.clone() + &reply.text()), &signatures);
        }
    }
    // A line at the level debug.
    drop(Connection::plain(https).await);
    let mut no_tls = Connection::plain(https).await;
    no_tls.write(b"canary-garbage that is no handshake at all\r\n\r\n").await;
    no_tls.closed().await;
    upstream.answer([Answer::Silence]);
    let late = Connection::plain(http).await.exchange(&private("/late").request()).await;
    assert_eq!(late.status, 504);

    let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n";
    let page = Connection::plain(admin).await.exchange(request).await.text();
    assert!(page.contains("sealgate_rejections_total"), "{page}");
    clean("the metrics", &page, &signatures);
    let command = gateway.proc("cmdline");
    assert!(command.contains("sealgate"), "{command}");
    clean("the command line", &command, &signatures);
    let limits = gateway.proc("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("listed");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");

    crate::kit::signal(gateway.child.id(), "-ABRT");
    let deadline = std::time::Instant::now() + PATIENCE;
    let status = loop {
        match gateway.child.try_wait().expect("a status") {
            Some(status) => break status,
            None if std::time::Instant::now() > deadline => panic!("it does not end"),
            None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    assert!(status.signal().is_some() && !status.core_dumped(), "{status:?}");
    let log = gateway.log();
    for word in ["forwarded", "bad_signature", "DEBUG"] {
        assert!(log.contains(word), "{word}: the log tells what happened\n{log}");
    }
    clean("the log", &log, &signatures);
    let left = fs::read_dir(dir.path()).expect("a directory").flatten();
    let core =
        left.map(|entry| entry.file_name()).find(|name| name.to_string_lossy().contains("core"));
    assert_eq!(core, None);
}

#[tokio::test]
async fn the_text_log_at_debug_contains_nothing_private() {
    hunt("text", "debug").await;
}

#[tokio::test]
async fn the_text_log_at_trace_contains_nothing_private() {
    hunt("text", "trace").await;
}

#[tokio::test]
async fn the_json_log_at_debug_contains_nothing_private() {
    hunt("json", "debug").await;
}

#[tokio::test]
async fn the_json_log_at_trace_contains_nothing_private() {
    hunt("json", "trace").await;
}

#[tokio::test]
async fn check_and_verify_print_nothing_private() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("secret"), FILE_SECRET).expect("written");
    let toml =
        toml(&upstream).replacen("{ env = \"ENV_SECRET\" }", &format!("\"{ENV_SECRET}\""), 1);
    fs::write(dir.path().join("gateway.toml"), &toml).expect("written");
    let wrong = toml.replacen("secret = \"", "secrt = \"", 1);
    fs::write(dir.path().join("wrong.toml"), wrong).expect("written");
    let event = private("/enforced");
    let forged = Event { secret: format!("{ENV_SECRET} "), ..event.clone() };
    for (name, request) in [("good", event.request()), ("forged", forged.request())] {
        fs::write(dir.path().join(name), request).expect("written");
    }
    let verify = ["verify", "--route", "enforced"];
    for (arguments, status) in [
        (&["check"][..], 0),
        (&["check", "--config", "wrong.toml"][..], 2),
        (&[&verify[..], &["good"]].concat(), 0),
        (&[&verify[..], &["--json", "good"]].concat(), 0),
        (&[&verify[..], &["forged"]].concat(), 1),
        (&[&verify[..], &["--json", "forged"]].concat(), 1),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sealgate"))
            .args(arguments)
            .args(["--log-level", "trace"])
            .env("ENV_SECRET", ENV_SECRET)
            .env("GATE_SECRET", GATE_SECRET)
            .current_dir(dir.path())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        clean(&format!("{arguments:?}"), &said, &[]);
    }
    // The canaries are the values that the requests contain.
    let sent = String::from_utf8_lossy(&event.request()).into_owned();
    assert!(PRIVATE[..4].iter().all(|canary| sent.contains(canary)), "{sent}");
    assert_eq!(hmac_sha256(ENV_SECRET, b"").len(), 64);
}
