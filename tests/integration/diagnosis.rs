//! The diagnosis of rejected requests: `verify` on the command line, the running gateway's log,
//! captured requests, and the page that explains it all.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use sealgate::internals::{diagnose::NearMiss, reject::Reason};
use serde_json::Value;

use crate::kit::{Event, Process, SECRET, Setup, Upstream, sealgate, until};

/// A directory with a configuration and no gateway.
async fn configured(more: &str) -> Setup {
    let setup = Setup::new(&Upstream::start().await).route(more);
    fs::write(setup.dir.path().join("gateway.toml"), setup.toml()).expect("written");
    setup
}

/// Writes a request and verifies it.
fn judge(dir: &Path, request: &[u8], more: &[&str]) -> (Option<i32>, String) {
    fs::write(dir.join("request"), request).expect("written");
    let arguments = [&["verify", "--route", "vivoldi"], more, &["request"]].concat();
    let output = sealgate(&arguments, dir);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

fn changed(event: &Event, body: &str) -> Vec<u8> {
    Event { tampered: Some(body.as_bytes().to_vec()), ..event.clone() }.request()
}

#[tokio::test]
async fn verify_tells_people_what_is_wrong_and_shows_no_secret() {
    let setup = configured("[route.secrets.coupon]\n574 = \"the-secret-of-coupon-574\"").await;
    let dir = setup.dir.path();
    let event = Event::default();
    let (status, text) = judge(dir, &event.request(), &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.starts_with("authentic\n"), "{text}");
    for shown in [&event.id, "global", " s old", "{timestamp}.{header:x-vivoldi-event-id}."] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(!text.contains("diagnosis"), "{text}");

    let mut group = event.clone();
    group.set("X-Vivoldi-Webhook-Type", "GROUP");
    let cases = [
        (
            changed(&event, "{\"grpIdx\": 574, \"cpnNo\": \"ZJLF0399WQBEQZJM\"}\n"),
            "bad_signature",
            "body_newline_added",
            "newline at its end",
        ),
        (group.request(), "bad_signature", "other_key", "`global`"),
        (changed(&event, "{}"), "bad_signature", "body_changed", "The secret is right"),
        (
            Event { secret: "not-the-secret-at-all".into(), ..event.clone() }.request(),
            "bad_signature",
            "other_secret",
            "The configured secret is another one",
        ),
    ];
    for (request, reason, code, said) in cases {
        let (status, text) = judge(dir, &request, &[]);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.starts_with(&format!("rejected: {reason}\n")), "{text}");
        assert!(text.contains(&format!("\ndiagnosis: {code}\n")), "{text}");
        assert!(text.contains(said), "{said}: {text}");
        for hidden in [SECRET, "the-secret-of-coupon-574", &event.v1()] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}

#[tokio::test]
async fn verify_tells_tools_by_code() {
    let setup = configured("").await;
    let dir = setup.dir.path();
    let mut event = Event::new(b"{\"grpIdx\":574}");
    event.timestamp = "1758184391752".to_owned();
    let at = ["--json", "--at", "1758184391"];
    let object = |text: &str| -> Value { serde_json::from_str(text).expect("one object") };

    let (status, text) = judge(dir, &event.request(), &at);
    assert_eq!(status, Some(0));
    let verdict = object(&text);
    assert_eq!(verdict["verdict"], "accept");
    assert_eq!(verdict["event_id"], event.id);
    assert_eq!(verdict["key"], "global");
    assert_eq!(verdict["timestamp"], "2025-09-18T08:33:11.752Z");

    let (status, text) = judge(dir, &changed(&event, "{\"grpIdx\": 574}"), &at);
    assert_eq!(status, Some(1));
    let verdict = object(&text);
    assert_eq!(
        (&verdict["verdict"], &verdict["reason"]),
        (&"reject".into(), &"bad_signature".into())
    );
    assert_eq!(verdict["event_id"], event.id);
    assert_eq!(verdict["diagnosis"][0]["code"], "body_json_compact");
    let said = verdict["diagnosis"][0]["text"].as_str().expect("a text");
    assert!(said.contains("without white space"), "{said}");

    let (status, text) = judge(dir, &event.request(), &["--json", "--at", "1758185000"]);
    assert_eq!(status, Some(1));
    let verdict = object(&text);
    assert_eq!(verdict["reason"], "stale");
    assert_eq!(verdict["diagnosis"][0]["code"], "clock");
    assert!(verdict["diagnosis"][0]["text"].as_str().expect("a text").contains("608 s old"));

    let (status, text) = judge(dir, b"GET / HTTP/1.1\nHost: a\n\n", &at);
    assert_eq!(status, Some(1));
    let verdict = object(&text);
    assert_eq!(verdict["reason"], "missing_header");
    assert_eq!(verdict["diagnosis"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_broken_secret_file_is_found_by_one_command() {
    let setup = configured("").await;
    let dir = setup.dir.path();
    let toml = setup.toml().replace(&format!("\"{SECRET}\""), "{ file = \"secret\" }");
    fs::write(dir.join("gateway.toml"), toml).expect("written");
    for (content, code) in [
        (format!("{SECRET}\n"), None),
        (format!("{SECRET}\r\n"), None),
        (format!("{SECRET}\n\n"), Some("secret_has_space")),
        (format!("{SECRET} \r\n"), Some("secret_has_space")),
        (format!("\"{SECRET}\"\n"), Some("secret_quoted")),
        ("quite-another-secret".to_owned(), Some("other_secret")),
    ] {
        fs::write(dir.join("secret"), &content).expect("written");
        let (status, text) = judge(dir, &Event::default().request(), &[]);
        match code {
            None => assert_eq!(status, Some(0), "{content:?}: {text}"),
            Some(code) => {
                assert_eq!(status, Some(1), "{content:?}");
                assert!(text.contains(&format!("\ndiagnosis: {code}\n")), "{content:?}: {text}");
            }
        }
    }
}

/// The message of the log line with a diagnosis.
const LOOKED_INTO: &str = "diagnosis of a rejected request";

#[tokio::test]
async fn the_running_gateway_tells_its_log_and_not_more_than_once_a_second() {
    let upstream = Upstream::start().await;
    let other = format!(
        "[[route]]\nname = \"other\"\npath = \"/other\"\nscheme = \"vivoldi\"\nmode = \"observe\"\n\
         upstream = \"http://{}\"\nsecret = \"the-secret-of-the-other\"\n",
        upstream.address()
    );
    let setup = Setup::new(&upstream).route(&other);
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let began = Instant::now();
    let canary = "{\"grpIdx\":574,\"name\":\"canary\"}";
    let mut connection = process.connect().await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        let event = Event::new(canary.as_bytes());
        let reply = connection.exchange(&changed(&event, &format!("{canary}\r\n"))).await;
        assert_eq!(reply.status, 401, "{}", reply.head);
        ids.push(reply.header("sealgate-request-id").expect("an id").to_owned());
    }
    until("a diagnosis", || async { !process.lines(LOOKED_INTO).is_empty() }).await;
    let lines = process.lines(LOOKED_INTO);
    assert!(lines.len() as u64 <= 1 + began.elapsed().as_secs(), "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["request_id"], ids[0], "the first is looked into");
    assert_eq!((&line["route"], &line["reason"]), (&"vivoldi".into(), &"bad_signature".into()));
    assert_eq!(line["diagnosis"], "body_newline_added");
    assert!(line["detail"].as_str().is_some_and(|text| text.contains("newline")), "{line}");

    // Each route has its own rate, and requests on observing routes are diagnosed too.
    let mut event = Event::new(canary.as_bytes());
    event.path = "/other".to_owned();
    let reply = connection.exchange(&event.request()).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    let told = || async { process.lines(LOOKED_INTO).iter().any(|line| line["route"] == "other") };
    until("a diagnosis of the other route", told).await;
    let lines = process.lines(LOOKED_INTO);
    let line = lines.iter().find(|line| line["route"] == "other").expect("it was told");
    assert_eq!(line["diagnosis"], "other_route_key");
    assert!(line["detail"].as_str().is_some_and(|text| text.contains("`vivoldi`")), "{line}");
    assert_eq!(upstream.only().header("sealgate-observed"), Some("bad_signature"));

    for hidden in ["canary", SECRET, "the-secret-of-the-other", &event.v1()] {
        assert!(!process.log().contains(hidden), "{hidden}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_not_looked_into() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).route("[route.require_headers]\nX-Account = [\"1\"]");
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let mut connection = process.connect().await;
    assert_eq!(connection.exchange(&Event::default().request()).await.status, 401);
    // The next one is looked into at once: the first one did not use up the pace.
    let event = Event { secret: "quite-another-secret".to_owned(), ..Event::default() };
    assert_eq!(connection.exchange(&event.request()).await.status, 401);
    until("a diagnosis", || async { !process.lines(LOOKED_INTO).is_empty() }).await;
    let lines = process.lines(LOOKED_INTO);
    let told: Vec<_> = lines.iter().map(|line| (&line["reason"], &line["diagnosis"])).collect();
    assert_eq!(told, [(&"bad_signature".into(), &"other_secret".into())]);
}

/// The captured requests of a directory, oldest first.
fn captured(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn captured_requests_are_kept_for_verify_and_bounded() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream)
        .server("capture_rejected = { dir = \"rejected\", keep = 3, max_bytes = \"64KiB\" }");
    let toml = setup.toml();
    let gateway = setup.start();
    fs::write(gateway.dir.path().join("gateway.toml"), toml).expect("written");
    let dir = gateway.dir.path().join("rejected");
    let mut ids = Vec::new();
    for size in [1, 2, 3, 4, 5] {
        let event = Event::new("x".repeat(size).as_bytes());
        let request = changed(&event, &format!("{}\n", "x".repeat(size)));
        let reply = gateway.connect().await.exchange(&request).await;
        assert_eq!(reply.status, 401);
        ids.push(reply.header("sealgate-request-id").expect("an id").to_owned());
        let last = ids.last().expect("just pushed");
        until("it is captured", || async {
            captured(&dir)
                .last()
                .is_some_and(|f| f.to_string_lossy().ends_with(&format!("-{last}.http")))
        })
        .await;
    }
    let files = captured(&dir);
    assert_eq!(files.len(), 3, "{files:?}");
    assert_eq!(mode(&dir), 0o700);
    for (file, id) in files.iter().zip(&ids[2..]) {
        assert!(file.to_string_lossy().contains(id.as_str()), "the oldest went: {files:?}");
        assert_eq!(mode(file), 0o600);
        let name = file.to_string_lossy();
        let judged =
            sealgate(&["verify", "--route", "vivoldi", "--json", &name], gateway.dir.path());
        assert_eq!(judged.status.code(), Some(1), "{}", String::from_utf8_lossy(&judged.stderr));
        let verdict: Value = serde_json::from_slice(&judged.stdout).expect("JSON");
        assert_eq!(verdict["reason"], "bad_signature");
        assert_eq!(verdict["diagnosis"][0]["code"], "body_newline_added");
    }

    fs::write(dir.join("notes.txt"), "mine").expect("written");
    for _ in 0..3 {
        let before = captured(&dir);
        let event = Event::new("y".repeat(40 << 10).as_bytes());
        assert_eq!(
            gateway.connect().await.exchange(&changed(&event, &"z".repeat(40 << 10))).await.status,
            401
        );
        until("it is captured", || async { captured(&dir) != before }).await;
    }
    until("the bytes are bounded", || async {
        let bytes: u64 =
            captured(&dir).iter().map(|f| fs::metadata(f).map_or(0, |m| m.len())).sum();
        bytes <= 64 << 10
    })
    .await;
    assert!(dir.join("notes.txt").exists(), "what is not ours stays");
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn chunked_requests_are_captured_whole() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).server("capture_rejected = { dir = \"rejected\" }");
    let toml = setup.toml();
    let gateway = setup.start();
    fs::write(gateway.dir.path().join("gateway.toml"), toml).expect("written");
    let dir = gateway.dir.path().join("rejected");
    let event = Event { secret: "quite-another-secret".to_owned(), ..Event::new(b"{\"a\":1}") };
    let lines = event.header_lines().join("\r\n");
    let request = format!(
        "POST /webhooks/vivoldi HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\n\r\n"
    );
    assert_eq!(gateway.connect().await.exchange(request.as_bytes()).await.status, 401);
    until("it is captured", || async {
        captured(&dir).iter().any(|file| file.extension().is_some_and(|e| e == "http"))
    })
    .await;
    let text = fs::read_to_string(&captured(&dir)[0]).expect("text");
    assert!(text.starts_with("POST /webhooks/vivoldi HTTP/1.1\r\nhost: localhost\r\n"), "{text}");
    assert!(text.ends_with("\r\ncontent-length: 7\r\n\r\n{\"a\":1}"), "{text}");
    assert!(!text.contains("chunked"), "{text}");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_told_and_changes_no_answer() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).server("capture_rejected = { dir = \"file/rejected\" }");
    fs::write(setup.dir.path().join("file"), "no directory").expect("written");
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let mut connection = process.connect().await;
    let event = Event { secret: "quite-another-secret".to_owned(), ..Event::default() };
    for _ in 0..5 {
        assert_eq!(connection.exchange(&event.request()).await.status, 401);
    }
    let message = "rejected requests cannot be written to files";
    until("it is told", || async { !process.lines(message).is_empty() }).await;
    assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    assert_eq!(process.lines(message).len(), 1, "once a minute is enough");
}

#[test]
fn the_page_tells_every_reason_and_every_diagnosis() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md"));
    let page = page.expect("a page");
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(sections, reasons, "one section for each reason, in their order");
    let rows: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(code, _)| code))
        .collect();
    assert_eq!(rows, NearMiss::CODES, "one row for each diagnosis, in their order");
}
