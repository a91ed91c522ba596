//! An upstream on a raw socket: it records every byte and answers as it is told.

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

/// Called by the upstream at a chosen moment.
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

/// How an upstream that keeps a ledger answers: by the event, and how often it has come by now.
type Plan = Arc<dyn Fn(&str, usize) -> Answer + Send + Sync>;

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
    /// With this status, once so many requests for the event were sent, by the ledger.
    Gathered(usize, u16),
    /// With this status; then the hook is called.
    Then(u16, Hook),
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
    open: Mutex<usize>,
}

/// A recording upstream; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    held: Arc<Semaphore>,
    ledger: Option<(Ledger, Plan)>,
}

impl Upstream {
    /// Listens on a port that the kernel chooses, and answers 200 unless told otherwise.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener)
    }

    /// Serves a listener that exists already.
    pub(crate) fn on(listener: TcpListener) -> Self {
        Self::serve_all(listener, None)
    }

    /// Keeps a ledger, and answers by a plan: it is given the event and how often it has come.
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

    /// Waits until no connection is open: everything that was sent has been read.
    pub(crate) async fn deserted(&self) {
        let none = || async { *self.shared.open.lock().expect("not poisoned") == 0 };
        until("the upstream has no connection", none).await;
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let goes_on = match &self.ledger {
                Some(ledger) => self.keep(ledger, &request, &mut stream).await,
                None => self.answer_one(request, &mut stream).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// `false` if the connection is to end.
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

    /// Answers one request by the plan, in the ledger. `false` if the connection is to end.
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
                // Until the gateway hangs up.
                let _ = stream.read_u8().await;
                ledger.answered(event, Entry::BrokenOff, || ());
                return false;
            }
            Answer::Raw(_) => panic!("no plan of a ledger has this"),
        };
        let answer = status_line(status);
        let alive = ledger.answered(event, Entry::Answered(status), || {
            // An answer so short fits into the socket's buffer; a gateway that has gone is no failure.
            let _ = stream.try_write(&answer);
        });
        hook.into_iter().for_each(|hook| (hook.0)());
        alive
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
