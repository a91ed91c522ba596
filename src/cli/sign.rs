use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Status, capture, instant, load, now, out};
use crate::{
    body::Payload,
    config::Config,
    route::{PathPattern, RouteOptions},
    scheme::{Draft, UnixMillis},
};

/// Options of `sealgate sign`, `send` and `rehearse`.
#[derive(Args)]
pub(super) struct SignArguments {
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
    /// The signing time, in Unix seconds or RFC 3339; default: now.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub(super) at: Option<UnixMillis>,
    /// The file with the body, or `-` for standard input; default: an empty body.
    pub(super) body: Option<PathBuf>,
}

/// A signed request.
pub(super) struct Signed {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// `sealgate sign`: prints the headers that the sender sends, one per line.
pub(super) fn sign(config: &Path, arguments: &SignArguments) -> anyhow::Result<Status> {
    let (route, body) = match inputs(config, arguments) {
        Ok((config, body)) => (route(config, &arguments.route)?, body),
        Err(error) => return Ok(super::invalid(&error)),
    };
    if route.verifier.signs_in_body() {
        anyhow::bail!("this sender's signature is part of the body: use `sealgate send`");
    }
    let signed = signed(arguments, &route, path_of(&route), body)?;
    for (name, value) in &signed.headers {
        out!("{name}: {}\n", value.to_str().context("a header value that is not text")?)?;
    }
    Ok(Status::Success)
}

/// Reads the configuration and the body that the arguments name, and checks that the route exists.
pub(super) fn inputs(config: &Path, arguments: &SignArguments) -> anyhow::Result<(Config, Bytes)> {
    let config = load(config)?;
    find(&config, &arguments.route)?;
    let body = arguments.body.as_deref().map(capture::bytes).transpose()?.unwrap_or_default();
    Ok((config, Bytes::from(body)))
}

/// Returns the position of a route.
///
/// # Errors
/// The names of the routes, if none has this name.
fn find(config: &Config, name: &str) -> anyhow::Result<usize> {
    config.routes.iter().position(|route| route.name == name).ok_or_else(|| {
        let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
        anyhow!("unknown route `{name}`; the routes are: {}", names.join(", "))
    })
}

/// Removes a route from a configuration by its name.
pub(super) fn route(mut config: Config, name: &str) -> anyhow::Result<RouteOptions> {
    let position = find(&config, name)?;
    Ok(config.routes.swap_remove(position))
}

/// Returns a path that the route serves.
pub(super) fn path_of(route: &RouteOptions) -> &str {
    match &route.path {
        PathPattern::Exact(path) => path,
        PathPattern::Below(prefix) => prefix,
    }
}

/// Signs a body as the route's sender does. `path` is path and query of the request.
pub(super) fn signed(
    arguments: &SignArguments,
    route: &RouteOptions,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Signed> {
    let headers = arguments.headers.iter().cloned().collect();
    signed_with(arguments, route, path, headers, body, arguments.at.unwrap_or_else(now))
}

/// Signs a body at a time, with given headers.
pub(super) fn signed_with(
    arguments: &SignArguments,
    route: &RouteOptions,
    path: &str,
    mut headers: HeaderMap,
    body: Bytes,
    at: UnixMillis,
) -> anyhow::Result<Signed> {
    let methods = route.verifier.methods();
    let first = methods.split(',').next().unwrap_or("POST");
    let method = if methods.contains("POST") { Method::POST } else { first.parse()? };
    let key = arguments.key.as_deref();
    if route.verifier.signs_in_body() {
        let signed = route.verifier.sign_body(key, path, &body, at);
        let body = Bytes::from(signed.map_err(|problem| anyhow!(problem))?);
        route.verifier.add_sender_headers(&mut headers, &body);
        return Ok(Signed { method, headers, body });
    }
    let payload = Payload::from(body.clone());
    let draft = Draft { method: method.clone(), path, headers, body: &payload };
    let headers = route.verifier.sign(key, draft, at).map_err(|problem| anyhow!(problem))?;
    Ok(Signed { method, headers, body })
}

/// Parses a header argument, `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is not a header value"))?;
    Ok((name, value))
}
