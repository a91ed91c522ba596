//! `[server]`: where the gateway listens.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, thread, time::Duration};

use http::uri::PathAndQuery;

use super::{Surroundings, acme, admission, limits::LimitsSection, not_empty, secret};
use crate::{
    document::{Field, Section},
    rejections::CaptureOptions,
    server::{ServerOptions, TlsListener},
    tls::{CertificatePair, ChallengeKind, ClientAuthority},
    upstream::Networks,
};

/// Up to more than any orchestrator waits before it kills a process.
const DRAINS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// Reads `[server]`. Problems are reported to the document; what could be read is returned anyway.
pub(super) fn read(
    section: Section<'_>,
    limits: &LimitsSection,
    surroundings: &Surroundings<'_>,
) -> ServerOptions {
    let (listen_field, http_field) = (section.get("listen"), section.get("http_listen"));
    let common = section.get("client_ca").and_then(|field| client_ca(&field, surroundings));
    let listen = listen_field.as_ref().map(|field| listeners(field, common.as_ref(), surroundings));
    let listen = listen.unwrap_or_default();
    let http_listen = http_field.as_ref().map(addresses).unwrap_or_default();
    let tls_field = section.get("tls");
    let tls: Vec<CertificatePair> = tls_field
        .iter()
        .flat_map(Field::sections)
        .filter_map(|section| pair(section, surroundings))
        .collect();
    let empty = |field: &Option<Field<'_>>| field.as_ref().is_none_or(|f| f.items().is_empty());
    if empty(&listen_field) && empty(&http_field) {
        let help = "listen = \"0.0.0.0:8443\" for TLS, http_listen = \"127.0.0.1:8081\" without";
        section.error("there is no listener", Some(help.to_owned()));
    }
    let acme_field = section.get("acme");
    let acme = acme_field.as_ref().and_then(Field::section);
    let acme = acme.and_then(|section| acme::read(section, surroundings));
    match (&listen_field, tls_field.as_ref().or(acme_field.as_ref())) {
        (Some(field), None) if !listen.is_empty() => {
            let help = "add [server.acme] with domains, or [[server.tls]] with cert and key, or \
                        use http_listen behind a TLS proxy";
            field.error("`server.listen` needs a certificate", Some(help.to_owned()));
        }
        (None, Some(field)) => {
            field.warning("certificates are used with `server.listen` only", None);
        }
        (Some(_), Some(_)) | (Some(_), None) | (None, None) => {}
    }
    if let (Some(field), Some(acme)) = (&acme_field, &acme) {
        let asks = |listener: &TlsListener| listener.client_ca.is_some();
        match acme.challenge {
            ChallengeKind::Http01 if empty(&http_field) => {
                let help = "add `http_listen`, which port 80 of the domains must reach";
                field.error("`http-01` needs `server.http_listen`", Some(help.to_owned()));
            }
            ChallengeKind::TlsAlpn01 if !listen.is_empty() && listen.iter().all(asks) => {
                let help = "use challenge = \"http-01\", or a listener without `client_ca`";
                field.error(
                    "`tls-alpn-01` needs a listener without client certificates",
                    Some(help.to_owned()),
                );
            }
            ChallengeKind::Http01 | ChallengeKind::TlsAlpn01 => {}
        }
    }
    let trusted_proxies = section.get("trusted_proxies").map(|field| trusted_proxies(&field));
    let trusted_proxies = trusted_proxies.unwrap_or_default();
    if let Some(field) = &http_field
        && trusted_proxies.is_empty()
        && http_listen.iter().any(|address| !address.ip().is_loopback())
    {
        let help = "name the proxy that terminates TLS in `trusted_proxies`, or listen on loopback";
        field.warning(
            "`server.http_listen` is reachable from outside and accepts requests without TLS",
            Some(help.to_owned()),
        );
    }
    let proxy_protocol = section.get("proxy_protocol").and_then(|field| {
        let on = field.boolean()?;
        if on && trusted_proxies.is_empty() {
            let help = "name the load balancer in `trusted_proxies`".to_owned();
            field.error(
                "`server.proxy_protocol` without trusted proxies rejects every connection",
                Some(help),
            );
        }
        Some(on)
    });
    let span = |key, default: u64| {
        let span = section.get(key).and_then(|field| field.duration_within(DRAINS));
        span.unwrap_or(Duration::from_secs(default))
    };
    let workers = section.get("workers").and_then(|field| field.integer(1..=1024));
    let options = ServerOptions {
        listen,
        http_listen,
        tls,
        acme,
        trusted_proxies,
        proxy_protocol: proxy_protocol.unwrap_or(false),
        health_path: section.get("health_path").and_then(|field| health_path(&field)),
        capture_rejected: section
            .get("capture_rejected")
            .and_then(|field| capture(&field, surroundings)),
        drain_delay: span("drain_delay", 0),
        drain: span("drain", 35),
        watch: section.get("watch").and_then(|field| field.boolean()).unwrap_or(false),
        workers: workers
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
        limits: limits.server,
    };
    section.finish();
    options
}

/// Reads `capture_rejected = { dir, keep, max_bytes }`.
fn capture(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<CaptureOptions> {
    let section = field.section()?;
    let dir_field = section.require("dir");
    let dir = dir_field.as_ref().and_then(not_empty).map(|dir| surroundings.base.join(dir));
    if let (Some(field), Some(dir)) = (&dir_field, &dir)
        && dir.exists()
        && !dir.is_dir()
    {
        field.error(format!("{} is not a directory", dir.display()), None);
    }
    let keep = section.get("keep").map_or(Some(100), |field| field.integer(1..=10_000));
    let max_bytes =
        section.get("max_bytes").map_or(Some(64 << 20), |f| f.size_within(64 << 10..=1 << 40));
    section.finish();
    let keep = usize::try_from(keep?).ok()?;
    Some(CaptureOptions { dir: dir?, keep, max_bytes: max_bytes? })
}

/// Reads one socket address or a list of them.
pub(super) fn addresses(field: &Field<'_>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for item in field.items() {
        addresses.extend(address(&item, &addresses));
    }
    addresses
}

/// Reads a socket address that is not among `others`.
fn address(field: &Field<'_>, others: &[SocketAddr]) -> Option<SocketAddr> {
    let text = field.text()?;
    match text.parse::<SocketAddr>() {
        Ok(twice) if twice.port() != 0 && others.contains(&twice) => {
            field.error(format!("{twice} is listed twice"), None);
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let help = "write address and port: 0.0.0.0:8443, [::]:8443, 127.0.0.1:9464";
            field.error(format!("`{text}` is not a socket address"), Some(help.to_owned()));
            None
        }
    }
}

/// Reads the TLS listeners: addresses, or tables with an address and their own `client_ca`.
fn listeners(
    field: &Field<'_>,
    common: Option<&PathBuf>,
    surroundings: &Surroundings<'_>,
) -> Vec<TlsListener> {
    let mut listeners: Vec<TlsListener> = Vec::new();
    for item in field.items() {
        let others: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
        let (address, own) = if item.is_table() {
            let Some(section) = item.section() else { continue };
            let address = section.require("address").and_then(|field| address(&field, &others));
            let own = section.get("client_ca").and_then(|field| client_ca(&field, surroundings));
            section.finish();
            (address, own)
        } else {
            (address(&item, &others), None)
        };
        let client_ca = own.or_else(|| common.cloned());
        listeners.extend(address.map(|address| TlsListener { address, client_ca }));
    }
    listeners
}

/// Reads `client_ca`, and the file, so that a bad one is reported before anything listens.
fn client_ca(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<PathBuf> {
    let path = surroundings.file(&not_empty(field)?);
    if let Err(error) = ClientAuthority::load(&path) {
        field.error(error.to_string(), None);
    }
    Some(path)
}

fn health_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    let callable = path.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.path() == path);
    if !path.starts_with('/') || !callable {
        let help = "health_path = \"/healthz\"".to_owned();
        field.error(
            format!("`{path}` is not a path: it must begin with / and have no query"),
            Some(help),
        );
        return None;
    }
    Some(path)
}

fn trusted_proxies(field: &Field<'_>) -> Networks {
    admission::networks(field, |field, text| {
        let help = "name only the addresses of your own proxies".to_owned();
        field.warning(format!("`{text}` trusts X-Forwarded-For from any client"), Some(help));
    })
}

/// Reads one `[[server.tls]]`, and its files, so that a bad one is reported before anything
/// listens.
fn pair(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<CertificatePair> {
    let path = |field: &Option<Field<'_>>| -> Option<PathBuf> {
        Some(surroundings.file(&not_empty(field.as_ref()?)?))
    };
    let (cert_field, key_field) = (section.require("cert"), section.require("key"));
    let (cert, key) = (path(&cert_field), path(&key_field));
    let self_signed = section.get("self_signed").map_or(Some(Vec::new()), |field| names(&field));
    let pair = cert.zip(key).zip(self_signed);
    let pair = pair.map(|((cert, key), self_signed)| CertificatePair { cert, key, self_signed });
    if let Some(pair) = &pair {
        if let Err(error) = pair.check() {
            let help = if !pair.self_signed.is_empty() {
                let (cert, key) = (pair.cert.display(), pair.key.display());
                Some(format!("remove {cert} and {key}, and the next start creates the pair again"))
            } else if !pair.cert.exists() {
                let help =
                    "for development, self_signed = [\"localhost\"] creates the pair at start";
                Some(help.to_owned())
            } else {
                None
            };
            section.error(error.to_string(), help);
        }
        if let Some(field) = cert_field.as_ref().filter(|_| pair.is_authority()) {
            let help = "use a server certificate: openssl req -x509 … -addext \
                        basicConstraints=critical,CA:FALSE";
            field.warning(
                "the certificate belongs to a certificate authority: some clients reject it",
                Some(help.to_owned()),
            );
        }
        if let Some(field) = &key_field {
            secret::warn_if_open(field, &pair.key, 0o007);
        }
    }
    section.finish();
    pair
}

/// Reads the names of a self-signed certificate; `None` if one is invalid.
fn names(field: &Field<'_>) -> Option<Vec<String>> {
    let items = field.items();
    if items.is_empty() {
        field.error("`self_signed` has no name", Some("self_signed = [\"localhost\"]".to_owned()));
        return None;
    }
    let name = |item: &Field<'_>| {
        let name = item.text()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*:".contains(&byte);
        if name.is_empty() || !name.bytes().all(plain) {
            item.error(format!("`{name}` is not a valid host name"), None);
            return None;
        }
        Some(name)
    };
    let names: Vec<_> = items.iter().map(name).collect();
    names.into_iter().collect()
}
