//! The keys of a route that configure its upstreams.

use std::{ops::RangeInclusive, time::Duration};

use http::HeaderValue;
use rustls_pki_types::ServerName;

use super::{Surroundings, limits::LimitsSection, not_empty, secret};
use crate::{
    document::{Field, Section, show_duration},
    tls::{CertificatePair, client_config},
    upstream::{HostPolicy, Origin, OriginAddress, UpstreamOptions, UpstreamTls},
};

/// The default of `upstream_queue`.
const QUEUE: u64 = 100;

/// The default of `upstream_timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Reads the keys; `answer_within` is the route's, if it is known.
pub(super) fn read(
    section: &Section<'_>,
    limits: &LimitsSection,
    answer_within: Option<Duration>,
    surroundings: &Surroundings<'_>,
) -> Option<UpstreamOptions> {
    let field = section.require("upstream");
    let origins = field.as_ref().map(origins).unwrap_or_default();
    let tls = field.and_then(|field| tls(section, &field, &origins, surroundings));
    let host = section.get("upstream_host").map(|field| host(&field));
    let timeout = match section.get("upstream_timeout") {
        Some(field) => timeout(&field, answer_within),
        None => Some(TIMEOUT.max(answer_within.unwrap_or_default())),
    };
    let number = |key, usual: u64| match section.get(key) {
        Some(field) => field.integer(0..=100_000).and_then(|number| usize::try_from(number).ok()),
        None => usize::try_from(usual).ok(),
    };
    let (concurrency, queue) = (number("upstream_concurrency", 0), number("upstream_queue", QUEUE));
    if origins.is_empty() {
        return None;
    }
    Some(UpstreamOptions {
        origins,
        tls,
        headers: Vec::new(),
        keeps_trace: false,
        concurrency: concurrency?,
        queue: queue?,
        host: host.unwrap_or(Some(HostPolicy::Preserve))?,
        timeout: timeout?,
        idle: limits.upstream_idle,
        response_body_bytes: limits.upstream_body,
        response_head_bytes: limits.upstream_head,
    })
}

fn origins(field: &Field<'_>) -> Vec<Origin> {
    let items = field.items();
    if items.is_empty() {
        field.error("`route.upstream` has no address", None);
    }
    let mut origins: Vec<Origin> = Vec::new();
    for item in &items {
        let Some(text) = item.text() else { continue };
        let help = "a path after the host replaces the sender's".to_owned();
        if text.contains('@') {
            item.conceal();
            item.error("the URL of an upstream must not contain a user or a password", Some(help));
            continue;
        }
        match text.parse::<Origin>() {
            Ok(origin) if origins.contains(&origin) => {
                item.error(format!("`{text}` is listed twice"), None);
            }
            Ok(origin) => origins.push(origin),
            Err(error) => item.error(error, Some(help)),
        }
    }
    origins
}

/// Reads the TLS keys; `None` if no upstream is `https://`, or after an error.
fn tls(
    section: &Section<'_>,
    upstream: &Field<'_>,
    origins: &[Origin],
    surroundings: &Surroundings<'_>,
) -> Option<UpstreamTls> {
    let keys = ["upstream_ca", "upstream_cert", "upstream_key", "upstream_server_name"];
    let fields = keys.map(|key| section.get(key));
    let hosts: Vec<&str> = origins.iter().filter_map(secure_host).collect();
    if hosts.is_empty() {
        // An invalid address has its own error.
        for field in fields.iter().flatten().filter(|_| !origins.is_empty()) {
            let help = Some("write https:// if the upstream uses TLS".to_owned());
            field.error(format!("`{}` without an upstream at https://", field.path()), help);
        }
        return None;
    }
    let [authorities, cert, key, name] = fields;
    let name = match name {
        Some(field) => server_name(&field).map(Some),
        None => are_server_names(&hosts, upstream).then_some(None),
    };
    let own = match (&cert, &key) {
        (None, None) => Some(None),
        (Some(cert), Some(key)) => own_certificate(cert, key, surroundings).map(Some),
        (Some(only), None) | (None, Some(only)) => {
            only.error("`upstream_cert` and `upstream_key` must be set together", None);
            None
        }
    };
    let file = match &authorities {
        Some(field) => Some(surroundings.file(&not_empty(field)?)),
        None => None,
    };
    let client = client_config(file.as_deref(), own.iter().flatten().next());
    let place = authorities.as_ref().unwrap_or(upstream);
    let client = client.map_err(|error| place.error(error.to_string(), None)).ok()?;
    let client_certificate = own?.and_then(|own| own.validity().ok());
    Some(UpstreamTls { client, name: name?, client_certificate })
}

/// Reads the client certificate and its key.
fn own_certificate(
    cert_field: &Field<'_>,
    key_field: &Field<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<CertificatePair> {
    let path = |field: &Field<'_>| not_empty(field).map(|path| surroundings.file(&path));
    let (cert, key) = (path(cert_field), path(key_field));
    let pair = CertificatePair { cert: cert?, key: key?, self_signed: Vec::new() };
    secret::warn_if_open(key_field, &pair.key, 0o077);
    pair.check().map_err(|error| cert_field.error(error.to_string(), None)).ok().map(|()| pair)
}

fn server_name(field: &Field<'_>) -> Option<ServerName<'static>> {
    let text = not_empty(field)?;
    let name = ServerName::try_from(text);
    let problem = |_| field.error("`upstream_server_name` is not a valid host name", None);
    name.map_err(problem).ok()
}

fn are_server_names(hosts: &[&str], upstream: &Field<'_>) -> bool {
    let other = hosts.iter().find(|host| ServerName::try_from(**host).is_err());
    if let Some(host) = other {
        let help = "set upstream_server_name to a name of its certificate";
        upstream.error(format!("no certificate can name `{host}`"), Some(help.to_owned()));
    }
    other.is_none()
}

fn secure_host(origin: &Origin) -> Option<&str> {
    match &origin.address {
        OriginAddress::Https { host, .. } => Some(host),
        OriginAddress::Http { .. } | OriginAddress::Unix(_) => None,
    }
}

fn host(field: &Field<'_>) -> Option<HostPolicy> {
    let text = not_empty(field)?;
    match text.as_str() {
        "preserve" => Some(HostPolicy::Preserve),
        "upstream" => Some(HostPolicy::Upstream),
        name => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
            let value = HeaderValue::from_str(name).ok().filter(|_| name.bytes().all(plain));
            if value.is_none() {
                let help = "upstream_host = \"preserve\", \"upstream\" or \"app.internal\"";
                let what = format!("`{name}` is not a valid host name");
                field.error(what, Some(help.to_owned()));
            }
            value.map(HostPolicy::Name)
        }
    }
}

fn timeout(field: &Field<'_>, answer_within: Option<Duration>) -> Option<Duration> {
    let timeout = field.duration_within(TIMEOUTS)?;
    if let Some(answer_within) = answer_within
        && timeout < answer_within
    {
        let wait = show_duration(answer_within);
        let help = format!("the sender waits for {wait}: a response in that time still counts");
        field.warning("`upstream_timeout` is shorter than `answer_within`", Some(help));
    }
    Some(timeout)
}
