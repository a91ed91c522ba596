//! The catalog as the operator sees it: the list, the descriptions, the warnings at start, and
//! custom senders without a rebuild.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::kit::{Call, Setup, Upstream, hmac_sha256, now_ms};

fn sealgate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn said(arguments: &[&str]) -> String {
    let output = sealgate(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn lists_the_senders_with_what_they_do_not_sign() {
    let listed = said(&["schemes"]);
    assert!(listed.lines().count() >= 150, "{listed}");
    let line = |id: &str| {
        let found = listed.lines().find(|line| line.split_whitespace().next() == Some(id));
        found.unwrap_or_else(|| panic!("{id} is not listed:\n{listed}")).to_owned()
    };
    for id in ["vivoldi", "govalid", "vivreal"] {
        assert!(line(id).contains("HMAC-SHA-256") && !line(id).contains("not signed"), "{listed}");
    }
    assert!(line("pitchpoint").contains("JWT RS256"), "{listed}");
    for id in ["pitchpoint", "postmark", "telegram", "mailgun", "google-pubsub"] {
        assert!(line(id).ends_with("body not signed"), "{}", line(id));
    }
    assert!(line("tally").ends_with("unconfirmed"), "{}", line("tally"));
}

#[test]
fn describes_each_sender_with_its_file() {
    let listed = said(&["schemes"]);
    let ids = listed.lines().filter_map(|line| line.split_whitespace().next());
    // A process for each would take seconds; every description is tested where it is written.
    let some = ids.step_by(24).chain(["openai", "stripe"]);
    for id in some {
        let described = said(&["schemes", id]);
        let alike = described.lines().find_map(|line| line.strip_prefix("  signs as      "));
        let name = alike.unwrap_or(id);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemes/{name}.toml"));
        let file = std::fs::read_to_string(file).expect("the scheme's file");
        assert!(described.ends_with(&format!("\n{file}\n")), "{id}:\n{described}");
        let words = described.strip_suffix(&file.as_str()).unwrap_or(&described);
        for part in
            ["proof", "configure", "event", "window", "retries", "answer within", "document"]
        {
            assert!(words.contains(&format!("\n  {part} ")), "{id}: {part}\n{words}");
        }
    }
    for (id, parts) in [
        ("pitchpoint", &["WARNING", "does not cover the body", "403 Forbidden rejected"][..]),
        ("gitlab", &["WARNING", "signs nothing", "static token"]),
        ("mailgun", &["WARNING", "does not cover the body"]),
        ("tally", &["UNCONFIRMED", "try it first"]),
        ("xero", &["without a body and without cookies", "the gateway responds"]),
        ("vivoldi", &["`secrets.coupon`", "`x-vivoldi-event-id` (signed)"]),
        ("govalid", &["event         the body", "2h back"]),
        ("vivreal", &["`/id` (signed)"]),
    ] {
        let described = said(&["schemes", id]);
        for part in parts {
            assert!(described.contains(part), "{id}: {part}\n{described}");
        }
    }
}

#[test]
fn warns_at_start_about_what_is_unsigned_or_unconfirmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let route = |id: &str| {
        format!(
            "[[route]]\nname = \"our-{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://127.0.0.1:9\"\nsecret = \"a-secret-for-{id}-0001\"\n"
        )
    };
    let ids = ["vivoldi", "telegram", "mailgun", "tally", "loops"];
    let mut routes: String = ids.iter().map(|id| route(id)).collect();
    routes = routes.replace("a-secret-for-loops-0001", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let head = "[server]\nhttp_listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(dir.path().join("gateway.toml"), format!("{head}{routes}")).expect("written");
    let mut running = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["--log-format", "json"])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut log: Vec<Value> = Vec::new();
    for line in BufReader::new(running.stderr.take().expect("piped")).lines() {
        let line = line.expect("text");
        log.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
        if line.contains("\"ready\"") {
            break;
        }
    }
    running.kill().expect("it runs");
    running.wait().expect("it ends");
    let told = |id: &str| -> Vec<&str> {
        let of = log.iter().filter(|line| line["route"] == format!("our-{id}"));
        of.inspect(|line| {
            assert_eq!((&line["level"], &line["scheme"]), (&"WARN".into(), &id.into()))
        })
        .map(|line| line["message"].as_str().expect("a message"))
        .collect()
    };
    assert!(told("vivoldi").is_empty(), "{log:?}");
    for (id, part) in [
        ("telegram", "signs nothing"),
        ("mailgun", "not cover the body"),
        ("tally", "unconfirmed"),
        ("loops", "unconfirmed"),
    ] {
        let lines = told(id);
        assert!(lines.len() == 1 && lines[0].contains(part), "{id}: {lines:?}\n{log:?}");
    }
}

#[test]
fn guesses_the_sender_where_there_is_no_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let verify = |headers: &str| {
        let request = format!("POST /in HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{{}}");
        std::fs::write(dir.path().join("request"), request).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
        let output = command.args(["verify", "request"]).current_dir(&dir).output();
        let output = output.expect("the binary runs");
        assert_eq!(output.status.code(), Some(2));
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    };
    let mac = "qKv0u4mVVC1nGH9yFpHbkqTPYyVXwkBBpQqXnBnBPmc=";
    let (found, problem) = verify(&format!("X-Shopify-Hmac-Sha256: {mac}"));
    assert_eq!(
        found,
        "this looks like Shopify (scheme = \"shopify\"): it has `x-shopify-hmac-sha256`\n"
    );
    assert!(problem.contains("--scheme ID --secret-file FILE"), "{problem}");
    let (found, problem) = verify("Authorization: Bearer of-anyone");
    assert_eq!(found, "");
    assert!(problem.contains("no built-in scheme reads a signature"), "{problem}");
}

/// Returns the code blocks of a page in `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let after = page.split(&fence).skip(1);
    after.map(|block| block.split("```").next().expect("a block").to_owned()).collect()
}

#[test]
fn the_page_about_adding_a_sender_works_as_shown() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/add-a-sender.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (toml, http, shell) = (blocks(&page, "toml"), blocks(&page, "http"), blocks(&page, "sh"));
    assert_eq!((toml.len(), http.len(), shell.len()), (2, 1, 1));
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        assert!(page.contains(&format!("`{name}`")), "{name}");
        std::fs::write(dir.path().join(name), text).expect("written");
    };
    write("gateway.toml", &toml[0]);
    write("acme.toml", &toml[1]);
    write("captured.http", http[0].trim_end_matches('\n'));
    // All commands except the last one, which would serve forever.
    let commands: Vec<&str> =
        shell[0].lines().filter(|line| !line.starts_with("sealgate  ")).collect();
    assert_eq!(commands.len(), shell[0].lines().count() - 1, "{}", shell[0]);
    let binary = Path::new(env!("CARGO_BIN_EXE_sealgate"));
    let path = std::env::var("PATH").expect("a path");
    let output = Command::new("sh")
        .args(["-euc", &commands.join("\n")])
        .env("PATH", format!("{}:{path}", binary.parent().expect("a directory").display()))
        .current_dir(dir.path())
        .output()
        .expect("a shell");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for part in ["authentic", "e1", "acme-signature: t="] {
        assert!(out.contains(part), "{part}\n{out}\n{err}");
    }
}

#[tokio::test]
async fn custom_senders_need_no_rebuild() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/add-a-sender.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let scheme = &blocks(&page, "toml")[1];
    let upstream = Upstream::start().await;
    let secret = "acme-secret-0001";
    let route = |name: &str, scheme: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\n{scheme}\n\
             upstream = \"http://{}\"\nsecret = \"{secret}\"\n",
            upstream.address()
        )
    };
    let inside = scheme.replace("\n[", "\n[schemes.acme.");
    let setup = Setup::new(&upstream).section(&format!("[schemes.acme]\n{inside}")).routes(
        &[route("inside", "scheme = \"acme\""), route("file", "scheme_file = \"own.toml\"")]
            .concat(),
    );
    std::fs::write(setup.dir.path().join("own.toml"), scheme).expect("written");
    let gateway = setup.start();
    for (number, name) in ["inside", "file"].iter().enumerate() {
        let body = format!("{{\"id\":\"e-{name}\"}}");
        let signed = |age: u64| {
            let t = now_ms() / 1000 - age;
            let mac = hmac_sha256(secret, format!("{t}.{body}").as_bytes());
            Call::post(&format!("/{name}"), &body)
                .with("Acme-Signature", &format!("t={t},v1={mac}"))
        };
        assert_eq!(gateway.call(&signed(0)).await.status, 200, "{name}");
        let seen = upstream.requests();
        assert_eq!(seen.len(), number + 1);
        assert_eq!(seen[number].header("sealgate-verified"), Some("acme"));
        assert_eq!(seen[number].header("sealgate-event-id"), Some(format!("e-{name}").as_str()));
        let again = gateway.call(&signed(1)).await;
        assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
        for (call, expected) in [
            (signed(0).tampered("{\"id\":\"other\"}"), "bad_signature"),
            (signed(0).without("Acme-Signature"), "missing_header"),
            (signed(0).set("Acme-Signature", "v1=00"), "malformed_signature"),
        ] {
            let (reply, reason) = gateway.refused(&call).await;
            assert_eq!((reply.status, reason.as_str()), (401, expected), "{name}");
        }
    }
}
