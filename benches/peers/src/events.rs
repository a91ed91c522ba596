//! Signed events, created before a measurement begins. Each is unique, and sending one is a copy.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;

/// Secret of every verifying peer.
pub(crate) const SECRET: &str = "4f0c6a1de3b5927886ab13cd90ef4577";
/// Path of the route.
pub(crate) const PATH: &str = "/webhooks/vivoldi";

/// Parameters of a batch of events.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) count: usize,
    /// Length of each body, in bytes.
    pub(crate) size: usize,
    /// Whether the events are signed with another key.
    pub(crate) forged: bool,
    /// Age of the signatures, in seconds.
    pub(crate) age: u64,
}

/// Parts of a request that differ between the events of a batch.
struct Event {
    id: [u8; 32],
    request: [u8; 32],
    mac: [u8; 64],
}

/// A batch of signed events.
pub(crate) struct Events {
    head: Vec<u8>,
    id_at: usize,
    request_at: usize,
    mac_at: usize,
    body: Vec<u8>,
    events: Vec<Event>,
}

fn hex<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    HEXLOWER.encode_mut(bytes, &mut text);
    text
}

/// Returns 16 bytes that are unique on this machine.
fn unique() -> [u8; 32] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let start = u64::try_from(nanos).unwrap_or(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    hex(&[start.to_be_bytes(), number.to_be_bytes()].concat())
}

impl Events {
    /// Signs a batch with the current time.
    pub(crate) fn sign(batch: Batch) -> Self {
        let body = body(batch.size);
        let digest: [u8; 64] = hex(digest::digest(&digest::SHA256, &body).as_ref());
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let timestamp = (seconds - u128::from(batch.age) * 1000).to_string();
        let secret = if batch.forged { "another secret, not the sender's" } else { SECRET };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let events = (0..batch.count).map(|_| {
            let id = unique();
            let mut mac = hmac::Context::with_key(&key);
            for part in [timestamp.as_bytes(), b".", &id, b".", &digest] {
                mac.update(part);
            }
            Event { id, request: unique(), mac: hex(mac.sign().as_ref()) }
        });
        let events = events.collect();

        let mut head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             User-Agent: Vivoldi-Webhook/1.0\r\nAccept: */*\r\nContent-Length: {}\r\n\
             X-Vivoldi-Webhook-Type: GLOBAL\r\nX-Vivoldi-Resource-Type: URL\r\n\
             X-Vivoldi-Action-Type: NONE\r\nX-Vivoldi-Comp-Idx: 50742\r\n\
             X-Vivoldi-Timestamp: {timestamp}\r\nX-Content-SHA256: {}\r\n",
            body.len(),
            String::from_utf8_lossy(&digest),
        )
        .into_bytes();
        let mut place = |before: &str, length: usize, after: &str| {
            head.extend_from_slice(before.as_bytes());
            let at = head.len();
            head.resize(at + length, b'0');
            head.extend_from_slice(after.as_bytes());
            at
        };
        let id_at = place("X-Vivoldi-Event-Id: ", 32, "\r\n");
        let request_at = place("X-Vivoldi-Request-Id: ", 32, "\r\n");
        let signature = format!("X-Vivoldi-Signature: t={timestamp},v1=");
        let mac_at = place(&signature, 64, ",alg=hmac-sha256\r\n\r\n");
        Events { head, id_at, request_at, mac_at, body, events }
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Appends event number `index` to `out` as an HTTP request.
    pub(crate) fn write(&self, index: usize, out: &mut Vec<u8>) {
        let event = &self.events[index];
        let start = out.len();
        out.extend_from_slice(&self.head);
        let mut put = |at: usize, bytes: &[u8]| {
            out[start + at..start + at + bytes.len()].copy_from_slice(bytes);
        };
        put(self.id_at, &event.id);
        put(self.request_at, &event.request);
        put(self.mac_at, &event.mac);
        out.extend_from_slice(&self.body);
    }

    /// Returns event number `index` as a request.
    pub(crate) fn request(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(index, &mut out);
        out
    }

    /// Returns a sender's retry of the same event.
    pub(crate) fn retry(&self, index: usize) -> Vec<u8> {
        let mut out = self.request(index);
        out[self.request_at..self.request_at + 32].copy_from_slice(&unique());
        out
    }
}

/// Returns a JSON body of exactly `size` bytes, which must be at least 64.
fn body(size: usize) -> Vec<u8> {
    let mut body = br#"{"linkIdx":8213,"useCnt":1,"payloadVersion":"v1","note":""#.to_vec();
    body.resize(size.saturating_sub(2).max(body.len()), b'x');
    body.extend_from_slice(b"\"}");
    body
}
