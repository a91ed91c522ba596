//! Who may use the admin API: tokens, and the names under which it may be called.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header::HOST, uri::Authority};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::Secret;

/// The settings of the admin listeners: the section `[admin]`.
#[derive(Clone, Debug, Default)]
pub struct AdminOptions {
    /// The addresses; empty if the operator disabled them.
    pub listen: Vec<SocketAddr>,
    /// The token that permits everything; without it, there is no API.
    pub token: Option<Secret>,
    /// The token that permits reading.
    pub viewer_token: Option<Secret>,
    /// The accepted values of `Host`, in lower case and without port; empty accepts every name,
    /// except on loopback.
    pub hosts: Vec<String>,
}

/// What a caller may do, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Read.
    Viewer,
    /// Read, change and export.
    Operator,
}

impl Role {
    /// Returns the word in the API and the log.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
        }
    }
}

/// The SHA-256 of a token. Digests have one length, so comparing them in constant time does not
/// reveal the token's.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Returns the digest of a token.
    pub(super) fn of(token: &[u8]) -> Self {
        TokenDigest(Sha256::digest(token).into())
    }

    fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// The access rules of the running configuration.
#[derive(Debug, Default)]
pub(super) struct Access {
    tokens: Vec<(TokenDigest, Role)>,
    hosts: Vec<String>,
}

impl Access {
    /// Returns the rules of a configuration.
    pub(super) fn new(options: &AdminOptions) -> Self {
        let of = |token: &Option<Secret>, role| {
            token.as_ref().map(|token| (TokenDigest::of(token.expose()), role))
        };
        let operator = of(&options.token, Role::Operator);
        let tokens = match operator {
            Some(operator) => [operator].into_iter().chain(of(&options.viewer_token, Role::Viewer)),
            None => return Access::default(),
        };
        Access { tokens: tokens.collect(), hosts: options.hosts.clone() }
    }

    /// Returns whether there is an API.
    pub(super) fn is_enabled(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Returns what the holder of a token may do. Every configured token is compared.
    pub(super) fn role(&self, token: &TokenDigest) -> Option<Role> {
        let roles = self.tokens.iter().map(|(known, role)| known.equals(token).then_some(*role));
        roles.fold(None, Option::or)
    }

    /// Returns whether a request names a host that is served. A browser sends the name of the
    /// page's own host, so a page whose name an attacker resolves to this listener is rejected.
    pub(super) fn allows_host(&self, uri: &Uri, headers: &HeaderMap, loopback: bool) -> bool {
        if self.hosts.is_empty() && !loopback {
            return true;
        }
        let Some(host) = host(uri, headers) else { return false };
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        self.hosts.contains(&name) || (loopback && is_loopback(&name))
    }
}

/// Returns the host that a request names; `None` if it is missing, ambiguous or malformed.
pub(super) fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    Authority::try_from(host.as_bytes()).ok().filter(|host| !host.as_str().contains('@'))
}

/// Returns whether a name always means this machine (RFC 6761, section 6.3).
fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn access(token: &str, viewer: Option<&str>, hosts: &[&str]) -> Access {
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        Access::new(&AdminOptions {
            listen: Vec::new(),
            token: Some(secret(token)),
            viewer_token: viewer.map(secret),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        })
    }

    #[test]
    fn a_token_has_the_role_for_which_it_is_configured() {
        let access = access("full-token", Some("viewer-token"), &[]);
        let role = |token: &str| access.role(&TokenDigest::of(token.as_bytes()));
        assert_eq!(role("full-token"), Some(Role::Operator));
        assert_eq!(role("viewer-token"), Some(Role::Viewer));
        for wrong in ["", "full-toke", "full-token ", "FULL-TOKEN"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_viewer_token_alone_enables_nothing() {
        let viewer_token = Some(Secret::new(b"viewer-token".to_vec()));
        let access = Access::new(&AdminOptions { viewer_token, ..AdminOptions::default() });
        assert!(!access.is_enabled());
        assert_eq!(access.role(&TokenDigest::of(b"viewer-token")), None);
    }

    #[test]
    fn only_known_hosts_are_served() {
        let allowed = |access: &Access, host: &str, loopback| {
            let headers = [(HOST, HeaderValue::from_str(host).expect("a value"))];
            access.allows_host(&Uri::from_static("/"), &headers.into_iter().collect(), loopback)
        };
        let open = access("t", None, &[]);
        for host in ["localhost", "LOCALHOST:9464", "localhost.", "127.0.0.1:1", "[::1]:9464"] {
            assert!(allowed(&open, host, true), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "a@localhost", ""] {
            assert!(!allowed(&open, host, true), "{host}");
        }
        assert!(allowed(&open, "anything.example", false));
        let named = access("t", None, &["admin.example"]);
        for (host, on_loopback, elsewhere) in [
            ("admin.example:9464", true, true),
            ("Admin.Example", true, true),
            ("localhost", true, false),
            ("evil.example", false, false),
        ] {
            assert_eq!(allowed(&named, host, true), on_loopback, "{host}");
            assert_eq!(allowed(&named, host, false), elsewhere, "{host}");
        }
        let two: HeaderMap = ["localhost", "evil.example"]
            .into_iter()
            .map(|host| (HOST, HeaderValue::from_static(host)))
            .collect();
        assert!(!open.allows_host(&Uri::from_static("/"), &two, true), "two hosts");
        assert!(!open.allows_host(&Uri::from_static("/"), &HeaderMap::new(), true), "none");
        let absolute = Uri::from_static("http://evil.example/");
        let local = [(HOST, HeaderValue::from_static("localhost"))].into_iter().collect();
        assert!(!open.allows_host(&absolute, &local, true), "the target overrides Host");
    }
}
