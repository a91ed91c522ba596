//! TLS towards others: upstreams, and the servers of key sets.

use std::{io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore, client::Resumption,
    crypto::aws_lc_rs, sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Error, Pair, read};

/// A client that speaks HTTP/1.1, trusts the authorities of a PEM file (by default the machine's own)
/// and shows `own`, if it has one. Sessions are not resumed: each connection checks the certificate
/// of the other end as it is now.
///
/// # Errors
/// A file that cannot be used; a machine without authorities.
pub fn client_config(
    authorities: Option<&Path>,
    own: Option<&Pair>,
) -> Result<Arc<ClientConfig>, Error> {
    let roots = match authorities {
        Some(path) => named(path)?,
        None => machine()?,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(Error::Tls)?
        .with_root_certificates(roots);
    let mut config = match own {
        Some(pair) => {
            let own = SingleCertAndKey::from(pair.load()?.certified);
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The text of a PEM file with authorities, for those who read it themselves.
///
/// # Errors
/// A file that cannot be used as such.
pub fn authorities(path: &Path) -> Result<Vec<u8>, Error> {
    named(path)?;
    read(path)
}

/// The authorities of a PEM file.
fn named(path: &Path) -> Result<RootCertStore, Error> {
    let fail = |what: String| Error::content(path, what);
    let pem = read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fail("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

/// The authorities that the machine trusts; those that cannot be read are left out.
fn machine() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(Error::NoAuthorities) } else { Ok(roots) }
}

/// What a person can do about a connection that TLS did not let come about.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => match error {
            // An authority made anew under its old name is told by its signature only.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "name the authority that signed the upstream's certificate: upstream_ca"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "call the upstream by a name of its certificate, or tell that name: \
                 upstream_server_name"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the certificate of the upstream"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "set the clocks of this machine and of the upstream"
            }
            _ => "replace the certificate of the upstream",
        },
        rustls::Error::AlertReceived(alert) if is_of_certificates(*alert) => {
            "the upstream refused our certificate: upstream_cert and upstream_key must be of an \
             authority that it trusts"
        }
        rustls::Error::InvalidMessage(_) => {
            "it seems that the upstream speaks no TLS at this port: write http://"
        }
        _ => return None,
    })
}

/// Whether the other end refused our certificate, or the lack of one, and so has taken nothing that
/// was sent (RFC 8446 sections 4.4.2.4 and 6.2): under TLS 1.3 it says so after the handshake looks
/// complete from here.
pub fn is_refused_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let found = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) =
            found.and_then(|found| found.downcast_ref())
        {
            return is_of_certificates(*alert);
        }
        cause = error.source();
    }
    false
}

fn is_of_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}
