//! TLS on the client side: upstreams, and the servers of key sets.

use std::{io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore, client::Resumption,
    crypto::aws_lc_rs, sign::SingleCertAndKey,
};

use super::{
    certificates::CertificatePair,
    pem::{self, TlsError},
};

/// Returns the configuration of an HTTP/1.1 client that trusts the authorities of a PEM file (by
/// default the system's) and presents `own`, if given. Sessions are not resumed: each connection
/// verifies the server's certificate.
///
/// # Errors
/// A file is unusable, or the system has no authorities.
pub fn client_config(
    authorities: Option<&Path>,
    own: Option<&CertificatePair>,
) -> Result<Arc<ClientConfig>, TlsError> {
    config(Arc::new(roots(authorities)?), own)
}

/// Returns the authorities of a PEM file, or those of the system.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    match file {
        Some(path) => pem::authorities(path),
        None => system_authorities(),
    }
}

/// As [`client_config`], with these authorities.
pub(super) fn config(
    roots: Arc<RootCertStore>,
    own: Option<&CertificatePair>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Rustls)?
        .with_root_certificates(roots);
    let mut config = match own {
        Some(pair) => {
            let own = SingleCertAndKey::from(pair.certified_key()?);
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the authorities that the system trusts; unreadable ones are skipped.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// Returns what the operator can do about a failed TLS connection.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => match error {
            // An authority recreated under the same name fails only at the signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "set upstream_ca to the authority that signed the upstream's certificate"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "use a host name of its certificate in `upstream`, or set upstream_server_name"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the certificate of the upstream"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "correct the clock of this machine or of the upstream"
            }
            _ => "replace the certificate of the upstream",
        },
        rustls::Error::AlertReceived(alert) if is_certificate_alert(*alert) => {
            "the upstream rejected our certificate: set upstream_cert and upstream_key to a \
             certificate of an authority that it trusts"
        }
        rustls::Error::InvalidMessage(_) => {
            "the upstream does not seem to use TLS on this port: write http://"
        }
        _ => return None,
    })
}

/// Returns whether the peer rejected our certificate, or the lack of one, and therefore processed
/// nothing that was sent (RFC 8446 sections 4.4.2.4 and 6.2). With TLS 1.3 the alert arrives after
/// our side has completed the handshake.
pub fn is_rejected_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let found = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) =
            found.and_then(|found| found.downcast_ref())
        {
            return is_certificate_alert(*alert);
        }
        cause = error.source();
    }
    false
}

fn is_certificate_alert(alert: AlertDescription) -> bool {
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
