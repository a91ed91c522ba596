use std::{fmt::Write, path::PathBuf};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};

use super::upstream::StandInUpstream;
use crate::{
    body::Payload,
    cli::{
        client::{Destination, SenderClient, Trust},
        now,
    },
    config::{self, Config},
    gateway::Gateway,
    scheme::{Draft, UnixMillis, Verifier},
};

const PATH: &str = "/webhooks/vivoldi";
/// The path of the route whose events are stored.
const STORED: &str = "/webhooks/stamps";

/// The gateway, its upstream, and a sender with the keys.
pub(super) struct DemoStage {
    gateway: Gateway,
    upstream: StandInUpstream,
    sender: Verifier,
    certificate: Vec<u8>,
    /// The token of the inspector.
    token: String,
    dir: DemoDir,
}

/// A directory that is removed, with the key in it, however the demo ends.
struct DemoDir(PathBuf);

impl DemoDir {
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("sealgate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(DemoDir(path))
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot remove the demo's directory");
        }
    }
}

/// A signed request, which can be sent more than once.
#[derive(Clone)]
pub(super) struct SignedRequest {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Returns a random key of 32 hex digits.
fn random_secret() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system provides no random bytes: {error}"))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

impl DemoStage {
    pub(super) async fn set() -> anyhow::Result<Self> {
        let upstream = StandInUpstream::start().await?;
        let dir = DemoDir::create()?;
        let (upstream_address, secret) = (upstream.address(), random_secret()?);
        let token = random_secret()?;
        let text = format!(
            r#"
            [server]
            listen = "127.0.0.1:0"
            [[server.tls]]
            cert = "demo.crt"
            key = "demo.key"
            self_signed = ["localhost"]
            [admin]
            listen = "127.0.0.1:0"
            token = "{token}"
            [events]
            path = "events"
            [[route]]
            name = "vivoldi"
            path = "{PATH}"
            scheme = "vivoldi"
            upstream = "http://{upstream_address}"
            secret = "{secret}"
            history = "full"
            [route.secrets.coupon]
            574 = "{}"
            [route.secrets.stamp]
            1 = "{}"
            [[route]]
            name = "stamps"
            path = "{STORED}"
            scheme = "vivoldi"
            upstream = "http://{upstream_address}"
            secret = "{secret}"
            delivery = "async"
            order_by = "json:/cardIdx"
            [route.retry]
            first = "100ms"
            max = "200ms"
            "#,
            random_secret()?,
            random_secret()?,
        );
        let read = || -> anyhow::Result<Config> {
            config::parse("demo.toml", &text, &dir.0, &|_| None)
                .map(|(config, _)| config)
                .map_err(|report| anyhow!("{report}"))
        };
        let route = read()?.routes.into_iter().next().context("the demo has a route")?;
        let gateway = Gateway::start(read()?)?;
        let certificate = std::fs::read(dir.0.join("demo.crt"))?;
        Ok(DemoStage { gateway, upstream, sender: route.verifier, certificate, token, dir })
    }

    pub(super) fn public_url(&self) -> String {
        format!("https://localhost:{}{PATH}", self.gateway.addresses().https[0].port())
    }

    pub(super) fn upstream_url(&self) -> String {
        format!("http://{}", self.upstream.address())
    }

    pub(super) fn inspector_url(&self) -> String {
        format!("http://{}/", self.gateway.addresses().admin[0])
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.gateway.addresses().admin[0])
    }

    /// Returns how many requests have reached the upstream.
    pub(super) fn forwarded(&self) -> usize {
        self.upstream.seen()
    }

    /// Returns the gateway's current metrics.
    pub(super) fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.gateway.metrics()?)
    }

    /// Signs a body with this key as of `shift_ms` milliseconds from now. `headers` are given
    /// headers, such as the event ID of a retry.
    pub(super) fn sign(
        &self,
        key: &str,
        headers: HeaderMap,
        body: &'static str,
        shift_ms: i64,
    ) -> anyhow::Result<SignedRequest> {
        let body = Bytes::from_static(body.as_bytes());
        let payload = Payload::from(body.clone());
        let draft = Draft { method: Method::POST, path: PATH, headers, body: &payload };
        let at = UnixMillis(now().0 + shift_ms);
        let headers = self.sender.sign(Some(key), draft, at).map_err(|error| anyhow!(error))?;
        Ok(SignedRequest { headers, body })
    }

    /// Returns the stand-in for the handler.
    pub(super) fn upstream(&self) -> &StandInUpstream {
        &self.upstream
    }

    /// Sends a request on a new connection.
    pub(super) async fn send(&self, signed: &SignedRequest) -> anyhow::Result<Response<Bytes>> {
        self.send_to(&self.public_url(), signed).await
    }

    /// Sends a request to the route whose events are stored.
    pub(super) async fn send_stored(
        &self,
        signed: &SignedRequest,
    ) -> anyhow::Result<Response<Bytes>> {
        self.send_to(&self.public_url().replace(PATH, STORED), signed).await
    }

    async fn send_to(&self, url: &str, signed: &SignedRequest) -> anyhow::Result<Response<Bytes>> {
        let url: Uri = url.parse()?;
        let trust = Trust::Certificates(self.certificate.clone());
        let to = Destination { url: url.clone(), connect: None, trust };
        let mut client = SenderClient::connect(&to).await?;
        let mut request = Request::post(url).body(signed.body.clone())?;
        *request.headers_mut() = signed.headers.clone();
        client.send(request).await
    }

    /// Returns a command that sends another authentic event.
    pub(super) fn curl(&self) -> anyhow::Result<String> {
        let body = r#"{"cpnNo":"ZJLF0399WQBEQZJM","grpIdx":574}"#;
        let signed = self.sign("global", HeaderMap::new(), body, 0)?;
        let mut line = format!("curl -i --cacert {}", self.dir.0.join("demo.crt").display());
        for (name, value) in &signed.headers {
            write!(line, " \\\n  -H '{name}: {}'", value.to_str()?)?;
        }
        write!(line, " \\\n  --data-binary '{body}' {}", self.public_url())?;
        Ok(line)
    }

    /// Stops the gateway.
    pub(super) async fn strike(self) {
        self.gateway.drain().await;
    }
}
