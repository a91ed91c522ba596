//! The test kit: a gateway in this process, an upstream that records bytes, a client that writes
//! raw bytes, and a sender with its own signing code.

mod admin;
mod authority;
mod call;
mod client;
mod front;
mod issuer;
mod key_server;
mod ledger;
mod pebble;
mod postgres;
mod process;
mod program;
mod redis;
mod relay;
mod sender;
mod upstream;

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use sealgate::internals::{config, gateway, server::Addresses};
use tempfile::TempDir;

pub(crate) use self::{
    admin::{Caller, TOKEN, VIEWER},
    authority::Authority,
    call::Call,
    client::{Connection, Http2, Reply, client_config, shake},
    front::{Front, Hello},
    issuer::{Issuer, hmac_token, key_set, unsigned_token},
    key_server::{KeyServer, Serves},
    ledger::{Entry, Ledger, Stage, ask},
    pebble::{EXTERNAL_KEY, Pebble, PebbleOptions, connect},
    postgres::Postgres,
    process::{Process, signal},
    program::{Program, free_address, free_at, tool},
    redis::{Redis, RedisCluster, WatchedRedis},
    relay::Relay,
    sender::{Event, SECRET, hmac_sha256, now_ms, sha256},
    upstream::{Answer, Hook, Recorded, Upstream},
};

/// Timeout for every wait in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Gateway in this process, with a directory for its files.
pub(crate) struct Gateway {
    running: Option<gateway::Gateway>,
    addresses: Addresses,
    pub(crate) dir: TempDir,
}

/// Default configuration: TLS and plain listeners, one `vivoldi` route.
pub(crate) struct Setup {
    server: String,
    sections: String,
    route: String,
    tls: bool,
    pub(crate) dir: TempDir,
}

impl Setup {
    /// Returns a configuration with the route `vivoldi` at `/webhooks/vivoldi` and the global
    /// [`SECRET`].
    pub(crate) fn new(upstream: &Upstream) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let route = format!(
            "[[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n",
            upstream.address()
        );
        Setup { server: String::new(), sections: String::new(), route, tls: true, dir }
    }

    /// Adds lines to `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        writeln!(self.server, "{lines}").expect("a string");
        self
    }

    /// Configures the tokens of the admin API. Call this before adding sections.
    pub(crate) fn admin_api(self) -> Self {
        self.section(&format!("token = \"{TOKEN}\"\nviewer_token = \"{VIEWER}\""))
    }

    /// Adds whole sections, before the routes.
    pub(crate) fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "{text}").expect("a string");
        self
    }

    /// Adds lines to the route, or sections after it.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        writeln!(self.route, "{lines}").expect("a string");
        self
    }

    /// Omits the TLS listener, which makes the test faster.
    pub(crate) fn plain(mut self) -> Self {
        self.tls = false;
        self
    }

    /// Replaces the upstream of the route with a TOML value.
    pub(crate) fn upstream(mut self, value: &str) -> Self {
        let line = self.route.lines().find(|line| line.starts_with("upstream = "));
        let line = line.expect("the route has an upstream").to_owned();
        self.route = self.route.replacen(&line, &format!("upstream = {value}"), 1);
        self
    }

    /// Replaces the routes.
    pub(crate) fn routes(mut self, text: &str) -> Self {
        text.clone_into(&mut self.route);
        self
    }

    /// Returns the configuration file.
    pub(crate) fn toml(&self) -> String {
        let (listen, tls) = if self.tls {
            let pair = "cert = \"tls.crt\"\nkey = \"tls.key\"\nself_signed = [\"localhost\"]";
            ("listen = \"127.0.0.1:0\"\n", format!("[[server.tls]]\n{pair}\n"))
        } else {
            ("", String::new())
        };
        format!(
            "[server]\n{listen}http_listen = \"127.0.0.1:0\"\n{}\n{tls}\
             [admin]\nlisten = \"127.0.0.1:0\"\n{}\n{}",
            self.server, self.sections, self.route
        )
    }

    /// Starts the gateway.
    pub(crate) fn start(self) -> Gateway {
        let config = parse(&self.toml(), self.dir.path());
        self.start_with(config)
    }

    /// Starts the gateway with another configuration.
    pub(crate) fn start_with(self, config: config::Config) -> Gateway {
        let running = gateway::Gateway::start(config).expect("the gateway starts");
        let addresses = running.addresses().clone();
        Gateway { running: Some(running), addresses, dir: self.dir }
    }
}

/// Parses a configuration; an invalid one fails the test.
pub(crate) fn parse(text: &str, dir: &Path) -> config::Config {
    match config::parse("gateway.toml", text, dir, &|_| None) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report}"),
    }
}

impl Gateway {
    /// Opens a TLS connection for HTTP/1.1.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::tls(self.addresses.https[0], self.certificate()).await
    }

    /// Opens a TLS connection for HTTP/2.
    pub(crate) async fn connect_http2(&self) -> Http2 {
        Http2::connect(self.addresses.https[0], self.certificate()).await
    }

    /// Opens a connection without TLS.
    pub(crate) async fn connect_plain(&self) -> Connection {
        Connection::plain(self.addresses.http[0]).await
    }

    /// Sends one event on a new TLS connection.
    pub(crate) async fn send(&self, event: &Event) -> Reply {
        self.connect().await.exchange(&event.request()).await
    }

    /// Sends one request of any sender on a new TLS connection.
    pub(crate) async fn call(&self, call: &Call) -> Reply {
        self.connect().await.exchange(&call.bytes()).await
    }

    /// Sends a request that must be rejected; returns the response and the reason in the metrics.
    pub(crate) async fn refused(&self, call: &Call) -> (Reply, String) {
        let before = self.all_rejections().await;
        let reply = self.call(call).await;
        let after = self.all_rejections().await;
        let new: Vec<_> = after.difference(&before).collect();
        assert_eq!(new.len(), 1, "one reason is counted: {new:?}\n{}", reply.head);
        let (labels, _) = new[0];
        let reason = labels.split('"').nth(1).expect("the label of the reason");
        (reply, reason.to_owned())
    }

    /// Returns the labels and the value of each rejection counter that is not 0.
    async fn all_rejections(&self) -> BTreeSet<(String, String)> {
        let page = self.admin("/metrics").await.text();
        page.lines()
            .filter_map(|line| line.strip_prefix("sealgate_rejections_total{")?.rsplit_once(' '))
            .filter(|(_, count)| *count != "0")
            .map(|(labels, count)| (labels.to_owned(), count.to_owned()))
            .collect()
    }

    /// Returns the self-signed certificate of the gateway, as PEM.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("tls.crt")).expect("the certificate was made")
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub(crate) fn running(&self) -> &gateway::Gateway {
        self.running.as_ref().expect("not drained yet")
    }

    /// Returns a caller of the admin API with the full token.
    pub(crate) fn operator(&self) -> Caller {
        Caller::with_token(self.addresses.admin[0], TOKEN)
    }

    /// Requests a path of the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> Reply {
        admin(self.addresses.admin[0], path).await
    }

    /// Returns the value of a metric with these labels, or 0 if it does not exist.
    pub(crate) async fn metric(&self, name_and_labels: &str) -> f64 {
        metric(self.addresses.admin[0], name_and_labels).await
    }

    /// Returns the number of requests of the route that were rejected for this reason.
    pub(crate) async fn rejections(&self, reason: &str) -> f64 {
        let labels = format!("{{reason=\"{reason}\",route=\"vivoldi\"}}");
        self.metric(&format!("sealgate_rejections_total{labels}")).await
    }

    /// Returns the number of requests of the route with this outcome.
    pub(crate) async fn outcomes(&self, outcome: &str) -> f64 {
        let labels = format!("{{outcome=\"{outcome}\",route=\"vivoldi\"}}");
        self.metric(&format!("sealgate_requests_total{labels}")).await
    }

    /// Starts a gateway with the same files after a drain.
    pub(crate) async fn restarted(self, toml: &str) -> Gateway {
        assert!(self.running.is_none(), "it was drained");
        let end = tokio::time::Instant::now() + PATIENCE;
        let running = loop {
            match gateway::Gateway::start(parse(toml, self.dir.path())) {
                Ok(running) => break running,
                // The threads of the first one release the files when they have ended.
                Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let addresses = running.addresses().clone();
        Gateway { running: Some(running), addresses, dir: self.dir }
    }

    /// Drains the gateway as SIGTERM does.
    pub(crate) async fn drain(&mut self) {
        self.running.take().expect("not drained yet").drain().await;
    }
}

async fn admin(address: SocketAddr, path: &str) -> Reply {
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n");
    Connection::plain(address).await.exchange(request.as_bytes()).await
}

async fn metric(address: SocketAddr, name_and_labels: &str) -> f64 {
    let page = admin(address, "/metrics").await.text();
    page.lines()
        .find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().expect("a number"))
}

/// Waits until `ready` returns true; `what` describes it.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut ready: impl FnMut() -> F) {
    let waiting = async {
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} within {PATIENCE:?}");
}

/// Runs the binary in `dir`, with empty standard input.
pub(crate) fn sealgate(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}
