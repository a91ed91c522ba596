//! The handlers in examples/, unchanged, each behind a gateway with the configuration next to it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use sealgate::internals::gateway;
use tempfile::TempDir;

use crate::kit::{self, Connection, Event, Program, Reply, SECRET, free_at, tool};

/// Copy of an example with its running handler, and a gateway in front of it.
struct Example {
    dir: TempDir,
    gateway: gateway::Gateway,
    _handler: Program,
}

fn copied(name: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let dir = tempfile::tempdir().expect("a directory");
    let mut left = vec![PathBuf::new()];
    while let Some(within) = left.pop() {
        for entry in fs::read_dir(from.join(&within)).expect("a directory") {
            let path = within.join(entry.expect("an entry").file_name());
            if from.join(&path).is_dir() {
                fs::create_dir(dir.path().join(&path)).expect("created");
                left.push(path);
            } else {
                fs::copy(from.join(&path), dir.path().join(&path)).expect("copied");
            }
        }
    }
    fs::write(dir.path().join("vivoldi.secret"), SECRET).expect("written");
    dir
}

/// Returns the example's configuration with free ports.
fn configuration(dir: &Path, handler: SocketAddr) -> String {
    let text = fs::read_to_string(dir.join("gateway.toml")).expect("a configuration");
    for address in ["127.0.0.1:8443", "http://127.0.0.1:8080"] {
        assert!(text.contains(address), "{address} in {text}");
    }
    let own = text.replace("127.0.0.1:8443", "127.0.0.1:0");
    let own = own.replace("127.0.0.1:8080", &handler.to_string());
    format!("{own}\n[admin]\nlisten = []\n")
}

impl Example {
    async fn start(name: &str, handler: impl Fn(&Path, SocketAddr) -> Command) -> Example {
        let dir = copied(name);
        let address = free_at(Ipv4Addr::LOCALHOST);
        let mut command = handler(dir.path(), address);
        command.current_dir(dir.path()).env("WEBHOOK_LOG", dir.path().join("events.log"));
        let mut handler = Program::silent(&mut command);
        handler.listens(address).await;
        let config = kit::parse(&configuration(dir.path(), address), dir.path());
        let gateway = gateway::Gateway::start(config).expect("the gateway starts");
        Example { dir, gateway, _handler: handler }
    }

    async fn send(&self, event: &Event) -> Reply {
        let certificate = fs::read(self.dir.path().join("tls/dev.crt")).expect("made at start");
        let address = self.gateway.addresses().https[0];
        Connection::tls(address, certificate).await.exchange(&event.request()).await
    }

    /// Sends a genuine event, its retry and a forged event: the handler receives exactly the first.
    async fn receives_authentic_events_once(&self) {
        let text = fs::read(self.dir.path().join("event.json")).expect("a body");
        let event = Event::new(&text);
        let reply = self.send(&event).await;
        let answer: serde_json::Value = serde_json::from_str(&reply.text()).expect("JSON");
        assert_eq!(reply.status, 200, "{}", reply.head);
        assert_eq!(answer["status"], "success");
        assert_eq!(answer["kind"], "COUPON");
        assert_eq!(reply.header("sealgate-answer"), None, "the response is the handler's");
        let again = self.send(&event.retried()).await;
        assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
        let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
        assert_eq!(self.send(&forged).await.status, 401);
        let noted = fs::read_to_string(self.dir.path().join("events.log")).expect("noted");
        assert_eq!(noted.lines().count(), 1, "{noted}");
        assert!(noted.contains("ZJLF0399WQBEQZJM"), "{noted}");
    }
}

fn php(_: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new("php");
    command.args(["-S", &address.to_string(), "-t", "public"]);
    command
}

#[tokio::test]
async fn the_php_handler_works_unchanged() {
    let Some(_) = tool("php") else { return };
    Example::start("php", php).await.receives_authentic_events_once().await;
}

#[tokio::test]
async fn the_node_handler_works_unchanged() {
    let Some(_) = tool("node") else { return };
    let node = |_: &Path, address: SocketAddr| {
        let mut command = Command::new("node");
        command.arg("handler.js").env("PORT", address.port().to_string());
        command
    };
    Example::start("node", node).await.receives_authentic_events_once().await;
}

#[tokio::test]
async fn the_java_handler_works_unchanged() {
    let Some(_) = tool("java") else { return };
    let java = |_: &Path, address: SocketAddr| {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "Handler.java"]);
        command.env("PORT", address.port().to_string());
        command
    };
    Example::start("java", java).await.receives_authentic_events_once().await;
}

fn sealgate(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
    command.args(arguments).current_dir(dir).output().expect("the binary runs")
}

/// The walkthrough in examples/php/README.md: an event is captured, the secret is broken, and one
/// command finds the cause.
#[test]
fn one_command_diagnoses_a_broken_secret() {
    let dir = copied("php");
    let dir = dir.path();
    let signed = sealgate(&["sign", "--route", "vivoldi", "event.json"], dir);
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    let headers = String::from_utf8(signed.stdout).expect("text");
    let body = fs::read_to_string(dir.join("event.json")).expect("a body");
    let request = format!("POST /webhooks/vivoldi HTTP/1.1\nHost: a\n{headers}\n{body}");
    fs::write(dir.join("request.txt"), request).expect("written");
    let verify = ["verify", "--route", "vivoldi", "request.txt"];
    assert_eq!(sealgate(&verify, dir).status.code(), Some(0));
    fs::write(dir.join("vivoldi.secret"), format!("{SECRET} ")).expect("written");
    let verified = sealgate(&verify, dir);
    let said = String::from_utf8_lossy(&verified.stdout);
    assert_eq!(verified.status.code(), Some(1), "{said}");
    let page = fs::read_to_string(dir.join("README.md")).expect("the walkthrough");
    let shown = page.split("```").find(|block| block.contains("rejected: ")).expect("the output");
    let lines: Vec<_> = shown.lines().filter(|line| !matches!(line.trim(), "" | "…")).collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines.iter().all(|line| said.contains(line)), "{shown}\n{said}");
}
