//! A client that writes raw bytes and reads one response at a time.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::PATIENCE;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connection to the gateway.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// Response of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
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

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// Returns a TLS client configuration that trusts one certificate and offers `protocols`.
pub(crate) fn client_config(
    certificate: &[u8],
    protocols: &[&[u8]],
    tls12_only: bool,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(certificate) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let versions: &[_] = if tls12_only { &[&TLS12] } else { &[&TLS13, &TLS12] };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("supported versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config
}

impl Connection {
    pub(crate) async fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        Connection { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Same as [`Connection::plain`]; returns `None` if nobody listens.
    pub(crate) async fn try_plain(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        Some(Connection { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Opens a TLS connection that sends `head` before the handshake.
    pub(crate) async fn tls_after(
        address: SocketAddr,
        trusted: &[u8],
        head: &[u8],
    ) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head).await?;
        Self::tls_with(stream, client_config(trusted, &[b"http/1.1"], false)).await
    }

    /// Opens a TLS connection over `stream` with this client configuration.
    pub(crate) async fn tls_with(stream: TcpStream, client: ClientConfig) -> std::io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        Ok(Self::over(TlsConnector::from(Arc::new(client)).connect(name, stream).await?))
    }

    /// Wraps a TLS stream.
    pub(crate) fn over(stream: TlsStream<TcpStream>) -> Self {
        Connection { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Returns the certificate that a TLS listener presents; it must be among the trusted ones.
    pub(crate) async fn presented(address: SocketAddr, trusted: &[u8]) -> CertificateDer<'static> {
        let stream = shake(address, trusted, b"http/1.1").await;
        let chain = stream.get_ref().1.peer_certificates().expect("a chain");
        chain[0].clone().into_owned()
    }

    pub(crate) async fn tls(address: SocketAddr, certificate: Vec<u8>) -> Self {
        let stream = shake(address, &certificate, b"http/1.1").await;
        Connection { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Writes bytes. A connection that the gateway has closed does not fail the test.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let _ = timeout(PATIENCE, written).await.expect("the gateway reads");
    }

    /// Writes a request and reads the response.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Reply {
        self.write(request).await;
        self.read().await.expect("an answer")
    }

    /// Reads one response; `None` if the gateway closed the connection.
    pub(crate) async fn read(&mut self) -> Option<Reply> {
        timeout(PATIENCE, self.read_reply()).await.expect("an answer in time")
    }

    /// Ends this side of the connection: over TLS with a `close_notify`.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the gateway is there");
    }

    /// Waits until the gateway closes the connection.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("an end");
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill().await == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec()).expect("an ASCII head");
        let status = head.get(9..12)?.parse().expect("a status");
        let mut reply = Reply { status, head, body: Vec::new() };
        if status == 100 {
            self.buffer.drain(..head_end);
            return Some(reply);
        }
        let length = reply.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        while self.buffer.len() < head_end + length {
            if self.fill().await == 0 {
                return None;
            }
        }
        reply.body = self.buffer[head_end..head_end + length].to_vec();
        self.buffer.drain(..head_end + length);
        Some(reply)
    }

    /// Waits until a response begins or the gateway closes the connection; returns `true` for a
    /// response.
    pub(crate) async fn stirs(&mut self) -> bool {
        timeout(PATIENCE, self.fill()).await.expect("an answer in time") > 0
    }

    async fn fill(&mut self) -> usize {
        self.stream.read_buf(&mut self.buffer).await.unwrap_or(0)
    }
}

/// Opens a TLS connection for `protocol`.
pub(crate) async fn shake(
    address: SocketAddr,
    certificate: &[u8],
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let config = client_config(certificate, &[protocol], false);
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    stream.expect("a handshake")
}

/// HTTP/2 connection to the gateway; closed when dropped.
pub(crate) struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr, certificate: Vec<u8>) -> Self {
        let stream = TokioIo::new(shake(address, &certificate, b"h2").await);
        let (sender, connection) =
            handshake(TokioExecutor::new(), stream).await.expect("the gateway speaks HTTP/2");
        // An error is reported to the code that waits for a response.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Http2 { sender, connection }
    }

    /// Sends a request on a new stream. Dropping the returned future resets the stream.
    pub(crate) fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + 'static {
        self.sender.send_request(request)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
