//! Calls of the running gateway's admin API.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    client::{Destination, SenderClient, Trust},
    text::visible,
};
use crate::{admin::AdminOptions, config};

/// The time for one call that reads or changes one event.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A call that the gateway rejected.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct CallFailed {
    /// The status of the response.
    pub(super) status: StatusCode,
    message: String,
}

/// A connection to the admin API of the gateway that runs with a configuration.
pub(super) struct AdminClient {
    client: SenderClient,
    authorization: HeaderValue,
}

/// Where the admin API of a configuration is, and the token for it.
#[derive(Debug)]
pub(super) struct AdminAddress {
    destination: Destination,
    authorization: HeaderValue,
}

impl AdminAddress {
    /// Reads `[admin]` of a configuration file. The rest of the file does not matter: the running
    /// gateway may have rejected it.
    ///
    /// # Errors
    /// An invalid section, one without a token, and a disabled listener.
    pub(super) fn of(config: &Path) -> anyhow::Result<Self> {
        let options = config::load_admin(config)?;
        let token = options.token.as_ref().with_context(|| {
            format!(
                "{} has no `admin.token`, so the gateway has no admin API: create one with \
                 `openssl rand -hex 32`, and set `token = {{ file = \"…\" }}` in [admin]",
                config.display()
            )
        })?;
        let mut authorization = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())?;
        authorization.set_sensitive(true);
        Ok(AdminAddress { destination: destination(&options)?, authorization })
    }
}

/// Returns the first listener. On loopback, its address is an accepted `Host`; elsewhere, the first
/// configured name is.
fn destination(options: &AdminOptions) -> anyhow::Result<Destination> {
    let first = options.listen.first();
    let first = *first.context("the admin listener is disabled: `admin.listen` is empty")?;
    let ip = match first.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => std::net::Ipv4Addr::LOCALHOST.into(),
        _ => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, first.port());
    let url: Uri = match options.hosts.first() {
        Some(host) if !first.ip().is_loopback() => format!("http://{host}:{}/", first.port()),
        _ => format!("http://{address}/"),
    }
    .parse()?;
    Ok(Destination { url, connect: Some(address.to_string()), trust: Trust::Anything })
}

impl AdminClient {
    /// Connects to the gateway.
    pub(super) async fn connect(address: &AdminAddress) -> anyhow::Result<Self> {
        let client = SenderClient::connect(&address.destination).await;
        let client = client.context("the gateway is not running or uses another `admin.listen`")?;
        Ok(AdminClient { client, authorization: address.authorization.clone() })
    }

    /// Sends a `GET` and returns the body of the response.
    ///
    /// # Errors
    /// [`CallFailed`], or no response.
    pub(super) async fn get(&mut self, target: &str) -> anyhow::Result<Bytes> {
        let call = self.call(Method::GET, target, Bytes::new());
        timeout(CALL_TIMEOUT, call).await.context("the gateway does not respond")?
    }

    /// Sends a `GET` and returns the JSON of the response.
    ///
    /// # Errors
    /// [`CallFailed`], or no JSON.
    pub(super) async fn json(&mut self, target: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.get(target).await?)?)
    }

    /// Sends a `POST` and returns the body of the response. A redelivery in bulk may take any time.
    ///
    /// # Errors
    /// [`CallFailed`], or no response.
    pub(super) async fn post(
        &mut self,
        target: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        self.call(Method::POST, target, body.into()).await
    }

    /// Sends a `GET` and returns a response that does not end.
    ///
    /// # Errors
    /// [`CallFailed`], or no response.
    pub(super) async fn stream(&mut self, target: &str) -> anyhow::Result<Incoming> {
        let request = self.request(Method::GET, target, Bytes::new())?;
        let response = self.client.open(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        bail!(CallFailed::of(response.map(|_| Bytes::new())))
    }

    async fn call(&mut self, method: Method, target: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let request = self.request(method, target, body)?;
        let response = self.client.send(request).await.context("no response")?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(anyhow!(CallFailed::of(response)))
    }

    fn request(&self, method: Method, target: &str, body: Bytes) -> anyhow::Result<Request<Bytes>> {
        let request = Request::builder().method(method).uri(target);
        let request = request.header(AUTHORIZATION, self.authorization.clone());
        Ok(request.header(CONTENT_TYPE, "application/json").body(body)?)
    }
}

impl CallFailed {
    fn of(response: Response<Bytes>) -> Self {
        let status = response.status();
        let body = serde_json::from_slice::<Value>(response.body()).ok();
        let error = body.as_ref().and_then(|body| body["error"].as_str()).map(visible);
        let message = match (status, error) {
            (StatusCode::UNAUTHORIZED, _) => {
                "the gateway does not accept the configured `admin.token`".to_owned()
            }
            (_, Some(error)) => error,
            (StatusCode::NOT_FOUND, None) => "the gateway has no admin API".to_owned(),
            (_, None) => format!("the gateway responded {status}"),
        };
        CallFailed { status, message }
    }
}

/// Returns a target below `/api/v1/events/` for an ID and an action that begins with `/` or `?`.
pub(super) fn event_target(id: &str, action: &str) -> String {
    format!("/api/v1/events/{}{action}", percent_encoded(id))
}

/// Returns a target with the parameters that have a value.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut target = path.to_owned();
    for (name, value) in parameters {
        if let Some(value) = value {
            let separator = if target.contains('?') { '&' } else { '?' };
            target.push_str(&format!("{separator}{name}={}", percent_encoded(value)));
        }
    }
    target
}

/// Returns a text in which everything but unreserved characters is percent-encoded (RFC 3986,
/// section 2.3).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_called_by_a_name_that_it_serves() {
        let called = |listen: &str, hosts: &[&str]| {
            let options = AdminOptions {
                listen: vec![listen.parse().expect("an address")],
                hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
                ..AdminOptions::default()
            };
            let to = destination(&options).expect("a destination");
            (to.url.to_string(), to.connect.expect("an address"))
        };
        for (listen, hosts, url, address) in [
            ("127.0.0.1:1", &[][..], "http://127.0.0.1:1/", "127.0.0.1:1"),
            ("127.0.0.1:1", &["a.example"], "http://127.0.0.1:1/", "127.0.0.1:1"),
            ("0.0.0.0:1", &["a.example"], "http://a.example:1/", "127.0.0.1:1"),
            ("[::]:1", &[], "http://[::1]:1/", "[::1]:1"),
            ("10.0.0.1:1", &["a.example"], "http://a.example:1/", "10.0.0.1:1"),
        ] {
            assert_eq!(called(listen, hosts), (url.to_owned(), address.to_owned()), "{listen}");
        }
    }

    #[test]
    fn ids_and_parameters_are_encoded() {
        let id = "a/b?c d%한";
        let encoded = "a%2Fb%3Fc%20d%25%ED%95%9C";
        assert_eq!(event_target(id, "/forget"), format!("/api/v1/events/{encoded}/forget"));
        let query = [("route", Some("a&b")), ("state", None), ("since", Some("1h"))];
        assert_eq!(with_query("/x", &query), "/x?route=a%26b&since=1h");
    }
}
