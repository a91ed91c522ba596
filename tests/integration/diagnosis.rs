//! Why was it refused: `verify` on the command line, the running gateway's log, captured requests, and
//! the page that explains it all.

use std::{fs, path::Path};

use sealgate::{diagnose::NearMiss, reject::Reason};
use serde_json::Value;

use crate::kit::{Event, SECRET, Setup, Upstream, sealgate};

/// A directory with a configuration and no gateway.
async fn configured(more: &str) -> Setup {
    let setup = Setup::new(&Upstream::start().await).route(more);
    fs::write(setup.dir.path().join("gateway.toml"), setup.toml()).expect("written");
    setup
}

/// Writes a request and has it judged.
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
        (changed(&event, "{}"), "bad_signature", "none", "another secret"),
    ];
    for (request, reason, code, said) in cases {
        let (status, text) = judge(dir, &request, &[]);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.starts_with(&format!("refused: {reason}\n")), "{text}");
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
        ("quite-another-secret".to_owned(), Some("none")),
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
