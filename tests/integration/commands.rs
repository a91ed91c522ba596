//! The command line, as a newcomer uses it: `send` and `sign` imitate the sender, `verify` decides
//! as the gateway does, and every command ends in a message that helps.

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

use crate::kit::{self, Event, Process, SECRET, Setup, Upstream, sealgate};

/// Runs the binary on another thread, so that the test's upstream can respond meanwhile.
async fn run(arguments: &[&str], dir: &std::path::Path) -> (Option<i32>, String, String) {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let dir = dir.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        sealgate(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &dir)
    });
    let output = output.await.expect("joined");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn send_connects_to_the_listener_by_the_name_in_its_certificate() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    let dir = setup.dir.path();
    let address = kit::free_address().to_string();
    let toml = setup
        .toml()
        .replace("localhost", "hooks.example.com")
        .replacen("127.0.0.1:0", &address, 1)
        .replace("path = ", "host = \"hooks.example.com\"\npath = ");
    let _gateway = Process::start(dir, &toml).await;
    fs::write(dir.join("event.json"), "{\"useCnt\":1}").expect("written");
    let send = ["send", "--route", "vivoldi", "event.json"];
    let (status, _, error) = run(&send, dir).await;
    assert_eq!(status, Some(0), "{error}");
    let seen = upstream.only();
    assert_eq!(seen.header("host"), Some(&*format!("hooks.example.com:{}", port(&address))));

    // A certificate that the configuration does not name.
    fs::rename(dir.join("tls.crt"), dir.join("ca.pem")).expect("renamed");
    let other = rcgen_pair();
    fs::write(dir.join("tls.crt"), other.0).expect("written");
    fs::write(dir.join("tls.key"), other.1).expect("written");
    let (status, _, error) = run(&send, dir).await;
    assert_eq!(status, Some(1));
    assert!(error.contains("--insecure"), "{error}");
    let url = "https://hooks.example.com/webhooks/vivoldi";
    let host = ["--to", url, "--connect", &address];
    for more in [&["--cacert", "ca.pem"][..], &["--insecure"], &["--to", url, "--insecure"]] {
        let host = if more.len() == 3 { &host[2..] } else { &host[..0] };
        let (status, _, error) = run(&[&send[..], more, host].concat(), dir).await;
        assert_eq!(status, Some(0), "{more:?}: {error}");
    }
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("a port").1
}

/// Returns a certificate for another name and its key, as PEM.
fn rcgen_pair() -> (String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"])
        .args(["-addext", "subjectAltName=DNS:hooks.example.com", "-keyout", "key", "-out", "crt"])
        .current_dir(directory.path())
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success());
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).expect("written");
    (read("crt"), read("key"))
}

#[tokio::test]
async fn what_is_signed_has_every_header_that_the_sender_sends() {
    let setup = Setup::new(&Upstream::start().await)
        .route("[route.require_headers]\nX-Vivoldi-Comp-Idx = [\"7\"]");
    let dir = setup.dir.path();
    fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    fs::write(dir.join("event.json"), "{\"useCnt\":1}").expect("written");
    let (_, headers, error) = run(&["sign", "--route", "vivoldi", "event.json"], dir).await;
    for header in [
        "content-type: application/json\n",
        "x-vivoldi-webhook-type: GLOBAL\n",
        "x-vivoldi-resource-type: ",
        "x-vivoldi-action-type: ",
        "x-vivoldi-comp-idx: 7\n",
        "x-vivoldi-event-id: ",
        "x-vivoldi-request-id: ",
        "x-content-sha256: ",
    ] {
        assert!(headers.contains(header), "{header}: {headers}{error}");
    }
}

#[tokio::test]
async fn repeated_events_are_new_wherever_the_scheme_has_the_event_id() {
    let upstream = Upstream::start().await;
    let mut routes = String::new();
    // In the body; nowhere; nowhere, in a form; a header and the body; signed in the body.
    let schemes = ["stripe", "github", "twilio", "vivreal", "govalid"];
    for scheme in schemes {
        let more =
            if scheme == "twilio" { "public_url = \"https://a.example/twilio\"\n" } else { "" };
        routes += &format!(
            "[[route]]\nname = \"{scheme}\"\npath = \"/{scheme}\"\nscheme = \"{scheme}\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n{more}",
            upstream.address()
        );
    }
    let setup = Setup::new(&upstream).plain().routes(&routes);
    let toml = setup.toml();
    let gateway = setup.start();
    let dir = gateway.dir.path();
    fs::write(dir.join("gateway.toml"), toml).expect("written");
    let url = format!("http://{}", gateway.addresses().http[0]);
    for scheme in schemes {
        let body = match scheme {
            "twilio" => "From=%2B15005550006&Body=hello\n",
            "govalid" => "{\"timestamp\": \"2025-09-18T08:33:11.752Z\", \"a\": 1}\n",
            _ => "{\"id\": \"evt_1\", \"a\": 1}\n",
        };
        fs::write(dir.join("event"), body).expect("written");
        let send = ["send", "--route", scheme, "--to", &url, "--repeat", "5", "event"];
        let (status, summary, error) = run(&send, dir).await;
        assert_eq!(status, Some(0), "{scheme}: {summary}{error}");
        assert!(summary.starts_with("5 sent  200: 5\n"), "{scheme}: {summary}");
    }
    assert_eq!(upstream.requests().len(), 5 * schemes.len());
    let first = &upstream.requests()[0];
    let body = String::from_utf8_lossy(&first.body).into_owned();
    assert!(body.starts_with("{\"id\": \"evt_") && body.ends_with("\", \"a\": 1}\n"), "{body}");
}

#[tokio::test]
async fn a_tampered_event_shows_how_it_is_rejected() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let toml = setup.toml();
    let gateway = setup.start();
    let dir = gateway.dir.path();
    fs::write(dir.join("gateway.toml"), toml).expect("written");
    fs::write(dir.join("event.json"), "{\"useCnt\":1}").expect("written");
    let url = format!("http://{}", gateway.addresses().http[0]);
    let send = ["send", "--route", "vivoldi", "--to", &url, "--tamper", "event.json"];
    let (status, response, hint) = run(&send, dir).await;
    assert_eq!(status, Some(1));
    assert!(response.starts_with("401 "), "{response}");
    assert!(hint.contains("--tamper") && hint.contains("request_id="), "{hint}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn verify_decides_as_live_traffic_is_decided() {
    let setup = Setup::new(&Upstream::start().await);
    let dir = setup.dir.path();
    let toml = format!("{}[limits]\nbody = \"1KiB\"\n", setup.toml());
    fs::write(dir.join("gateway.toml"), toml).expect("written");
    let event = Event::new(b"{\"grpIdx\":574}");
    let text = |event: &Event| String::from_utf8(event.request()).expect("text");
    let good = text(&event);
    let long = text(&Event::new(format!("{{\"a\":\"{}\"}}", "x".repeat(2048)).as_bytes()));
    let json = |raw: &str, more: &[&str]| -> (Option<i32>, Value) {
        fs::write(dir.join("request"), raw).expect("written");
        let output = sealgate(&[&["verify", "--json"], more, &["request"]].concat(), dir);
        let object = serde_json::from_slice(&output.stdout);
        (
            output.status.code(),
            object.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))),
        )
    };
    let (status, verdict) = json(&good, &[]);
    assert_eq!((status, &verdict["route"]), (Some(0), &"vivoldi".into()), "{verdict}");
    let named = ["--route", "vivoldi"];
    for (raw, live, reason) in [
        (good.replacen("POST", "PUT", 1), 405, "method"),
        (good.replacen("/webhooks/vivoldi", "/webhooks/other", 1), 404, "no_route"),
        (good.replacen("Host:", "Content-Encoding: gzip\r\nHost:", 1), 415, "content_encoding"),
        (good.replacen("Host:", "Content-Length : 3\r\nHost:", 1), 0, ""),
        (good.replacen("Host:", "Transfer-Encoding: chunked\r\nHost:", 1), 400, "bad_request"),
        (good.replacen("Host:", "Connection: x-vivoldi-signature\r\nHost:", 1), 400, "bad_request"),
        (long, 413, "body_too_large"),
    ] {
        if live == 0 {
            fs::write(dir.join("request"), &raw).expect("written");
            assert_eq!(sealgate(&["verify", "request"], dir).status.code(), Some(2), "{raw}");
            continue;
        }
        let (status, verdict) = json(&raw, &named);
        assert_eq!(status, Some(1), "{verdict}");
        let expected = ("reject".into(), reason.into(), live.into());
        assert_eq!(
            (&verdict["verdict"], &verdict["reason"], &verdict["status"]),
            (&expected.0, &expected.1, &expected.2),
            "{raw}"
        );
    }
    // Two faults: that it is not authentic comes first, and the live status is that of the gateway.
    let (_, verdict) = json(&good.replacen("POST", "PUT", 1).replace(":574}", ":575}"), &named);
    assert_eq!((&verdict["reason"], &verdict["status"]), (&"bad_signature".into(), &405.into()));
}

/// Returns the arguments' exit status, output and errors in an empty directory with these files.
fn verify_with(files: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("written");
    }
    let output = sealgate(&[&["verify"], arguments].concat(), dir.path());
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn verify_needs_no_configuration() {
    let event = Event::new(b"{\"grpIdx\":574}");
    let good = String::from_utf8(event.request()).expect("text");
    let forged = good.replace(":574}", ":575}");
    let files =
        [("good", &*good), ("forged", &*forged), ("secret", SECRET), ("old", "another-secret-01")];
    let with = |more: &[&str]| verify_with(&files, &[&["--scheme", "vivoldi"], more].concat());
    for secrets in
        [&["--secret-file", "secret"][..], &["--secret-file", "old", "--secret-file", "secret"]]
    {
        let (status, text, error) = with(&[secrets, &["good"]].concat());
        assert_eq!((status, error.as_str()), (Some(0), ""), "{text}");
        assert!(text.starts_with("authentic\n"), "{text}");
    }
    let (status, text, _) = with(&["--json", "--secret-file", "secret", "forged"]);
    let verdict: Value = serde_json::from_str(&text).expect("an object");
    assert_eq!((status, &verdict["reason"]), (Some(1), &"bad_signature".into()), "{verdict}");
    assert_eq!(verdict["diagnosis"][0]["code"], "body_changed", "{verdict}");
    // The rules of HTTP apply as on a route.
    let put = good.replacen("POST", "PUT", 1);
    let files = [("put", &*put), ("secret", SECRET)];
    let arguments = ["--scheme", "vivoldi", "--secret-file", "secret", "--json", "put"];
    let (_, text, _) = verify_with(&files, &arguments);
    assert!(text.contains("\"method\"") && text.contains("405"), "{text}");
}

#[test]
fn verify_says_which_argument_is_missing() {
    let request = "POST /x HTTP/1.1\r\nHost: localhost\r\n\r\n{}";
    let files = [("request", request), ("secret", "a-secret-for-the-tests-01"), ("empty", "")];
    for (arguments, expected) in [
        (&["--scheme", "strip", "request"][..], "did you mean `stripe`?"),
        (&["--scheme", "stripe", "request"], "needs a secret: --secret-file FILE"),
        (&["--scheme", "stripe", "--public-key-file", "secret", "request"], "needs a secret"),
        (&["--scheme", "discord", "request"], "needs a public key: --public-key-file FILE"),
        (&["--scheme", "discord", "--secret-file", "secret", "request"], "takes no secret"),
        (&["--scheme", "twilio", "--secret-file", "secret", "request"], "--public-url URL"),
        (&["--scheme", "pitchpoint", "request"], "write a route with this scheme and use --route"),
        (&["--scheme", "stripe", "--secret-file", "absent", "request"], "absent"),
        (&["--scheme", "stripe", "--secret-file", "empty", "request"], "empty"),
        (&["--secret-file", "secret", "request"], "--scheme <ID>"),
        (&["--scheme", "stripe", "--route", "a", "request"], "cannot be used with"),
    ] {
        let (status, text, error) = verify_with(&files, arguments);
        assert_eq!(status, Some(2), "{arguments:?}: {text}{error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn verify_reads_what_people_paste() {
    let setup = Setup::new(&Upstream::start().await);
    let dir = setup.dir.path();
    fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    fs::write(dir.join("event.json"), "{\"grpIdx\":574}").expect("written");
    let sign = ["sign", "--route", "vivoldi", "--at", "2025-09-18T08:33:11.752Z", "event.json"];
    let (status, headers, error) = run(&sign, dir).await;
    assert_eq!(status, Some(0), "{error}");
    let options: String = headers.lines().map(|line| format!(" \\\n  -H '{line}'")).collect();
    let sent: String = headers.lines().map(|line| format!("> {line}\n")).collect();
    let curl = format!(
        "curl -i https://a.example/webhooks/vivoldi{options} \\\n  --data-binary @event.json"
    );
    let verbose = format!(
        "$ {curl}\n* Connected\n> POST /webhooks/vivoldi HTTP/1.1\n> Host: a\n{sent}>\n< HTTP/1.1 200 OK\n"
    );
    let raw = format!("POST /webhooks/vivoldi HTTP/1.1\nHost: a\n{headers}\n{{\"grpIdx\":574}}");
    let har = serde_json::json!({ "log": { "entries": [{ "request": {
        "method": "POST",
        "url": "https://a.example/webhooks/vivoldi",
        "headers": headers.lines().map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            serde_json::json!({ "name": name, "value": value })
        }).collect::<Vec<_>>(),
        "postData": { "mimeType": "application/json", "text": "{\"grpIdx\":574}" },
    } }] } });
    for at in ["1758184391", "1758184391752", "2025-09-18T10:33:11+02:00"] {
        for capture in [&curl, &verbose, &raw, &format!("{raw}\n"), &har.to_string()] {
            fs::write(dir.join("request"), capture).expect("written");
            let (status, text, error) = run(&["verify", "--at", at, "request"], dir).await;
            assert_eq!(status, Some(0), "{capture}\n{text}{error}");
            assert_eq!(text.contains("an editor adds"), *capture == format!("{raw}\n"), "{text}");
        }
    }
    fs::write(dir.join("request"), raw.replace("Host: a\n", "Host: a\nContent-Length: 20\n"))
        .expect("written");
    let (status, _, error) = run(&["verify", "request"], dir).await;
    assert_eq!(status, Some(2));
    assert!(error.contains("Content-Length is 20, but the body has only 14 bytes"), "{error}");
}

#[tokio::test]
async fn health_needs_only_the_admin_listener() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let dir = setup.dir.path();
    let admin = kit::free_address();
    let toml = setup
        .toml()
        .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""));
    let _gateway = Process::start(dir, &toml).await;
    for edit in [
        toml.clone(),
        toml.replace("secret =", "sekret ="),
        toml.replace("[[route]]", "[[route]"),
        toml.replace("[server]", "[server]\nlisten = [\"127.0.0.1:8443\", "),
    ] {
        fs::write(dir.join("gateway.toml"), &edit).expect("written");
        let (status, text, error) = run(&["health"], dir).await;
        assert_eq!((status, text.as_str()), (Some(0), "ready\n"), "{error}\n{edit}");
    }
}

#[test]
fn options_come_before_and_after_the_command() {
    let dir = tempfile::tempdir().expect("a directory");
    let toml = "[server]\nhttp_listen = \"127.0.0.1:8081\"\n[[route]]\nname = \"a\"\npath = \"/a\"\n\
                scheme = \"vivoldi\"\nupstream = \"http://127.0.0.1:8080\"\n\
                secret = \"0123456789abcdef0123456789abcdef\"\n";
    fs::write(dir.path().join("x.toml"), toml).expect("written");
    let status = |arguments: &[&str]| {
        let output = sealgate(arguments, dir.path());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [
        &["-c", "x.toml", "check"][..],
        &["check", "-c", "x.toml"],
        &["--config", "x.toml", "--log-level", "warning", "check"],
        &["check", "--log-level", "WARN", "--config", "x.toml"],
        &["help", "--help"],
        &["help", "check"],
    ] {
        let (status, error) = status(arguments);
        assert_eq!(status, Some(0), "{arguments:?}: {error}");
    }
    for level in ["verbose", "", "sealgate"] {
        let (status, error) = status(&["--log-level", level, "-c", "x.toml", "check"]);
        assert_eq!(status, Some(2), "{level}");
        assert!(error.contains("off, error, warn, info, debug and trace"), "{level}: {error}");
    }
    for command in [&["check"][..], &["run"], &[], &["sign", "--route", "a"]] {
        let (status, error) = status(command);
        assert_eq!(status, Some(2), "{command:?}");
        for way in ["sealgate init", "sealgate demo", "--config FILE"] {
            assert!(error.contains(way), "{command:?}: {error}");
        }
    }
}

#[test]
fn a_closed_or_full_output_causes_no_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    let shell = |script: &str| {
        let output = Command::new("bash")
            .args(["-c", script])
            .env("SEALGATE", env!("CARGO_BIN_EXE_sealgate"))
            .env("TMPDIR", dir.path())
            .current_dir(dir.path())
            .output()
            .expect("bash runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{script}: {error}");
        (output.status.code(), error)
    };
    let closed = |command: &str| {
        format!("(trap '' PIPE; \"$SEALGATE\" {command}; exit $?) | true; exit ${{PIPESTATUS[0]}}")
    };
    for command in ["schemes vivoldi", "schemes", "completions bash", "check 2>&1"] {
        let (status, error) = shell(&closed(command));
        let expected = if command.starts_with("check") { 2 } else { 0 };
        assert_eq!(status, Some(expected), "{command}: {error}");
    }
    let (status, error) = shell("\"$SEALGATE\" demo --exit >/dev/full");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("cannot write to standard output"), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A handler on loopback that appends one line per effect to `events.log`. A careful one processes
/// an event ID once.
fn handler(dir: &std::path::Path, is_careful: bool) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (log, known) = (dir.join("events.log"), std::sync::Arc::new(Mutex::new(HashSet::new())));
    fs::write(&log, "").expect("written");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), log, known) = (stream, log.clone(), known.clone()) else { return };
            std::thread::spawn(move || {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                let text = loop {
                    let read = stream.read(&mut piece).unwrap_or(0);
                    request.extend_from_slice(&piece[..read]);
                    let text = String::from_utf8_lossy(&request).to_lowercase();
                    let length = text.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
                    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
                    if read == 0 || body.zip(length).is_some_and(|(body, length)| body >= length) {
                        break text;
                    }
                };
                let id = text.split("sealgate-event-id: ").nth(1).unwrap_or("").lines().next();
                let is_new = known.lock().expect("not poisoned").insert(id.map(str::to_owned));
                if is_new || !is_careful {
                    let mut log = fs::OpenOptions::new().append(true).open(log).expect("a log");
                    log.write_all(b"effect\n").expect("written");
                }
                // The client may be gone.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    address
}

#[tokio::test]
async fn a_rehearsal_finds_what_a_handler_processes_twice() {
    for is_careful in [true, false] {
        let setup = Setup::new(&Upstream::start().await);
        let dir = setup.dir.path().to_owned();
        let address = handler(&dir, is_careful);
        let setup = setup.upstream(&format!("\"http://{address}\""));
        fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
        fs::write(dir.join("event.json"), "{\"useCnt\":1}").expect("written");
        let rehearse =
            ["rehearse", "--route", "vivoldi", "--count", "wc -l < events.log", "--settle", "150"];
        let (status, text, error) =
            run(&[&rehearse[..], &["--json", "event.json"]].concat(), &dir).await;
        let results: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let of = |scene: &str| {
            let found = results.iter().find(|result| result["scene"] == scene);
            found.unwrap_or_else(|| panic!("{scene}: {text}{error}"))["result"].clone()
        };
        assert_eq!(status, Some(i32::from(!is_careful)), "{text}{error}");
        for scene in ["one_event", "out_of_order", "unknown_fields", "slow_sender"] {
            assert_eq!(of(scene), "once", "{scene}: {text}");
        }
        let repeated = if is_careful { "once" } else { "twice" };
        for scene in ["concurrent_copy", "retry_after_late_success", "crash_after_commit"] {
            assert_eq!(of(scene), repeated, "{scene}: {text}");
        }
        if !is_careful {
            let (_, text, _) = run(&[&rehearse[..], &["event.json"]].concat(), &dir).await;
            assert!(text.contains("PROCESSED TWICE") && text.contains("curl -i -X POST"), "{text}");
            assert!(text.contains("sealgate-possible-duplicate: 1"), "{text}");
        }
    }
}

#[test]
fn check_says_what_to_write_instead() {
    let dir = tempfile::tempdir().expect("a directory");
    let toml = "[server]\nlisten = \"127.0.0.1:8443\"\ntrusted_proxies = [\"10.0.0.1/8\"]\n\
                [[server.tls]]\ncert = \"ca.crt\"\nkey = \"ca.key\"\n\
                [[route]]\nname = \"a\"\npath = \"/a\"\nscheme = \"vivoldi\"\n\
                upstream = \"http://localhost:8443\"\n\
                secret = \"0123456789abcdef0123456789abcdef\"\n\
                [[route]]\nname = \"b\"\npath = \"/b\"\nscheme = \"vivoldi\"\n\
                upstream = \"http://192.0.2.1:443\"\n\
                secret = \"0123456789abcdef0123456789abcdee\"\n";
    let pair = rcgen_pair();
    fs::write(dir.path().join("ca.crt"), pair.0).expect("written");
    fs::write(dir.path().join("ca.key"), pair.1).expect("written");
    let report = |toml: &str| {
        fs::write(dir.path().join("gateway.toml"), toml).expect("written");
        let output = sealgate(&["check"], dir.path());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = report(toml);
    for part in [
        "`10.0.0.1/8` means 10.0.0.0/8",
        "is a listener of this gateway",
        "is http:// on the port of TLS",
        "belongs to a certificate authority",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = report(&toml.replace("\"127.0.0.1:8443\"\ntrusted", "127.0.0.1:8443\ntrusted"));
    assert!(text.contains("write text in quotes: listen = \"…\""), "{text}");
    fs::write(dir.path().join("ca.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        .expect("written");
    assert!(report(toml).contains("openssl pkey"), "an encrypted key");
}
