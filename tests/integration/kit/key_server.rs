//! A key set server with programmable responses: valid, failing, malformed or none.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::until;

/// Response to one request.
#[derive(Clone, Debug)]
pub(crate) enum Serves {
    /// 200 with this body.
    Set(String),
    /// These raw bytes.
    Raw(String),
    /// No response; the connection stays open.
    Silence,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<String>>,
    next: Mutex<VecDeque<Serves>>,
    usual: Mutex<Option<Serves>>,
    by_path: Mutex<HashMap<String, Serves>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// Key set server; stops with the test's runtime.
#[derive(Clone)]
pub(crate) struct KeyServer {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
}

impl KeyServer {
    /// Starts a server without TLS, which the gateway accepts only on loopback.
    pub(crate) async fn start(usual: Serves) -> Self {
        Self::run(usual, None).await
    }

    /// Starts a server with TLS.
    pub(crate) async fn start_tls(usual: Serves, config: ServerConfig) -> Self {
        Self::run(usual, Some(config)).await
    }

    async fn run(usual: Serves, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let server = KeyServer { address, tls: tls.is_some(), shared };
        server.usually(usual);
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => server.answer(stream).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                server.answer(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// Sets the default response.
    pub(crate) fn usually(&self, usual: Serves) {
        *self.shared.usual.lock().expect("not poisoned") = Some(usual);
    }

    /// Sets the responses to the next requests, in order. Later requests get the default.
    pub(crate) fn next(&self, answers: impl IntoIterator<Item = Serves>) {
        self.shared.next.lock().expect("not poisoned").extend(answers);
    }

    /// Sets the default response to requests for a path.
    pub(crate) fn serve(&self, path: &str, answer: Serves) {
        self.shared.by_path.lock().expect("not poisoned").insert(path.to_owned(), answer);
    }

    /// Returns the name and the port, as in a URL.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Returns the URL of the key set.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}/keys.json", self.address.port())
    }

    /// Returns all requests so far, each with its body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    /// Returns the largest number of concurrent requests.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Waits until `count` requests have arrived.
    pub(crate) async fn asked(&self, count: usize) {
        until("the key set is asked for", || async { self.requests().len() >= count }).await;
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        let mut head = Vec::new();
        let end = loop {
            if let Some(at) = head.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let length = String::from_utf8_lossy(&head).lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        while head.len() < end + length.unwrap_or(0) {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let now = self.shared.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.shared.most.fetch_max(now, Ordering::SeqCst);
        let next = self.shared.next.lock().expect("not poisoned").pop_front();
        let usual = self.shared.usual.lock().expect("not poisoned").clone();
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let of_path = self.shared.by_path.lock().expect("not poisoned").get(&path).cloned();
        self.shared.requests.lock().expect("not poisoned").push(head);
        let text = match next.or(of_path).or(usual).expect("a response") {
            Serves::Set(body) => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
            Serves::Raw(text) => text,
            Serves::Silence => {
                // Wait until the gateway closes the connection.
                let _ = stream.read_buf(&mut Vec::with_capacity(1)).await;
                String::new()
            }
        };
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
        self.shared.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
