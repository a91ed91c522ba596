//! The PROXY protocol on raw sockets, before TLS and without it.

use crate::kit::{Connection, Event, Gateway, Setup, Upstream, until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.7:12345 to 10.0.0.1:443.
const FOUR: &[u8] = &[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];
/// The client came over TLS.
const SSL: &[u8] = &[0x20, 0, 5, 1, 0, 0, 0, 0];

fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("it fits").to_be_bytes();
    [SIGNATURE, &[version_command, family], &length, rest].concat()
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::new(upstream)
        .server("trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true")
        .section("[limits]\nfirst_request = \"1s\"")
}

async fn plain(gateway: &Gateway, head: &[u8], event: &Event) -> Option<u16> {
    let mut connection = gateway.connect_plain().await;
    connection.write(&[head, &event.request()].concat()).await;
    connection.read().await.map(|reply| reply.status)
}

#[tokio::test]
async fn takes_the_client_address_from_the_header() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream).plain().start();
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 20]].concat();
    let with_ssl = [FOUR, SSL].concat();
    let noise = [FOUR, &[0x04, 0x0f, 0xa0], &[0; 4000]].concat();
    for (head, chain, proto) in [
        (header(0x21, 0x11, FOUR), "192.0.2.7", "http"),
        (header(0x21, 0x11, &with_ssl), "192.0.2.7", "https"),
        (header(0x21, 0x11, &noise), "192.0.2.7", "http"),
        (header(0x21, 0x21, &six), "2001:db8::7", "http"),
        (header(0x21, 0x31, &[b'/'; 216]), "127.0.0.1", "http"),
        (header(0x21, 0x00, &[]), "127.0.0.1", "http"),
        (header(0x20, 0x00, &[]), "127.0.0.1", "http"),
        (header(0x20, 0x11, FOUR), "127.0.0.1", "http"),
    ] {
        assert_eq!(plain(&gateway, &head, &Event::default()).await, Some(200), "{head:?}");
        let seen = upstream.requests().pop().expect("forwarded");
        assert_eq!(seen.header("x-forwarded-for"), Some(chain));
        assert_eq!(seen.header("x-forwarded-proto"), Some(proto));
    }
    // The client of the balancer is no proxy of ours: what it forwards is not believed.
    let event = Event::default().with(&["X-Forwarded-For: 6.6.6.6"]);
    assert_eq!(plain(&gateway, &header(0x21, 0x11, FOUR), &event).await, Some(200));
    let seen = upstream.requests().pop().expect("forwarded");
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.7"));
    // One that is, such as a second balancer, is.
    let inner = [&[127, 0, 0, 9][..], &FOUR[4..]].concat();
    let event = Event::default().with(&["X-Forwarded-For: 198.51.100.1"]);
    assert_eq!(plain(&gateway, &header(0x21, 0x11, &inner), &event).await, Some(200));
    let seen = upstream.requests().pop().expect("forwarded");
    assert_eq!(seen.header("x-forwarded-for"), Some("198.51.100.1, 127.0.0.9"));
}

#[tokio::test]
async fn admission_uses_the_client_address_of_the_header() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream).plain().route("allow = \"192.0.2.7\"").start();
    let other = [&[192, 0, 2, 8][..], &FOUR[4..]].concat();
    assert_eq!(plain(&gateway, &header(0x21, 0x11, FOUR), &Event::default()).await, Some(200));
    assert_eq!(plain(&gateway, &header(0x21, 0x11, &other), &Event::default()).await, Some(403));
    assert_eq!(plain(&gateway, &header(0x20, 0x00, &[]), &Event::default()).await, Some(403));
}

#[tokio::test]
async fn closes_a_connection_without_a_valid_header() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream).plain().start();
    let long = [FOUR, &[0x04, 0x10, 0x00], &[0; 4096]].concat();
    for head in [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n".to_vec(),
        header(0x11, 0x11, FOUR),
        header(0x22, 0x11, FOUR),
        header(0x21, 0x12, FOUR),
        header(0x21, 0x51, FOUR),
        header(0x21, 0x11, &FOUR[..8]),
        header(0x21, 0x11, &[FOUR, &[0x04, 0xff, 0xff]].concat()),
        header(0x21, 0x11, &long),
    ] {
        assert_eq!(plain(&gateway, &head, &Event::default()).await, None, "{head:?}");
    }
    let mut slow = gateway.connect_plain().await;
    slow.write(&SIGNATURE[..7]).await;
    slow.closed().await;
    assert!(upstream.requests().is_empty());
    let open = "sealgate_connections{listener=\"http\"}";
    until("none is left", || async { gateway.metric(open).await == 0.0 }).await;
}

#[tokio::test]
async fn accepts_the_header_from_trusted_proxies_only() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .server("trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true")
        .start();
    for head in [header(0x21, 0x11, FOUR), header(0x20, 0x00, &[]), Vec::new()] {
        assert_eq!(plain(&gateway, &head, &Event::default()).await, None, "{head:?}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn the_header_precedes_tls() {
    let upstream = Upstream::start().await;
    let gateway = setup(&upstream).start();
    let (address, certificate) = (gateway.addresses().https[0], gateway.certificate());
    let head = header(0x21, 0x11, FOUR);
    let mut connection = Connection::tls_after(address, &certificate, &head).await.expect("TLS");
    assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert!(Connection::tls_after(address, &certificate, b"").await.is_err(), "no header");
    // Within TLS it is no header, but malformed HTTP.
    let mut inside = Connection::tls_after(address, &certificate, &head).await.expect("TLS");
    inside.write(&[head.as_slice(), &Event::default().request()].concat()).await;
    let status = inside.read().await.map(|reply| reply.status);
    assert!(matches!(status, None | Some(400)), "{status:?}");
}
