//! TLS as clients see it: versions, ALPN, SNI, HTTP/2, silent connections.

use std::sync::Arc;

use http_body_util::BodyExt;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::kit::{Event, Gateway, Setup, Upstream, client_config, until};

async fn handshake(
    gateway: &Gateway,
    name: &str,
    protocols: &[&[u8]],
    tls12_only: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(&gateway.certificate(), protocols, tls12_only);
    let stream = TcpStream::connect(gateway.addresses().https[0]).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn negotiates_versions_and_protocols() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    for (offered, chosen) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], Some(b"h2".as_slice())),
        (&[b"http/1.1".as_slice()][..], Some(b"http/1.1".as_slice())),
        (&[][..], None),
    ] {
        for tls12_only in [false, true] {
            let stream = handshake(&gateway, "localhost", offered, tls12_only).await;
            let stream = stream.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        }
    }
    let foreign = handshake(&gateway, "localhost", &[b"smtp"], false).await;
    assert!(foreign.is_err(), "no protocol in common");
}

#[tokio::test]
async fn selects_certificates_by_name() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .section(
            "[[server.tls]]\ncert = \"other.crt\"\nkey = \"other.key\"\n\
             self_signed = [\"hooks.example\", \"*.wild.example\"]",
        )
        .start();
    let other = std::fs::read(gateway.dir.path().join("other.crt")).expect("made at start");
    for (name, certificate) in [
        ("hooks.example", &other),
        ("a.wild.example", &other),
        ("localhost", &gateway.certificate()),
    ] {
        let config = client_config(certificate, &[], false);
        let stream = TcpStream::connect(gateway.addresses().https[0]).await.expect("listens");
        let server = ServerName::try_from(name).expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await;
        assert!(stream.is_ok(), "{name}: {:?}", stream.err());
    }
    let page = gateway.admin("/metrics").await.text();
    let expiries = page
        .lines()
        .filter(|line| line.starts_with("sealgate_tls_certificate_expiry_timestamp_seconds{"));
    assert_eq!(expiries.count(), 2);
}

#[tokio::test]
async fn http2_requests_are_served() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut connection = gateway.connect_http2().await;
    let event = Event::default();
    let response = connection.send(event.http2_request()).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "ok");
    let seen = upstream.only();
    assert_eq!(seen.header("host"), Some("localhost"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.body, event.body);
}

#[tokio::test]
async fn cuts_off_silent_connections() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).section("[limits]\nfirst_request = \"300ms\"").start();
    let mut silent = crate::kit::Connection::plain(gateway.addresses().https[0]).await;
    silent.closed().await;
    let mut shaken = gateway.connect().await;
    shaken.closed().await;
    let connections = "sealgate_connections{listener=\"https\"}";
    until("none is left", || async { gateway.metric(connections).await == 0.0 }).await;
}
