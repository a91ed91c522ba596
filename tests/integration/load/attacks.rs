//! Attacks by clients that can authenticate nothing, or only events of their own route: genuine
//! events are served anyway. The attackers have several source addresses on loopback.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    ALONE,
    frames::{END_HEADERS, HEADERS, SETTINGS, frame, head},
    setting,
};
use crate::kit::{
    Answer, Connection, Event, Process, SECRET, Setup, Upstream, client_config, until,
};

/// How long each attack is measured in the short run, in seconds; `SEALGATE_ATTACK_SECONDS` runs
/// the attacks against the default limits for so many seconds, and asserts the target for latency.
const SECONDS: u64 = 3;
/// Genuine events per second.
const RATE: u32 = 50;
/// Each so many-th genuine event comes over a new connection.
const NEW_CONNECTION: u32 = 5;
/// The attackers' addresses are 127.0.0.2 and the following ones.
const ADDRESSES: usize = 12;
/// How long a client that was closed waits until it connects again: these attacks are not floods.
const PAUSE: Duration = Duration::from_millis(500);
const OTHER_SECRET: &str = "another-secret-of-the-tests";

#[derive(Clone, Copy, Debug)]
enum Attack {
    /// HTTP/2 connections with as many open requests as they may have.
    Streams,
    /// Bodies that are nearly complete.
    Bodies,
    /// Idle connections after a 404.
    Idle,
    /// Authentic events of a route whose upstream does not respond.
    SlowUpstream,
}

impl Attack {
    /// Returns the number of clients and the limits, in the short run or the long one.
    fn scale(self, long: bool) -> (usize, &'static str) {
        match (self, long) {
            (Attack::Streams, false) => (20, "requests = 100\nmemory = \"2MiB\"\nbody = \"64KiB\""),
            (Attack::Streams, true) => (1000, ""),
            (Attack::Bodies, false) => (24, "memory = \"4MiB\"\nbody = \"512KiB\""),
            (Attack::Bodies, true) => (200, ""),
            (Attack::Idle, false) => (300, "connections = 200"),
            (Attack::Idle, true) => (10_500, ""),
            (Attack::SlowUpstream, false) => (100, "requests = 100"),
            (Attack::SlowUpstream, true) => (2000, ""),
        }
    }
}

struct Target {
    http: SocketAddr,
    https: SocketAddr,
    tls: Arc<ClientConfig>,
    /// The length of a body that is not finished.
    body: usize,
}

async fn dial(from: usize, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(2 + from % ADDRESSES).expect("a few addresses");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    socket.connect(to).await
}

/// Attacks until it is aborted; a client that is closed connects again.
async fn attacker(attack: Attack, target: Arc<Target>, number: usize) {
    loop {
        // However it ends, the next attempt follows.
        let _ = match attack {
            Attack::Streams => streams(&target, number).await,
            Attack::Bodies => body(&target, number).await,
            Attack::Idle => idle(&target, number).await,
            Attack::SlowUpstream => slow_upstream(&target, number).await,
        };
        sleep(PAUSE).await;
    }
}

/// Returns the head of an HTTP/2 request that is rejected only when its body is there.
fn plausible_head() -> Vec<u8> {
    let mut block = head();
    for line in Event::default().header_lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        block.push(0);
        for text in [name.to_ascii_lowercase().as_str(), value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

async fn streams(target: &Target, number: usize) -> io::Result<()> {
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = dial(number, target.https).await?;
    let stream = TlsConnector::from(Arc::clone(&target.tls)).connect(name, stream).await?;
    let (mut read, mut write) = split(stream);
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let (mut buffer, head) = ([0; 4096], plausible_head());
    for round in 0.. {
        let requests =
            (0..32).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * (32 * round + n) + 1, &head));
        write.write_all(&requests.collect::<Vec<_>>()).await?;
        write.flush().await?;
        let end = Instant::now() + 2 * PAUSE;
        while let Ok(read) = timeout(end - Instant::now(), read.read(&mut buffer)).await {
            if read? == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn body(target: &Target, number: usize) -> io::Result<()> {
    let mut stream = dial(number, target.http).await?;
    let length = target.body;
    let head = "POST /webhooks/vivoldi HTTP/1.1\r\nHost: localhost\r\n";
    let lines = Event::default().header_lines().join("\r\n");
    let head = format!("{head}{lines}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&vec![b'x'; length - 100]).await?;
    drain(&mut stream).await
}

async fn idle(target: &Target, number: usize) -> io::Result<()> {
    let mut stream = dial(number, target.http).await?;
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    drain(&mut stream).await
}

async fn slow_upstream(target: &Target, number: usize) -> io::Result<()> {
    let mut stream = dial(number, target.http).await?;
    let mut buffer = [0; 4096];
    loop {
        let path = "/webhooks/slow".to_owned();
        let event = Event { path, secret: OTHER_SECRET.to_owned(), ..Event::default() };
        stream.write_all(&event.request()).await?;
        if stream.read(&mut buffer).await? == 0 {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// Reads until the gateway closes.
async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// The result of genuine events, and the 99th percentile of the times of those that were served.
#[derive(Debug)]
struct Served {
    sent: usize,
    served: usize,
    p99: Duration,
}

/// Sends genuine events on their own thread, so that they do not wait for the attackers.
async fn genuine(address: SocketAddr, time: Duration) -> Served {
    let measuring = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(send_events(address, time))
    };
    tokio::task::spawn_blocking(measuring).await.expect("no panic")
}

async fn send_events(address: SocketAddr, time: Duration) -> Served {
    let start = Instant::now();
    let count = RATE * u32::try_from(time.as_secs()).expect("a short time");
    let mut all = JoinSet::new();
    const SENDERS: u32 = 4;
    for first in 0..SENDERS {
        all.spawn(async move {
            let mut times = Vec::new();
            let mut kept: Option<Connection> = None;
            for number in (first..count).step_by(SENDERS as usize) {
                let due = start + Duration::from_secs(1) / RATE * number;
                sleep_until(due.into()).await;
                let reused =
                    kept.take().filter(|_| !(number / SENDERS).is_multiple_of(NEW_CONNECTION));
                let mut connection = match reused {
                    Some(connection) => connection,
                    None => Connection::plain(address).await,
                };
                connection.write(&Event::default().request()).await;
                let reply = connection.read().await;
                if reply.is_some_and(|reply| reply.status == 200) {
                    times.push(due.elapsed());
                    kept = Some(connection);
                }
            }
            times
        });
    }
    let mut times = all.join_all().await.concat();
    times.sort_unstable();
    let p99 = times.get(times.len().saturating_sub(1) * 99 / 100).copied();
    let sent = usize::try_from(count).expect("a small number");
    Served { sent, served: times.len(), p99: p99.unwrap_or_default() }
}

async fn withstands(attack: Attack) {
    let _alone = ALONE.lock().await;
    let long = setting("SEALGATE_ATTACK_SECONDS");
    let time = Duration::from_secs(long.unwrap_or(SECONDS));
    let (clients, limits) = attack.scale(long.is_some());
    let (upstream, silent) = (Upstream::start().await, Upstream::start().await);
    silent.answer(std::iter::repeat_n(Answer::Silence, 100_000));
    let slow = format!(
        "answer_within = \"1s\"\n[[route]]\nname = \"slow\"\npath = \"/webhooks/slow\"\n\
         scheme = \"vivoldi\"\nupstream = \"http://{}\"\nsecret = \"{OTHER_SECRET}\"\n\
         answer_within = \"1s\"",
        silent.address()
    );
    let setup = Setup::new(&upstream).section(&format!("[limits]\n{limits}")).route(&slow);
    assert!(setup.toml().contains(SECRET));
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let quiet = genuine(process.http(), time.min(Duration::from_secs(10))).await;
    let certificate = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let target = Arc::new(Target {
        http: process.http(),
        https: process.https().expect("a TLS listener"),
        tls: Arc::new(client_config(&certificate, &[b"h2"], false)),
        body: if long.is_some() { 1 << 20 } else { 512 << 10 },
    });
    let mut attackers = JoinSet::new();
    for number in 0..clients {
        attackers.spawn(attacker(attack, Arc::clone(&target), number));
    }
    let shed = || async {
        let page = process.page().await;
        let shed = page.lines().filter(|line| line.starts_with("sealgate_shed_total{"));
        shed.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    until("the capacity is exhausted", || async { shed().await > 0.0 }).await;
    let beset = genuine(process.http(), time).await;
    eprintln!("{attack:?} by {clients} clients: {beset:?} after {quiet:?}; shed {}", shed().await);
    assert!(beset.served * 100 >= beset.sent * 99, "{beset:?}");
    // On two busy cores milliseconds mean little: the short run finds only what blocks.
    let most = if long.is_some() { Duration::ZERO } else { Duration::from_millis(500) };
    assert!(beset.p99 <= 2 * quiet.p99 + most, "{beset:?} after {quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_keep_no_event_out() {
    withstands(Attack::Streams).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_keep_no_event_out() {
    withstands(Attack::Bodies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_no_event_out() {
    withstands(Attack::Idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upstream_keeps_no_event_of_another_route_out() {
    withstands(Attack::SlowUpstream).await;
}

#[tokio::test]
async fn copies_of_an_event_keep_no_event_out() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).section("[limits]\nconnections = 32");
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let captured = Event::default().request();
    let first = Connection::plain(process.http()).await.exchange(&captured).await;
    assert_eq!(first.status, 200);
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    for number in 0..40 {
        let Ok(mut stream) = dial(number, process.http()).await else { continue };
        // A connection that was closed for another one has no response.
        if stream.write_all(&captured).await.is_ok() {
            let _ = stream.read(&mut buffer).await;
            held.push(stream);
        }
    }
    let event = Event::default().request();
    let reply = Connection::plain(process.http()).await.exchange(&event).await;
    assert_eq!(reply.status, 200, "no copy holds a connection");
}
