//! Fetching a key set over HTTPS: bounded in time, length and number, no redirects.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use tokio::time::timeout;

use super::{FETCHES_A_MINUTE, KeySet, MAX_BYTES, MINUTE};
use crate::tls::{ServerTrust, https_request};

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
        set.count(result.is_ok());
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
    let request = Request::get(uri)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = https_request(request, trust, MAX_BYTES).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(format!("the response is {status}")),
    }
}
