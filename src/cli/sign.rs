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

/// Options of `sealgate sign` and `sealgate send`.
#[derive(Args)]
pub(super) struct SignArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The route whose sender signs.
    #[arg(long, value_name = "NAME")]
    pub(super) route: String,
    /// The key to sign with, such as `global` or `coupon/3570`; default: the key that the headers
    /// and the body select.
    #[arg(long, value_name = "NAME")]
    pub(super) key: Option<String>,
    /// A header to use instead of a generated one; may be repeated.
    #[arg(long = "header", value_name = "K: V", value_parser = header)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The signing time in Unix seconds; default: now.
    #[arg(long, value_name = "UNIX_SECONDS")]
    pub(super) at: Option<i64>,
    /// The file with the body, or `-` for standard input; default: an empty body.
    pub(super) body: Option<PathBuf>,
}

/// A signed request.
pub(super) struct Signed {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// `sealgate sign`: prints the headers that the sender sends, one per line.
pub(super) fn sign(arguments: &SignArguments) -> anyhow::Result<Status> {
    let (route, body) = match inputs(arguments) {
        Ok(inputs) => inputs,
        Err(error) => return Ok(super::invalid(&error)),
    };
    if route.verifier.signs_in_body() {
        anyhow::bail!("this sender's signature is part of the body: use `sealgate send`");
    }
    let signed = signed(arguments, &route, body)?;
    for (name, value) in &signed.headers {
        println!("{name}: {}", value.to_str().context("a header value that is not text")?);
    }
    Ok(Status::Success)
}

/// Reads the route and the body that the arguments name.
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

/// Parses a header argument, `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is not a header value"))?;
    Ok((name, value))
}
