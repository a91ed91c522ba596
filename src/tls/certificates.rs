//! Server certificates: loading, self-signing, selection by SNI, replacement at run time.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::pem::{self, TlsError};

/// A certificate and its key, as configured.
#[derive(Clone, Debug)]
pub struct CertificatePair {
    /// PEM file with the chain, leaf first; its path names the certificate in reports and metrics.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Names for which a self-signed pair is created at start if the files are missing; empty:
    /// never.
    pub self_signed: Vec<String>,
}

impl CertificatePair {
    /// Checks that both files are usable and belong together, or that the pair will be created at
    /// start. Writes nothing.
    ///
    /// # Errors
    /// A file cannot be read or is not PEM, or the key does not belong to the certificate.
    pub fn check(&self) -> Result<(), TlsError> {
        if self.needs_creation() {
            return Ok(());
        }
        self.load().map(|_| ())
    }

    /// Returns the certificate's name in metrics and its expiry in Unix seconds.
    ///
    /// # Errors
    /// As [`CertificatePair::check`]; missing files are always an error.
    pub fn expiry(&self) -> Result<(String, i64), TlsError> {
        Ok((self.cert.display().to_string(), self.load()?.expires))
    }

    /// Returns the DNS names in the certificate.
    ///
    /// # Errors
    /// As [`CertificatePair::check`]; missing files are always an error.
    pub fn names(&self) -> Result<Vec<String>, TlsError> {
        Ok(self.load()?.names)
    }

    /// Returns the chain and key for use as a client certificate.
    pub(super) fn certified_key(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        Ok(self.load()?.certified)
    }

    fn needs_creation(&self) -> bool {
        !self.self_signed.is_empty() && !self.cert.exists() && !self.key.exists()
    }

    fn load(&self) -> Result<LoadedCertificate, TlsError> {
        let chain = pem::certificates(&self.cert)?;
        let (names, expires) = names_and_expiry(&chain[0], &self.cert)?;
        let key = pem::private_key(&self.key)?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let cert = self.cert.display();
            TlsError::content(&self.key, format!("is not the key of {cert}: {error}"))
        })?;
        Ok(LoadedCertificate { certified: Arc::new(certified), names, expires })
    }

    /// Creates a self-signed pair for development; only the owner can read the key.
    fn create(&self) -> Result<(), TlsError> {
        let failed = |error: rcgen::Error| TlsError::content(&self.cert, error.to_string());
        let pair = rcgen::generate_simple_self_signed(self.self_signed.clone()).map_err(failed)?;
        write(&self.key, pair.signing_key.serialize_pem().as_bytes(), 0o600)?;
        write(&self.cert, pair.cert.pem().as_bytes(), 0o644)
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let attempt = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)
    };
    attempt().map_err(|error| TlsError::Io { path: path.to_owned(), error })
}

/// Returns the DNS names and the expiry (Unix seconds) of a certificate.
fn names_and_expiry(
    leaf: &CertificateDer<'_>,
    path: &Path,
) -> Result<(Vec<String>, i64), TlsError> {
    let (_, parsed) = parse_x509_certificate(leaf)
        .map_err(|error| TlsError::content(path, format!("not an X.509 certificate: {error}")))?;
    let names = parsed
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| {
            let names = extension.value.general_names.iter();
            names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
        .unwrap_or_default();
    Ok((names, parsed.validity().not_after.timestamp()))
}

struct LoadedCertificate {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    expires: i64,
}

/// Loaded certificates that are not yet in use.
pub struct PreparedCertificates(Arc<CertificateTable>);

/// The certificates in use, selected by SNI: exact name, then wildcard, then the first configured.
pub struct Certificates(ArcSwap<CertificateTable>);

struct CertificateTable {
    default: Arc<CertifiedKey>,
    /// `hooks.example.com`, and `*.example.com` as `.example.com`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    expiries: Vec<(String, i64)>,
}

impl Certificates {
    /// Loads every pair. Creates self-signed pairs whose files are missing.
    ///
    /// # Errors
    /// The first unusable pair; an empty list.
    pub fn load(pairs: &[CertificatePair]) -> Result<Self, TlsError> {
        for pair in pairs.iter().filter(|pair| pair.needs_creation()) {
            pair.create()?;
        }
        Ok(Certificates(ArcSwap::from_pointee(CertificateTable::load(pairs)?)))
    }

    /// Loads the certificates of a reload, for [`Certificates::replace`].
    ///
    /// # Errors
    /// The first unusable pair.
    pub fn prepare(&self, pairs: &[CertificatePair]) -> Result<PreparedCertificates, TlsError> {
        Ok(PreparedCertificates(Arc::new(CertificateTable::load(pairs)?)))
    }

    /// Replaces all certificates.
    pub fn replace(&self, prepared: PreparedCertificates) {
        self.0.store(prepared.0);
    }

    /// Returns each certificate's name and expiry in Unix seconds.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.0.load().expiries.clone()
    }
}

impl CertificateTable {
    fn load(pairs: &[CertificatePair]) -> Result<Self, TlsError> {
        let mut default = None;
        let mut by_name = HashMap::new();
        let mut expiries = Vec::new();
        for pair in pairs {
            let loaded = pair.load()?;
            for name in loaded.names {
                let name = name.strip_prefix('*').map_or(name.clone(), str::to_owned);
                by_name.entry(name).or_insert_with(|| Arc::clone(&loaded.certified));
            }
            expiries.push((pair.cert.display().to_string(), loaded.expires));
            default.get_or_insert(loaded.certified);
        }
        let default = default
            .ok_or_else(|| TlsError::content(Path::new("[[server.tls]]"), "no certificate"))?;
        Ok(CertificateTable { default, by_name, expiries })
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = name.map(str::to_ascii_lowercase).and_then(|name| {
            let wildcard = || self.by_name.get(&name[name.find('.')?..]);
            self.by_name.get(&name).or_else(wildcard).cloned()
        });
        found.unwrap_or_else(|| Arc::clone(&self.default))
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.expiries()).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().find(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(dir: &Path, name: &str) -> CertificatePair {
        CertificatePair {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
            self_signed: vec![name.to_owned()],
        }
    }

    #[test]
    fn selects_by_name_and_defaults_to_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let pairs = [pair(dir.path(), "a.example"), pair(dir.path(), "*.b.example")];
        let certificates = Certificates::load(&pairs).expect("created and loaded");
        let table = certificates.0.load();
        let leaf = |name: Option<&str>| table.find(name).cert[0].clone();
        assert_eq!(leaf(None), leaf(Some("a.example")));
        assert_eq!(leaf(Some("unknown.example")), leaf(None));
        assert_ne!(leaf(Some("x.b.example")), leaf(None));
        assert_eq!(leaf(Some("X.B.example")), leaf(Some("x.b.example")));
        assert_eq!(leaf(Some("y.x.b.example")), leaf(None));
        assert_eq!(certificates.expiries().len(), 2);
    }

    #[test]
    fn rejects_a_key_of_another_certificate_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let pairs = [pair(dir.path(), "a.example"), pair(dir.path(), "b.example")];
        let certificates = Certificates::load(&pairs).expect("created and loaded");
        let before = certificates.0.load().find(None).cert[0].clone();
        let mixed = CertificatePair { key: pairs[1].key.clone(), ..pairs[0].clone() };
        let error = certificates.prepare(&[mixed]).err().expect("an error").to_string();
        assert!(error.contains("b.example.key: is not the key of"), "{error}");
        assert_eq!(certificates.0.load().find(None).cert[0], before);
    }

    #[test]
    fn check_writes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = pair(dir.path(), "a.example");
        pair.check().expect("created at start");
        assert!(!pair.cert.exists());
        let never = CertificatePair { self_signed: Vec::new(), ..pair };
        assert!(matches!(never.check(), Err(TlsError::Io { .. })));
    }
}
