//! `[server]` and `[admin]`: where the gateway listens.

use std::{net::SocketAddr, path::PathBuf, thread, time::Duration};

use ipnet::IpNet;

use super::{Surroundings, addresses, limits::Limits};
use crate::{
    document::{Field, Section},
    server::ServerOptions,
    tls::Pair,
};

pub(super) fn read(
    section: Section<'_>,
    limits: &Limits,
    surroundings: &Surroundings<'_>,
) -> Option<ServerOptions> {
    let listening = |key| section.get(key).map(|field| addresses(&field)).unwrap_or_default();
    let (listen, http_listen) = (listening("listen"), listening("http_listen"));
    let tls = section
        .get("tls")
        .map(|field| field.items().iter().filter_map(|f| pair(f, surroundings)).collect::<Vec<_>>())
        .unwrap_or_default();
    if listen.is_empty() && http_listen.is_empty() {
        let help = "listen = \"0.0.0.0:8443\" for TLS, http_listen = \"127.0.0.1:8081\" without";
        section.error("the gateway listens nowhere", Some(help.to_owned()));
    }
    if !listen.is_empty() && tls.is_empty() && section.get("tls").is_none() {
        let help = "add [[server.tls]] with cert and key, or use http_listen behind a TLS proxy";
        section.error("`listen` needs a certificate", Some(help.to_owned()));
    }
    let trusted_proxies = section.get("trusted_proxies").map(|f| networks(&f)).unwrap_or_default();
    if trusted_proxies.is_empty() && http_listen.iter().any(|address| !address.ip().is_loopback()) {
        let help = "name the proxy that terminates TLS in trusted_proxies";
        section.warning(
            "http_listen is reachable from outside and takes requests without TLS",
            Some(help.to_owned()),
        );
    }
    let span = |key, default: u64| {
        let span = section.get(key).and_then(|field| field.duration());
        span.unwrap_or(Duration::from_secs(default))
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = section.get("workers").and_then(|field| field.integer(1..=1024));
    let options = ServerOptions {
        listen,
        http_listen,
        tls,
        trusted_proxies,
        health_path: section.get("health_path").and_then(|field| health_path(&field)),
        drain_delay: span("drain_delay", 0),
        drain: span("drain", 35),
        workers: workers.and_then(|n| usize::try_from(n).ok()).unwrap_or(cores),
        limits: limits.server,
    };
    section.finish();
    Some(options)
}

fn health_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    if !path.starts_with('/') {
        field.error("`health_path` must begin with /", None);
        return None;
    }
    Some(path)
}

fn networks(field: &Field<'_>) -> Vec<IpNet> {
    let network = |field: Field<'_>| {
        let text = field.text()?;
        let parsed =
            text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from)).ok();
        if parsed.is_none() {
            let help = "write a network or an address: 10.0.0.0/8, 2001:db8::/32, 192.0.2.7";
            field.error(format!("`{text}` is no network"), Some(help.to_owned()));
        }
        parsed
    };
    field.items().into_iter().filter_map(network).collect()
}

/// One `[[server.tls]]`; its files are read, so that a bad one is told before anything listens.
fn pair(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<Pair> {
    let section = field.section()?;
    let path = |key| {
        let field = section.require(key)?;
        Some(surroundings.base.join(PathBuf::from(field.text()?)))
    };
    let (cert, key) = (path("cert"), path("key"));
    let names = section
        .get("self_signed")
        .map(|field| field.items().into_iter().filter_map(|name| name.text()).collect::<Vec<_>>());
    let self_signed = names.unwrap_or_default();
    let pair = cert.zip(key).map(|(cert, key)| Pair { cert, key, self_signed });
    if let Some(Err(error)) = pair.as_ref().map(Pair::check) {
        let help =
            "for development, add self_signed = [\"localhost\"] and the pair is made at start";
        section.error(error.to_string(), Some(help.to_owned()));
    }
    section.finish();
    pair
}

/// `[admin]`; on loopback unless said otherwise.
pub(super) fn admin(section: Option<Section<'_>>) -> Vec<SocketAddr> {
    let default = vec![SocketAddr::from(([127, 0, 0, 1], 9464))];
    let Some(section) = section else { return default };
    let listen = section.get("listen").map(|field| {
        let listen = addresses(&field);
        if listen.iter().any(|address| !address.ip().is_loopback()) {
            let help = "it shows counts and no payload; let only your scraper reach it";
            field.warning("the admin listener is reachable from outside", Some(help.to_owned()));
        }
        listen
    });
    section.finish();
    listen.unwrap_or(default)
}
