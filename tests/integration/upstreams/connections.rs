//! One response after the other on connections to an upstream: what becomes of each, and whether
//! its connection serves the next request.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kit::{Event, Gateway, Setup, Upstream};

/// How a response is written.
#[derive(Clone, Copy, Debug)]
enum Manner {
    AtOnce,
    /// Byte by byte, with time between them.
    Slowly,
    /// At once, and then the connection is closed.
    ThenClose,
}

use self::Manner::{AtOnce, Slowly, ThenClose};

/// Whether the connection serves the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Kept,
    Closed,
}

use self::After::{Closed, Kept};

type Planned = (Vec<u8>, Manner);

/// An upstream that writes the planned responses, and `418` with `next` to every other request.
#[derive(Clone, Default)]
struct Raw {
    planned: Arc<Mutex<VecDeque<Planned>>>,
    connections: Arc<AtomicUsize>,
}

impl Raw {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let raw = Raw::default();
        let serving = raw.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (raw, address)
    }

    fn plan(&self, bytes: &[u8], manner: Manner) {
        self.planned.lock().expect("not poisoned").push_back((bytes.to_vec(), manner));
    }

    /// Returns the number of connections since the last call.
    fn connections(&self) -> usize {
        self.connections.swap(0, Ordering::SeqCst)
    }

    async fn serve(self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("a socket");
        while request(&mut stream).await.is_some() {
            let next = self.planned.lock().expect("not poisoned").pop_front();
            let (bytes, manner) = next.unwrap_or_else(|| {
                (b"HTTP/1.1 418 x\r\nContent-Length: 4\r\n\r\nnext".to_vec(), AtOnce)
            });
            let pieces =
                bytes.chunks(if matches!(manner, Slowly) { 1 } else { bytes.len().max(1) });
            for piece in pieces {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                if matches!(manner, Slowly) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            if matches!(manner, ThenClose) {
                return;
            }
        }
    }
}

/// Reads one request to its end; `None` at the end of the connection.
async fn request(stream: &mut TcpStream) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.expect("a length").trim().parse().expect("a number");
    while bytes.len() < head + length {
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    assert_eq!(bytes.len(), head + length, "nothing is sent before the response");
    Some(())
}

async fn start() -> (Raw, Gateway) {
    let (raw, address) = Raw::start().await;
    let unused = Upstream::start().await;
    let limits = "upstream_idle = \"20s\"
upstream_body = \"1KiB\"
upstream_head = \"8KiB\"";
    let gateway = Setup::new(&unused)
        .plain()
        .upstream(&format!("\"http://{address}\""))
        .section(&format!(
            "[limits]
{limits}"
        ))
        .start();
    (raw, gateway)
}

/// Responses (`|` is a line end) with the status and the body that the sender sees.
fn cases() -> Vec<(String, Manner, u16, &'static str, After)> {
    let ok = "HTTP/1.1 200 OK|";
    let chunked = "HTTP/1.1 200 OK|Transfer-Encoding: chunked||";
    let long = "x".repeat(2000);
    let fixed: &[(&str, &str, Manner, u16, &str, After)] = &[
        // A length.
        (ok, "Content-Length: 2||ok", AtOnce, 200, "ok", Kept),
        (ok, "Content-Length: 2||ok", Slowly, 200, "ok", Kept),
        (ok, "Content-Length: 2||ok", ThenClose, 200, "ok", Closed),
        (ok, "Content-Length: 0||", AtOnce, 200, "", Kept),
        (ok, "Content-Length: 2|Content-Length: 2||ok", AtOnce, 200, "ok", Kept),
        (ok, "Content-Length: 2, 2||ok", AtOnce, 200, "ok", Kept),
        (ok, "Connection: close|Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
        ("HTTP/1.0 200 OK|", "Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
        (
            "HTTP/1.0 200 OK|",
            "Connection: keep-alive|Content-Length: 2||ok",
            AtOnce,
            200,
            "ok",
            Kept,
        ),
        ("HTTP/1.1 503 x|", "Content-Length: 4||down", AtOnce, 503, "down", Kept),
        ("HTTP/1.1 302 x|", "Location: /|Content-Length: 2||ok", AtOnce, 502, "", Kept),
        (ok, "Content-Length: 3||ok", ThenClose, 502, "", Closed),
        (ok, "Content-Length: 2, 3||okk", AtOnce, 502, "", Closed),
        (ok, "Content-Length: two||ok", AtOnce, 502, "", Closed),
        (ok, "Content-Length: 99999999999999999999||ok", AtOnce, 502, "", Closed),
        // Until the end of the connection.
        (ok, "|until the end", ThenClose, 200, "until the end", Closed),
        (ok, "Connection: keep-alive||until the end", ThenClose, 200, "until the end", Closed),
        ("HTTP/1.0 500 x|", "|until the end", ThenClose, 500, "until the end", Closed),
        // No body.
        ("HTTP/1.1 204 x|", "|", AtOnce, 200, "", Kept),
        ("HTTP/1.1 204 x|", "Content-Length: 2||", AtOnce, 200, "", Closed),
        ("HTTP/1.1 204 x|", "Content-Length: 2||ok", AtOnce, 200, "", Closed),
        ("HTTP/1.1 304 x|", "Content-Length: 2||", AtOnce, 502, "", Kept),
        // Chunks.
        (chunked, "2|ok|0||", AtOnce, 200, "ok", Kept),
        (chunked, "1|o|1|k|0||", Slowly, 200, "ok", Kept),
        (chunked, "2;a=\"b\"|ok|0;c||", AtOnce, 200, "ok", Kept),
        (chunked, "2|ok|0|Trailer: 1|Sealgate-Answer: forged||", AtOnce, 200, "ok", Kept),
        (ok, "Transfer-Encoding: chunked|Content-Length: 5||2|ok|0||", AtOnce, 200, "ok", Closed),
        (chunked, "2|okay|0||", AtOnce, 502, "", Closed),
        (chunked, "0x2|ok|0||", AtOnce, 502, "", Closed),
        (chunked, "-2|ok|0||", AtOnce, 502, "", Closed),
        (chunked, "2\nok|0||", AtOnce, 502, "", Closed),
        (chunked, "ffffffffffffffffff|ok|0||", AtOnce, 502, "", Closed),
        (chunked, "2|ok|0|", ThenClose, 200, "ok", Closed),
        (chunked, "2|ok|", ThenClose, 502, "", Closed),
        (ok, "Transfer-Encoding: gzip, chunked||2|ok|0||", AtOnce, 502, "", Closed),
        (ok, "Transfer-Encoding: chunked, chunked||2|ok|0||", AtOnce, 200, "ok", Closed),
        ("HTTP/1.0 200 OK|", "Transfer-Encoding: chunked||2|ok|0||", AtOnce, 200, "ok", Closed),
        // Interim responses.
        ("HTTP/1.1 100 x||HTTP/1.1 200 x|", "Content-Length: 2||ok", AtOnce, 200, "ok", Kept),
        (
            "HTTP/1.1 103 x|Link: a||HTTP/1.1 202 x|",
            "Content-Length: 2||ok",
            Slowly,
            200,
            "ok",
            Kept,
        ),
        ("HTTP/1.1 100 x||", "|", ThenClose, 502, "", Closed),
        ("HTTP/1.1 101 x|", "Upgrade: x||", AtOnce, 502, "", Closed),
        // More than a response.
        (ok, "Content-Length: 2||okHTTP/1.1 200 OK|Content-Length: 0||", AtOnce, 200, "ok", Closed),
        (ok, "Content-Length: 2||ok|", AtOnce, 200, "ok", Closed),
        (chunked, "2|ok|0||0||", AtOnce, 200, "ok", Closed),
        ("HTTP/1.1 204 x|", "|!", AtOnce, 200, "", Closed),
        // Unusual and invalid heads.
        ("", "", ThenClose, 502, "", Closed),
        ("nonsense", "", AtOnce, 502, "", Closed),
        ("|HTTP/1.1 200 OK|", "Content-Length: 2||ok", AtOnce, 200, "ok", Kept),
        ("HTTP/1.2 200 OK|", "Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
        ("HTTP/1.1 2x0 OK|", "Content-Length: 2||ok", AtOnce, 502, "", Closed),
        (ok, "A: 1| folded|Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
        (ok, "A: 1\rB: 2|Content-Length: 2||ok", AtOnce, 502, "", Closed),
        (ok, "A\0: 1|Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
        (ok, "A : 1|Content-Length: 2||ok", AtOnce, 200, "ok", Closed),
    ];
    let case = |(start, rest, manner, status, body, after): &(_, _, _, _, _, _)| {
        (format!("{start}{rest}"), *manner, *status, *body, *after)
    };
    let mut cases: Vec<_> = fixed.iter().map(case).collect();
    // Too long: a body is omitted, a head is rejected.
    cases.push((format!("{ok}Content-Length: 2000||{long}"), AtOnce, 200, "", Closed));
    cases.push((format!("{chunked}7d0|{long}|0||"), AtOnce, 200, "", Closed));
    cases.push((format!("{ok}|{long}"), ThenClose, 200, "", Closed));
    cases.push((
        format!("{ok}A: {long}{long}{long}{long}{long}|Content-Length: 0||"),
        AtOnce,
        502,
        "",
        Closed,
    ));
    let lines = "A: 1|".repeat(200);
    cases.push((format!("{ok}{lines}Content-Length: 2||ok"), AtOnce, 200, "ok", Kept));
    cases
}

#[tokio::test]
async fn responses_do_not_mix_and_connections_are_reused_only_after_a_clear_end() {
    let (raw, gateway) = start().await;
    let cases = cases();
    assert!(cases.len() > 50);
    for (response, manner, status, body, after) in cases {
        let shown = format!("{:?} {manner:?}", &response[..response.len().min(90)]);
        // One thread and therefore one pool: both events use one upstream connection.
        let mut connection = gateway.connect_plain().await;
        let warm = connection.exchange(&Event::default().request()).await;
        assert_eq!((warm.status, warm.text().as_str()), (418, "next"), "before {shown}");
        raw.connections();
        raw.plan(response.replace('|', "\r\n").as_bytes(), manner);
        let reply = connection.exchange(&Event::default().request()).await;
        let seen = if status == 502 { String::new() } else { reply.text() };
        assert_eq!((reply.status, seen.as_str()), (status, body), "{shown}");
        assert_eq!(raw.connections(), 0, "the connection of before is used: {shown}");
        let next = connection.exchange(&Event::default().request()).await;
        assert_eq!((next.status, next.text().as_str()), (418, "next"), "after {shown}");
        let opened = if after == Kept { 0 } else { 1 };
        assert_eq!(raw.connections(), opened, "after {shown}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let (raw, gateway) = start().await;
    let mut connection = gateway.connect_plain().await;
    for _ in 0..50 {
        raw.plan(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ThenClose);
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    }
    assert_eq!(raw.connections(), 50);
    assert_eq!(gateway.outcomes("forwarded").await, 50.0);
}

#[tokio::test]
async fn long_bodies_are_complete() {
    let (raw, gateway) = start().await;
    let mut connection = gateway.connect_plain().await;
    for length in [1, 1 << 10, 1 << 14, (1 << 18) + 1, 1 << 20] {
        let reply = connection.exchange(&Event::new(&vec![b'x'; length]).request()).await;
        assert_eq!(reply.status, 418, "{length}");
    }
    assert_eq!(raw.connections(), 1);
}
