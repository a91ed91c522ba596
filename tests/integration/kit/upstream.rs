//! An upstream on a raw socket that records every byte and has programmable responses.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{Entry, Ledger, until};

/// Function that the upstream calls after a response.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn() + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Hook(Arc::new(hook))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Response plan of an upstream with a ledger: a function of the event and of how often it has
/// arrived.
type Plan = Arc<dyn Fn(&str, usize) -> Answer + Send + Sync>;

/// Response to a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This status with the body `ok`.
    Status(u16),
    /// These raw bytes.
    Raw(Vec<u8>),
    /// 200 after [`Upstream::release`] was called.
    Held,
    /// Closes the connection without a byte.
    Reset,
    /// No response; the connection stays open.
    Silence,
    /// This status, after the ledger has this number of requests for the event.
    Gathered(usize, u16),
    /// This status; then calls the hook.
    Then(u16, Hook),
}

/// Request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// Returns the value of a header; fails if the header is present more than once.
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
    open: Mutex<usize>,
}

/// Recording upstream; stops with the test's runtime.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    held: Arc<Semaphore>,
    ledger: Option<(Ledger, Plan)>,
}

impl Upstream {
    /// Listens on a free port. The default response is 200.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener)
    }

    /// Serves an existing listener.
    pub(crate) fn on(listener: TcpListener) -> Self {
        Self::serve_all(listener, None)
    }

    /// Starts an upstream with a ledger and a response plan.
    pub(crate) async fn keeping(
        ledger: &Ledger,
        plan: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve_all(listener, Some((ledger.clone(), Arc::new(plan))))
    }

    fn serve_all(listener: TcpListener, ledger: Option<(Ledger, Plan)>) -> Self {
        let upstream = Upstream {
            address: listener.local_addr().expect("an address"),
            shared: Arc::default(),
            held: Arc::new(Semaphore::new(0)),
            ledger,
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.shared.connections.lock().expect("not poisoned") += 1;
                *serving.shared.open.lock().expect("not poisoned") += 1;
                let serving = serving.clone();
                tokio::spawn(async move {
                    serving.serve(stream).await;
                    *serving.shared.open.lock().expect("not poisoned") -= 1;
                });
            }
        });
        upstream
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the responses to the next requests, in order. Later requests get 200.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.answers.lock().expect("not poisoned").extend(answers);
    }

    /// Releases one held response.
    pub(crate) fn release(&self) {
        self.held.add_permits(1);
    }

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    /// Returns the only request; fails if there is not exactly one.
    pub(crate) fn only(&self) -> Recorded {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "exactly one request reaches the upstream");
        requests.remove(0)
    }

    /// Returns the number of connections that were opened.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.lock().expect("not poisoned")
    }

    /// Waits until `count` requests have arrived.
    pub(crate) async fn seen(&self, count: usize) {
        until("the upstream sees the request", || async { self.requests().len() >= count }).await;
    }

    /// Waits until no connection is open, which means that everything has been read.
    pub(crate) async fn deserted(&self) {
        let none = || async { *self.shared.open.lock().expect("not poisoned") == 0 };
        until("the upstream has no connection", none).await;
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let keep_alive = match &self.ledger {
                Some(ledger) => self.keep(ledger, &request, &mut stream).await,
                None => self.answer_one(request, &mut stream).await,
            };
            if !keep_alive {
                return;
            }
        }
    }

    /// Responds to one request. Returns `false` if the connection must be closed.
    async fn answer_one(&self, request: Recorded, stream: &mut TcpStream) -> bool {
        self.shared.requests.lock().expect("not poisoned").push(request);
        let answer = self.shared.answers.lock().expect("not poisoned").pop_front();
        let bytes = match answer.unwrap_or(Answer::Status(200)) {
            Answer::Status(status) | Answer::Gathered(_, status) => status_line(status),
            Answer::Raw(bytes) => bytes,
            Answer::Held => {
                self.held.acquire().await.expect("never closed").forget();
                status_line(200)
            }
            Answer::Reset => return false,
            Answer::Silence => std::future::pending().await,
            Answer::Then(status, hook) => {
                let written = stream.write_all(&status_line(status)).await.is_ok();
                (hook.0)();
                return written;
            }
        };
        stream.write_all(&bytes).await.is_ok()
    }

    /// Responds to one request according to the plan and records it. Returns `false` if the
    /// connection must be closed.
    async fn keep(
        &self,
        (ledger, plan): &(Ledger, Plan),
        request: &Recorded,
        stream: &mut TcpStream,
    ) -> bool {
        let event = request.header("sealgate-event-id").expect("every event has an id");
        let marked = request.header("sealgate-possible-duplicate").is_some();
        let count = ledger.forwarded(event, marked);
        let (status, hook) = match plan(event, count) {
            Answer::Status(status) => (status, None),
            Answer::Gathered(copies, status) => {
                ledger.gathered(event, copies).await;
                (status, None)
            }
            Answer::Held => {
                self.held.acquire().await.expect("never closed").forget();
                (200, None)
            }
            Answer::Then(status, hook) => (status, Some(hook)),
            Answer::Reset => {
                ledger.answered(event, Entry::BrokenOff, || ());
                return false;
            }
            Answer::Silence => {
                // Wait until the gateway closes the connection.
                let _ = stream.read_u8().await;
                ledger.answered(event, Entry::BrokenOff, || ());
                return false;
            }
            Answer::Raw(_) => panic!("no plan of a ledger has this"),
        };
        let answer = status_line(status);
        let alive = ledger.answered(event, Entry::Answered(status), || {
            // The response fits into the socket's buffer. A gateway that is gone does not fail the
            // test.
            let _ = stream.try_write(&answer);
        });
        hook.into_iter().for_each(|hook| (hook.0)());
        alive
    }
}

fn status_line(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

/// Reads one request framed by `Content-Length`, the only framing that the gateway uses.
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
