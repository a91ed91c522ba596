//! Opening connections to an origin: TCP, TLS over TCP, or a Unix socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{dns::DnsCache, options::UpstreamTls, origin::OriginAddress};

/// The timeout of each step: a DNS lookup, the connection to one address, a TLS handshake.
const STEP_TIMEOUT: Duration = Duration::from_millis(1500);
/// The delay before the next address is tried in parallel (RFC 8305 section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A byte stream to an upstream.
#[derive(Debug)]
pub(super) enum UpstreamStream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Opens connections to one origin.
#[derive(Debug)]
pub(super) struct Dialer {
    address: OriginAddress,
    tls: Option<UpstreamTls>,
    dns: DnsCache,
}

impl Dialer {
    pub(super) fn new(address: OriginAddress, tls: Option<UpstreamTls>) -> Self {
        Dialer { address, tls, dns: DnsCache::default() }
    }

    /// Opens a connection; for `https://`, the TLS handshake is complete.
    ///
    /// # Errors
    /// The error of the lookup, of the last address tried, or of the handshake.
    pub(super) async fn dial(&self) -> io::Result<UpstreamStream> {
        Ok(match &self.address {
            OriginAddress::Http { host, port } => {
                UpstreamStream::Tcp(self.dial_tcp(host, *port).await?)
            }
            OriginAddress::Https { host, port } => {
                let tls = self.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let name = match &tls.name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(host.clone()).map_err(io::Error::other)?,
                };
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                let stream = self.dial_tcp(host, *port).await?;
                let stream = within_step(connector.connect(name, stream)).await?;
                UpstreamStream::Tls(Box::new(stream))
            }
            OriginAddress::Unix(socket) => {
                UpstreamStream::Unix(within_step(UnixStream::connect(socket)).await?)
            }
        })
    }

    async fn dial_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let connected = match host.parse::<IpAddr>() {
            Ok(address) => connect(&[SocketAddr::new(address, port)]).await,
            Err(_) => {
                let name = (host.to_owned(), port);
                let lookup = async move { Ok(lookup_host(name).await?.collect()) };
                let addresses = within_step(self.dns.addresses(Instant::now(), lookup)).await?;
                let connected = connect(&addresses).await;
                if connected.is_err() {
                    // The name may point elsewhere by now.
                    self.dns.expire().await;
                }
                connected
            }
        };
        let stream = connected?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

async fn within_step<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects to the first address that accepts. Each address has its own timeout, and the next one
/// is tried as soon as the one before has failed or has not accepted for [`ATTEMPT_DELAY`] (RFC
/// 8305 section 5).
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return within_step(TcpStream::connect(*only)).await;
    }
    let mut remaining = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = remaining.next() {
            attempts.spawn(within_step(TcpStream::connect(address)));
        }
        tokio::select! {
            Some(attempt) = attempts.join_next() => match attempt.map_err(io::Error::other) {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) | Err(error) => last_error = error,
            },
            () = sleep(ATTEMPT_DELAY), if remaining.len() > 0 => {}
            else => return Err(last_error),
        }
    }
}

impl UpstreamStream {
    /// Reads into the spare capacity of `buffer`.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            UpstreamStream::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(context),
            UpstreamStream::Tls(stream) => pin!(stream.read_buf(buffer)).poll(context),
            UpstreamStream::Unix(stream) => pin!(stream.read_buf(buffer)).poll(context),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            UpstreamStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            UpstreamStream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    /// Sends what TLS has buffered.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            UpstreamStream::Tcp(_) | UpstreamStream::Unix(_) => Poll::Ready(Ok(())),
            UpstreamStream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    /// Returns whether bytes of a failed first write may have been sent: TLS cuts a write into
    /// records and may have sent some of them before the error.
    pub(super) fn may_send_before_an_error(&self) -> bool {
        match self {
            UpstreamStream::Tcp(_) | UpstreamStream::Unix(_) => false,
            UpstreamStream::Tls(_) => true,
        }
    }

    /// Closes the stream; over TLS, sends a close_notify if that is possible without waiting.
    pub(super) fn close(self) {
        if let UpstreamStream::Tls(mut stream) = self {
            let _ = Pin::new(&mut stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    /// Returns a socket whose address accepts no more connections and rejects none: its queue is
    /// full.
    async fn black_hole() -> (Socket, Vec<TcpStream>, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a port");
        socket.listen(0).expect("listening");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        let address = address.expect("an address");
        let mut held = Vec::new();
        let soon = Duration::from_millis(50);
        while let Ok(stream) = timeout(soon, TcpStream::connect(address)).await {
            held.push(stream.expect("accepted by the kernel"));
        }
        (socket, held, address)
    }

    #[tokio::test]
    async fn an_address_that_does_not_respond_delays_the_next_by_a_quarter_second() {
        let (_socket, _held, hole) = black_hole().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let open = listener.local_addr().expect("an address");
        let started = Instant::now();
        let stream = connect(&[hole, hole, open]).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), open);
        let elapsed = started.elapsed();
        assert!(elapsed >= 2 * ATTEMPT_DELAY && elapsed < STEP_TIMEOUT, "{elapsed:?}");
    }

    #[tokio::test]
    async fn an_address_that_rejects_is_followed_by_the_next_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let open = listener.local_addr().expect("an address");
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            listener.local_addr().expect("an address")
        };
        let stream = connect(&[closed, open]).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), open);
        let error = connect(&[closed, closed]).await.expect_err("nothing listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(&[]).await.is_err());
    }
}
