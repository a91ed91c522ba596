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

/// A whole fetch: connection, TLS, answer.
const TIME: Duration = Duration::from_secs(5);
/// Between fetches without a reason.
const PERIOD: Duration = Duration::from_secs(3600);
/// After the first fetch that failed; after each further one three times as long as before.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest pause after a fetch that failed.
const AGAIN_AT_MOST: Duration = Duration::from_secs(15);

/// Checks the address of a set.
pub(super) fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| format!("`{text}` is no address"))?;
    let local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if local => Ok(uri),
        _ => Err(format!("`{text}` must be https://… or file:…")),
    }
}

/// Fetches at the start, then when a key is asked for that the set does not have, or after a while.
pub(super) async fn maintain(set: &KeySet, uri: &Uri, trust: &Trust) {
    let mut recent: VecDeque<Instant> = VecDeque::new();
    let mut again = AGAIN;
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
                again = AGAIN;
                // What was asked for while this fetch was under way can be answered by it.
                let wanted = async {
                    while !set.is_wanting() {
                        set.wanted.notified().await;
                    }
                };
                let _ = timeout(PERIOD, wanted).await;
            }
            Err(error) => {
                tracing::warn!(%uri, %error, "the key set cannot be fetched");
                tokio::time::sleep(again).await;
                again = (again * 3).min(AGAIN_AT_MOST);
            }
        }
    }
}

/// Fetches the text of a set.
pub(super) async fn get(uri: &Uri, trust: &Trust) -> Result<Bytes, String> {
    timeout(TIME, exchange(uri, trust))
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn exchange(uri: &Uri, trust: &Trust) -> Result<Bytes, String> {
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
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let body = if status == StatusCode::OK {
        let body = Limited::new(answer.into_body(), MAX_BYTES);
        body.collect().await.map(|body| body.to_bytes()).map_err(text)
    } else {
        Err(format!("the answer is {status}"))
    };
    connection.abort();
    body
}

/// Who vouches for the server of a key set.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// The machine's own authorities, looked up at the first fetch.
    Machine,
    /// Authorities that the operator names.
    Named(Arc<ClientConfig>),
}

impl Trust {
    /// The authorities of a PEM file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(super) fn read(path: &Path) -> Result<Trust, String> {
        client_config(Some(path), None).map(Trust::Named).map_err(text)
    }

    fn client(&self) -> Result<Arc<ClientConfig>, String> {
        static MACHINE: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
        match self {
            Trust::Named(config) => Ok(Arc::clone(config)),
            Trust::Machine => {
                MACHINE.get_or_init(|| client_config(None, None).map_err(text)).clone()
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
