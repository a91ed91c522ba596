//! Routes: host and path to route, admission, and the rules for a request's head.
//!
//! Paths are compared byte for byte. Nothing is decoded, folded or resolved, so that the gateway
//! and the upstream cannot disagree about which path was called.

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
    capacity::RouteShare,
    events::{DeliveryMode, DeliveryOptions, DeliveryRoute},
    metrics::{Metrics, RouteMetrics, SecretUse},
    reject::Reject,
    replay::{ShareId, Terms},
    scheme::Verifier,
    upstream::{Upstream, UpstreamOptions},
};

/// What a route does with a request that is not authentic or not new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rejects it, or acknowledges it without forwarding.
    Enforce,
    /// Forwards it with a mark; counts and logs what would have been rejected.
    Observe,
}

/// The paths of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path only.
    Exact(String),
    /// Every path that begins with this prefix, which ends in `/`.
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
    /// What it does with a request that is not authentic or not new.
    pub mode: Mode,
    /// Which clients may call, and how often.
    pub admission: AdmissionOptions,
    /// The scheme with the route's keys.
    pub verifier: Verifier,
    /// The longest time until the sender has its response.
    pub answer_within: Duration,
    /// The limits of a body.
    pub body: body::BodyLimits,
    /// Where authentic events are forwarded.
    pub upstream: UpstreamOptions,
    /// How long an event stays on record.
    pub ttl: Duration,
    /// How its events are delivered.
    pub delivery: DeliveryOptions,
}

/// A route of the running configuration.
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// What it does with a request that is not authentic or not new.
    pub mode: Mode,
    /// The scheme with the route's keys.
    pub verifier: Arc<Verifier>,
    /// The longest time until the sender has its response.
    pub answer_within: Duration,
    /// The limits of a body.
    pub body: body::BodyLimits,
    /// Where authentic events are forwarded.
    pub upstream: Arc<Upstream>,
    /// How its events are delivered.
    pub delivery: Arc<DeliveryRoute>,
    /// When each of its secrets was last used.
    pub secrets: Arc<SecretUse>,
    /// What the replay guard needs to know about it.
    pub terms: Terms,
    /// Its metrics.
    pub metrics: Arc<RouteMetrics>,
    /// Its share of the capacity.
    pub share: Arc<RouteShare>,
    admission: Admission,
    matched: Option<usize>,
}

impl Route {
    fn new(options: RouteOptions, share: Arc<RouteShare>, metrics: &Metrics) -> Self {
        let terms = Terms {
            route: ShareId::of_route(&options.name),
            ttl: options.ttl,
            // What is stored is forwarded again by the event store.
            forwards_repeats: options.delivery.forwards_duplicates
                && options.delivery.mode == DeliveryMode::Sync,
        };
        let name: Arc<str> = options.name.into();
        let (verifier, upstream) = (Arc::new(options.verifier), Upstream::new(options.upstream));
        let metrics = metrics.route(&name);
        let matched = match options.path {
            PathPattern::Exact(_) => None,
            PathPattern::Below(prefix) => Some(prefix.len()),
        };
        let delivery = DeliveryRoute::new(
            Arc::clone(&name),
            options.delivery,
            Arc::clone(&verifier),
            Arc::clone(&upstream),
            (matched, options.body.bytes),
            Arc::clone(&metrics),
        );
        Route {
            share,
            delivery,
            secrets: metrics.secrets(verifier.secrets()),
            metrics,
            name,
            mode: options.mode,
            admission: Admission::new(options.admission),
            answer_within: options.answer_within,
            body: options.body,
            upstream,
            terms,
            verifier,
            matched,
        }
    }

    /// Returns the scheme's status for requests that are not authentic.
    pub fn unauthorized(&self) -> StatusCode {
        self.verifier.scheme().rejection()
    }

    /// Returns how many bytes of the path a wildcard pattern matches, up to the `*`.
    pub fn matched(&self) -> Option<usize> {
        self.matched
    }

    /// Checks a client's address, and charges its request to the rate limits.
    ///
    /// # Errors
    /// [`Reason::NotAllowed`](crate::reject::Reason::NotAllowed), [`Reject::RateLimited`].
    pub fn admit(&self, client: IpAddr) -> Result<(), Reject> {
        self.admission.admit(client)
    }

    /// Checks the head before the body is read: the method, the path below a wildcard, the content
    /// coding, and that `Connection` does not name a security header.
    ///
    /// # Errors
    /// [`Reject::Method`], [`Reject::ContentEncoding`], [`Reject::BadRequest`].
    pub fn check_head(&self, head: &Parts) -> Result<(), Reject> {
        let methods = self.verifier.methods();
        if !allows(methods, &head.method) {
            return Err(Reject::Method(methods));
        }
        if self.matched.is_some() && is_ambiguous_path(head.uri.path()) {
            return Err(Reject::BadRequest("ambiguous path"));
        }
        if names_security_header(&head.headers, self.verifier.headers()) {
            return Err(Reject::BadRequest("Connection names a security header"));
        }
        if head.headers.get_all(CONTENT_ENCODING).iter().any(is_encoded) {
            return Err(Reject::ContentEncoding);
        }
        Ok(())
    }
}

/// Returns whether `method` is in a list such as `POST, HEAD`.
fn allows(methods: &str, method: &Method) -> bool {
    methods.split(',').any(|allowed| allowed.trim() == method.as_str())
}

/// Returns whether a `Connection` header names a security header: the gateway, or a proxy behind
/// it, would remove that header.
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

/// Returns whether a `Content-Encoding` header names a content coding. A charset or a MIME transfer
/// encoding that a sender put there by mistake changes nothing about the bytes, and no recipient
/// decodes them.
fn is_encoded(value: &HeaderValue) -> bool {
    let codings = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    !codings.filter(|coding| !coding.is_empty()).all(is_no_coding)
}

/// Returns whether a word is the identity coding, a charset or a MIME transfer encoding of plain
/// bytes.
fn is_no_coding(word: &[u8]) -> bool {
    let exact: [&[u8]; 12] = [
        b"identity",
        b"utf-8",
        b"utf8",
        b"utf-16",
        b"utf-16le",
        b"utf-16be",
        b"us-ascii",
        b"ascii",
        b"latin1",
        b"7bit",
        b"8bit",
        b"binary",
    ];
    let prefixes: [&[u8]; 2] = [b"iso-8859-", b"windows-125"];
    let begins = |prefix: &&[u8]| {
        let number = word
            .split_at_checked(prefix.len())
            .filter(|(start, _)| start.eq_ignore_ascii_case(prefix));
        number.is_some_and(|(_, rest)| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
    };
    exact.iter().any(|known| word.eq_ignore_ascii_case(known)) || prefixes.iter().any(begins)
}

/// Returns whether a path has dot segments, empty segments, encoded separators or path parameters.
/// The upstream interprets the part that a wildcard matches, and frameworks disagree about these.
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

/// A route and the host that it serves.
struct Served {
    host: Option<String>,
    route: Arc<Route>,
}

impl Served {
    /// Returns whether the route serves `host`, given with or without port.
    fn serves(&self, host: Option<&str>) -> bool {
        match (&self.host, host) {
            (None, _) => true,
            (Some(wanted), Some(host)) => name_of(host).eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
        }
    }
}

impl Routes {
    /// Builds the routes. Of two routes with the same path, the one with a host is tried first.
    pub fn new(options: Vec<RouteOptions>, metrics: &Metrics) -> Self {
        let mut routes = Routes { exact: HashMap::new(), below: Vec::new() };
        let count = options.len();
        for option in options {
            let share = RouteShare::of(count);
            let (host, path) = (option.host.clone(), option.path.clone());
            let served = Served { host, route: Arc::new(Route::new(option, share, metrics)) };
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

    /// Returns all routes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        let below = self.below.iter().map(|(_, served)| served);
        self.exact.values().flatten().chain(below).map(|served| &served.route)
    }

    /// Returns the route of a request: exact paths before wildcards, longer wildcards before
    /// shorter ones. `host` is the one that the sender called, with or without port.
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

/// Returns the name of a host: without its port and without the dot that ends a fully qualified
/// name. An IPv6 address keeps its brackets.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_ambiguous_paths() {
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
    fn a_charset_is_not_a_content_coding() {
        let encoded = |value: &'static str| is_encoded(&HeaderValue::from_static(value));
        for plain in ["", "identity", "UTF-8", "utf8", "ISO-8859-15", "Windows-1252", "8bit", ","] {
            assert!(!encoded(plain), "{plain}");
        }
        for coding in ["gzip", "br", "utf-8, gzip", "utf-8,gzip", "zstd", "iso-8859-", "x-utf-8"] {
            assert!(encoded(coding), "{coding}");
        }
    }

    #[test]
    fn finds_the_name_of_a_host() {
        assert_eq!(name_of("a.example:8443"), "a.example");
        assert_eq!(name_of("a.example"), "a.example");
        assert_eq!(name_of("[::1]:8443"), "[::1]");
        assert_eq!(name_of("[::1]"), "[::1]");
        assert_eq!(name_of("a.example.:443"), "a.example");
    }

    #[test]
    fn connection_headers_must_not_name_security_headers() {
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
