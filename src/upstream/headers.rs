//! Which headers are forwarded. Hop-by-hop headers end here in both directions; so do the sender's
//! headers that only the gateway or a proxy may set.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH},
};

/// Returns whether a header ends at the next hop (RFC 9110 section 7.6.1 and its predecessors).
/// `Expect` is one of them because the gateway has met it.
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

/// Returns whether a header states something that only the gateway can know. `Proxy` is one of them
/// because CGI turns it into `HTTP_PROXY`.
fn is_set_by_gateway(name: &str) -> bool {
    name.starts_with("sealgate-")
        || name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "x-real-ip" | "proxy")
}

/// Returns whether a header replaces the client address, the method or the URL of a request.
/// Servers and frameworks trust these, no sender signs them, and a replayer can add them.
fn is_override(name: &str) -> bool {
    matches!(
        name,
        "x-http-method-override"
            | "x-http-method"
            | "x-method-override"
            | "x-original-url"
            | "x-envoy-original-path"
            | "x-override-url"
            | "x-rewrite-url"
            | "x-original-forwarded-for"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "true-client-ip"
            | "cf-connecting-ip"
            | "cf-connecting-ipv6"
            | "fastly-client-ip"
            | "fly-client-ip"
            | "client-ip"
            | "x-envoy-external-address"
            | "x-remote-user"
    )
}

/// Applies `matches` to a name and to the name that PHP and other CGI hosts fold it into. `matches`
/// must cover only names that [`may_be_reserved`].
fn or_twin(name: &str, matches: impl Fn(&str) -> bool) -> bool {
    may_be_reserved(name)
        && (matches(name) || (name.contains('_') && matches(&name.replace('_', "-"))))
}

/// Returns whether a name begins like one of those above. Most names do not.
fn may_be_reserved(name: &str) -> bool {
    matches!(
        name.as_bytes(),
        [b'x', _, b'f' | b'r' | b'o' | b'h' | b'm' | b'c' | b'e', ..]
            | [b's', b'e', ..]
            | [b'f', b'o' | b'a' | b'l', ..]
            | [b'p', b'r', ..]
            | [b't', b'r', ..]
            | [b'c', b'f' | b'l', ..]
    )
}

/// Returns whether PHP and other CGI hosts fold two lower-case names into the same variable.
pub fn is_twin(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// Returns why the operator cannot add a header with this name to requests for the upstream, if
/// that is so. `security` are the headers that the route's scheme reads or pins.
pub fn reserved(name: &HeaderName, security: &[HeaderName]) -> Option<&'static str> {
    let name = name.as_str();
    let is_any = |known: &[&str]| known.iter().any(|known| is_twin(known, name));
    if security.iter().any(|known| is_twin(known.as_str(), name)) {
        Some("is read by the route's scheme, and verified headers are not replaced")
    } else if is_any(&["host"]) {
        Some("is set by `upstream_host`")
    } else if is_any(&["content-length", "content-encoding", "transfer-encoding"]) {
        Some("describes the body, which is forwarded as it was verified")
    } else if is_hop_by_hop(&name.replace('_', "-")) {
        Some("ends at the next hop")
    } else if or_twin(name, is_set_by_gateway) {
        Some("is set by the gateway itself")
    } else {
        None
    }
}

/// Returns the headers that `Connection` headers name, which end here too.
pub(super) fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    if !headers.contains_key(CONNECTION) {
        return Vec::new();
    }
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect()
}

/// Returns whether a sender's header is forwarded to the upstream. Hop-by-hop headers, headers that
/// only the gateway or a proxy may set, and twins of the headers that the operator `added` are not.
pub(super) fn passes_to_upstream(
    name: &HeaderName,
    named: &[HeaderName],
    added: &[(HeaderName, HeaderValue)],
) -> bool {
    let text = name.as_str();
    !is_hop_by_hop(text)
        && !or_twin(text, |name| is_set_by_gateway(name) || is_override(name))
        && !named.contains(name)
        && !added.iter().any(|(known, _)| is_twin(known.as_str(), text))
}

/// Returns whether an upstream's header is forwarded to the sender. Hop-by-hop headers, the length
/// of the body (set again from the body) and headers that only the gateway may set are not.
pub(super) fn passes_to_sender(name: &HeaderName) -> bool {
    let text = name.as_str();
    !is_hop_by_hop(text) && *name != CONTENT_LENGTH && !text.starts_with("sealgate-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_forwarded(name: &str) -> bool {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        passes_to_upstream(&name, &[], &[])
    }

    #[test]
    fn drops_overrides_and_their_underscore_twins() {
        for name in [
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-url",
            "x-rewrite-url",
            "x-original-forwarded-for",
            "x-client-ip",
            "x-cluster-client-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "fastly-client-ip",
            "fly-client-ip",
            "client-ip",
            "x-envoy-original-path",
            "x-envoy-external-address",
            "x-override-url",
            "x-remote-user",
            "sealgate-verified",
            "x-forwarded-for",
            "forwarded",
            "x-real-ip",
            "proxy",
        ] {
            assert!(!is_forwarded(name), "{name}");
            assert!(!is_forwarded(&name.replace('-', "_")), "{name}");
        }
        for name in ["x-hub-signature-256", "x-original", "cf-ray", "from", "x-mailgun-tag"] {
            assert!(is_forwarded(name), "{name}");
        }
    }
}
