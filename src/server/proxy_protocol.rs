//! The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): the header in
//! which a load balancer that forwards bytes names their client.
//!
//! It comes before TLS, is accepted from trusted proxies only, and is read exactly to its end. The
//! text form of version 1 has no length and is not supported.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of every header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of signature, version and command, family, and length field.
const FIXED: usize = 16;
/// Maximum length after the fixed part. The format allows 64 KiB; balancers send less than fits
/// into one packet (section 2: 536 bytes for IPv4).
const LONGEST: usize = 4096;
/// The type of the part about the client's TLS, and its bit for "connected over TLS".
const SSL: u8 = 0x20;
const CLIENT_SSL: u8 = 0x01;

/// The client of a connection, as its balancer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proxied {
    /// The client's address; `None` if the balancer is the client or knows no IP address.
    pub(super) address: Option<IpAddr>,
    /// Whether the client connected to the balancer over TLS.
    pub(super) tls: bool,
}

/// Reads a header.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with the fault; those of the stream.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Proxied> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if !fixed.starts_with(SIGNATURE) {
        return Err(wrong("no PROXY header of version 2"));
    }
    if length > LONGEST {
        return Err(wrong("the PROXY header is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    parse(fixed[12], fixed[13], &rest).map_err(wrong)
}

/// Parses version and command, family, and what follows the fixed part.
fn parse(version_command: u8, family: u8, rest: &[u8]) -> Result<Proxied, &'static str> {
    let addresses = match (version_command, family) {
        // LOCAL: the balancer itself, such as its health check; the rest is skipped.
        (0x20, _) => return Ok(Proxied { address: None, tls: false }),
        // PROXY of an unknown family: the connection's own address counts.
        (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        (0x21, 0x12 | 0x22 | 0x32) => return Err("the PROXY header is about datagrams"),
        (0x21, _) => return Err("the PROXY header has an unassigned family"),
        (_, _) => return Err("the PROXY header has another version or command"),
    };
    let (addresses, parts) =
        rest.split_at_checked(addresses).ok_or("the PROXY header is too short")?;
    let address = match family {
        0x11 => addresses.first_chunk::<4>().map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes))),
        0x21 => addresses.first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes))),
        _ => None,
    };
    // The addresses of an unknown family cannot be separated from what follows them.
    let tls = if family == 0x00 { false } else { is_tls(parts)? };
    Ok(Proxied { address, tls })
}

/// Returns whether a typed part after the addresses says that the client connected over TLS.
fn is_tls(mut parts: &[u8]) -> Result<bool, &'static str> {
    let mut tls = false;
    while let Some((head, rest)) = parts.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) =
            rest.split_at_checked(length).ok_or("a part of the PROXY header is cut off")?;
        tls |= head[0] == SSL && value.first().is_some_and(|flags| flags & CLIENT_SSL != 0);
        parts = rest;
    }
    if parts.is_empty() { Ok(tls) } else { Err("a part of the PROXY header is cut off") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

    async fn parse_all(version_command: u8, family: u8, rest: &[u8]) -> io::Result<Proxied> {
        let length = u16::try_from(rest.len()).expect("it fits").to_be_bytes();
        let head = [SIGNATURE.as_slice(), &[version_command, family], &length].concat();
        let bytes = [head.as_slice(), rest, b"next"].concat();
        let mut stream = bytes.as_slice();
        let proxied = read(&mut stream).await?;
        assert_eq!(stream, b"next", "read beyond the header");
        Ok(proxied)
    }

    fn with(parts: &[u8]) -> Vec<u8> {
        [FOUR.as_slice(), parts].concat()
    }

    #[tokio::test]
    async fn headers_are_parsed() {
        let v4 = Some(IpAddr::from([192, 0, 2, 7]));
        let six = "2001:db8::7".parse::<Ipv6Addr>().expect("an address");
        let v6 = [six.octets().as_slice(), &[0; 20]].concat();
        let unix = [b'/'; 216];
        let cases = [
            (0x21, 0x11, FOUR.to_vec(), v4, false),
            (0x21, 0x21, v6, Some(six.into()), false),
            (0x21, 0x31, unix.to_vec(), None, false),
            (0x21, 0x00, vec![], None, false),
            (0x21, 0x00, b"anything at all".to_vec(), None, false),
            (0x20, 0x00, vec![], None, false),
            (0x20, 0x11, FOUR.to_vec(), None, false),
            (0x20, 0xff, b"to be skipped".to_vec(), None, false),
            (0x21, 0x11, with(&[SSL, 0, 5, 1, 0, 0, 0, 0]), v4, true),
            (0x21, 0x11, with(&[SSL, 0, 5, 0, 0, 0, 0, 0]), v4, false),
            (0x21, 0x11, with(&[0x04, 0, 2, 0, 0, 0xea, 0, 0]), v4, false),
        ];
        for (command, family, rest, address, tls) in cases {
            let proxied = parse_all(command, family, &rest).await.expect("a header");
            let expected = Proxied { address, tls };
            assert_eq!(proxied, expected, "{family:#x} {rest:?}");
        }
    }

    #[tokio::test]
    async fn malformed_headers_are_rejected() {
        for (command, family, rest, what) in [
            (0x11, 0x11, FOUR.to_vec(), "another version or command"),
            (0x22, 0x11, FOUR.to_vec(), "another version or command"),
            (0x21, 0x12, FOUR.to_vec(), "datagrams"),
            (0x21, 0x41, FOUR.to_vec(), "unassigned family"),
            (0x21, 0x13, FOUR.to_vec(), "unassigned family"),
            (0x21, 0x11, FOUR[..11].to_vec(), "too short"),
            (0x21, 0x21, FOUR.to_vec(), "too short"),
            (0x21, 0x31, vec![0; 215], "too short"),
            (0x21, 0x11, with(&[0x04, 0]), "cut off"),
            (0x21, 0x11, with(&[0x04; 3]), "cut off"),
            (0x20, 0x00, vec![0; LONGEST + 1], "too long"),
        ] {
            let error = parse_all(command, family, &rest).await.expect_err("rejected").to_string();
            assert!(error.contains(what), "{error}");
        }
        for bytes in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
        ] {
            let error = read(&mut &bytes[..]).await.expect_err("rejected").to_string();
            assert!(error.contains("no PROXY header of version 2"), "{error}");
        }
        assert!(read(&mut &SIGNATURE[..]).await.is_err(), "cut off");
    }
}
