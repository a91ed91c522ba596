//! The client address: the other end of the connection, or the address that trusted proxies report.
//!
//! `X-Forwarded-For` grows to the right: each proxy adds the address that it saw. The chain is
//! therefore read from the right, past the addresses of trusted proxies; the first other address is
//! the client's. Anybody can have written the addresses to the left of it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// The header in which proxies report their clients.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Networks; none of them is an IPv4 network in the form of IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    /// Converts networks; IPv4-mapped ones (RFC 4291 section 2.5.5.2) become IPv4.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Networks(networks.into_iter().map(unmapped).collect())
    }

    /// Returns whether `address`, in canonical form, is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let four = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    let four = four.and_then(|(address, length)| IpNet::new(address.into(), length).ok());
    four.unwrap_or(network)
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, in canonical form.
    pub address: IpAddr,
    /// The same, for `X-Forwarded-For`.
    pub address_text: HeaderValue,
    /// Whether the connection uses TLS.
    pub tls: bool,
}

impl Peer {
    /// Returns the peer at `address`.
    pub fn new(address: IpAddr, tls: bool) -> Self {
        let address = address.to_canonical();
        let address_text =
            HeaderValue::from_str(&address.to_string()).expect("an address is a header value");
        Peer { address, address_text, tls }
    }
}

/// The client of a request.
#[derive(Clone, Debug)]
pub struct ClientAddr {
    /// The other end of the connection.
    pub peer: Peer,
    /// The client's address, in canonical form.
    pub address: IpAddr,
    /// The position of the client in `X-Forwarded-For`, counted from the right; `None` if the peer
    /// is not a trusted proxy, so that none of its headers are trusted.
    place: Option<usize>,
}

impl ClientAddr {
    /// Returns the client of a request with these headers from `peer`.
    pub fn of(peer: Peer, headers: &HeaderMap, trusted: &Networks) -> Self {
        let mut client = ClientAddr { address: peer.address, peer, place: None };
        if trusted.contains(client.address) {
            client.place = Some(0);
            for (place, element) in elements(headers, &FORWARDED_FOR).enumerate() {
                let Some(address) = address(element) else { break };
                (client.address, client.place) = (address, Some(place));
                if !trusted.contains(address) {
                    break;
                }
            }
        }
        client
    }

    /// Returns a client as it was when [`ClientAddr::proxied`] returned `proxied`.
    pub fn restored(peer: Peer, proxied: Option<(IpAddr, usize)>) -> Self {
        let address = proxied.map_or(peer.address, |(address, _)| address);
        ClientAddr { address, peer, place: proxied.map(|(_, place)| place) }
    }

    /// Returns the client's address and its position in `X-Forwarded-For`, counted from the right;
    /// `None` if the peer is not a trusted proxy.
    pub fn proxied(&self) -> Option<(IpAddr, usize)> {
        Some((self.address, self.place?))
    }

    /// Returns whether the peer is a trusted proxy.
    pub(crate) fn is_proxied(&self) -> bool {
        self.place.is_some()
    }

    /// Returns the value that proxies report under `name` for the hop that the client connected to.
    /// Some proxies append to such a list, and others keep one element.
    pub(super) fn trusted_value<'h>(
        &self,
        headers: &'h HeaderMap,
        name: &HeaderName,
    ) -> Option<&'h [u8]> {
        elements(headers, name).take(self.place? + 1).last()
    }
}

/// Returns the elements of a list header, the last one first.
fn elements<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    headers
        .get_all(name)
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Parses an element of `X-Forwarded-For`: an address with or without a port, IPv6 with or without
/// brackets.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    parsed.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::new(texts.iter().map(|text| text.parse::<IpNet>().expect("a network")))
    }

    fn client(peer: &str, lines: &[&str]) -> ClientAddr {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).expect("a value"));
        }
        let peer = Peer::new(peer.parse().expect("an address"), true);
        let trusted = networks(&["10.0.0.0/8", "2001:db8:1::/48", "::ffff:192.0.2.0/120"]);
        ClientAddr::of(peer, &headers, &trusted)
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_a_trusted_proxy() {
        let cases: &[(&str, &[&str], &str)] = &[
            // Not a trusted proxy: no header is trusted.
            ("203.0.113.9", &[], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("203.0.113.9", &["10.0.0.1"], "203.0.113.9"),
            // One proxy, several proxies, and addresses that a client wrote itself.
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["10.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["nonsense, 198.51.100.1"], "198.51.100.1"),
            // Several lines are one list.
            ("10.0.0.1", &["6.6.6.6", "198.51.100.1, 10.0.0.2", "10.0.0.3"], "198.51.100.1"),
            // Only proxies: the first of them called.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // No address: the proxy before it is the last one that is known.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, _hidden, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.1, , 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.256"], "10.0.0.1"),
            // Forms of addresses.
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["2001:db8:2::1"], "2001:db8:2::1"),
            ("10.0.0.1", &["[2001:db8:2::1]"], "2001:db8:2::1"),
            ("10.0.0.1", &["[2001:db8:2::1]:4711, 2001:db8:1::9"], "2001:db8:2::1"),
            // An IPv4 address is the same one in the form of IPv6: as peer, in the chain, as
            // network.
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["::ffff:198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
            ("192.0.2.7", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:192.0.2.7", &["198.51.100.1"], "198.51.100.1"),
        ];
        assert!(cases.len() > 20);
        for (peer, lines, expected) in cases {
            let expected: IpAddr = expected.parse().expect("an address");
            assert_eq!(client(peer, lines).address, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn takes_the_value_of_the_hop_that_the_client_connected_to() {
        let name = HeaderName::from_static("x-forwarded-proto");
        let cases: &[(&[&str], &str, Option<&str>)] = &[
            (&["198.51.100.1"], "https", Some("https")),
            (&["198.51.100.1, 10.0.0.2"], "https", Some("https")),
            (&["198.51.100.1, 10.0.0.2"], "https, http", Some("https")),
            (&["6.6.6.6, 198.51.100.1, 10.0.0.2"], "gopher, https, http", Some("https")),
            (&["198.51.100.1"], "gopher, https", Some("https")),
            (&[], "https", Some("https")),
            (&["198.51.100.1"], "", None),
        ];
        for (chain, list, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(&name, HeaderValue::from_str(list).expect("a value"));
            let value = client("10.0.0.1", chain).trusted_value(&headers, &name);
            assert_eq!(value, expected.map(str::as_bytes), "{chain:?} {list}");
            assert_eq!(client("203.0.113.9", chain).trusted_value(&headers, &name), None);
        }
    }
}
