//! HTTP/2 frames that no genuine client sends: each flood ends the connection and leaves no memory
//! behind.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::kit::{Event, PATIENCE, Process, Setup, Upstream, shake};

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// More frames than any flood can send.
const MANY: u32 = 200_000;
/// Memory that may remain used after a flood, in KiB.
const LEFT: i64 = 16 * 1024;
/// CPU time that five floods may take together, in a build that is not optimized.
const FLOODED: Duration = Duration::from_secs(2);
/// Streams of a client that reads no response: as many as the default allows.
const STREAMS: u32 = 32;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the head `POST https://localhost/webhooks/vivoldi` in HPACK (RFC 7541).
pub(super) fn head() -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    for (name, value) in [(0x04, "/webhooks/vivoldi"), (0x01, "localhost")] {
        block.push(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    }
    block
}

struct Client {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
}

async fn gateway(limits: &str) -> (Process, Setup) {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).section(&format!("[limits]\n{limits}"));
    (Process::start(setup.dir.path(), &setup.toml()).await, setup)
}

impl Client {
    /// Opens a connection and sends the preface with these settings.
    async fn open(process: &Process, setup: &Setup, settings: &[u8]) -> Self {
        let certificate = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
        let address = process.https().expect("a TLS listener");
        let (read, write) = split(shake(address, &certificate, b"h2").await);
        let mut client = Client { read, write };
        let settings = frame(SETTINGS, 0, 0, settings);
        client.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings.as_slice()].concat()).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.expect("the gateway reads");
        self.write.flush().await.expect("the gateway reads");
    }

    /// Sends what `flood` returns until the gateway ends the connection. Returns the code of its
    /// GOAWAY.
    async fn flood(self, flood: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Option<u32> {
        let Client { mut read, mut write } = self;
        let flooding = tokio::spawn(async move {
            for number in 0..MANY {
                if write.write_all(&flood(number)).await.is_err() {
                    return;
                }
            }
        });
        let code = timeout(PATIENCE, goaway(&mut read)).await.expect("an end in time");
        flooding.abort();
        code
    }

    /// Waits for a frame of this kind and returns its payload.
    async fn frame(&mut self, wanted: u8) -> Vec<u8> {
        let waiting = async {
            loop {
                let (kind, payload) = next(&mut self.read).await.expect("a frame");
                if kind == wanted {
                    return payload;
                }
            }
        };
        timeout(PATIENCE, waiting).await.expect("a frame in time")
    }
}

async fn next(read: &mut ReadHalf<TlsStream<TcpStream>>) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).expect("at most 2^24")];
    read.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// Returns the error code of the last GOAWAY before the connection ends.
async fn goaway(read: &mut ReadHalf<TlsStream<TcpStream>>) -> Option<u32> {
    let mut code = None;
    while let Some((kind, payload)) = next(read).await {
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().expect("four bytes")));
        }
    }
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ignores_goaway_does_not_hold_up_a_drain() {
    let upstream = Upstream::start().await;
    let mut gateway = Setup::new(&upstream)
        .server("drain = \"30s\"")
        .section("[limits]\nrequest_body = \"1s\"\nstreams = 100\nresets = 1000")
        .start();
    let stream = shake(gateway.addresses().https[0], &gateway.certificate(), b"h2").await;
    let (mut read, mut write) = split(stream);
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it reads");
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("it reads");
    // The head of an event, whose body never follows.
    let mut block = head();
    for (name, value) in Event::default().http2_request().headers() {
        block.push(0);
        for text in [name.as_str().as_bytes(), value.as_bytes()] {
            assert!(text.len() < 127, "needs a longer encoding");
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text);
        }
    }
    // Never acknowledges a PING, and opens a stream whenever one gets its response.
    write.write_all(&frame(HEADERS, END_HEADERS, 1, &block)).await.expect("it reads");
    let client = tokio::spawn(async move {
        let mut stream = 1;
        while let Some((kind, _)) = next(&mut read).await {
            if kind == HEADERS {
                stream += 2;
                let head = frame(HEADERS, END_HEADERS, stream, &block);
                if write.write_all(&head).await.is_err() {
                    return;
                }
            }
        }
    });
    let start = Instant::now();
    gateway.drain().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    timeout(PATIENCE, client).await.expect("an end in time").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_ended_with_goaway_and_leave_no_memory_behind() {
    let (process, setup) = gateway("").await;
    let (before, used) = (process.memory(), process.processor());
    let rapid_reset = |number: u32| {
        let stream = 2 * number + 1;
        let cancel = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &head()), cancel].concat()
    };
    let client = Client::open(&process, &setup, &[]).await;
    assert_eq!(client.flood(rapid_reset).await, Some(ENHANCE_YOUR_CALM), "rapid reset");

    for (name, part) in [
        ("empty CONTINUATION", Vec::new()),
        // A literal header that is not to be indexed: "a: bbb…".
        ("CONTINUATION", [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat().repeat(100)),
    ] {
        let mut client = Client::open(&process, &setup, &[]).await;
        client.send(&frame(HEADERS, 0, 1, &head())).await;
        let code = client.flood(move |_| frame(CONTINUATION, 0, 1, &part)).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
    }

    for (name, data) in [("empty DATA", Vec::new()), ("padding", vec![0])] {
        let mut client = Client::open(&process, &setup, &[]).await;
        client.send(&frame(HEADERS, END_HEADERS, 1, &head())).await;
        let padded = if data.is_empty() { 0 } else { 8 };
        let code = client.flood(move |_| frame(DATA, padded, 1, &data)).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
    }
    let (left, used) = (process.memory() - before, process.processor() - used);
    eprintln!("five floods: {used:?} of CPU time, {left} KiB left");
    assert!(left < LEFT, "{left} KiB are left");
    assert!(used < FLOODED, "{used:?} of CPU time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_that_must_be_answered_is_ended() {
    let (process, setup) = gateway("response = \"500ms\"").await;
    let before = process.memory();
    for (kind, payload) in [(PING, vec![7; 8]), (SETTINGS, vec![0, 4, 0, 0, 0xff, 0xff])] {
        // A few are responded to, and the client is served.
        let mut client = Client::open(&process, &setup, &[]).await;
        client.send(&frame(kind, 0, 0, &payload).repeat(500)).await;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head())).await;
        assert!(!client.frame(HEADERS).await.is_empty(), "a rejection");

        // Many are not, whether the client reads the responses or not.
        let client = Client::open(&process, &setup, &[]).await;
        let flood = payload.clone();
        client.flood(move |_| frame(kind, 0, 0, &flood)).await;
        let Client { read: _read, mut write } = Client::open(&process, &setup, &[]).await;
        let flood = frame(kind, 0, 0, &payload).repeat(1000);
        let flooding = async { while write.write_all(&flood).await.is_ok() {} };
        timeout(PATIENCE, flooding).await.expect("it is cut in time");
    }
    let left = process.memory() - before;
    assert!(left < LEFT, "{left} KiB are left");
}

#[tokio::test]
async fn a_client_that_makes_no_space_for_its_response_gets_goaway() {
    let (process, setup) = gateway("response = \"1s\"").await;
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut client = Client::open(&process, &setup, &[0, 4, 0, 0, 0, 0]).await;
    let before = process.memory();
    let whole = END_HEADERS | END_STREAM;
    let requests = (0..STREAMS).flat_map(|n| frame(HEADERS, whole, 2 * n + 1, &head()));
    client.send(&requests.collect::<Vec<_>>()).await;
    for _ in 0..STREAMS {
        assert!(!client.frame(HEADERS).await.is_empty(), "a rejection");
    }
    let grown = process.memory() - before;
    assert!(grown < LEFT, "{grown} KiB");
    let code = timeout(PATIENCE, goaway(&mut client.read)).await.expect("an end in time");
    assert_eq!(code, Some(NO_ERROR));
}

#[tokio::test]
async fn an_idle_client_gets_goaway() {
    let (process, setup) = gateway("first_request = \"300ms\"\nidle = \"300ms\"").await;
    let mut silent = Client::open(&process, &setup, &[]).await;
    let code = timeout(PATIENCE, goaway(&mut silent.read)).await.expect("an end in time");
    assert_eq!(code, Some(NO_ERROR), "without a request");

    let mut client = Client::open(&process, &setup, &[]).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head())).await;
    assert!(!client.frame(DATA).await.is_empty(), "a rejection");
    let code = timeout(PATIENCE, goaway(&mut client.read)).await.expect("an end in time");
    assert_eq!(code, Some(NO_ERROR), "after a request");
}
