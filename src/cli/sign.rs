use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Status, capture, now, verify};
use crate::{
    body::Payload,
    config,
    route::{PathPattern, RouteOptions},
    scheme::{Draft, UnixMillis},
};

/// What to sign, and as whom.
#[derive(Args)]
pub(super) struct SignArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The route whose sender is imitated.
    #[arg(long, value_name = "NAME")]
    pub(super) route: String,
    /// The key to sign with, such as `global` or `coupon/3570`; otherwise the one that the headers and
    /// the body name.
    #[arg(long, value_name = "NAME")]
    pub(super) key: Option<String>,
    /// A header that is given and not made up; may be repeated.
    #[arg(long = "header", value_name = "K: V", value_parser = header)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Sign as of this time (Unix seconds) instead of now.
    #[arg(long, value_name = "UNIX_SECONDS")]
    pub(super) at: Option<i64>,
    /// The file with the body, `-` for standard input; without it the body is empty.
    pub(super) body: Option<PathBuf>,
}

/// A request of the sender, ready to be sent.
pub(super) struct Signed {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// `sealgate sign`: prints the headers that the sender would send, one a line.
pub(super) fn sign(arguments: &SignArguments) -> anyhow::Result<Status> {
    let (route, body) = match inputs(arguments) {
        Ok(inputs) => inputs,
        Err(error) => return Ok(super::wrong(&error)),
    };
    if route.verifier.signs_in_body() {
        anyhow::bail!("this sender's signature stands in the body: `sealgate send` puts it there");
    }
    let signed = signed(arguments, &route, body)?;
    for (name, value) in &signed.headers {
        println!("{name}: {}", value.to_str().context("a header that is no text")?);
    }
    Ok(Status::Done)
}

/// The route and the body that the arguments name.
pub(super) fn inputs(arguments: &SignArguments) -> anyhow::Result<(RouteOptions, Bytes)> {
    let (config, _) = config::load(&arguments.config)?;
    let route = verify::route(config, &arguments.route)?;
    let body = arguments.body.as_deref().map(capture::bytes).transpose()?.unwrap_or_default();
    Ok((route, Bytes::from(body)))
}

/// Signs a body as the route's sender does.
pub(super) fn signed(
    arguments: &SignArguments,
    route: &RouteOptions,
    body: Bytes,
) -> anyhow::Result<Signed> {
    let mut headers = HeaderMap::new();
    for (name, value) in &arguments.headers {
        headers.append(name, value.clone());
    }
    let path = match &route.path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Below(prefix) => prefix.clone(),
    };
    let at = arguments.at.map_or_else(now, |at| UnixMillis(at.saturating_mul(1000)));
    let key = arguments.key.as_deref();
    if route.verifier.signs_in_body() {
        let signed = route.verifier.sign_body(key, &path, &body, at);
        let body = Bytes::from(signed.map_err(|problem| anyhow!(problem))?);
        return Ok(Signed { path, headers, body });
    }
    let payload = Payload::from(body.clone());
    let draft = Draft { method: Method::POST, path: &path, headers, body: &payload };
    let headers = route.verifier.sign(key, draft, at).map_err(|problem| anyhow!(problem))?;
    Ok(Signed { path, headers, body })
}

/// A header argument, `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is no header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is no header value"))?;
    Ok((name, value))
}
