//! Listeners, connections and draining.
//!
//! One thread accepts and hands each connection to the worker with the fewest; each worker is a
//! runtime of its own, so a request never changes threads. A connection's whole life (TLS handshake,
//! protocol, deadlines) happens in its own task.

mod connection;
mod deadlines;
mod proxy;
mod wire;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus::IntGauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime::{Builder, Handle},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    gate::Gate,
    metrics::Metrics,
    rejections::CaptureOptions,
    tls,
    upstream::Networks,
};

/// How many connections wait in the kernel until they are accepted.
const BACKLOG: i32 = 4096;
/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of connections and of HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Public connections at one time.
    pub connections: usize,
    /// Requests at one time, over all connections.
    pub requests: usize,
    /// From the accept to the end of the first request's head, TLS handshake included.
    pub first_request: Duration,
    /// From the first byte of a later request's head to its last.
    pub head: Duration,
    /// Between two requests of a connection.
    pub idle: Duration,
    /// How long a client may not take what is written to it.
    pub write: Duration,
    /// The longest head of a request, in bytes.
    pub head_bytes: usize,
    /// The most header lines of a request.
    pub headers: usize,
    /// HTTP/2 streams of a connection at one time.
    pub streams: u32,
    /// HTTP/2 streams of a connection that were reset and are not yet forgotten.
    pub resets: usize,
}

/// A TLS listener, as configured.
#[derive(Clone, Debug)]
pub struct TlsListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// PEM file of the authorities of which clients must show a certificate; `None`: of nobody.
    pub client_ca: Option<PathBuf>,
}

/// The TLS of a listener, which a reload can replace.
pub type Handshake = Arc<ArcSwap<rustls::ServerConfig>>;

/// The listeners, as configured.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// TLS listeners.
    pub listen: Vec<TlsListener>,
    /// Listeners without TLS.
    pub http_listen: Vec<SocketAddr>,
    /// The certificates of the TLS listeners.
    pub tls: Vec<tls::Pair>,
    /// Peers whose `X-Forwarded-*` and PROXY headers are believed.
    pub trusted_proxies: Networks,
    /// Whether connections begin with a PROXY header; others are closed.
    pub proxy_protocol: bool,
    /// A path that answers 200 to load balancers.
    pub health_path: Option<String>,
    /// Where refused requests are kept, if they are.
    pub capture_rejected: Option<CaptureOptions>,
    /// On draining: unready but still accepting for so long.
    pub drain_delay: Duration,
    /// The longest wait for what is in flight.
    pub drain: Duration,
    /// Whether the configuration is taken anew when one of its files has changed.
    pub watch: bool,
    /// Worker threads.
    pub workers: usize,
    /// The bounds of connections and of HTTP.
    pub limits: Limits,
}

impl ServerOptions {
    /// Every public address.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let tls = self.listen.iter().map(|listener| listener.address);
        tls.chain(self.http_listen.iter().copied())
    }
}

/// What all connections share.
struct Shared {
    gate: Arc<Gate>,
    limits: Limits,
    proxy_protocol: bool,
    /// Requests that are being handled.
    under_way: AtomicUsize,
    /// Wakes the connections when they are to finish.
    stopping: CancellationToken,
    /// Whether they are; to be looked at before the token, which has a lock.
    stopped: AtomicBool,
    connections: TaskTracker,
}

/// Listeners that are bound and not yet served.
pub struct Bound {
    https: Vec<TcpListener>,
    http: Vec<TcpListener>,
    admin: Vec<TcpListener>,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// TLS listeners.
    pub https: Vec<SocketAddr>,
    /// Listeners without TLS.
    pub http: Vec<SocketAddr>,
    /// Admin listeners.
    pub admin: Vec<SocketAddr>,
}

/// Binds every listener.
///
/// # Errors
/// The first address that cannot be had, with the address in the message.
pub fn bind(options: &ServerOptions, admin: &[SocketAddr]) -> io::Result<Bound> {
    let all = |addresses: &[SocketAddr]| -> io::Result<Vec<TcpListener>> {
        addresses.iter().copied().map(listener).collect()
    };
    let tls: Vec<SocketAddr> = options.listen.iter().map(|listener| listener.address).collect();
    Ok(Bound { https: all(&tls)?, http: all(&options.http_listen)?, admin: all(admin)? })
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    attempt().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

impl Bound {
    /// The addresses, with the ports that the kernel chose.
    ///
    /// # Errors
    /// What the system says of a listener.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let all = |listeners: &[TcpListener]| -> io::Result<Vec<SocketAddr>> {
            listeners.iter().map(TcpListener::local_addr).collect()
        };
        Ok(Addresses { https: all(&self.https)?, http: all(&self.http)?, admin: all(&self.admin)? })
    }
}

/// A server at work.
pub struct Server {
    shared: Arc<Shared>,
    admin: Arc<Admin>,
    accepting: CancellationToken,
    drain_delay: Duration,
    drain: Duration,
    workers: Vec<Worker>,
}

/// A thread with a runtime; dropping it ends both.
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

/// What a public listener speaks.
#[derive(Clone)]
enum Transport {
    Tls(Handshake),
    Plain,
}

impl Server {
    /// Serves `gate` on the bound listeners, the TLS ones with a handshake each, with worker threads of its own for the public ones. Call
    /// within a runtime; it does the accepting and serves the admin listeners.
    ///
    /// # Errors
    /// What the system says of threads or listeners.
    pub fn start(
        bound: Bound,
        options: &ServerOptions,
        gate: Arc<Gate>,
        metrics: Arc<Metrics>,
        handshakes: &[Handshake],
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: Arc::clone(&gate),
            limits: options.limits,
            proxy_protocol: options.proxy_protocol,
            under_way: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            stopped: AtomicBool::new(false),
            connections: TaskTracker::new(),
        });
        let workers =
            (0..options.workers.max(1)).map(|_| Worker::start()).collect::<io::Result<Vec<_>>>()?;
        let server = Server {
            shared,
            admin: Admin::new(gate, Arc::clone(&metrics)),
            accepting: CancellationToken::new(),
            drain_delay: options.drain_delay,
            drain: options.drain,
            workers,
        };
        let permits = Arc::new(Semaphore::new(options.limits.connections));
        let gauge = metrics.connections("https");
        for (listener, handshake) in bound.https.into_iter().zip(handshakes) {
            let transport = Transport::Tls(Arc::clone(handshake));
            server.serve(listener, &gauge, &permits, &transport)?;
        }
        let gauge = metrics.connections("http");
        for listener in bound.http {
            server.serve(listener, &gauge, &permits, &Transport::Plain)?;
        }
        for listener in bound.admin {
            let admin = Arc::clone(&server.admin);
            let permits = Arc::new(Semaphore::new(admin::CONNECTIONS));
            let stop = server.shared.stopping.clone();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(accept(listener, permits, stop, move |stream, _, permit| {
                tokio::spawn(Arc::clone(&admin).serve(stream, permit));
            }));
        }
        Ok(server)
    }

    fn serve(
        &self,
        listener: TcpListener,
        gauge: &IntGauge,
        permits: &Arc<Semaphore>,
        transport: &Transport,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let gauge = gauge.clone();
        let transport = transport.clone();
        let workers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| (worker.handle.clone(), Arc::clone(&worker.connections)))
            .collect();
        let hand_over = move |stream, address: SocketAddr, permit| {
            let fewest = workers.iter().min_by_key(|(_, count)| count.load(Ordering::Relaxed));
            let Some((handle, count)) = fewest else { return };
            let guard = connection::Guard::new(permit, Arc::clone(count), gauge.clone());
            let serving = connection::serve(
                stream,
                address.ip(),
                transport.clone(),
                Arc::clone(&shared),
                guard,
            );
            handle.spawn(shared.connections.track_future(serving));
        };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = self.accepting.clone();
        tokio::spawn(accept(listener, Arc::clone(permits), stop, hand_over));
        Ok(())
    }

    /// Drains: unready at once, accepting until `drain_delay` has passed, then finishing what is in
    /// flight for at most `drain`. The admin listeners answer until the end.
    pub async fn drain(self) {
        self.admin.set_draining();
        tokio::time::sleep(self.drain_delay).await;
        self.accepting.cancel();
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.stopping.cancel();
        let deadline = Instant::now() + self.drain;
        let Shared { connections, gate, .. } = &*self.shared;
        connections.close();
        let senders = timeout_at(deadline, connections.wait()).await;
        gate.flights.close();
        let forwards = timeout_at(deadline, gate.flights.wait()).await;
        if senders.is_err() || forwards.is_err() {
            tracing::warn!(
                connections = connections.len(),
                forwards = gate.flights.len(),
                "the drain's time is over; what is left is cut"
            );
        }
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("sealgate-worker".to_owned()).spawn(move || {
            // An error means that the sender is gone, which is the signal.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Worker { handle, connections: Arc::default(), _stop: stop })
    }
}

/// Accepts until `stop`, each connection with a permit. While no permit is free the kernel's backlog
/// holds the others.
async fn accept(
    listener: tokio::net::TcpListener,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit),
) {
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match accept_one(&listener).await {
                Ok((stream, address)) => serve(stream, address, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
}

/// The next connection, free of this thread's runtime so that a worker can take it.
async fn accept_one(listener: &tokio::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream.into_std()?, address))
}
