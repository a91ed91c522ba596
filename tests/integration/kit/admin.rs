//! Calls of the admin API over raw sockets.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use super::{Connection, PATIENCE, Reply};

/// Full token of gateways with an admin API.
pub(crate) const TOKEN: &str = "an-operator-token-of-the-tests";
/// Viewer token of gateways with an admin API.
pub(crate) const VIEWER: &str = "a-viewer-token-of-the-tests";

/// Caller of an admin API.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    address: SocketAddr,
    headers: Vec<String>,
}

impl Caller {
    /// Returns a caller without a token.
    pub(crate) fn anonymous(address: SocketAddr) -> Self {
        Caller { address, headers: vec!["Host: localhost".to_owned()] }
    }

    /// Returns a caller with a token.
    pub(crate) fn with_token(address: SocketAddr, token: &str) -> Self {
        Self::anonymous(address).with(&format!("Authorization: Bearer {token}"))
    }

    /// Adds a header line, or replaces the one with its name.
    pub(crate) fn with(mut self, line: &str) -> Self {
        let name = line.split(':').next().unwrap_or("").to_owned();
        self.headers.retain(|known| known.split(':').next() != Some(&name));
        self.headers.push(line.to_owned());
        self
    }

    /// Returns a request as bytes.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        let mut text = format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n");
        for line in &self.headers {
            text.push_str(&format!("{line}\r\n"));
        }
        format!("{text}\r\n{body}").into_bytes()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut connection = Connection::plain(self.address).await;
        connection.exchange(&self.request(method, path, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        self.call("POST", path, body).await
    }

    /// Returns the JSON of a successful `GET`.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"));
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    /// Returns the events of a list.
    pub(crate) async fn events(&self, query: &str) -> Vec<Value> {
        let list = self.json(&format!("/api/v1/events{query}")).await;
        list["events"].as_array().expect("a list").clone()
    }

    /// Waits until the only event of a list fulfills a condition, and returns it.
    pub(crate) async fn only(&self, query: &str, ready: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let events = self.events(query).await;
                assert!(events.len() <= 1, "{events:?}");
                match events.into_iter().next().filter(&ready) {
                    Some(event) => return event,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, waiting).await.expect("the event in time")
    }
}
