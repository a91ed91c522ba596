//! Fetching a key set over HTTPS: bounded in time, length and number, no redirects.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{FETCHES_A_MINUTE, KeySet, MAX_BYTES, MINUTE};
use crate::tls::client_config;

/// The timeout of a whole fetch: connection, TLS, response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time between fetches that nothing asks for.
const PERIOD: Duration = Duration::from_secs(3600);
/// The backoff after the first failed fetch; it triples with each further failure.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Parses the address of a set.
pub(super) fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
    let local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if local => Ok(uri),
        _ => Err(format!("`{text}` must be https://… or file:…")),
    }
}

/// Fetches at the start, then whenever a token names an unknown key, and at least every [`PERIOD`].
pub(super) async fn maintain(set: &KeySet, uri: &Uri, trust: &ServerTrust) {
    let mut recent: VecDeque<Instant> = VecDeque::new();
    let mut backoff = BACKOFF;
    loop {
        while recent.front().is_some_and(|begun| begun.elapsed() >= MINUTE) {
            recent.pop_front();
        }
        if recent.len() >= FETCHES_A_MINUTE
            && let Some(oldest) = recent.front()
        {
            tokio::time::sleep(MINUTE.saturating_sub(oldest.elapsed())).await;
            continue;
        }
        let begun = Instant::now();
        recent.push_back(begun);
        let result = match get(uri, trust).await {
            Ok(text) => set.replace(&text, begun, None),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                backoff = BACKOFF;
                // Keys that were named while this fetch ran may be in its set.
                let wanted = async {
                    while !set.needs_fetch() {
                        set.wanted.notified().await;
                    }
                };
                let _ = timeout(PERIOD, wanted).await;
            }
            Err(error) => {
                tracing::warn!(%uri, %error, "cannot fetch the key set");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 3).min(MAX_BACKOFF);
            }
        }
    }
}

/// Fetches the text of a set.
pub(super) async fn get(uri: &Uri, trust: &ServerTrust) -> Result<Bytes, String> {
    timeout(TIMEOUT, exchange(uri, trust))
        .await
        .unwrap_or_else(|_| Err("no response in time".to_owned()))
}

async fn exchange(uri: &Uri, trust: &ServerTrust) -> Result<Bytes, String> {
    let host = uri.host().ok_or("no host")?;
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((bare, port)).await.map_err(text)?;
    if !tls {
        return request(tcp, uri).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(text)?;
    let stream = TlsConnector::from(trust.client()?).connect(name, tcp).await.map_err(text)?;
    request(stream, uri).await
}

async fn request<S>(stream: S, uri: &Uri) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(text)?;
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    let body = if status == StatusCode::OK {
        let body = Limited::new(response.into_body(), MAX_BYTES);
        body.collect().await.map(|body| body.to_bytes()).map_err(text)
    } else {
        Err(format!("the response is {status}"))
    };
    connection.abort();
    body
}

/// The CA certificates that the server of a key set is verified with.
#[derive(Clone, Debug)]
pub(super) enum ServerTrust {
    /// Those of the system, loaded at the first fetch.
    System,
    /// Those that the operator configured.
    Named(Arc<ClientConfig>),
}

impl ServerTrust {
    /// Reads the CA certificates of a PEM file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(super) fn read(path: &Path) -> Result<ServerTrust, String> {
        client_config(Some(path), None).map(ServerTrust::Named).map_err(text)
    }

    fn client(&self) -> Result<Arc<ClientConfig>, String> {
        static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
        match self {
            ServerTrust::Named(config) => Ok(Arc::clone(config)),
            ServerTrust::System => {
                SYSTEM.get_or_init(|| client_config(None, None).map_err(text)).clone()
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
