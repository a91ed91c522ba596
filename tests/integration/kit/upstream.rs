//! An upstream on a raw socket: it records every byte and answers as it is told.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::until;

/// How the upstream answers a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// With this status, `ok` as body.
    Status(u16),
    /// With these bytes.
    Raw(Vec<u8>),
    /// With 200, once [`Upstream::release`] was called.
    Held,
    /// By closing the connection without a byte.
    Reset,
    /// Never; the connection stays open.
    Silence,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// The value of a header, if it is there exactly once.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let only = values.next();
        assert!(values.next().is_none(), "{name} came twice:\n{}", self.head);
        only
    }

    pub(crate) fn request_line(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Recorded>>,
    answers: Mutex<VecDeque<Answer>>,
    connections: Mutex<usize>,
}

/// A recording upstream; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    held: Arc<Semaphore>,
}

impl Upstream {
    /// Listens on a port that the kernel chooses, and answers 200 unless told otherwise.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener)
    }

    /// Serves a listener that exists already.
    pub(crate) fn on(listener: TcpListener) -> Self {
        let upstream = Upstream {
            address: listener.local_addr().expect("an address"),
            shared: Arc::default(),
            held: Arc::new(Semaphore::new(0)),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.shared.connections.lock().expect("not poisoned") += 1;
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        upstream
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests are answered so, one after the other; then 200 again.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.answers.lock().expect("not poisoned").extend(answers);
    }

    /// Lets one held answer go.
    pub(crate) fn release(&self) {
        self.held.add_permits(1);
    }

    /// Everything that came so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    /// The only request that came.
    pub(crate) fn only(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "exactly one request reaches the upstream");
        requests.remove(0)
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.lock().expect("not poisoned")
    }

    /// Waits until so many requests have come.
    pub(crate) async fn seen(&self, count: usize) {
        until("the upstream sees the request", || async { self.requests().len() >= count }).await;
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            self.shared.requests.lock().expect("not poisoned").push(request);
            let answer = self.shared.answers.lock().expect("not poisoned").pop_front();
            let bytes = match answer.unwrap_or(Answer::Status(200)) {
                Answer::Status(status) => status_line(status),
                Answer::Raw(bytes) => bytes,
                Answer::Held => {
                    self.held.acquire().await.expect("never closed").forget();
                    status_line(200)
                }
                Answer::Reset => return,
                Answer::Silence => std::future::pending().await,
            };
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

fn status_line(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

/// Reads one request framed by `Content-Length`, which is all that the gateway may send.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Recorded> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            assert!(buffer.is_empty(), "the gateway broke off within a head");
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let recorded = Recorded { head, body: Vec::new() };
    assert_eq!(recorded.header("transfer-encoding"), None, "{}", recorded.head);
    let length: usize = recorded
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .expect("one Content-Length of ours");
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    Some(Recorded { body, ..recorded })
}
