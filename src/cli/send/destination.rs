//! Which gateway `send` calls: by default the one that runs with the configuration on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};
use http::Uri;

use super::DestinationArguments;
use crate::{
    cli::client::{Destination, Trust},
    cli::sign::path_of,
    config::Config,
    route::RouteOptions,
};

/// Returns where to send the events of a route, which exists.
///
/// # Errors
/// A file that cannot be read; a configuration from which the address cannot be determined.
pub(super) fn destination(
    config: &Config,
    route: &str,
    arguments: &DestinationArguments,
) -> anyhow::Result<Destination> {
    let route = config.routes.iter().find(|known| known.name == route).context("no such route")?;
    let (url, address) = match &arguments.to {
        Some(url) => (with_path(url, path_of(route))?, None),
        None => local(config, route)?,
    };
    let trust = match &arguments.cacert {
        _ if arguments.insecure => Trust::Anything,
        Some(file) => Trust::Certificates(
            std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?,
        ),
        None => Trust::Certificates(known_certificates(config)),
    };
    let connect = arguments.connect.clone().or(address.map(|address| address.to_string()));
    Ok(Destination { url, connect, trust })
}

/// Adds the path to a URL that has none.
fn with_path(url: &Uri, path: &str) -> anyhow::Result<Uri> {
    let has_path = url.path_and_query().is_some_and(|target| target.as_str() != "/");
    let origin = url.scheme_str().zip(url.authority());
    match origin {
        Some((scheme, authority)) if !has_path => {
            let url = format!("{scheme}://{authority}{path}");
            url.parse().with_context(|| format!("`{url}` is not a URL"))
        }
        Some(_) => Ok(url.clone()),
        None => bail!("--to: `{url}` is not a URL such as https://hooks.example.com{path}"),
    }
}

/// Returns the URL of a route on a listener of the configuration, and the listener's address.
fn local(config: &Config, route: &RouteOptions) -> anyhow::Result<(Uri, Option<SocketAddr>)> {
    let server = &config.server;
    let open = server.listen.iter().find(|listener| listener.client_ca.is_none());
    let plain = server.http_listen.first();
    let (scheme, address, name) = match (open.or(server.listen.first()), plain) {
        (Some(listener), None) => ("https", listener.address, certificate_name(config)),
        (Some(listener), Some(_)) if open.is_some() => {
            ("https", listener.address, certificate_name(config))
        }
        (_, Some(address)) => ("http", *address, None),
        (None, None) => bail!("the configuration has no listener; use --to"),
    };
    if address.port() == 0 {
        bail!("the listener's port is not fixed (port 0); use --to");
    }
    let address = loopback(address);
    let host = route.host.clone().or(name).unwrap_or_else(|| match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    });
    let url = format!("{scheme}://{host}:{}{}", address.port(), path_of(route));
    let url = url.parse().with_context(|| format!("{url} is not a URL; use --to"))?;
    Ok((url, Some(address)))
}

/// Returns an address at which a listener can be reached from this machine.
fn loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Returns a name in the default certificate. `*.example.com` becomes `hooks.example.com`.
fn certificate_name(config: &Config) -> Option<String> {
    let pair = config.server.tls.first()?;
    let names = pair.names().unwrap_or_default();
    let name = names.first().or(pair.self_signed.first())?;
    Some(name.strip_prefix('*').map_or(name.clone(), |rest| format!("hooks{rest}")))
}

/// Returns the certificates of the configuration and of the system's authorities, as PEM.
fn known_certificates(config: &Config) -> Vec<u8> {
    let own = config.server.tls.iter().map(|pair| pair.cert.clone());
    let system = std::env::var_os("SSL_CERT_FILE")
        .map_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into(), std::path::PathBuf::from);
    own.chain([system]).filter_map(|path| std::fs::read(path).ok()).collect::<Vec<_>>().concat()
}
