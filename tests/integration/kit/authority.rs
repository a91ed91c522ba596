//! Private certificate authority, and the certificates that it signs.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Certificate authority that is trusted only where it is configured.
pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Unlike the subject of its certificates, which OpenSSL takes for self-signed otherwise.
        params.distinguished_name.push(DnType::CommonName, "the authority of the tests");
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes its certificate to a file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).expect("written");
    }

    /// Returns the TLS configuration of a server for `name`. Its certificate expired in the year
    /// `ended`, if given.
    pub(crate) fn server(&self, name: &str, ended: Option<i32>) -> ServerConfig {
        self.configured(name, ended, None)
    }

    /// Returns the TLS configuration of a server for `name` that requires client certificates of
    /// this authority.
    pub(crate) fn strict_server(&self, name: &str) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a certificate");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        self.configured(name, None, Some(verifier.build().expect("a verifier")))
    }

    fn configured(
        &self,
        name: &str,
        ended: Option<i32>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> ServerConfig {
        let (certificate, key) = self.signed(name, ended);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// Returns a certificate for `name` with which messages are signed with `key`, an RSA key in
    /// PKCS#8. It expired in the year `ended`, if given.
    pub(crate) fn signing(&self, name: &str, key: &[u8], ended: Option<i32>) -> String {
        let der = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256);
        let key = key.expect("an RSA key");
        let params = Self::params(name, ended);
        params.signed_by(&key, &self.issuer).expect("a certificate").pem()
    }

    /// Writes a certificate for `name` and its key: `NAME.pem` and `NAME.key`.
    pub(crate) fn write_pair(&self, dir: &Path, name: &str) {
        let (certificate, key) = self.signed(name, None);
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).expect("written");
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    fn signed(&self, name: &str, ended: Option<i32>) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name, ended);
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    fn params(name: &str, ended: Option<i32>) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        if let Some(year) = ended {
            params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
        params
    }
}
