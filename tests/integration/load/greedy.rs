//! The cost of one client that sends as much as it may and never finishes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ALONE, setting};
use crate::kit::{Event, Process, Setup, Upstream, client_config, until};

/// Number of clients of each kind, unless `SEALGATE_GREEDY_CLIENTS` is set.
const CLIENTS: usize = 500;
/// Maximum cost of each, in KiB, without optimization.
const MOST: f64 = 68.0;
/// Maximum cost of a client that is idle after a response, in KiB, without optimization.
const MOST_IDLE: f64 = 30.0;

const START: &[u8] = b"POST /webhooks/vivoldi HTTP/1.1\r\nHost: localhost\r\n";
const UNROUTED: &[u8] = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The behavior of a client.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Connects and sends nothing.
    Mute,
    /// Finishes the handshake and sends nothing.
    Silent,
    /// Has had a response, and sends nothing more.
    Idle,
    /// Sends a head up to its limit, in pieces of so many bytes, each in its own TLS record.
    Head { length: usize, piece: usize },
    /// The same in the body.
    Body { length: usize, piece: usize },
}

const KINDS: [Kind; 8] = [
    Kind::Mute,
    Kind::Silent,
    Kind::Idle,
    Kind::Head { length: 2_000, piece: 1 },
    Kind::Head { length: 32_000, piece: 500 },
    Kind::Head { length: 32_000, piece: 16_000 },
    Kind::Body { length: 2_000, piece: 1 },
    Kind::Body { length: 16_000, piece: 500 },
];

type Client = (Option<TcpStream>, Option<TlsStream<TcpStream>>);

/// Connects one client, which stays until the returned value is dropped.
async fn client(process: Arc<Process>, config: Arc<ClientConfig>, kind: Kind) -> Client {
    let address = process.https().expect("a TLS listener");
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    if matches!(kind, Kind::Mute) {
        return (Some(stream), None);
    }
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
    let (start, length, piece) = match kind {
        Kind::Mute | Kind::Silent => return (None, Some(stream)),
        Kind::Idle => {
            stream.write_all(UNROUTED).await.expect("the gateway reads");
            stream.flush().await.expect("the gateway reads");
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") && !answer.ends_with(b"}\n") {
                stream.read_buf(&mut answer).await.expect("an answer");
            }
            return (None, Some(stream));
        }
        Kind::Head { length, piece } => (START.to_vec(), length - START.len(), piece),
        Kind::Body { length, piece } => {
            // Without plausible headers, the head alone would be rejected.
            let lines = Event::default().header_lines().join("\r\n");
            let rest = format!("{lines}\r\nContent-Length: {}\r\n\r\n", length + 1);
            ([START, rest.as_bytes()].concat(), length, piece)
        }
    };
    let line = [b"X-Greedy: ".as_slice(), &[b'a'; 388], b"\r\n"].concat();
    let mut rest = line.repeat(length / line.len() + 1);
    rest.truncate(length);
    for piece in [start.as_slice()].into_iter().chain(rest.chunks(piece)) {
        stream.write_all(piece).await.expect("the gateway reads");
        stream.flush().await.expect("the gateway reads");
    }
    (None, Some(stream))
}

/// Returns the cost of a client, in KiB.
async fn cost(clients: usize, kind: Kind) -> f64 {
    let upstream = Upstream::start().await;
    let times =
        ["first_request", "head", "request_body", "idle"].map(|key| format!("{key} = \"1h\"\n"));
    let setup = Setup::new(&upstream).section(&format!("[limits]\n{}", times.concat()));
    let process = Arc::new(Process::start(setup.dir.path(), &setup.toml()).await);
    let certificate = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let config = Arc::new(client_config(&certificate, &[b"http/1.1"], false));
    // The process keeps what the first ones cost.
    let _first = here(&process, &config, kind, clients / 10).await;
    let before = process.memory();
    let _others = here(&process, &config, kind, clients).await;
    let read = || async { unread(&process) == 0 };
    until("the gateway has read everything", read).await;
    let connections = process.metric("sealgate_connections{listener=\"https\"}").await;
    assert_eq!(connections, (clients + clients / 10) as f64, "no client was closed");
    if matches!(kind, Kind::Idle) {
        settled(&process).await;
    }
    (process.memory() - before) as f64 / clients as f64
}

/// Waits until the gateway's memory no longer falls.
async fn settled(process: &Process) {
    let lowest = std::cell::Cell::new((process.memory(), Instant::now()));
    let same = || async {
        let now = process.memory();
        if now < lowest.get().0 {
            lowest.set((now, Instant::now()));
        }
        lowest.get().1.elapsed() > Duration::from_secs(2)
    };
    until("memory no longer falls", same).await;
}

/// Connects so many clients.
async fn here(
    process: &Arc<Process>,
    config: &Arc<ClientConfig>,
    kind: Kind,
    clients: usize,
) -> Vec<Client> {
    let mut coming = JoinSet::new();
    let mut here = Vec::new();
    for _ in 0..clients {
        if coming.len() >= 16 {
            here.extend(coming.join_next().await);
        }
        coming.spawn(client(Arc::clone(process), Arc::clone(config), kind));
    }
    let mut all: Vec<_> = here.into_iter().map(|came| came.expect("no panic")).collect();
    all.extend(coming.join_all().await);
    all
}

/// Returns how many bytes the gateway has not read from its sockets.
fn unread(process: &Process) -> u64 {
    let port = format!(":{:04X}", process.https().expect("a TLS listener").port());
    process
        .proc("net/tcp")
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let queues = fields.get(4)?.split_once(':')?;
            fields.get(1)?.ends_with(&port).then(|| u64::from_str_radix(queues.1, 16).ok())?
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_client_costs_little() {
    let _alone = ALONE.lock().await;
    let clients = setting("SEALGATE_GREEDY_CLIENTS")
        .map_or(CLIENTS, |count| usize::try_from(count).expect("a number of clients"));
    let mut costs = Vec::new();
    for kind in KINDS {
        let cost = cost(clients, kind).await;
        eprintln!("{cost:6.1} KiB per client: {kind:?}");
        costs.push((kind, cost));
    }
    for (kind, cost) in costs {
        let most = match kind {
            Kind::Idle => MOST_IDLE,
            Kind::Mute | Kind::Silent | Kind::Head { .. } | Kind::Body { .. } => MOST,
        };
        assert!(cost <= most, "{cost} KiB: {kind:?}");
    }
}
