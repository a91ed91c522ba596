//! A sender's connection: TLS 1.3, one request at a time.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Instant,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::http1;

/// Connection to a proxy.
pub(crate) struct Sender {
    stream: TcpStream,
    tls: ClientConnection,
    inbox: Vec<u8>,
    since: Option<Instant>,
    /// Whether `epoll` reports write events.
    armed: bool,
}

/// Returns the TLS settings of all senders: one cipher suite and one key exchange, so that every
/// proxy does the same work, and no resumption, so that every handshake is a full one. The
/// certificate is not verified: the other end is a child process on loopback.
pub(crate) fn client_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl Sender {
    pub(crate) fn connect(to: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        let mut sender = Sender { stream, tls, inbox: Vec::new(), since: None, armed: false };
        sender.flush()?;
        Ok(sender)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.tls.is_handshaking()
    }

    pub(crate) fn send(&mut self, request: &[u8], since: Instant) -> io::Result<()> {
        self.since = Some(since);
        self.tls.writer().write_all(request)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the new interest in write events if it has changed.
    pub(crate) fn changed_interest(&mut self) -> Option<bool> {
        let wants_write = self.tls.wants_write();
        (wants_write != self.armed).then(|| {
            self.armed = wants_write;
            wants_write
        })
    }

    /// Reads and writes without blocking. Returns the status of a complete response, the time at
    /// which its request was due, and whether the connection ends with it.
    pub(crate) fn proceed(
        &mut self,
        scratch: &mut [u8],
    ) -> io::Result<Option<(u16, Instant, bool)>> {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        self.flush()?;
        loop {
            match self.tls.reader().read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.inbox.extend_from_slice(&scratch[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let Some(head) = http1::head(&self.inbox)? else { return Ok(None) };
        if self.inbox.len() < head.length + head.content_length {
            return Ok(None);
        }
        let status = self.inbox.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        let status = status.and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        self.inbox.clear();
        let since = self.since.take().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((status, since, head.closing)))
    }

    pub(crate) fn say_goodbye(&mut self) {
        self.tls.send_close_notify();
        // The connection is closed in any case.
        let _ = self.flush();
    }
}
