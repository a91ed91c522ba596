//! The HTTP client of `demo`, `send`, `rehearse` and `events`.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::parse_x509_certificate;

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// The URL that the gateway sees.
    pub(super) url: Uri,
    /// The host and port to connect to; `None`: those of the URL.
    pub(super) connect: Option<String>,
    /// Which certificates are accepted.
    pub(super) trust: Trust,
}

/// Which certificates are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// All of them.
    Anything,
    /// Those in this PEM text, and those that one of them has signed.
    Certificates(Vec<u8>),
}

/// A kept-alive connection to a gateway.
pub(super) struct SenderClient {
    connection: SendRequest<Full<Bytes>>,
    host: String,
}

impl SenderClient {
    /// Connects to a destination.
    pub(super) async fn connect(to: &Destination) -> anyhow::Result<Self> {
        let host = to.url.host().context("the URL has no host")?;
        let name = host.trim_matches(['[', ']']);
        let tls = match to.url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("the URL must begin with http:// or https://"),
        };
        let port = to.url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let address = to.connect.clone().unwrap_or_else(|| format!("{host}:{port}"));
        let stream = TcpStream::connect(&address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let connection = if tls {
            let server = ServerName::try_from(name.to_owned())?;
            let connector = TlsConnector::from(Arc::new(client_config(&to.trust)?));
            let stream = connector
                .connect(server, stream)
                .await
                .map_err(|error| with_advice(&error))
                .with_context(|| format!("no TLS connection to {address} as {name}"))?;
            handshake(stream).await?
        } else {
            handshake(stream).await?
        };
        let host = to.url.authority().map_or_else(|| host.to_owned(), ToString::to_string);
        Ok(SenderClient { connection, host })
    }

    /// Sends a request with an origin-form target and a `Host` header, and reads the whole
    /// response.
    pub(super) async fn send(
        &mut self,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Bytes>> {
        let (head, body) = self.open(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// Sends a request with an origin-form target and a `Host` header, and reads the head of the
    /// response.
    pub(super) async fn open(
        &mut self,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().cloned();
        head.uri = target.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        if !head.headers.contains_key(HOST) {
            head.headers.insert(HOST, self.host.parse()?);
        }
        self.connection.ready().await?;
        let request = Request::from_parts(head, Full::new(body));
        Ok(self.connection.send_request(request).await?)
    }
}

/// Adds to the error of a handshake what the user can do about it.
fn with_advice(error: &std::io::Error) -> anyhow::Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let advice = match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => {
            "the server's certificate has expired: renew it"
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYet)) => {
            "the server's certificate is not valid yet: check the clock"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "--cacert FILE accepts another certificate, and --insecure accepts any"
        }
        Some(rustls::Error::InvalidMessage(_)) => "the server does not use TLS: use http://",
        _ => return anyhow::anyhow!("{error}"),
    };
    anyhow::anyhow!("{error}; {advice}")
}

async fn handshake<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn client_config(trust: &Trust) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusted = match trust {
        Trust::Anything => None,
        Trust::Certificates(pem) => {
            let own: Vec<_> =
                CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("PEM")?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(own.iter().cloned());
            let roots = Arc::new(roots);
            let chains = (!roots.is_empty()).then(|| {
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()
            });
            Some((own, chains.transpose()?))
        }
    };
    let verifier = PeerVerifier { trusted, provider: Arc::clone(&provider) };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Accepts the certificates of a [`Trust`]. One that is known byte for byte needs no other name
/// and no authority, but it must be valid now.
#[derive(Debug)]
struct PeerVerifier {
    trusted: Option<(Vec<CertificateDer<'static>>, Option<Arc<WebPkiServerVerifier>>)>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some((own, chains)) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        if own.contains(end_entity) {
            let (_, parsed) = parse_x509_certificate(end_entity)
                .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            return if now > parsed.validity().not_after.timestamp() {
                Err(CertificateError::Expired.into())
            } else if now < parsed.validity().not_before.timestamp() {
                Err(CertificateError::NotValidYet.into())
            } else {
                Ok(ServerCertVerified::assertion())
            };
        }
        match chains {
            None => Err(CertificateError::UnknownIssuer.into()),
            Some(chains) => chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
