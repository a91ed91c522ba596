//! Connecting to an origin that is down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::kit::{Authority, Connection, Event, Setup, Upstream, until};

/// An origin with TLS that counts its connections, and drops them until it is opened.
#[derive(Clone)]
struct Origin {
    upstream: Upstream,
    acceptor: TlsAcceptor,
    connections: Arc<AtomicUsize>,
    is_open: Arc<AtomicBool>,
}

impl Origin {
    async fn start(authority: &Authority, upstream: &Upstream) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let origin = Origin {
            upstream: upstream.clone(),
            acceptor: TlsAcceptor::from(Arc::new(authority.server("localhost", None))),
            connections: Arc::default(),
            is_open: Arc::default(),
        };
        let serving = origin.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                if serving.is_open.load(Ordering::SeqCst) {
                    tokio::spawn(serving.clone().serve(stream));
                }
            }
        });
        (origin, port)
    }

    async fn serve(self, stream: TcpStream) {
        let Ok(mut stream) = self.acceptor.accept(stream).await else { return };
        let mut behind = TcpStream::connect(self.upstream.address()).await.expect("it listens");
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
    }
}

#[tokio::test]
async fn one_request_probes_a_failed_origin_while_the_others_wait() {
    const REQUESTS: usize = 60;
    let (upstream, authority) = (Upstream::start().await, Authority::new());
    let (origin, port) = Origin::start(&authority, &upstream).await;
    let setup = Setup::new(&upstream).plain();
    authority.write(&setup.dir.path().join("ca.pem"));
    let gateway = setup
        .upstream(&format!("\"https://localhost:{port}\""))
        .route("upstream_ca = \"ca.pem\"\nanswer_within = \"20s\"")
        .start();
    // The first request finds out that the origin is down; the others arrive while it is.
    let mut waiting = JoinSet::new();
    let address = gateway.addresses().http[0];
    let post = move || async move {
        let mut connection = Connection::plain(address).await;
        connection.exchange(&Event::default().request()).await.status
    };
    waiting.spawn(post());
    until("the origin is tried", || async { origin.connections.load(Ordering::SeqCst) >= 2 }).await;
    for _ in 1..REQUESTS {
        waiting.spawn(post());
    }
    let in_flight = "sealgate_upstream_in_flight{route=\"vivoldi\"}";
    until("all requests wait", || async { gateway.metric(in_flight).await == REQUESTS as f64 })
        .await;
    let before = origin.connections.load(Ordering::SeqCst);
    let started = Instant::now();
    until("the origin is probed again", || async {
        origin.connections.load(Ordering::SeqCst) >= before + 4
    })
    .await;
    // Four more probes take four times the longest backoff; without backoff they take no time.
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    origin.is_open.store(true, Ordering::SeqCst);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
    assert_eq!(upstream.requests().len(), REQUESTS);
}
