//! Reload by signal and by file change, under load: it is all or nothing, and the log names the
//! changes.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::kit::{Connection, Event, Process, SECRET, Setup, Upstream, until};

const ROTATED: &str = "the-secret-after-the-rotation";

/// Senders that send one event after another, on persistent and on new connections.
struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<usize>>,
}

impl Load {
    fn start(gateway: &Arc<Process>, secret: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..4).map(|sender| {
            let (gateway, stop) = (Arc::clone(gateway), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut sent = 0;
                let mut connection = gateway.connect().await;
                while !stop.load(Ordering::Relaxed) {
                    if sender % 2 == 0 {
                        connection = gateway.connect().await;
                    }
                    let event = Event { secret: secret.to_owned(), ..Event::default() };
                    let reply = connection.exchange(&event.request()).await;
                    assert_eq!(reply.status, 200, "{}", reply.head);
                    sent += 1;
                }
                sent
            })
        });
        Load { senders: senders.collect(), stop }
    }

    /// Stops the senders; returns the number of events, all of which got 200.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for sender in self.senders {
            sent += sender.await.expect("no request failed");
        }
        sent
    }
}

/// Waits until `count` reloads had this result.
async fn reloaded(gateway: &Process, result: &str, count: usize) {
    let labels = format!("sealgate_config_reloads_total{{result=\"{result}\"}}");
    until("the reload", || async { gateway.metric(&labels).await >= count as f64 }).await;
}

async fn status_with(gateway: &Process, secret: &str) -> u16 {
    let event = Event { secret: secret.to_owned(), ..Event::default() };
    gateway.connect().await.exchange(&event.request()).await.status
}

/// Replaces a file atomically.
fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).expect("written");
    fs::rename(temporary, path).expect("renamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_reloads_under_load_lose_no_request_and_no_record() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let toml = setup.toml();
    let gateway = Arc::new(Process::start(setup.dir.path(), &toml).await);
    let first = Event::default();
    assert_eq!(gateway.connect().await.exchange(&first.request()).await.status, 200);
    let load = Load::start(&gateway, SECRET);
    let more = toml.replace("name = \"vivoldi\"", "name = \"vivoldi\"\nanswer_within = \"4s\"");
    for round in 1..=50 {
        let text = if round % 2 == 0 { &toml } else { &more };
        fs::write(setup.dir.path().join("gateway.toml"), text).expect("written");
        gateway.signal("-HUP");
        reloaded(&gateway, "ok", round).await;
    }
    let sent = load.end().await;
    assert!(sent > 50, "only {sent} events");
    assert_eq!(upstream.requests().len(), sent + 1, "each event once");
    let again = gateway.connect().await.exchange(&first.retried().request()).await;
    assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotates_a_secret_file_under_load() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain().server("watch = true");
    let dir = setup.dir.path();
    let one = setup.toml().replace(&format!("\"{SECRET}\""), "{ file = \"old\" }");
    let both = one.replace("{ file = \"old\" }", "[{ file = \"new\" }, { file = \"old\" }]");
    fs::write(dir.join("old"), SECRET).expect("written");
    fs::write(dir.join("new"), format!("{ROTATED}\n")).expect("written");
    let gateway = Arc::new(Process::start(dir, &one).await);
    assert_eq!(status_with(&gateway, ROTATED).await, 401);

    let load = Load::start(&gateway, SECRET);
    replace(&dir.join("gateway.toml"), &both);
    reloaded(&gateway, "ok", 1).await;
    assert_eq!(status_with(&gateway, ROTATED).await, 200, "the new secret verifies");
    load.end().await;

    let load = Load::start(&gateway, ROTATED);
    fs::remove_file(dir.join("old")).expect("removed");
    replace(&dir.join("gateway.toml"), one.replace("\"old\"", "\"new\""));
    reloaded(&gateway, "ok", 2).await;
    assert_eq!(status_with(&gateway, SECRET).await, 401, "the old secret is gone");
    load.end().await;

    // Only the file changes, as when an orchestrator rotates a secret.
    replace(&dir.join("new"), SECRET);
    reloaded(&gateway, "ok", 3).await;
    assert_eq!(
        (status_with(&gateway, SECRET).await, status_with(&gateway, ROTATED).await),
        (200, 401)
    );
    let log = gateway.log();
    let told: Vec<_> = gateway.lines("configuration reloaded");
    assert_eq!(told.len(), 3, "{log}");
    for line in &told {
        assert_eq!(line["cause"], "a file has changed");
        assert_eq!(line["secrets"], json!(["global of vivoldi"]), "{line}");
    }
    assert_eq!(told[0]["routes_changed"], json!(["vivoldi"]));
    assert_eq!(
        (&told[2]["routes_changed"], &told[2]["files"]),
        (&serde_json::Value::Null, &json!(["new"]))
    );
    assert!(!log.contains(SECRET) && !log.contains(ROTATED), "{log}");
}

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotates_a_certificate_under_load_and_keeps_connections() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).server("watch = true");
    let dir = setup.dir.path();
    let gateway = Arc::new(Process::start(dir, &setup.toml()).await);
    let https = gateway.https().expect("a TLS listener");
    let old = fs::read(dir.join("tls.crt")).expect("made at start");
    let mut kept = Connection::tls(https, old.clone()).await;
    assert_eq!(kept.exchange(&Event::default().request()).await.status, 200);
    let load = Load::start(&gateway, SECRET);
    let (new, key) = certificate();
    replace(&dir.join("tls.key"), key);
    replace(&dir.join("tls.crt"), &new);
    let leaf = CertificateDer::from_pem_slice(new.as_bytes()).expect("PEM");
    until("the new certificate is served", || async {
        let both = [old.as_slice(), new.as_bytes()].concat();
        Connection::presented(https, &both).await == leaf
    })
    .await;
    let mut renewed = Connection::tls(https, new.into_bytes()).await;
    assert_eq!(renewed.exchange(&Event::default().request()).await.status, 200);
    assert_eq!(kept.exchange(&Event::default().request()).await.status, 200);
    load.end().await;
    let told = gateway.lines("configuration reloaded");
    assert_eq!(told.last().expect("told")["files"], json!(["tls.crt", "tls.key"]));
}

#[tokio::test]
async fn an_invalid_reload_changes_nothing() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).server("watch = true");
    let dir = setup.dir.path();
    let toml = setup.toml().replace(&format!("\"{SECRET}\""), "{ file = \"key\" }");
    fs::write(dir.join("key"), SECRET).expect("written");
    let gateway = Process::start(dir, &toml).await;
    let successful = "sealgate_config_last_reload_successful";
    assert_eq!(gateway.metric(successful).await, 1.0);
    let (foreign, _) = certificate();
    let own = fs::read(dir.join("tls.crt")).expect("made at start");
    let wrong: [(&str, Vec<u8>, Vec<u8>, &str); 4] = [
        ("gateway.toml", b"nonsense".to_vec(), toml.clone().into_bytes(), "gateway.toml:1:"),
        (
            "gateway.toml",
            toml.replace("scheme", "sceme").into_bytes(),
            toml.clone().into_bytes(),
            "unknown key `sceme`",
        ),
        ("key", Vec::new(), SECRET.into(), "is empty"),
        ("tls.crt", foreign.into_bytes(), own, "is not the key of"),
    ];
    for (count, (name, bad, good, problem)) in wrong.into_iter().enumerate() {
        replace(&dir.join(name), bad);
        reloaded(&gateway, "refused", 2 * count + 1).await;
        assert_eq!(gateway.metric(successful).await, 0.0);
        assert_eq!(status_with(&gateway, SECRET).await, 200, "{name}: the running one stays");
        gateway.signal("-HUP");
        reloaded(&gateway, "refused", 2 * count + 2).await;
        let rejected = gateway.lines("configuration rejected, the running one stays in effect");
        for cause in ["SIGHUP", "a file has changed"] {
            let logged = rejected.iter().any(|line| {
                let said = line["problem"].as_str().expect("a problem");
                line["cause"] == cause && said.contains(problem)
            });
            assert!(logged, "{cause} {problem}: {rejected:#?}");
        }
        replace(&dir.join(name), good);
        reloaded(&gateway, "ok", count + 1).await;
        assert_eq!(gateway.metric(successful).await, 1.0);
        assert_eq!(status_with(&gateway, SECRET).await, 200);
    }
}

#[tokio::test]
async fn logs_what_a_reload_changes_and_what_needs_a_restart() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let dir = setup.dir.path();
    let toml = setup.toml();
    let other = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nscheme = \"govalid\"\n\
             upstream = \"http://{}\"\nsecret = \"{name}-canary-secret\"\n",
            upstream.address()
        )
    };
    let gateway = Process::start(dir, &format!("{toml}{}", other("leaves"))).await;
    assert!(gateway.page().await.contains("sealgate_consecutive_failures{route=\"leaves\"}"));
    let changed = toml
        .replace("http_listen = \"127.0.0.1:0\"", "http_listen = \"127.0.0.1:1\"\nworkers = 3")
        .replace("[admin]", "[limits]\nmemory = \"64MiB\"\nbody = \"1KiB\"\n[admin]")
        .replace(SECRET, ROTATED);
    fs::write(dir.join("gateway.toml"), format!("{changed}{}", other("comes"))).expect("written");
    gateway.signal("-HUP");
    reloaded(&gateway, "ok", 1).await;
    let told = gateway.lines("configuration reloaded");
    let line = told.first().expect("told");
    for (field, names) in [
        ("routes_added", json!(["comes"])),
        ("routes_removed", json!(["leaves"])),
        ("routes_changed", json!(["vivoldi"])),
        ("sections", json!(["limits", "server"])),
        ("secrets", json!(["global of comes", "global of vivoldi", "global of leaves"])),
        // Not the certificate, which was created at start.
        ("files", json!(["gateway.toml"])),
        ("cause", json!("SIGHUP")),
    ] {
        assert_eq!(line[field], names, "{line}");
    }
    let kept: Vec<_> = gateway
        .lines("a reload does not change this key: restart sealgate to apply it")
        .iter()
        .map(|line| line["key"].as_str().expect("a key").to_owned())
        .collect();
    assert_eq!(kept, ["server.http_listen", "server.workers", "limits.memory"]);
    let page = gateway.page().await;
    assert!(!page.contains("sealgate_consecutive_failures{route=\"leaves\"}"), "{page}");
    assert!(page.contains("sealgate_consecutive_failures{route=\"comes\"}"), "{page}");
    for secret in [SECRET, ROTATED, "leaves-canary-secret", "comes-canary-secret"] {
        assert!(!gateway.log().contains(secret), "{secret}");
    }
}
