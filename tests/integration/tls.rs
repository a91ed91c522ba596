//! TLS as clients see it: versions, ALPN, SNI, HTTP/2, silent connections.

use std::sync::Arc;

use http_body_util::BodyExt;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::kit::{
    Connection, Event, Gateway, Process, Setup, Upstream, client_config, sealgate, until,
};

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

#[tokio::test]
async fn http_on_a_tls_port_gets_a_response_that_says_so() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut connection = Connection::plain(gateway.addresses().https[0]).await;
    let reply = connection.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (400, "This port speaks TLS: use https://.\n")
    );
    assert!(connection.read().await.is_none(), "closed");
    // The client of this test trusts another certificate.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    let config = client_config(other.cert.pem().as_bytes(), &[b"http/1.1"], false);
    let stream = TcpStream::connect(gateway.addresses().https[0]).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    assert!(TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_err());
    let failures = async |cause: &str| {
        let labels = format!("sealgate_tls_handshake_failures_total{{cause=\"{cause}\"}}");
        gateway.metric(&labels).await
    };
    assert!((failures("plain_http").await - 1.0).abs() < f64::EPSILON);
    until("the rejected certificate is counted", || async {
        failures("certificate_rejected").await > 0.5
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_an_error_in_check_and_a_warning_at_start() {
    let setup = Setup::new(&Upstream::start().await);
    let dir = setup.dir.path();
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    for (from, to, problem) in [(2020, 2021, "expired at 2021-01-01"), (2090, 2091, "before 2090")]
    {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("tls.crt"), certificate.pem()).expect("written");
        std::fs::write(dir.join("tls.key"), key.serialize_pem()).expect("written");
        let output = sealgate(&["check"], dir);
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{report}");
        assert!(report.contains(problem) && report.contains("tls.crt"), "{report}");
        let gateway = Process::start(dir, &setup.toml()).await;
        until("the warning is logged", || async { gateway.log().contains(problem) }).await;
    }
}
