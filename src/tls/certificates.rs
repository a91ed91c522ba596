//! Server certificates: loading, self-signing, selection by SNI, replacement at run time.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};
use zeroize::Zeroizing;

use super::{
    challenges::{ACME_TLS_ALPN, Challenges},
    pem::{self, TlsError},
};

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

    /// Returns the certificate's name in metrics and its validity.
    ///
    /// # Errors
    /// As [`CertificatePair::check`]; missing files are always an error.
    pub fn validity(&self) -> Result<(String, Validity), TlsError> {
        Ok((self.cert.display().to_string(), self.load()?.validity))
    }

    /// Returns whether the certificate belongs to a certificate authority.
    pub fn is_authority(&self) -> bool {
        let chain = pem::certificates(&self.cert).unwrap_or_default();
        let leaf = chain.first().and_then(|leaf| parse_x509_certificate(leaf).ok());
        leaf.is_some_and(|(_, leaf)| leaf.is_ca())
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
        let key = Zeroizing::new(pem::read(&self.key)?);
        LoadedCertificate::new((&self.cert, chain), (&self.key, &key))
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

/// The first and the last second in which a certificate is valid, in Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// Returns why the certificate `name` is not valid at `now` (Unix seconds), if it is not.
    pub fn problem_at(self, name: &str, now: i64) -> Option<String> {
        let date = |seconds| {
            let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
            time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
        };
        if now > self.not_after {
            Some(format!("{name}: the certificate expired at {}", date(self.not_after)))
        } else if now < self.not_before {
            Some(format!("{name}: the certificate is not valid before {}", date(self.not_before)))
        } else {
            None
        }
    }
}

impl From<Validity> for (i64, i64) {
    fn from(validity: Validity) -> Self {
        (validity.not_before, validity.not_after)
    }
}

/// A certificate with its key, ready for use.
#[derive(Debug)]
pub(super) struct LoadedCertificate {
    certified: Arc<CertifiedKey>,
    /// DNS names in lower case.
    names: Vec<String>,
    pub(super) validity: Validity,
}

impl LoadedCertificate {
    /// Combines a chain with the key in the content of a PEM file; the paths are for errors.
    pub(super) fn new(
        (cert, chain): (&Path, Vec<CertificateDer<'static>>),
        (key, key_content): (&Path, &[u8]),
    ) -> Result<Self, TlsError> {
        let (names, validity) = names_and_validity(&chain[0], cert)?;
        let private_key = pem::parse_private_key(key, key_content)?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, private_key, &provider).map_err(|error| {
            let cert = cert.display();
            TlsError::content(key, format!("is not the key of {cert}: {error}"))
        })?;
        Ok(LoadedCertificate { certified: Arc::new(certified), names, validity })
    }

    /// Returns the leaf certificate.
    pub(super) fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    /// Returns whether the certificate is for exactly this name.
    pub(super) fn names(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn names_and_validity(
    leaf: &CertificateDer<'_>,
    path: &Path,
) -> Result<(Vec<String>, Validity), TlsError> {
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
    let validity = parsed.validity();
    let validity = Validity {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    };
    Ok((names, validity))
}

/// Loaded certificates that are not yet in use.
pub struct PreparedCertificates(Arc<CertificateTable>);

/// The certificates in use. SNI selects the ACME certificate if it is for that name, else a
/// configured one by exact name, then by wildcard; the default is the first configured one, else
/// the ACME certificate.
pub struct Certificates {
    configured: ArcSwap<CertificateTable>,
    acme: ArcSwapOption<AcmeCertificate>,
    challenges: ArcSwapOption<Challenges>,
}

/// A certificate of an ACME directory, with its name in metrics.
type AcmeCertificate = (String, Arc<LoadedCertificate>);

#[derive(Default)]
struct CertificateTable {
    default: Option<Arc<CertifiedKey>>,
    /// `hooks.example.com`, and `*.example.com` as `.example.com`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    validities: Vec<(String, Validity)>,
}

impl Certificates {
    /// Loads every pair. Creates self-signed pairs whose files are missing.
    ///
    /// # Errors
    /// The first unusable pair.
    pub fn load(pairs: &[CertificatePair]) -> Result<Self, TlsError> {
        for pair in pairs.iter().filter(|pair| pair.needs_creation()) {
            pair.create()?;
        }
        Ok(Certificates {
            configured: ArcSwap::from_pointee(CertificateTable::load(pairs)?),
            acme: ArcSwapOption::empty(),
            challenges: ArcSwapOption::empty(),
        })
    }

    /// Loads the certificates of a reload, for [`Certificates::replace`].
    ///
    /// # Errors
    /// The first unusable pair.
    pub fn prepare(&self, pairs: &[CertificatePair]) -> Result<PreparedCertificates, TlsError> {
        Ok(PreparedCertificates(Arc::new(CertificateTable::load(pairs)?)))
    }

    /// Replaces all configured certificates.
    pub fn replace(&self, prepared: PreparedCertificates) {
        self.configured.store(prepared.0);
    }

    /// Replaces the ACME certificate. Connections and TLS sessions stay.
    pub(super) fn set_acme(&self, name: String, certificate: Arc<LoadedCertificate>) {
        self.acme.store(Some(Arc::new((name, certificate))));
    }

    /// Replaces the challenges to which handshakes respond.
    pub(super) fn set_challenges(&self, challenges: Challenges) {
        self.challenges.store(Some(Arc::new(challenges)));
    }

    /// Removes the ACME certificate and the challenges.
    pub fn clear_acme(&self) {
        self.acme.store(None);
        self.challenges.store(None);
    }

    /// Returns each certificate's name and validity.
    pub fn validities(&self) -> Vec<(String, Validity)> {
        let mut all = self.configured.load().validities.clone();
        let acme = self.acme.load();
        all.extend(acme.iter().map(|acme| (acme.0.clone(), acme.1.validity)));
        all
    }

    fn select(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let (configured, acme) = (self.configured.load(), self.acme.load());
        let acme = acme.as_ref().map(|acme| &acme.1);
        let named = acme.filter(|acme| name.is_some_and(|name| acme.names(name)));
        let found = named.map(|acme| &acme.certified);
        let found = found.or_else(|| configured.find(name)).or(configured.default.as_ref());
        found.or(acme.map(|acme| &acme.certified)).cloned()
    }
}

impl CertificateTable {
    fn load(pairs: &[CertificatePair]) -> Result<Self, TlsError> {
        let mut table = CertificateTable::default();
        for pair in pairs {
            let loaded = pair.load()?;
            for name in loaded.names {
                let name = name.strip_prefix('*').map_or(name.clone(), str::to_owned);
                table.by_name.entry(name).or_insert_with(|| Arc::clone(&loaded.certified));
            }
            table.validities.push((pair.cert.display().to_string(), loaded.validity));
            table.default.get_or_insert(loaded.certified);
        }
        Ok(table)
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = name?.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&name[name.find('.')?..]);
        self.by_name.get(&name).or_else(wildcard)
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.validities()).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|offered| offered.eq([ACME_TLS_ALPN])) {
            return self.challenges.load().as_ref()?.certificate(hello.server_name()?);
        }
        self.select(hello.server_name())
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
        let leaf = |name| certificates.select(name).expect("a default").cert[0].clone();
        assert_eq!(leaf(None), leaf(Some("a.example")));
        assert_eq!(leaf(Some("unknown.example")), leaf(None));
        assert_ne!(leaf(Some("x.b.example")), leaf(None));
        assert_eq!(leaf(Some("X.B.example")), leaf(Some("x.b.example")));
        assert_eq!(leaf(Some("y.x.b.example")), leaf(None));
        assert_eq!(certificates.validities().len(), 2);
    }

    #[test]
    fn rejects_a_key_of_another_certificate_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let pairs = [pair(dir.path(), "a.example"), pair(dir.path(), "b.example")];
        let certificates = Certificates::load(&pairs).expect("created and loaded");
        let leaf = || certificates.select(None).expect("a default").cert[0].clone();
        let before = leaf();
        let mixed = CertificatePair { key: pairs[1].key.clone(), ..pairs[0].clone() };
        let error = certificates.prepare(&[mixed]).err().expect("an error").to_string();
        assert!(error.contains("b.example.key: is not the key of"), "{error}");
        assert_eq!(leaf(), before);
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
