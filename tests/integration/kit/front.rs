//! A listener in front of an upstream (TCP, TLS or Unix socket) that can be stopped and started
//! again.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::Upstream;

/// Properties of a TLS client's handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<Vec<u8>>,
    pub(crate) full: bool,
    pub(crate) certified: bool,
}

/// Relay to an upstream; closes its listener and all connections when dropped.
pub(crate) struct Front {
    address: Option<SocketAddr>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    serving: JoinHandle<()>,
}

impl Front {
    /// Listens on a TCP port: `127.0.0.1:0`, or the address of an earlier one.
    pub(crate) async fn tcp(address: SocketAddr, upstream: &Upstream) -> Self {
        Self::listen(TcpListener::bind(address).await.expect("a port"), None, upstream)
    }

    /// Listens on a TCP port with TLS.
    pub(crate) async fn tls(config: ServerConfig, upstream: &Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::listen(listener, Some(TlsAcceptor::from(Arc::new(config))), upstream)
    }

    /// Listens on a Unix socket.
    pub(crate) fn unix(path: &Path, upstream: &Upstream) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let behind = upstream.address();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(relay(stream, behind));
            }
        });
        Front { address: None, hellos: Arc::default(), serving }
    }

    fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, upstream: &Upstream) -> Self {
        let address = Some(listener.local_addr().expect("an address"));
        let behind = upstream.address();
        let hellos = Arc::<Mutex<Vec<Hello>>>::default();
        let noted = Arc::clone(&hellos);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(acceptor) = tls.clone() else {
                    connections.spawn(relay(stream, behind));
                    continue;
                };
                let noted = Arc::clone(&noted);
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let client = stream.get_ref().1;
                    noted.lock().expect("not poisoned").push(Hello {
                        name: client.server_name().map(str::to_owned),
                        protocol: client.alpn_protocol().map(<[u8]>::to_vec),
                        full: client.handshake_kind() != Some(HandshakeKind::Resumed),
                        certified: client.peer_certificates().is_some(),
                    });
                    relay(stream, behind).await;
                });
            }
        });
        Front { address, hellos, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("a TCP port")
    }

    /// Returns the clients whose handshakes succeeded.
    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().expect("not poisoned").clone()
    }

    /// Closes the listener and every connection. When this returns, the port is free.
    pub(crate) async fn die(mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, behind: SocketAddr) {
    if let Ok(mut upstream) = TcpStream::connect(behind).await {
        let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    }
}
