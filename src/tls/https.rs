//! An HTTP/1.1 client for rare requests: key sets and ACME directories. Each request has a
//! separate connection, and redirects are not followed.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::client;

/// The CA certificates with which a server is verified.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// Those of the system, loaded at the first request.
    System,
    /// Those that the operator configured.
    Named(Authorities),
}

/// CA certificates, and the TLS settings of clients that trust them.
#[derive(Clone, Debug)]
pub struct Authorities {
    client: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
}

impl PartialEq for ServerTrust {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ServerTrust::System, ServerTrust::System) => true,
            (ServerTrust::Named(one), ServerTrust::Named(other)) => {
                one.roots.roots == other.roots.roots
            }
            (ServerTrust::System, ServerTrust::Named(_))
            | (ServerTrust::Named(_), ServerTrust::System) => false,
        }
    }
}

impl Authorities {
    fn read(file: Option<&Path>) -> Result<Authorities, String> {
        let roots = Arc::new(client::roots(file).map_err(text)?);
        let client = client::config(Arc::clone(&roots), None).map_err(text)?;
        Ok(Authorities { client, roots })
    }
}

impl ServerTrust {
    /// Reads the CA certificates of a PEM file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn read(path: &Path) -> Result<ServerTrust, String> {
        Authorities::read(Some(path)).map(ServerTrust::Named)
    }

    fn authorities(&self) -> Result<Authorities, String> {
        static SYSTEM: OnceLock<Result<Authorities, String>> = OnceLock::new();
        match self {
            ServerTrust::Named(authorities) => Ok(authorities.clone()),
            ServerTrust::System => SYSTEM.get_or_init(|| Authorities::read(None)).clone(),
        }
    }

    /// Returns the CA certificates.
    ///
    /// # Errors
    /// The system has none.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        self.authorities().map(|authorities| authorities.roots)
    }
}

/// Sends a request whose URI is absolute (`https`, or `http` without TLS) and returns the response,
/// with a body of at most `max_bytes`. The caller sets a timeout.
///
/// # Errors
/// Says why there is no complete response.
pub async fn https_request<B>(
    mut request: Request<B>,
    trust: &ServerTrust,
    max_bytes: usize,
) -> Result<Response<Bytes>, String>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let uri = std::mem::take(request.uri_mut());
    let host = uri.host().ok_or("no host")?;
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority).map_err(text)?);
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((bare, port)).await.map_err(text)?;
    if !tls {
        return exchange(tcp, request, max_bytes).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(text)?;
    let stream =
        TlsConnector::from(trust.authorities()?.client).connect(name, tcp).await.map_err(text)?;
    exchange(stream, request, max_bytes).await
}

async fn exchange<S, B>(
    stream: S,
    request: Request<B>,
    max_bytes: usize,
) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(text)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, max_bytes).collect().await.map_err(text);
    connection.abort();
    Ok(Response::from_parts(head, body?.to_bytes()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
