//! `sealgate events` and `sealgate check --against`: commands that call a running gateway.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::kit::{
    Answer, Event, Process, SECRET, Setup, TOKEN, Upstream, free_address, sealgate, until,
};

/// Gateway with an admin API on a port that commands can find, and an event store.
struct Fixture {
    gateway: Process,
    upstream: Upstream,
    setup: Setup,
}

impl Fixture {
    async fn start(delivery: &str) -> Self {
        let upstream = Upstream::start().await;
        let setup = Setup::new(&upstream)
            .plain()
            .admin_api()
            .section("[events]\nstore = \"disk\"\npath = \"events\"")
            .route(&format!("delivery = \"{delivery}\"\nhistory = \"full\""));
        let address = format!("[admin]\nlisten = \"{}\"", free_address());
        let toml = setup.toml().replacen("[admin]\nlisten = \"127.0.0.1:0\"", &address, 1);
        let gateway = Process::start(setup.dir.path(), &toml).await;
        Fixture { gateway, upstream, setup }
    }

    fn dir(&self) -> &Path {
        self.setup.dir.path()
    }

    async fn send(&self, event: &Event) {
        self.gateway.connect().await.exchange(&event.request()).await;
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run(arguments, self.dir()).await
    }

    /// Waits until one event is in a state; returns it.
    async fn settled(&self, state: &str) -> Value {
        let list = ["events", "--json", "--state", state];
        until("the event is settled", async || !self.run(&list).await.output.is_empty()).await;
        self.run(&list).await.objects().remove(0)
    }
}

/// Result of a command.
struct Ran {
    status: Option<i32>,
    output: String,
    error: String,
}

impl Ran {
    fn objects(&self) -> Vec<Value> {
        self.output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Runs the binary on another thread, so that the test's upstream can respond meanwhile.
async fn run(arguments: &[&str], dir: &Path) -> Ran {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let dir = dir.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        sealgate(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &dir)
    });
    let output = output.await.expect("joined");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: output.status.code(), output: text(output.stdout), error: text(output.stderr) }
}

#[tokio::test]
async fn events_are_listed_shown_redelivered_and_forgotten() {
    let f = Fixture::start("async").await;
    let none = f.run(&["events"]).await;
    assert_eq!((none.status, &*none.output), (Some(0), ""), "{}", none.error);
    f.upstream.answer([Answer::Status(410)]);
    let body = "{\"grpIdx\":1,\"note\":\"\u{1b}[2J\u{202e}한\"}";
    let event = Event::new(body.as_bytes()).with(&["X-Note: \u{9b}31m", "Cookie: hidden"]);
    f.send(&event).await;
    let listed = f.settled("dead").await;
    let id = listed["id"].as_str().expect("an ID");
    let table = f.run(&["events", "list", "--route", "vivoldi", "--since", "1h"]).await;
    let lines: Vec<_> = table.output.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines.len() == 2, "{}", table.output);
    let columns: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!([columns[0], columns[2], columns[3], columns[4]], [id, "dead", "1", "410"]);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", table.output);

    let shown = f.run(&["events", "show", &event.id]).await;
    assert_eq!(shown.status, Some(0), "{}", shown.error);
    assert!(shown.output.contains("410 after"), "{}", shown.output);
    assert!(shown.output.contains("X-Note: \\u{9b}31m\nCookie: [redacted]"), "{}", shown.output);
    assert!(!shown.output.contains("grpIdx"), "the body was not asked for");
    let shown = f.run(&["events", "show", id, "--body"]).await;
    assert!(shown.output.contains("\"note\":\"\\u{1b}[2J\\u{202e}한\"}"), "{}", shown.output);
    for arguments in [&["events", "show", id, "--body", "--json"][..], &["events", "--json"]] {
        let json = f.run(arguments).await;
        assert_eq!(json.output.lines().count(), 1);
        let interpreted = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!json.output.contains(interpreted), "{}", json.output);
        assert_eq!(json.objects()[0]["id"], id);
    }

    let redelivered = f.run(&["events", "redeliver", id, "unknown"]).await;
    assert_eq!(redelivered.status, Some(1), "one of them is unknown");
    assert_eq!(redelivered.output, format!("{id} redelivered\n"));
    assert!(redelivered.error.contains("unknown"), "{}", redelivered.error);
    f.settled("delivered").await;
    let none = f.run(&["events", "redeliver", "--state", "dead", "--since", "1h"]).await;
    assert_eq!((none.status, &*none.output), (Some(0), "0 redelivered\n"));
    let forgotten = f.run(&["events", "forget", &event.id]).await;
    assert_eq!(forgotten.status, Some(0), "{}", forgotten.error);
    f.send(&event).await;
    f.upstream.seen(3).await;
    assert_eq!(f.run(&["events", "forget", "unknown"]).await.status, Some(1));
    assert_eq!(f.run(&["events", "show", "un\u{1b}known"]).await.status, Some(1));
}

#[tokio::test]
async fn an_exported_request_verifies_offline() {
    let f = Fixture::start("sync").await;
    let event = Event::new(b"{\"grpIdx\":1,\"raw\":\"\x1b\xff\"}");
    f.send(&event).await;
    f.settled("delivered").await;
    let export = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["events", "export", &event.id])
        .current_dir(f.dir())
        .output()
        .expect("it runs");
    assert!(export.status.success());
    assert!(export.stdout.ends_with(&event.body), "byte for byte");
    let file = f.dir().join("captured.http");
    fs::write(&file, &export.stdout).expect("written");
    let verified = f.run(&["verify", "captured.http"]).await;
    assert_eq!(verified.status, Some(0), "{}{}", verified.output, verified.error);
    assert_eq!(f.run(&["events", "export", "unknown"]).await.status, Some(1));
}

#[tokio::test]
async fn changes_are_printed_as_they_happen() {
    let f = Fixture::start("async").await;
    let mut tail = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["events", "tail", "--json", "--route", "vivoldi"])
        .current_dir(f.dir())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let output = BufReader::new(tail.stdout.take().expect("a pipe"));
    let (lines, mut printed) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in output.lines() {
            let _ = lines.send(line.expect("text"));
        }
    });
    // The stream may be opened after an event.
    let line = async {
        loop {
            f.send(&Event::default()).await;
            let wait = std::time::Duration::from_millis(200);
            if let Ok(Some(line)) = tokio::time::timeout(wait, printed.recv()).await {
                return line;
            }
        }
    };
    let line = tokio::time::timeout(crate::kit::PATIENCE, line).await.expect("a line in time");
    let object: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(object["route"], "vivoldi");
    tail.kill().expect("killed");
    tail.wait().expect("ended");
}

#[tokio::test]
async fn the_last_use_of_each_secret_is_shown() {
    let f = Fixture::start("sync").await;
    let secrets = f.run(&["events", "secrets", "--json"]).await;
    let object = serde_json::json!(
        {"key": "global", "last_used": null, "route": "vivoldi", "secret": 1}
    );
    assert_eq!(secrets.objects(), [object]);
    f.send(&Event::default()).await;
    let secrets = f.run(&["events", "secrets", "--route", "vivoldi"]).await;
    assert!(secrets.output.contains("s ago"), "{}", secrets.output);
    assert_eq!(f.run(&["events", "secrets", "--route", "other"]).await.status, Some(1));
}

#[tokio::test]
async fn a_wrong_command_or_configuration_has_status_2() {
    let dir = tempfile::tempdir().expect("a directory");
    let admin = |lines: &str| {
        let text =
            format!("[server]\nlisen = 1\n[admin]\nlisten = \"{}\"\n{lines}", free_address());
        fs::write(dir.path().join("gateway.toml"), text).expect("written");
    };
    admin("");
    let ran = run(&["events"], dir.path()).await;
    assert_eq!(ran.status, Some(2));
    assert!(ran.error.contains("admin.token"), "{}", ran.error);
    admin("token = \"\"");
    assert_eq!(run(&["events"], dir.path()).await.status, Some(2));
    // Only [admin] matters; the gateway does not run.
    admin(&format!("token = \"{TOKEN}\""));
    let ran = run(&["events"], dir.path()).await;
    assert_eq!(ran.status, Some(1), "{}", ran.error);
    for wrong in [
        &["events", "--state", "lost"][..],
        &["events", "--since", "yesterday"],
        &["events", "--limit", "0"],
        &["events", "redeliver"],
        &["events", "redeliver", "x", "--state", "dead"],
        &["events", "redeliver", "--route", "x"],
        &["events", "forget"],
        &["events", "show"],
        &["events", "--config", "absent.toml"],
    ] {
        assert_eq!(run(wrong, dir.path()).await.status, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_explained() {
    let f = Fixture::start("sync").await;
    let file = f.dir().join("gateway.toml");
    let text = fs::read_to_string(&file).expect("readable");
    fs::write(&file, text.replace(TOKEN, "another-token-of-the-operator")).expect("written");
    let ran = f.run(&["events"]).await;
    assert_eq!(ran.status, Some(1));
    assert!(ran.error.contains("admin.token"), "{}", ran.error);
}

#[tokio::test]
async fn captured_requests_are_verified_against_a_new_configuration() {
    let f = Fixture::start("sync").await;
    let mut events = vec![Event::default(), Event::default()];
    events[1].context.retain(|(name, _)| name != "X-Vivoldi-Comp-Idx");
    for event in &events {
        f.send(event).await;
    }
    until("all are kept", async || f.run(&["events", "--json"]).await.objects().len() == 2).await;
    let file = f.dir().join("gateway.toml");
    let text = fs::read_to_string(&file).expect("readable");
    let captures = f.dir().join("captures");
    fs::create_dir(&captures).expect("created");
    for (number, event) in events.iter().enumerate() {
        // Older than the window: the age does not matter.
        let mut old = Event { timestamp: "1700000000000".to_owned(), ..event.clone() };
        old.body.extend(format!(" {number}").as_bytes());
        fs::write(captures.join(format!("{number}.http")), old.request()).expect("written");
    }
    let new = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(f.dir().join(name), text.replacen(from, to, 1)).expect("written");
    };
    new("same.toml", "secret", "secret");
    let secret = format!("secret = \"{SECRET}\"");
    new("rotated.toml", &secret, "secret = \"another-secret-of-the-tests\"");
    new("moved.toml", "/webhooks/vivoldi", "/elsewhere");
    let required = "[route.require_headers]\nX-Vivoldi-Comp-Idx = [\"50742\"]\n";
    fs::write(f.dir().join("required.toml"), format!("{text}\n{required}")).expect("written");
    for (name, rejected, word) in [
        ("same.toml", 0, ""),
        ("rotated.toml", 2, "bad_signature"),
        ("moved.toml", 2, "no_route"),
        ("required.toml", 1, "required_header"),
    ] {
        for source in ["captures", "-"] {
            let ran = f.run(&["check", "--config", name, "--against", source]).await;
            let context = format!("{name} {source}: {}{}", ran.output, ran.error);
            assert_eq!(ran.status, Some(i32::from(rejected > 0)), "{context}");
            let summary = format!("2 request(s) verified, {rejected} would be rejected");
            assert!(ran.output.contains(&summary) && ran.output.contains(word), "{context}");
        }
    }
    fs::write(captures.join("2.http"), "not a request").expect("written");
    for (name, status) in [("same.toml", 2), ("absent.toml", 2)] {
        let ran = f.run(&["check", "--config", name, "--against", "captures"]).await;
        assert_eq!(ran.status, Some(status), "{}", ran.error);
    }
    let absent = f.run(&["check", "--against", "absent"]).await;
    assert_eq!(absent.status, Some(2), "{}", absent.error);
}
