//! Near misses of senders that sign their address: it differs from `public_url` in one part.

use http::header;

use super::{NearMiss, Trials, near_miss::AddressPart};

/// An address, divided where it can differ.
struct Divided<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Divided<'a> {
    fn of(address: &'a str) -> Option<Divided<'a>> {
        let (scheme, rest) = address.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Some(Divided { scheme, authority, path, query })
    }

    fn with(&self, scheme: &str, authority: &str, path: &str, query: Option<&str>) -> String {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{authority}{path}{query}")
    }
}

/// The request is signed with another address than `public_url`.
pub(super) fn addresses(trials: &mut Trials<'_>) -> Vec<NearMiss> {
    let request = trials.request;
    let Some(registered) = request.route.public_url() else { return Vec::new() };
    let Some(parts) = Divided::of(registered) else { return Vec::new() };
    let Divided { scheme, authority, path, query } = parts;
    let other_scheme = if scheme == "https" { "http" } else { "https" };
    let port = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    let other_port = match port {
        Some(colon) => authority[..colon].to_owned(),
        None => format!("{authority}:{}", if scheme == "https" { 443 } else { 80 }),
    };
    let other_slash = match path.strip_suffix('/') {
        Some(path) => path.to_owned(),
        None => format!("{path}/"),
    };
    let host = request.head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let sent_query = request.head.uri.query();
    let sorted = |query: Option<&str>| {
        let mut parameters: Vec<_> = query.unwrap_or_default().split('&').collect();
        parameters.sort_unstable();
        parameters.join("&")
    };
    let query_part = match sorted(query) == sorted(sent_query) {
        true => AddressPart::QueryOrder,
        false => AddressPart::Query,
    };
    let decoded = decoded(path);
    let at_host = |host: &str| parts.with(scheme, host, path, query);
    let mut tried = vec![
        (AddressPart::Scheme, parts.with(other_scheme, authority, path, query)),
        (AddressPart::Port, at_host(&other_port)),
        (AddressPart::Slash, parts.with(scheme, authority, &other_slash, query)),
        (AddressPart::Path, parts.with(scheme, authority, request.head.uri.path(), query)),
        (query_part, parts.with(scheme, authority, path, sent_query)),
    ];
    tried.extend(host.map(|host| (AddressPart::Host, at_host(host))));
    tried.extend(
        decoded.map(|path| (AddressPart::Encoding, parts.with(scheme, authority, &path, query))),
    );
    for (part, address) in tried {
        if address != registered && trials.fits(&request.route.at(&address)) {
            return vec![NearMiss::Address { part, address }];
        }
    }
    Vec::new()
}

/// Returns the path without percent-encoding; `None` if it has none, or is no text then.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = rest.get(1..3).filter(|_| *first == b'%');
        let byte =
            escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8(bytes).ok().filter(|decoded| decoded != path)
}
