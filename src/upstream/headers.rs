//! Which headers pass: hop-by-hop headers end here in both directions, and so do headers that only the
//! gateway may set.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH},
};

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
    // What they begin with; most names are told by it.
    let begins = matches!(
        name.as_bytes(),
        [b's', b'e', ..] | [b'x', _, b'f' | b'r', ..] | [b'f', b'o', ..] | [b'p', b'r', ..]
    );
    begins && (is_ours(name) || (name.contains('_') && is_ours(&name.replace('_', "-"))))
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

/// The headers that `Connection` headers name: they end here too.
pub(super) fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    if !headers.contains_key(CONNECTION) {
        return Vec::new();
    }
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()).collect()
}

/// Whether a sender's header goes on to the upstream: not if it ends here, if only the gateway may say it, or if
/// the operator has one of its own `added` that could be taken for it.
pub(super) fn passes_to_upstream(
    name: &HeaderName,
    named: &[HeaderName],
    added: &[(HeaderName, HeaderValue)],
) -> bool {
    let text = name.as_str();
    !is_hop_by_hop(text)
        && !is_ours_by_any_spelling(text)
        && !named.contains(name)
        && !added.iter().any(|(known, _)| is_twin(known.as_str(), text))
}

/// Whether an upstream's header goes on to the sender: not if it ends here, if it frames the body (that follows
/// from the body), or if only the gateway may say it.
pub(super) fn passes_to_sender(name: &HeaderName) -> bool {
    let text = name.as_str();
    !is_hop_by_hop(text) && *name != CONTENT_LENGTH && !text.starts_with("sealgate-")
}
