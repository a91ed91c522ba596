//! Certificates from an ACME directory: issued, stored, renewed, and kept while the directory
//! fails.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;

use crate::kit::{
    Connection, EXTERNAL_KEY, Event, Gateway, Pebble, PebbleOptions, Setup, Upstream, connect,
    free_address, parse, until,
};

const DAY: Duration = Duration::from_secs(86_400);
const DOMAIN: &str = "hooks.example";

/// A directory whose validations reach the listeners of the setups that [`setup`] returns.
async fn directory(lifetime: Duration) -> Option<(Pebble, SocketAddr)> {
    directory_with(lifetime, false).await
}

async fn directory_with(
    lifetime: Duration,
    external_account: bool,
) -> Option<(Pebble, SocketAddr)> {
    let tls = free_address();
    let http = crate::kit::free_at(match tls.ip() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(address) => panic!("{address}"),
    });
    let options = PebbleOptions { tls, http, lifetime, external_account };
    Some((Pebble::start(&options).await?, tls))
}

/// Returns a setup with a TLS listener that gets its certificate from the directory.
fn setup(upstream: &Upstream, pebble: &Pebble, listen: SocketAddr, acme: &str) -> Setup {
    let section = format!("[server.acme]\ndomains = [\"{DOMAIN}\"]\n{}{acme}", pebble.toml());
    Setup::new(upstream).plain().server(&format!("listen = \"{listen}\"")).section(&section)
}

async fn renewals(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("sealgate_acme_renewals_total{{result=\"{result}\"}}")).await
}

async fn issued(gateway: &Gateway) {
    until("a certificate is issued", || async { renewals(gateway, "ok").await > 0.0 }).await;
}

/// Returns the certificate that the gateway presents for the domain.
async fn presented(gateway: &Gateway, root: &[u8]) -> CertificateDer<'static> {
    let stream = connect(gateway.addresses().https[0], root, DOMAIN).await.expect("a handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    chain[0].clone().into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[tokio::test]
async fn obtains_stores_and_reuses_a_certificate() {
    let Some((pebble, listen)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, &pebble, listen, "contact = [\"ops@example.com\"]").start();
    issued(&gateway).await;

    let root = pebble.root().await;
    let stream = connect(listen, &root, DOMAIN).await.expect("a handshake");
    let reply = Connection::over(stream).exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 200);
    upstream.only();
    let page = gateway.admin("/metrics").await.text();
    let gauge = |name: &str| {
        let name = format!("sealgate_tls_certificate_{name}_timestamp_seconds{{name=\"");
        let line = page.lines().find(|line| line.starts_with(&name)).expect("the gauge");
        line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")
    };
    let lifetime = gauge("expiry") - gauge("not_before");
    assert!((lifetime - 90.0 * 86_400.0).abs() < 7200.0, "{lifetime}");

    let dir = gateway.dir.path().join("data/acme");
    assert_eq!(mode(&dir), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if name.ends_with(".pem") || name.ends_with(".json") {
            assert_eq!(mode(&entry.path()), 0o600, "{name}");
            files += 1;
        }
    }
    assert_eq!(files, 2, "the account and the certificate");
    let challenges = std::fs::read_dir(dir.join("challenges")).expect("a directory");
    assert_eq!(challenges.count(), 0, "responses are withdrawn");

    // After a restart, the stored certificate is in use at once, without the directory.
    let before = presented(&gateway, &root).await;
    pebble.set_unavailable(true);
    let Gateway { dir, .. } = &gateway;
    let text = setup(&upstream, &pebble, free_address(), "").toml();
    let config = parse(&text, dir.path());
    let restarted = sealgate::internals::gateway::Gateway::start(config).expect("it starts");
    let address = restarted.addresses().https[0];
    let stream = connect(address, &root, DOMAIN).await.expect("a handshake");
    let after = stream.get_ref().1.peer_certificates().expect("a chain")[0].clone();
    assert_eq!(after, before);
    assert_eq!(pebble.orders(), 1);
}

#[tokio::test]
async fn responds_to_http_challenges() {
    let tls = free_address();
    let std::net::IpAddr::V4(ip) = tls.ip() else { panic!("{tls}") };
    let http = crate::kit::free_at(ip);
    let options = PebbleOptions { tls, http, lifetime: 90 * DAY, external_account: false };
    let Some(pebble) = Pebble::start(&options).await else { return };
    let upstream = Upstream::start().await;
    let setup = setup(&upstream, &pebble, tls, "challenge = \"http-01\"");
    let toml = setup.toml().replacen("127.0.0.1:0", &http.to_string(), 1);
    let running = sealgate::internals::gateway::Gateway::start(parse(&toml, setup.dir.path()));
    let running = running.expect("it starts");
    let root = pebble.root().await;
    until("a certificate is in use", || async { connect(tls, &root, DOMAIN).await.is_ok() }).await;
    // Without a pending challenge, the path belongs to the routes.
    let request = format!("GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    let reply = Connection::plain(http).await.exchange(request.as_bytes()).await;
    assert_eq!(reply.status, 404);
    drop(running);
}

#[tokio::test]
async fn renews_under_load_without_a_failed_handshake() {
    let Some((pebble, listen)) = directory(Duration::from_secs(6)).await else { return };
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, &pebble, listen, "").start();
    issued(&gateway).await;
    let root = pebble.root().await;
    let mut open = Connection::over(connect(listen, &root, DOMAIN).await.expect("a handshake"));
    let first = presented(&gateway, &root).await;
    let mut handshakes = 0;
    while renewals(&gateway, "ok").await < 3.0 {
        let stream = connect(listen, &root, DOMAIN).await.expect("a handshake");
        let reply = Connection::over(stream).exchange(&Event::default().request()).await;
        assert_eq!(reply.status, 200);
        handshakes += 1;
    }
    assert!(handshakes > 0);
    assert_ne!(presented(&gateway, &root).await, first);
    let reply = open.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 200, "open connections stay");
}

#[tokio::test]
async fn keeps_the_certificate_while_the_directory_fails() {
    let Some((mut pebble, listen)) = directory(Duration::from_secs(12)).await else { return };
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, &pebble, listen, "").start();
    issued(&gateway).await;
    let root = pebble.root().await;
    let first = presented(&gateway, &root).await;
    pebble.set_unavailable(true);
    until("a renewal fails", || async { renewals(&gateway, "failed").await > 0.0 }).await;
    assert_eq!(presented(&gateway, &root).await, first);
    // A directory that has lost the account gets another one.
    pebble.lose_state().await;
    pebble.set_unavailable(false);
    until("a renewal succeeds", || async { renewals(&gateway, "ok").await > 1.0 }).await;
    let root = pebble.root().await;
    assert_ne!(presented(&gateway, &root).await, first);
}

#[tokio::test]
async fn serves_other_names_while_orders_fail() {
    // Validations reach nothing.
    let Some((pebble, _)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let pair = "[[server.tls]]\ncert = \"tls.crt\"\nkey = \"tls.key\"\n\
                self_signed = [\"localhost\"]";
    let elsewhere = "127.0.0.1:0".parse().expect("an address");
    let gateway = setup(&upstream, &pebble, elsewhere, "").section(pair).start();
    until("an order fails", || async { renewals(&gateway, "failed").await > 0.0 }).await;
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    assert_eq!((pebble.orders(), pebble.issued()), (1, 0), "the next attempt waits");
}

#[tokio::test]
async fn renews_when_the_directory_asks_for_it() {
    let Some((pebble, listen)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let later = SystemTime::now() + 30 * DAY;
    pebble.set_renewal_window(later, later + DAY);
    let gateway = setup(&upstream, &pebble, listen, "").start();
    issued(&gateway).await;
    until("it asks again", || async { pebble.renewal_queries() >= 2 }).await;
    assert_eq!(pebble.issued(), 1);
    let begun = SystemTime::now() - Duration::from_secs(60);
    pebble.set_renewal_window(begun, begun + Duration::from_secs(30));
    until("a renewal", || async { renewals(&gateway, "ok").await >= 2.0 }).await;
    // The new certificate's window has begun too, which does not cause a storm of orders.
    until("it asks again", || async { pebble.renewal_queries() >= 5 }).await;
    assert_eq!(pebble.issued(), 2);
}

#[tokio::test]
async fn replicas_share_a_certificate() {
    let Some((pebble, listen)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let shared = tempfile::tempdir().expect("a directory");
    let path = format!("path = \"{}\"", shared.path().display());
    // Validations reach the first replica, whichever of them orders.
    let gateways: Vec<_> = [listen, free_address(), free_address()]
        .map(|listen| setup(&upstream, &pebble, listen, &path).start())
        .into();
    let root = pebble.root().await;
    for gateway in &gateways {
        let address = gateway.addresses().https[0];
        let ready = || async { connect(address, &root, DOMAIN).await.is_ok() };
        until("every replica has the certificate", ready).await;
    }
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn binds_accounts_to_an_external_account() {
    let Some((pebble, listen)) = directory_with(90 * DAY, true).await else { return };
    let upstream = Upstream::start().await;
    let eab = format!("eab = {{ kid = \"kid-1\", key = \"{EXTERNAL_KEY}\" }}");
    let gateway = setup(&upstream, &pebble, listen, &eab).start();
    issued(&gateway).await;
}

#[tokio::test]
async fn a_reload_adds_a_domain() {
    let Some((pebble, listen)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let setup = setup(&upstream, &pebble, listen, "");
    let toml = setup.toml();
    let gateway = setup.start();
    issued(&gateway).await;
    let root = pebble.root().await;
    let both = format!("[\"{DOMAIN}\", \"other.example\"]");
    let toml = toml.replace(&format!("[\"{DOMAIN}\"]"), &both);
    let config = parse(&toml, gateway.dir.path());
    gateway.running().reload(config).await.expect("a reload");
    assert!(connect(listen, &root, DOMAIN).await.is_ok(), "the old certificate stays");
    for name in [DOMAIN, "other.example"] {
        let ready = || async { connect(listen, &root, name).await.is_ok() };
        until("the new certificate is in use", ready).await;
    }
}

#[tokio::test]
async fn rejects_validations_while_no_challenge_is_pending() {
    let Some((pebble, listen)) = directory(90 * DAY).await else { return };
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream, &pebble, listen, "").start();
    issued(&gateway).await;
    let root = pebble.root().await;
    let config = crate::kit::client_config(&root, &[b"acme-tls/1"], false);
    let stream = tokio::net::TcpStream::connect(listen).await.expect("it listens");
    let name = rustls_pki_types::ServerName::try_from(DOMAIN).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    assert!(connector.connect(name, stream).await.is_err());
}
