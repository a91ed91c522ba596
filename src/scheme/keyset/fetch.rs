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
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The time between fetches if no token names an unknown key.
pub(super) const PERIOD: Duration = Duration::from_secs(3600);
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

/// The limit of [`FETCHES_A_MINUTE`].
#[derive(Default)]
pub(super) struct FetchLimit(VecDeque<Instant>);

impl FetchLimit {
    /// Waits until a fetch may begin.
    pub(super) async fn wait(&mut self) {
        while let Some(wait) = self.remaining() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts a fetch.
    pub(super) fn begin(&mut self) {
        self.0.push_back(Instant::now());
    }

    /// Counts a fetch and returns `true` if one may begin now.
    pub(super) fn try_begin(&mut self) -> bool {
        let may = self.remaining().is_none();
        if may {
            self.begin();
        }
        may
    }

    /// Returns the time until a fetch may begin; `None` if that is now.
    fn remaining(&mut self) -> Option<Duration> {
        while self.0.front().is_some_and(|begun| begun.elapsed() >= MINUTE) {
            self.0.pop_front();
        }
        let oldest = self.0.front().filter(|_| self.0.len() >= FETCHES_A_MINUTE)?;
        Some(MINUTE.saturating_sub(oldest.elapsed()))
    }
}

/// The wait after a failed fetch.
pub(super) struct FetchBackoff(Duration);

impl Default for FetchBackoff {
    fn default() -> Self {
        FetchBackoff(BACKOFF)
    }
}

impl FetchBackoff {
    /// Waits, and makes the next wait longer.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 3).min(MAX_BACKOFF);
    }
}

/// Fetches at the start, then whenever a token names an unknown key, and at least every [`PERIOD`].
pub(super) async fn maintain(set: &KeySet, uri: &Uri, trust: &ServerTrust) {
    let (mut limit, mut backoff) = (FetchLimit::default(), FetchBackoff::default());
    loop {
        limit.wait().await;
        limit.begin();
        let begun = Instant::now();
        let result = match get(uri, trust).await {
            Ok(text) => set.replace(&text, begun, None),
            Err(error) => Err(error),
        };
        set.count(result.is_ok());
        match result {
            Ok(()) => {
                backoff = FetchBackoff::default();
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
                backoff.wait().await;
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
