//! The handler that rehearses: calls to it, and the effects that they have.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header::HOST};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::cli::client::{Destination, SenderClient, Trust};

/// The timeout of a call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The pieces in which a slow sender's body arrives, and the time between them.
const PIECES: usize = 8;
const BETWEEN_PIECES: Duration = Duration::from_millis(150);

/// A request as the gateway sends it to the handler.
#[derive(Clone, Debug)]
pub(super) struct HandlerRequest {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl HandlerRequest {
    /// Returns a command that sends the request again.
    pub(super) fn curl(&self, url: &Uri) -> anyhow::Result<String> {
        let quoted = |text: &str| text.replace('\'', "'\\''");
        let mut line = format!("curl -i -X {}", self.method);
        for (name, value) in &self.headers {
            line.push_str(&format!(" \\\n  -H '{name}: {}'", quoted(value.to_str()?)));
        }
        let body = String::from_utf8_lossy(&self.body);
        line.push_str(&format!(" \\\n  --data-binary '{}' '{url}'", quoted(&body)));
        Ok(line)
    }
}

/// The handler, and the command that counts its effects.
pub(super) struct Handler {
    url: Uri,
    count: Option<String>,
    settle: Duration,
}

impl Handler {
    pub(super) fn new(url: Uri, count: Option<String>, settle: Duration) -> Self {
        Handler { url, count, settle }
    }

    /// Sends a request on a new connection and returns the status; 0 if there is no response.
    pub(super) async fn call(&self, request: &HandlerRequest) -> anyhow::Result<u16> {
        let to = Destination { url: self.url.clone(), connect: None, trust: Trust::Anything };
        let mut client = SenderClient::connect(&to).await?;
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut outgoing = Request::builder().method(request.method.clone()).uri(target);
        if let Some(headers) = outgoing.headers_mut() {
            *headers = request.headers.clone();
        }
        let outgoing = outgoing.body(request.body.clone())?;
        let response = tokio::time::timeout(TIMEOUT, client.send(outgoing)).await;
        Ok(match response {
            Ok(Ok(response)) => response.status().as_u16(),
            Ok(Err(_)) | Err(_) => 0,
        })
    }

    /// Sends a request and closes the connection without waiting for the response.
    pub(super) async fn call_and_leave(&self, request: &HandlerRequest) -> anyhow::Result<()> {
        let Some(mut stream) = self.open().await? else {
            self.call(request).await?;
            return Ok(());
        };
        stream.write_all(&self.head(request)).await?;
        stream.write_all(&request.body).await?;
        stream.flush().await?;
        // The handler has the request before its client is gone.
        sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Sends a request whose body arrives in pieces, and returns the status; 0 if there is no
    /// response.
    pub(super) async fn call_slowly(&self, request: &HandlerRequest) -> anyhow::Result<u16> {
        let Some(mut stream) = self.open().await? else { return self.call(request).await };
        stream.write_all(&self.head(request)).await?;
        for piece in request.body.chunks(request.body.len().div_ceil(PIECES).max(1)) {
            sleep(BETWEEN_PIECES).await;
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
        let mut start = [0; 12];
        let read = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut start)).await;
        let status = std::str::from_utf8(&start[9..]).ok().and_then(|text| text.parse().ok());
        Ok(if matches!(read, Ok(Ok(_))) { status.unwrap_or(0) } else { 0 })
    }

    /// Returns a connection without TLS; `None` if the handler has TLS.
    async fn open(&self) -> anyhow::Result<Option<TcpStream>> {
        if self.url.scheme_str() != Some("http") {
            return Ok(None);
        }
        let host = self.url.host().context("the URL has no host")?;
        let address = format!("{host}:{}", self.url.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(&address).await;
        Ok(Some(stream.with_context(|| format!("cannot connect to {address}"))?))
    }

    fn head(&self, request: &HandlerRequest) -> Vec<u8> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut head = format!("{} {target} HTTP/1.1\r\n", request.method).into_bytes();
        if !request.headers.contains_key(HOST) {
            let host = self.url.authority().map_or("localhost", |host| host.as_str());
            head.extend_from_slice(format!("host: {host}\r\n").as_bytes());
        }
        for (name, value) in &request.headers {
            head.extend_from_slice(
                &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat(),
            );
        }
        let length = request.body.len();
        head.extend_from_slice(
            format!("content-length: {length}\r\nconnection: close\r\n\r\n").as_bytes(),
        );
        head
    }

    /// Returns how many effects the handler has had; `None` without `--count`.
    pub(super) async fn effects(&self) -> anyhow::Result<Option<i64>> {
        let Some(command) = self.count.clone() else { return Ok(None) };
        let ran = spawn_blocking(move || {
            std::process::Command::new("sh")
                .args(["-c", &command])
                .stdin(Stdio::null())
                .output()
                .context("cannot run sh")
        });
        let output = ran.await.context("--count")??;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("--count fails: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        text.parse().map(Some).with_context(|| format!("--count prints `{text}`, not a number"))
    }

    /// Returns how many effects the handler has had, once it has at least `expected` or the time
    /// to settle is over.
    pub(super) async fn settled(&self, expected: Option<i64>) -> anyhow::Result<Option<i64>> {
        let deadline = Instant::now() + self.settle;
        loop {
            let effects = self.effects().await?;
            let has_all = effects.zip(expected).is_some_and(|(now, wanted)| now > wanted);
            if effects.is_none() || has_all || Instant::now() >= deadline {
                return Ok(effects);
            }
            sleep(Duration::from_millis(25)).await;
        }
    }
}
