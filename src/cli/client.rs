//! The HTTP client of `demo` and `send`.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A kept-alive connection to a gateway.
pub(super) struct SenderClient {
    connection: SendRequest<Full<Bytes>>,
    host: String,
}

impl SenderClient {
    /// Connects to the origin of `url`. For `https`, only the certificates in `roots` (PEM) are
    /// trusted.
    pub(super) async fn connect(url: &Uri, roots: &[u8]) -> anyhow::Result<Self> {
        let host = url.host().context("the URL has no host")?;
        let name = host.trim_matches(['[', ']']);
        let tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("the URL must begin with http:// or https://"),
        };
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = TcpStream::connect((name, port))
            .await
            .with_context(|| format!("cannot connect to {host}:{port}"))?;
        stream.set_nodelay(true)?;
        let connection = if tls {
            let server = ServerName::try_from(name.to_owned())?;
            let connector = TlsConnector::from(Arc::new(client_config(roots)?));
            let stream = connector.connect(server, stream).await.context("TLS")?;
            handshake(stream).await?
        } else {
            handshake(stream).await?
        };
        let host = url.authority().map_or_else(|| host.to_owned(), ToString::to_string);
        Ok(SenderClient { connection, host })
    }

    /// Sends a request with an origin-form target and a `Host` header, and reads the whole
    /// response.
    pub(super) async fn send(
        &mut self,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Bytes>> {
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().cloned();
        head.uri = target.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        head.headers.insert(HOST, self.host.parse()?);
        self.connection.ready().await?;
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = self.connection.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

async fn handshake<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn client_config(roots: &[u8]) -> anyhow::Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots) {
        store.add(certificate?)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth())
}
