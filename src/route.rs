//! Host and path to route, and what a request must be to enter one.
//!
//! Paths are compared as the bytes that came: nothing is decoded, folded or resolved, so that we and
//! the upstream cannot disagree about what was called.

mod admission;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{CONNECTION, CONTENT_ENCODING},
    request::Parts,
};

use self::admission::Admission;
pub use self::admission::{AdmissionOptions, Rate};
use crate::{
    body,
    metrics::{Metrics, RouteMetrics},
    reject::Reject,
    replay::Terms,
    scheme::Verifier,
    upstream::{Upstream, UpstreamOptions},
};

/// What a route does with what is not authentic or not new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuses it.
    Enforce,
    /// Forwards it with a mark, counts and logs what would have been refused.
    Observe,
}

/// The paths of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path only.
    Exact(String),
    /// Everything that begins so; ends in `/`.
    Below(String),
}

/// A route, as configured.
#[derive(Debug)]
pub struct RouteOptions {
    /// Its name, in logs and metrics.
    pub name: String,
    /// The host it serves, in lower case and without port; `None` serves all.
    pub host: Option<String>,
    /// The paths it serves.
    pub path: PathPattern,
    /// What it does with what it does not accept.
    pub mode: Mode,
    /// Who may enter, and how often.
    pub admission: AdmissionOptions,
    /// The scheme with the route's keys.
    pub verifier: Verifier,
    /// When the sender must have its answer.
    pub answer_within: Duration,
    /// The bounds of a body.
    pub body: body::Limits,
    /// Where authentic events go.
    pub upstream: UpstreamOptions,
    /// How long an event stays on record.
    pub ttl: Duration,
}

/// A route in service.
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// What it does with what it does not accept.
    pub mode: Mode,
    /// The scheme with the route's keys.
    pub verifier: Verifier,
    /// When the sender must have its answer.
    pub answer_within: Duration,
    /// The bounds of a body.
    pub body: body::Limits,
    /// Where authentic events go.
    pub upstream: Arc<Upstream>,
    /// What the replay guard must know of it.
    pub terms: Terms,
    /// Its metrics.
    pub metrics: Arc<RouteMetrics>,
    admission: Admission,
    matched: Option<usize>,
}

impl Route {
    fn new(options: RouteOptions, metrics: &Metrics) -> Self {
        Route {
            metrics: metrics.route(&options.name),
            name: options.name.into(),
            mode: options.mode,
            admission: Admission::new(options.admission),
            answer_within: options.answer_within,
            body: options.body,
            upstream: Upstream::new(options.upstream),
            terms: Terms { window: options.verifier.window(), ttl: options.ttl },
            verifier: options.verifier,
            matched: match options.path {
                PathPattern::Exact(_) => None,
                PathPattern::Below(prefix) => Some(prefix.len()),
            },
        }
    }

    /// The scheme's status for what is not authentic.
    pub fn refusal(&self) -> StatusCode {
        self.verifier.scheme().refusal()
    }

    /// How many bytes of the path the pattern takes, on a wildcard route.
    pub fn matched(&self) -> Option<usize> {
        self.matched
    }

    /// Lets a client in, by its address, and charges its request to the rate limits.
    ///
    /// # Errors
    /// [`Reason::NotAllowed`](crate::reject::Reason::NotAllowed), [`Reject::RateLimited`].
    pub fn enter(&self, client: IpAddr) -> Result<(), Reject> {
        self.admission.enter(client)
    }

    /// Checks what can be said of a request before its body is read: the method, the encoding, and
    /// that no `Connection` header would take away what the signature or the framing rests on.
    ///
    /// # Errors
    /// [`Reject::Method`], [`Reject::ContentEncoding`], [`Reject::BadRequest`].
    pub fn admit(&self, head: &Parts) -> Result<(), Reject> {
        let scheme = self.verifier.scheme();
        if !allows(scheme.methods(), &head.method) {
            return Err(Reject::Method(scheme.methods()));
        }
        if self.matched.is_some() && is_ambiguous_path(head.uri.path()) {
            return Err(Reject::BadRequest("path that could be read in two ways"));
        }
        if names_security_header(&head.headers, self.verifier.headers()) {
            return Err(Reject::BadRequest("Connection names a security header"));
        }
        let identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !head.headers.get_all(CONTENT_ENCODING).iter().all(identity) {
            return Err(Reject::ContentEncoding);
        }
        Ok(())
    }
}

/// Whether `method` is one of a list such as `POST, HEAD`.
fn allows(methods: &str, method: &Method) -> bool {
    methods.split(',').any(|allowed| allowed.trim() == method.as_str())
}

/// Whether a `Connection` header names a header that the scheme or the framing rests on: a proxy
/// behind us, or we ourselves, would remove it.
fn names_security_header(headers: &HeaderMap, security: &[HeaderName]) -> bool {
    let framing = ["content-length", "transfer-encoding", "host"];
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| name.trim_ascii())
        .any(|name| {
            framing.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
                || security.iter().any(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()))
        })
}

/// Dot segments, empty segments, encoded separators and path parameters: what follows a wildcard is
/// the upstream's to read, and frameworks read these differently.
fn is_ambiguous_path(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let encoded = ["%2f", "%5c", "%00", "%2e", ";", "\\", "//"];
    encoded.iter().any(|part| lower.contains(part))
        || lower.split('/').any(|segment| segment == "." || segment == "..")
}

/// All routes of a configuration.
pub struct Routes {
    exact: HashMap<String, Vec<Served>>,
    /// Longest pattern first.
    below: Vec<(String, Served)>,
}

/// A route and the host it serves.
struct Served {
    host: Option<String>,
    route: Arc<Route>,
}

impl Served {
    /// Whether the route serves a request that called `host`, with or without port.
    fn serves(&self, host: Option<&str>) -> bool {
        match (&self.host, host) {
            (None, _) => true,
            (Some(wanted), Some(host)) => without_port(host).eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
        }
    }
}

impl Routes {
    /// Puts the routes in service. Where two serve the same path, the one with a host goes first.
    pub fn new(options: Vec<RouteOptions>, metrics: &Metrics) -> Self {
        let mut routes = Routes { exact: HashMap::new(), below: Vec::new() };
        for option in options {
            let (host, path) = (option.host.clone(), option.path.clone());
            let served = Served { host, route: Arc::new(Route::new(option, metrics)) };
            match path {
                PathPattern::Exact(path) => routes.exact.entry(path).or_default().push(served),
                PathPattern::Below(prefix) => routes.below.push((prefix, served)),
            }
        }
        for hosts in routes.exact.values_mut() {
            hosts.sort_by_key(|served| served.host.is_none());
        }
        let order = |(prefix, served): &(String, Served)| {
            (std::cmp::Reverse(prefix.len()), served.host.is_none())
        };
        routes.below.sort_by_key(order);
        routes
    }

    /// The routes in service.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        let below = self.below.iter().map(|(_, served)| served);
        self.exact.values().flatten().chain(below).map(|served| &served.route)
    }

    /// The route of a request: exact paths before wildcards, longer wildcards before shorter ones.
    /// `host` is what the sender called, with or without port.
    ///
    /// # Errors
    /// [`Reject::NoRoute`].
    pub fn find(&self, uri: &Uri, host: Option<&str>) -> Result<&Arc<Route>, Reject> {
        let path = uri.path();
        let exact = self.exact.get(path).into_iter().flatten();
        let below = self.below.iter().filter(|(prefix, _)| path.starts_with(prefix));
        exact
            .chain(below.map(|(_, served)| served))
            .find(|served| served.serves(host))
            .map(|served| &served.route)
            .ok_or(Reject::NoRoute)
    }
}

/// A host without its port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths() {
        for path in [
            "/h/../x",
            "/h/./x",
            "/h//x",
            "/h/%2fx",
            "/h/%2Fx",
            "/h/%5Cx",
            "/h/%00",
            "/h/x;y=1",
            "/h/%2e%2e/x",
            "/h/..",
        ] {
            assert!(is_ambiguous_path(path), "{path}");
        }
        for path in ["/h/x", "/h/x.y", "/h/...", "/h/a%20b", "/h/"] {
            assert!(!is_ambiguous_path(path), "{path}");
        }
    }

    #[test]
    fn hosts_without_ports() {
        assert_eq!(without_port("a.example:8443"), "a.example");
        assert_eq!(without_port("a.example"), "a.example");
        assert_eq!(without_port("[::1]:8443"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }

    #[test]
    fn a_connection_header_may_not_name_what_is_signed() {
        let signed = [HeaderName::from_static("x-signature")];
        let named = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(value));
            names_security_header(&headers, &signed)
        };
        assert!(named("close, X-Signature"));
        assert!(named("content-length"));
        assert!(named("keep-alive,Host"));
        assert!(!named("close"));
        assert!(!named("keep-alive, X-Other"));
    }
}
