//! Client certificates in real handshakes.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpStream;

use crate::kit::{self, Connection, Event, Setup, Upstream};

/// Certificate authority for clients.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key of a client.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn makes(&self, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("PEM");
        (made.der().clone(), key)
    }
}

/// Returns a client that trusts the gateway and presents this certificate.
fn client(gateway: &[u8], shown: Option<&Shown>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(gateway).expect("PEM")).expect("a certificate");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("supported versions")
        .with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
            .expect("they belong together"),
    }
}

/// Sends an event as this client; returns the status, or `None` if the handshake failed. In TLS
/// 1.3, a client learns that after its own handshake.
async fn status(address: SocketAddr, gateway: &[u8], shown: Option<&Shown>) -> Option<u16> {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    let mut connection = Connection::tls_with(stream, client(gateway, shown)).await.ok()?;
    connection.write(&Event::default().request()).await;
    connection.read().await.map(|reply| reply.status)
}

fn setup(upstream: &Upstream, authority: &Authority, listen: &str) -> (Setup, String) {
    let setup = Setup::new(upstream);
    std::fs::write(setup.dir.path().join("clients.pem"), authority.certificate.pem())
        .expect("written");
    let toml = setup.toml().replace("listen = \"127.0.0.1:0\"\nhttp_listen", listen);
    (setup, toml)
}

fn start(setup: &Setup, toml: &str) -> sealgate::internals::gateway::Gateway {
    let config = kit::parse(toml, setup.dir.path());
    sealgate::internals::gateway::Gateway::start(config).expect("the gateway starts")
}

const FOR_ALL: &str = "listen = \"127.0.0.1:0\"\nclient_ca = \"clients.pem\"\nhttp_listen";

#[tokio::test]
async fn accepts_only_clients_with_a_valid_certificate() {
    let upstream = Upstream::start().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (setup, toml) = setup(&upstream, &authority, FOR_ALL);
    let gateway = start(&setup, &toml);
    let address = gateway.addresses().https[0];
    let own = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let right = authority.makes(|_| {});
    let past = authority.makes(|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let future = authority.makes(|params| params.not_before = date_time_ymd(2090, 1, 1));
    let of_servers = authority
        .makes(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    for (shown, expected, what) in [
        (None, None, "no certificate"),
        (Some(&stranger.makes(|_| {})), None, "of another authority"),
        (Some(&past), None, "expired"),
        (Some(&future), None, "not yet valid"),
        (Some(&of_servers), None, "made for servers"),
        (Some(&right), Some(200), "the right one"),
    ] {
        assert_eq!(status(address, &own, shown).await, expected, "{what}");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_listener_can_have_its_own_authority() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let listen = "listen = [\"127.0.0.1:0\", { address = \"127.0.0.1:0\", client_ca = \
                  \"clients.pem\" }]\nhttp_listen";
    let (setup, toml) = setup(&upstream, &authority, listen);
    let gateway = start(&setup, &toml);
    let own = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let [open, closed] = gateway.addresses().https[..] else { panic!("two listeners") };
    let right = authority.makes(|_| {});
    assert_eq!(status(open, &own, None).await, Some(200));
    assert_eq!(status(open, &own, Some(&right)).await, Some(200));
    assert_eq!(status(closed, &own, None).await, None);
    assert_eq!(status(closed, &own, Some(&right)).await, Some(200));
}

#[tokio::test]
async fn does_not_resume_sessions_with_client_certificates() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let (setup, toml) = setup(&upstream, &authority, FOR_ALL);
    let gateway = start(&setup, &toml);
    let own = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let config = Arc::new(client(&own, Some(&authority.makes(|_| {}))));
    for _ in 0..2 {
        let stream = TcpStream::connect(gateway.addresses().https[0]).await.expect("listens");
        let name = "localhost".try_into().expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let stream = connector.connect(name, stream).await.expect("a handshake");
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        let mut connection = Connection::over(stream);
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    }
}

#[tokio::test]
async fn a_reload_replaces_the_authority_and_an_invalid_one_changes_nothing() {
    let upstream = Upstream::start().await;
    let (first, second) = (Authority::new(), Authority::new());
    let (setup, toml) = setup(&upstream, &first, FOR_ALL);
    let gateway = start(&setup, &toml);
    let address = gateway.addresses().https[0];
    let own = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    let file = setup.dir.path().join("clients.pem");
    let (of_first, of_second) = (first.makes(|_| {}), second.makes(|_| {}));
    let both = async || {
        let of_first = status(address, &own, Some(&of_first)).await;
        (of_first, status(address, &own, Some(&of_second)).await)
    };
    assert_eq!(both().await, (Some(200), None));

    let config = kit::parse(&toml, setup.dir.path());
    std::fs::write(&file, "no authority").expect("written");
    let refused = gateway.reload(config).await.expect_err("refused").to_string();
    assert!(refused.contains("clients.pem: holds no certificate"), "{refused}");
    assert_eq!(both().await, (Some(200), None));

    std::fs::write(&file, first.certificate.pem() + &second.certificate.pem()).expect("written");
    gateway.reload(kit::parse(&toml, setup.dir.path())).await.expect("both are taken");
    assert_eq!(both().await, (Some(200), Some(200)));

    std::fs::write(&file, second.certificate.pem()).expect("written");
    gateway.reload(kit::parse(&toml, setup.dir.path())).await.expect("one is taken");
    assert_eq!(both().await, (None, Some(200)));

    let open = toml.replace("client_ca = \"clients.pem\"\n", "");
    gateway.reload(kit::parse(&open, setup.dir.path())).await.expect("none is taken");
    assert_eq!(status(address, &own, None).await, Some(200));
    gateway.reload(kit::parse(&toml, setup.dir.path())).await.expect("one is taken");
    assert_eq!(status(address, &own, None).await, None);
}
