//! Many slow clients over TLS: each is closed in time, and genuine senders hardly notice.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use super::{ALONE, setting};
use crate::kit::{
    Connection, Event, PATIENCE, Process, Setup, Upstream, client_config, tool, until,
};

/// Number of concurrent clients, unless `SEALGATE_SLOW_CLIENTS` is set; then the deadlines are the
/// defaults, and the targets are asserted.
const CLIENTS: usize = 300;
/// The deadlines of the short run.
const LIMITS: &str = "first_request = \"1s\"\nrequest_body = \"1s\"";
/// When each must be closed, in the short run and with the default deadlines.
const CUT: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(30)];
/// How often a slow client sends something.
const DRIP: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// How long the genuine latency is measured, in the short run and in the long one.
const MEASURED: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(25)];
/// Genuine requests per second, on so many connections.
const RATE: u32 = 100;
const CONNECTIONS: u32 = 4;

#[derive(Clone, Copy)]
enum Slow {
    /// Connects and never begins its handshake.
    Handshake,
    /// Sends a head line by line and never ends it.
    Head,
    /// Sends a body byte by byte.
    Body,
}

const KINDS: [Slow; 3] = [Slow::Handshake, Slow::Head, Slow::Body];

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    drip: Duration,
}

/// Runs one slow client. Returns how long the gateway kept it.
async fn slow(target: Target, kind: Slow) -> Duration {
    let mut stream = TcpStream::connect(target.address).await.expect("the gateway listens");
    let start = Instant::now();
    let (head, drip) = match kind {
        Slow::Handshake => {
            // It ends or is reset.
            let _ = stream.read_u8().await;
            return start.elapsed();
        }
        Slow::Head => ("", &b"X-Slow: a\r\n"[..]),
        Slow::Body => ("Content-Length: 10000\r\n\r\n", &b"x"[..]),
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::clone(&target.config)).connect(name, stream).await;
    // On a busy machine, a handshake can take too long as well.
    let Ok(mut stream) = stream else { return start.elapsed() };
    let head = format!("POST /webhooks/vivoldi HTTP/1.1\r\nHost: localhost\r\n{head}");
    let mut open = stream.write_all(head.as_bytes()).await.is_ok();
    let mut buffer = [0; 1024];
    while open {
        open = match timeout(target.drip, stream.read(&mut buffer)).await {
            Ok(read) => matches!(read, Ok(1..)),
            Err(_) => stream.write_all(drip).await.is_ok() && stream.flush().await.is_ok(),
        };
    }
    start.elapsed()
}

/// Keeps so many slow clients connected until `end`; each connects again when it was closed.
/// Returns the longest time that one was kept.
async fn siege(target: Target, clients: usize, end: Instant) -> Duration {
    let mut all = JoinSet::new();
    let pause = Duration::from_secs(5) / u32::try_from(clients).expect("few clients");
    let start = Instant::now();
    for (number, kind) in (0..).zip(KINDS.into_iter().cycle().take(clients)) {
        sleep_until((start + pause * number).into()).await;
        let target = target.clone();
        all.spawn(async move {
            let mut longest = Duration::ZERO;
            while Instant::now() < end {
                longest = longest.max(slow(target.clone(), kind).await);
            }
            longest
        });
    }
    all.join_all().await.into_iter().max().expect("some clients")
}

/// Returns the sorted latencies of genuine requests, each from when it was due. Runs on its own
/// thread, so that it does not wait for the slow clients in this process.
fn genuine(address: SocketAddr, certificate: Vec<u8>, time: Duration) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut all = JoinSet::new();
        let start = Instant::now() + Duration::from_millis(200);
        for first in 0..CONNECTIONS {
            let certificate = certificate.clone();
            all.spawn(async move {
                let mut connection = Connection::tls(address, certificate).await;
                let mut times = Vec::new();
                for number in (first..).step_by(CONNECTIONS as usize) {
                    let due = start + Duration::from_secs(1) / RATE * number;
                    if due > start + time {
                        break;
                    }
                    sleep_until(due.into()).await;
                    let reply = connection.exchange(&Event::default().request()).await;
                    assert_eq!(reply.status, 200);
                    times.push(due.elapsed());
                }
                times
            });
        }
        let mut times = all.join_all().await.concat();
        times.sort_unstable();
        times
    })
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_closed_and_genuine_ones_are_served() {
    let _alone = ALONE.lock().await;
    let long = setting("SEALGATE_SLOW_CLIENTS");
    let clients = long.map_or(CLIENTS, |count| usize::try_from(count).expect("a number"));
    let mode = usize::from(long.is_some());
    let upstream = Upstream::start().await;
    let limits = if long.is_some() { "" } else { LIMITS };
    let setup = Setup::new(&upstream).section(&format!("[limits]\n{limits}"));
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let address = process.https().expect("a TLS listener");
    let certificate = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let config = Arc::new(client_config(&certificate, &[b"http/1.1"], false));
    let measure = || {
        let certificate = certificate.clone();
        let measuring = move || genuine(address, certificate, MEASURED[mode]);
        tokio::task::spawn_blocking(measuring)
    };
    let quiet = measure().await.expect("no panic");

    let before = process.memory();
    let target = Target { address, config, drip: DRIP[mode] };
    let end = Instant::now() + Duration::from_secs(6) + MEASURED[mode];
    let besieging = tokio::spawn(siege(target, clients, end));
    let there = || async {
        process.metric("sealgate_connections{listener=\"https\"}").await >= 0.9 * clients as f64
    };
    until("nearly all slow clients are connected", there).await;
    let beset = measure().await.expect("no panic");
    let grown = (process.memory() - before) as f64 / clients as f64;
    let longest = besieging.await.expect("no panic");
    let (quiet, beset) = (p99(&quiet), p99(&beset));
    eprintln!(
        "{clients} slow clients: p99 {beset:?} after {quiet:?} without them, the longest kept for \
         {longest:?}, {grown:.1} KiB each"
    );
    assert!(longest <= CUT[mode], "{longest:?}");
    assert!(grown <= 60.0, "{grown} KiB");
    // On two busy cores milliseconds mean little: the short run finds only what blocks.
    let most = if long.is_some() { 2 * quiet } else { 2 * quiet + Duration::from_millis(500) };
    assert!(beset <= most, "{beset:?} after {quiet:?}");
    let gone = || async { process.metric("sealgate_connections{listener=\"https\"}").await == 0.0 };
    until("all of them are gone", gone).await;
}

/// The tool detects when the gateway closes, and ends early when no connection is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowhttptest_keeps_no_connection() {
    let long = setting("SEALGATE_SLOW_CLIENTS");
    let clients = long.unwrap_or(100);
    let upstream = Upstream::start().await;
    let limits = if long.is_some() { "" } else { LIMITS };
    let setup = Setup::new(&upstream).section(&format!("[limits]\n{limits}"));
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let url = format!("https://{}/webhooks/vivoldi", process.https().expect("a TLS listener"));
    for attack in ["-H", "-B"] {
        let Some(mut tool) = tool("slowhttptest") else { return };
        tool.args([attack, "-u", &url, "-t", "POST", "-i", "1", "-p", "5", "-l", "120"]);
        tool.args(["-c", &clients.to_string(), "-r", "500"]);
        let start = Instant::now();
        let ended = tokio::task::spawn_blocking(move || tool.output().expect("it runs"));
        let most = PATIENCE * if long.is_some() { 4 } else { 1 };
        let output = timeout(most, ended).await.expect("all are closed in time").expect("no panic");
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!(
            "slowhttptest {attack}: all closed {:?} after the first connected",
            start.elapsed()
        );
        assert!(report.contains("No open connections left"), "{report}");
    }
    // Those with a slow body were rejected by their heads.
    let rejected =
        process.metric("sealgate_requests_total{outcome=\"rejected\",route=\"vivoldi\"}");
    assert!(rejected.await >= clients as f64, "{}", process.page().await);
}
