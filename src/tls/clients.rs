//! Certificates of clients: a listener with an authority takes nobody without one of its certificates.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Error, read};

/// Who vouches for clients.
#[derive(Clone, Debug)]
pub struct ClientAuthority(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Reads the authorities of a PEM file. A client must show a certificate that one of them signed,
    /// directly or by way of others that it shows, that is valid now and made for clients (RFC 5280).
    ///
    /// # Errors
    /// An unreadable file, or one without a usable certificate.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::content(path, error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
            let certificate = certificate
                .map_err(|error| Error::content(path, format!("not a PEM chain: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(Error::content(path, "holds no certificate in PEM form"));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(ClientAuthority(verifier.build().map_err(|error| wrong(&error))?))
    }
}
