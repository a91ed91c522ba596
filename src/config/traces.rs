//! `[traces]`: where spans are exported, and which.

use http::{HeaderName, Uri};

use super::{Surroundings, headers, not_empty};
use crate::{
    document::{Field, Section},
    tls::ServerTrust,
    traces::TracesOptions,
};

/// The path of a collector's endpoint for traces.
const PATH: &str = "/v1/traces";
/// Headers that the exporter sets itself.
const OWN: [&str; 4] = ["host", "content-type", "content-length", "transfer-encoding"];

/// Reads the section; `None` if a problem was recorded.
pub(super) fn read(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<TracesOptions> {
    let endpoint_field = section.require("endpoint");
    let endpoint = endpoint_field.as_ref().and_then(endpoint);
    let ca = section.get("ca").map(|field| {
        let path = surroundings.file(&not_empty(&field)?);
        ServerTrust::read(&path).map_err(|error| field.error(error, None)).ok().map(|_| path)
    });
    let headers = section.get("headers");
    let headers = headers.map(|field| headers::with_secrets(&field, surroundings, settable));
    let sample = section.get("sample").map_or(Some(100), |field| field.integer(0..=100));
    let service_name = section.get("service_name");
    let service_name = service_name.map_or(Some("sealgate".to_owned()), |field| not_empty(&field));
    section.finish();
    let (endpoint, headers) = (endpoint?, headers.unwrap_or_default());
    if let Some(field) = endpoint_field
        && endpoint.scheme_str() == Some("http")
        && !headers.is_empty()
        && !is_loopback(&endpoint)
    {
        let what = "`traces.headers` are sent to `traces.endpoint` without TLS";
        field.warning(what, Some("write https:// if the collector uses TLS".to_owned()));
    }
    Some(TracesOptions {
        endpoint: endpoint.to_string(),
        ca: ca.map_or(Some(None), |path| path.map(Some))?,
        headers,
        sample: u8::try_from(sample?).ok()?,
        service_name: service_name?,
    })
}

/// Reads the collector's URL. Without a path, it is that of OTLP.
fn endpoint(field: &Field<'_>) -> Option<Uri> {
    let text = field.text()?;
    let whole = if text.split_once("://").is_some_and(|(_, rest)| !rest.contains('/')) {
        format!("{text}{PATH}")
    } else {
        text.clone()
    };
    let uri = whole.parse::<Uri>().ok().filter(|uri| {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        matches!(uri.scheme_str(), Some("http" | "https"))
            && !uri.host().unwrap_or("").is_empty()
            && !authority.contains('@')
    });
    if uri.is_none() {
        // A URL can contain a password.
        field.conceal();
        let help = "endpoint = \"http://127.0.0.1:4318\", with credentials in [traces.headers]";
        let what = "`traces.endpoint` is not a URL of a collector";
        field.error(what, Some(help.to_owned()));
    }
    uri
}

fn is_loopback(endpoint: &Uri) -> bool {
    let host = endpoint.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the header with this name, unless the exporter sets it.
fn settable(name: &str, field: &Field<'_>) -> Option<HeaderName> {
    let header = headers::header_name(name, field)?;
    if OWN.contains(&header.as_str()) {
        field.error(format!("`{name}` is set by the exporter itself"), None);
    }
    Some(header)
}
