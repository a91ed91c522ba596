//! The ways to start without knowing the configuration: `sealgate init` and `sealgate listen`.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::kit::{Connection, Event, PATIENCE, SECRET, Upstream, sealgate, signal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn init_writes_a_configuration_that_check_accepts_once_the_secret_is_stored() {
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = ["init", "--scheme", "stripe", "--upstream", "http://127.0.0.1:8080"];
    let output = sealgate(&arguments, dir.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let commands: Vec<_> = text(&output.stdout).lines().map(str::to_owned).collect();
    let commands: Vec<_> = commands.iter().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    assert_eq!(commands[1..], ["sealgate check", "sealgate"]);
    assert_eq!(sealgate(&["check"], dir.path()).status.code(), Some(2));

    let storing = Command::new("sh")
        .args(["-c", commands[0]])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .spawn();
    let mut storing = storing.expect("sh runs");
    let mut input = storing.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, b"whsec_c3VmZmljaWVudGx5LWxvbmctc2VjcmV0\n")
        .expect("read");
    drop(input);
    assert!(storing.wait().expect("ends").success());
    let checked = sealgate(&["check"], dir.path());
    assert!(checked.status.success(), "{}", text(&checked.stderr));

    let again = sealgate(&arguments, dir.path());
    assert_eq!(again.status.code(), Some(1), "it does not overwrite");
}

#[test]
fn init_configures_an_automatic_certificate_for_a_domain() {
    let dir = tempfile::tempdir().expect("a directory");
    let upstream = ["--upstream", "http://127.0.0.1:8080"];
    let init = |arguments: &[&str]| {
        sealgate(&[&["init"], arguments, &upstream].concat(), dir.path()).status.code()
    };
    assert_eq!(init(&["--scheme", "github", "--domain", "hooks.example.com"]), Some(0));
    std::fs::write(dir.path().join("github.secret"), "a-secret-that-is-long-enough\n").expect("ok");
    let checked = sealgate(&["check"], dir.path());
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let written = std::fs::read_to_string(dir.path().join("gateway.toml")).expect("written");
    assert!(written.contains("domains = [\"hooks.example.com\"]"), "{written}");

    for invalid in [
        &["--scheme", "githup"][..],
        &["--scheme", "github", "--domain", "*.example.com"],
        &["--scheme", "github", "--config", "other.toml", "--upstream", "127.0.0.1:8080"],
    ] {
        let arguments = [&["init"], invalid].concat();
        let arguments = match invalid.contains(&"--upstream") {
            true => arguments,
            false => [&arguments[..], &upstream].concat(),
        };
        assert_eq!(sealgate(&arguments, dir.path()).status.code(), Some(2), "{invalid:?}");
    }
    assert!(!dir.path().join("other.toml").exists());
}

#[test]
fn init_knows_what_every_scheme_needs() {
    let dir = tempfile::tempdir().expect("a directory");
    for (scheme, line) in [
        ("discord", "public_key = { file = \"discord.key\" }"),
        ("twilio", "public_url = \"https://localhost:8443/webhooks/twilio\""),
        ("google-pubsub", "[route.jwt]"),
    ] {
        let file = format!("{scheme}.toml");
        let output = sealgate(
            &["init", "--scheme", scheme, "--upstream", "http://localhost:1", "--config", &file],
            dir.path(),
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        let written = std::fs::read_to_string(dir.path().join(&file)).expect("written");
        assert!(written.contains(line), "{written}");
    }
}

#[tokio::test]
async fn listen_forwards_events_and_explains_rejections() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["listen", "--scheme", "vivoldi", "--listen", "127.0.0.1:0"])
        .args(["--forward-to", &format!("http://{}", upstream.address())])
        .env("SEALGATE_SECRET", SECRET)
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    let address = first.strip_prefix("Listening on http://").expect("the address");
    let address = address.split_once(',').expect("a comma").0.parse().expect("an address");
    let reply = Connection::plain(address).await.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 200);
    upstream.only();
    let changed = Event { tampered: Some(b"{}\n".to_vec()), ..Event::new(b"{}") };
    let reply = Connection::plain(address).await.exchange(&changed.request()).await;
    assert_eq!(reply.status, 401);
    // The diagnosis is made after the response.
    let mut errors = BufReader::new(child.stderr.take().expect("piped"));
    let reading = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        while !log.contains("newline") && errors.read_line(&mut log).expect("text") > 0 {}
        log
    });
    let log = tokio::time::timeout(PATIENCE, reading).await;
    signal(child.id(), "-TERM");
    assert!(child.wait().expect("it ends").success());
    let log = log.expect("the diagnosis in time").expect("no panic");
    for part in ["forwarded", "bad_signature", "newline"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn listen_makes_up_a_secret_and_rejects_unknown_schemes() {
    let dir = tempfile::tempdir().expect("a directory");
    let forward = ["--forward-to", "http://127.0.0.1:1"];
    let unknown = sealgate(&[&["listen", "--scheme", "strype"], &forward[..]].concat(), dir.path());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("did you mean `stripe`?"), "{}", text(&unknown.stderr));
    // Without the key, the configuration is invalid.
    let keyless =
        sealgate(&[&["listen", "--scheme", "discord"], &forward[..]].concat(), dir.path());
    assert_eq!(keyless.status.code(), Some(2));
}
