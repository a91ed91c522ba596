//! The listeners and their limits, as configured.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use crate::{rejections::CaptureOptions, tls, upstream::Networks};

/// Limits of connections and of HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Public connections open concurrently.
    pub connections: usize,
    /// Authentic requests handled concurrently, over all connections.
    pub requests: usize,
    /// Percentage of the connections, requests and memory that one client network may hold.
    pub address_share: u64,
    /// Timeout from the accept to the end of the first request's head, TLS handshake included.
    pub first_request: Duration,
    /// Timeout from the first byte of a later request's head to its last.
    pub head: Duration,
    /// Timeout between two requests of a connection.
    pub idle: Duration,
    /// Timeout of a write on which the client makes no progress.
    pub write: Duration,
    /// How long a head that has arrived may wait for its worker.
    pub queue_time: Duration,
    /// Maximum length of a request's head, in bytes.
    pub head_bytes: usize,
    /// Maximum number of header lines in a request.
    pub headers: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// HTTP/2 streams of a connection that were reset and are still remembered.
    pub resets: usize,
}

/// A TLS listener.
#[derive(Clone, Debug)]
pub struct TlsListener {
    /// Address to listen on.
    pub address: SocketAddr,
    /// PEM file of the authorities that must have signed the clients' certificates; `None`: no
    /// client certificates.
    pub client_ca: Option<PathBuf>,
}

/// The TLS of a listener, which a reload can replace.
pub type Handshake = Arc<ArcSwap<rustls::ServerConfig>>;

/// The public listeners.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// TLS listeners.
    pub listen: Vec<TlsListener>,
    /// Listeners without TLS.
    pub http_listen: Vec<SocketAddr>,
    /// Certificates of the TLS listeners.
    pub tls: Vec<tls::CertificatePair>,
    /// How to obtain a certificate for the TLS listeners automatically.
    pub acme: Option<tls::AcmeOptions>,
    /// Peers whose `X-Forwarded-*` and PROXY headers are trusted.
    pub trusted_proxies: Networks,
    /// Whether connections begin with a PROXY header; others are closed.
    pub proxy_protocol: bool,
    /// Path that responds 200 to load balancers.
    pub health_path: Option<String>,
    /// Where rejected requests are captured, if they are.
    pub capture_rejected: Option<CaptureOptions>,
    /// How long a draining gateway is unready but still accepts.
    pub drain_delay: Duration,
    /// Timeout of the drain.
    pub drain: Duration,
    /// Whether the configuration is reloaded when one of its files has changed.
    pub watch: bool,
    /// Worker threads.
    pub workers: usize,
    /// Limits of connections and of HTTP.
    pub limits: Limits,
}

impl ServerOptions {
    /// Returns every public address.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let tls = self.listen.iter().map(|listener| listener.address);
        tls.chain(self.http_listen.iter().copied())
    }
}
