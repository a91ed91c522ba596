//! PEM files and the errors they cause.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Error of loading or creating certificates; its text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or created.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// A file has the wrong content.
    #[error("{}: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system trusts no certificate authority.
    #[error(
        "this system has no certificate authorities: install ca-certificates, or configure a file"
    )]
    NoAuthorities,
    /// rustls rejected the configuration.
    #[error("TLS: {0}")]
    Rustls(rustls::Error),
}

impl TlsError {
    pub(super) fn content(path: &Path, problem: impl Into<String>) -> Self {
        TlsError::Content { path: path.to_owned(), problem: problem.into() }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Io { path: path.to_owned(), error })
}

/// Returns the certificates of a PEM file, in order; there is at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_certificates(path, &read(path)?)
}

/// Returns the certificates in the content of a PEM file, in order; there is at least one.
pub(super) fn parse_certificates(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::content(path, format!("not a PEM chain: {error}")))?;
    if certificates.is_empty() {
        return Err(TlsError::content(path, "holds no certificate in PEM form"));
    }
    Ok(certificates)
}

/// Returns the private key in the content of a PEM file.
pub(super) fn parse_private_key(
    path: &Path,
    content: &[u8],
) -> Result<PrivateKeyDer<'static>, TlsError> {
    if content.windows(9).any(|part| part == b"ENCRYPTED") {
        let problem = "is an encrypted key, and there is nobody to ask for the passphrase: decrypt \
                       it with `openssl pkey -in KEY -out DECRYPTED`";
        return Err(TlsError::content(path, problem));
    }
    PrivateKeyDer::from_pem_slice(content)
        .map_err(|error| TlsError::content(path, format!("not a PEM key: {error}")))
}

/// Returns the authorities of a PEM file.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::content(path, error.to_string()))?;
    }
    Ok(roots)
}

/// Returns the PEM text of a file with authorities, for clients that parse it themselves.
///
/// # Errors
/// The file cannot be read or holds no usable authority.
pub fn authorities_pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    authorities(path)?;
    read(path)
}
