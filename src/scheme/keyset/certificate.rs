//! Certificates with which senders sign: verified up to a root that the program trusts, as a
//! server's certificate is.

use std::ops::RangeInclusive;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::scheme::public_key::{PublicKey, PublicKeyAlgorithm};

/// The most certificates of one file: that of the sender, and its issuers.
const MAX_CERTIFICATES: usize = 8;

/// Why a file contains no certificate that proves anything.
#[derive(Debug)]
pub(super) enum BadCertificate {
    /// It is not the sender's, not valid now, or not a certificate.
    Invalid(String),
    /// No trusted root leads to it: maybe because the root or an issuer is missing here.
    NoChain(String),
}

/// Returns the key of the first certificate of a PEM file, and the seconds since the Unix epoch
/// at which it is valid.
///
/// The certificate must be valid at `now` for one of `names`, and lead to one of `roots` over the
/// other certificates of the file and `intermediates`.
pub(super) fn verified(
    pem: &[u8],
    names: &[String],
    intermediates: &[CertificateDer<'static>],
    roots: &RootCertStore,
    algorithm: PublicKeyAlgorithm,
    now: u64,
) -> Result<(PublicKey, RangeInclusive<i64>), BadCertificate> {
    let invalid = |why: &str| BadCertificate::Invalid(why.to_owned());
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem).take(MAX_CERTIFICATES + 1).collect();
    let found = found.map_err(|_| invalid("the file is not PEM"))?;
    let Some((leaf, issuers)) = found.split_first() else {
        return Err(invalid("the file contains no certificate"));
    };
    if found.len() > MAX_CERTIFICATES {
        return Err(invalid("the file contains too many certificates"));
    }
    let issuers: Vec<_> = issuers.iter().chain(intermediates).cloned().collect();
    let certificate = EndEntityCert::try_from(leaf).map_err(|error| invalid(&error.to_string()))?;
    let is_for = |name: &String| {
        ServerName::try_from(name.as_str())
            .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    };
    if !names.iter().any(is_for) {
        return Err(BadCertificate::Invalid(format!(
            "the certificate is not one of {}",
            names.join(", ")
        )));
    }
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let usage = KeyUsage::server_auth();
    certificate
        .verify_for_usage(ALL_VERIFICATION_ALGS, &roots.roots, &issuers, at, usage, None, None)
        .map_err(|error| match error {
            Error::UnknownIssuer => BadCertificate::NoChain(
                "no trusted root leads to the certificate: add its issuer to `keys_ca`".to_owned(),
            ),
            other => invalid(&other.to_string()),
        })?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| invalid("not a certificate"))?;
    let key =
        PublicKey::parse(algorithm, parsed.public_key().raw).map_err(BadCertificate::Invalid)?;
    let validity = parsed.validity();
    Ok((key, validity.not_before.timestamp()..=validity.not_after.timestamp()))
}
