//! Which headers pass: hop-by-hop headers end here in both directions, headers that only the
//! gateway may set are dropped and set anew.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST},
    request::Parts,
};

use super::{
    HostPolicy,
    client::{Client, FORWARDED_FOR},
};
use crate::{answer::REQUEST_ID, scheme::Verified};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const VERIFIED: HeaderName = HeaderName::from_static("sealgate-verified");
const EVENT_ID: HeaderName = HeaderName::from_static("sealgate-event-id");
const KEY: HeaderName = HeaderName::from_static("sealgate-key");
const POSSIBLE_DUPLICATE: HeaderName = HeaderName::from_static("sealgate-possible-duplicate");
const OBSERVED: HeaderName = HeaderName::from_static("sealgate-observed");

/// What the upstream is told about the judgement.
pub(super) enum Mark<'a> {
    /// The request is authentic.
    Verified {
        /// The proof.
        verified: &'a Verified,
        /// Whether an earlier attempt may have reached the upstream.
        possible_duplicate: bool,
    },
    /// The request came on a route that only observes; what would have been the reason to refuse it.
    Observed(Option<&'static str>),
}

/// Headers that end at the next hop (RFC 9110 section 7.6.1 and the older ones it replaced), and
/// `Expect`, which was answered here.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Headers that tell the upstream what only the gateway can know. `Proxy` is among them because
/// CGI turns it into `HTTP_PROXY`.
fn is_ours(name: &str) -> bool {
    name.starts_with("sealgate-")
        || name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "x-real-ip" | "proxy")
}

/// [`is_ours`] for the names that PHP and other CGI hosts fold into the same variable.
fn is_ours_by_any_spelling(name: &str) -> bool {
    is_ours(name) || (name.contains('_') && is_ours(&name.replace('_', "-")))
}

/// Whether two names, in lower case, become the same variable where PHP and other CGI hosts fold them.
pub fn is_twin(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// Why the operator cannot have a header of this name sent to the upstream, if so. `security` are the
/// headers that the route's scheme reads or pins: what was verified is not replaced.
pub fn reserved(name: &HeaderName, security: &[HeaderName]) -> Option<&'static str> {
    let name = name.as_str();
    let is_any = |known: &[&str]| known.iter().any(|known| is_twin(known, name));
    if security.iter().any(|known| is_twin(known.as_str(), name)) {
        Some("is read by the route's scheme: what was verified is not replaced")
    } else if is_any(&["host"]) {
        Some("is set by `upstream_host`")
    } else if is_any(&["content-length", "content-encoding", "transfer-encoding"]) {
        Some("belongs to the body, which is forwarded as it was verified")
    } else if is_hop_by_hop(&name.replace('_', "-")) {
        Some("ends at the next hop")
    } else if is_ours_by_any_spelling(name) {
        Some("is set by the gateway itself")
    } else {
        None
    }
}

/// Removes what a `Connection` header names, and the hop-by-hop headers themselves. What stays keeps
/// its order.
fn remove_hop_by_hop(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let stays = |name: &HeaderName| {
        !is_hop_by_hop(name.as_str()) && !also(name.as_str()) && !named.contains(name)
    };
    if headers.keys().all(stays) {
        return;
    }
    // Removing them one by one would put the last header in the place of each.
    let came = std::mem::take(headers);
    headers.reserve(came.keys_len());
    let mut current = None;
    for (name, value) in came {
        // The name comes with the first of its values.
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| stays(name)) {
            headers.append(name.clone(), value);
        }
    }
}

/// What is added to every request for an upstream.
pub(super) struct Extra<'e> {
    pub(super) request_id: &'e HeaderValue,
    /// The operator's own headers; what came under their names is dropped.
    pub(super) headers: &'e [(HeaderName, HeaderValue)],
}

/// The head for the upstream: method, path, query and end-to-end headers as they came, one
/// `Content-Length`, what the gateway says and what the operator adds.
pub(super) fn to_upstream(
    head: &mut Parts,
    length: usize,
    client: &Client,
    extra: &Extra<'_>,
    mark: &Mark<'_>,
) {
    let host = host(head);
    let headers = &mut head.headers;
    // What is added below, so that the map grows once at most.
    headers.reserve(8);
    let forwarded = Forwarded::by(client, headers);
    remove_hop_by_hop(headers, |name| {
        let added = |(known, _): &(HeaderName, HeaderValue)| is_twin(known.as_str(), name);
        is_ours_by_any_spelling(name) || extra.headers.iter().any(added)
    });

    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(FORWARDED_FOR, forwarded.chain);
    headers.insert(FORWARDED_PROTO, forwarded.proto);
    if let Some(host) = host.as_ref().filter(|_| !headers.contains_key(HOST)) {
        headers.insert(HOST, host.clone());
    }
    if let Some(host) = forwarded.host.or(host) {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(REQUEST_ID, extra.request_id.clone());
    match mark {
        Mark::Verified { verified, possible_duplicate } => {
            for (name, text) in [(VERIFIED, verified.scheme()), (KEY, verified.key())] {
                if let Ok(value) = HeaderValue::from_str(text) {
                    headers.insert(name, value);
                }
            }
            if let Some(id) = verified.event_id() {
                headers.insert(EVENT_ID, id.clone());
            }
            if *possible_duplicate {
                headers.insert(POSSIBLE_DUPLICATE, HeaderValue::from_static("1"));
            }
        }
        Mark::Observed(reason) => {
            if let Some(reason) = reason {
                headers.insert(OBSERVED, HeaderValue::from_static(reason));
            }
        }
    }
    for (name, value) in extra.headers {
        headers.insert(name.clone(), value.clone());
    }
    head.version = Version::HTTP_11;
}

/// The host that the sender called: `Host`, or HTTP/2's `:authority`.
fn host(head: &Parts) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
    head.headers.get(HOST).cloned().or_else(authority)
}

/// What the upstream is told of the way that a request came.
struct Forwarded {
    chain: HeaderValue,
    proto: HeaderValue,
    host: Option<HeaderValue>,
}

impl Forwarded {
    /// What we saw; where a trusted proxy is before us, its chain with the proxy added, and the
    /// protocol and the host of the hop where the client came in.
    fn by(client: &Client, headers: &HeaderMap) -> Self {
        let peer = &client.peer;
        let mut forwarded = Forwarded {
            chain: peer.address_text.clone(),
            proto: HeaderValue::from_static(if peer.tls { "https" } else { "http" }),
            host: None,
        };
        if !client.is_proxied() {
            return forwarded;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let lines = lines.filter(|line| !line.is_empty());
        let chain: Vec<&[u8]> = lines.chain([peer.address_text.as_bytes()]).collect();
        if let Ok(chain) = HeaderValue::from_bytes(&chain.join(b", ".as_slice())) {
            forwarded.chain = chain;
        }
        if let Some(proto) = client.believed(headers, &FORWARDED_PROTO) {
            let known = ["https", "http"];
            let proto = known.iter().find(|known| proto.eq_ignore_ascii_case(known.as_bytes()));
            forwarded.proto =
                proto.map_or(forwarded.proto, |known| HeaderValue::from_static(known));
        }
        forwarded.host = client
            .believed(headers, &FORWARDED_HOST)
            .filter(|host| is_host(host))
            .and_then(|host| HeaderValue::from_bytes(host).ok());
        forwarded
    }
}

/// Whether this can be a host and port.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte))
}

/// Aims a head at an origin: `Host` by the policy. `authority` is the origin's own.
pub(super) fn aim(head: &mut Parts, authority: &HeaderValue, policy: &HostPolicy) {
    let host = match policy {
        HostPolicy::Preserve => None,
        HostPolicy::Upstream => Some(authority),
        HostPolicy::Name(name) => Some(name),
    };
    if let Some(host) = host {
        head.headers.insert(HOST, host.clone());
    }
}

/// Makes an upstream's headers safe for the sender: end-to-end only, no framing (it follows from the
/// body), nothing that only the gateway says.
pub(super) fn to_sender(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers, |name| name == "content-length" || name.starts_with("sealgate-"));
}
