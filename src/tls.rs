//! Certificates of the public listener: loading, choosing by SNI, replacing while running.
//!
//! One rustls `ServerConfig` lives as long as the process (a new one would forget its sessions);
//! what a reload replaces is the table behind its certificate resolver. TLS 1.2 and 1.3 with
//! aws-lc-rs; 0-RTT stays off, since early data can be replayed by anybody on the path.

mod client;

mod clients;

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
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

pub use self::clients::ClientAuthority;

pub use self::client::{advice, authorities, client_config, is_refused_certificate};

/// One certificate with its key, as configured.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM file with the chain, leaf first; its path names the certificate in reports and metrics.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Names to make a self-signed pair for at start, if the files are missing. Empty: never.
    pub self_signed: Vec<String>,
}

/// What can be wrong with a certificate; each says which file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The machine trusts nobody.
    #[error("this machine has no certificate authorities: install ca-certificates, or name one")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

impl Error {
    fn content(path: &Path, what: impl Into<String>) -> Self {
        Error::Content { path: path.to_owned(), what: what.into() }
    }
}

impl Pair {
    /// Reads both files and checks that they belong together. Missing files are in order where a
    /// self-signed pair is made at start. Writes nothing.
    ///
    /// # Errors
    /// An unreadable file, a file without PEM, or a key that is not the certificate's.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_to_be_made() {
            return Ok(());
        }
        self.load().map(|_| ())
    }

    /// Its name in metrics and its end in Unix seconds.
    ///
    /// # Errors
    /// As [`Pair::check`], but files that are missing are never in order.
    pub fn expiry(&self) -> Result<(String, i64), Error> {
        Ok((self.cert.display().to_string(), self.load()?.expires))
    }

    fn is_to_be_made(&self) -> bool {
        !self.self_signed.is_empty() && !self.cert.exists() && !self.key.exists()
    }

    fn load(&self) -> Result<Loaded, Error> {
        let pem = read(&self.cert)?;
        let chain = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::content(&self.cert, format!("not a PEM chain: {error}")))?;
        let Some(leaf) = chain.first() else {
            return Err(Error::content(&self.cert, "holds no certificate in PEM form"));
        };
        let (names, expires) = identity(leaf, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| Error::content(&self.key, format!("not a PEM key: {error}")))?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let of = self.cert.display();
            Error::content(&self.key, format!("is not the key of {of}: {error}"))
        })?;
        Ok(Loaded { certified: Arc::new(certified), names, expires })
    }

    /// Makes a self-signed pair for development, the key readable by its owner only.
    fn make(&self) -> Result<(), Error> {
        let failed = |error: rcgen::Error| Error::content(&self.cert, error.to_string());
        let made = rcgen::generate_simple_self_signed(self.self_signed.clone()).map_err(failed)?;
        write(&self.key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
        write(&self.cert, made.cert.pem().as_bytes(), 0o644)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let attempt = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)
    };
    attempt().map_err(|error| Error::Read { path: path.to_owned(), error })
}

/// The DNS names and the end (Unix seconds) of a certificate.
fn identity(leaf: &CertificateDer<'_>, path: &Path) -> Result<(Vec<String>, i64), Error> {
    let (_, parsed) = parse_x509_certificate(leaf)
        .map_err(|error| Error::content(path, format!("not an X.509 certificate: {error}")))?;
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

struct Loaded {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    expires: i64,
}

/// Certificates that were loaded and are not yet in use.
pub struct Prepared(Arc<Table>);

/// The certificates in use, chosen by SNI: exact name, then wildcard, then the first configured.
pub struct Certificates(ArcSwap<Table>);

struct Table {
    default: Arc<CertifiedKey>,
    /// `hooks.example.com`, and `*.example.com` as `.example.com`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    expiries: Vec<(String, i64)>,
}

impl Certificates {
    /// Loads every pair; makes the self-signed ones whose files are missing.
    ///
    /// # Errors
    /// The first pair that cannot be used. `pairs` must not be empty.
    pub fn load(pairs: &[Pair]) -> Result<Self, Error> {
        for pair in pairs.iter().filter(|pair| pair.is_to_be_made()) {
            pair.make()?;
        }
        Ok(Certificates(ArcSwap::from_pointee(Table::load(pairs)?)))
    }

    /// Loads other certificates, to be taken by [`Certificates::replace`].
    ///
    /// # Errors
    /// The first pair that cannot be used.
    pub fn prepare(&self, pairs: &[Pair]) -> Result<Prepared, Error> {
        Ok(Prepared(Arc::new(Table::load(pairs)?)))
    }

    /// Replaces all certificates.
    pub fn replace(&self, prepared: Prepared) {
        self.0.store(prepared.0);
    }

    /// Each certificate's name and end in Unix seconds.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.0.load().expiries.clone()
    }
}

impl Table {
    fn load(pairs: &[Pair]) -> Result<Self, Error> {
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
        let default =
            default.ok_or_else(|| Error::content(Path::new("[[server.tls]]"), "no certificate"))?;
        Ok(Table { default, by_name, expiries })
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

/// The TLS configuration of a public listener, which chooses among `certificates`. Where clients must
/// show certificates, sessions are not resumed: each handshake judges the certificate anew.
///
/// # Errors
/// Never in practice: the provider supports both protocol versions.
pub fn server_config(
    certificates: Arc<Certificates>,
    clients: Option<ClientAuthority>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = match clients {
        None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
            config.ticketer = aws_lc_rs::Ticketer::new()?;
            config
        }
        Some(ClientAuthority(verifier)) => {
            let builder = builder.with_client_cert_verifier(verifier);
            let mut config = builder.with_cert_resolver(certificates);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(dir: &Path, name: &str) -> Pair {
        Pair {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
            self_signed: vec![name.to_owned()],
        }
    }

    #[test]
    fn names_choose_the_certificate_and_the_first_is_the_default() {
        let dir = tempfile::tempdir().expect("a directory");
        let pairs = [pair(dir.path(), "a.example"), pair(dir.path(), "*.b.example")];
        let certificates = Certificates::load(&pairs).expect("made and loaded");
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
    fn a_foreign_key_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let pairs = [pair(dir.path(), "a.example"), pair(dir.path(), "b.example")];
        let certificates = Certificates::load(&pairs).expect("made and loaded");
        let before = certificates.0.load().find(None).cert[0].clone();
        let mixed = Pair { key: pairs[1].key.clone(), ..pairs[0].clone() };
        let error = certificates.prepare(&[mixed]).err().expect("refused").to_string();
        assert!(error.contains("b.example.key: is not the key of"), "{error}");
        assert_eq!(certificates.0.load().find(None).cert[0], before);
    }

    #[test]
    fn checking_writes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = pair(dir.path(), "a.example");
        pair.check().expect("to be made at start");
        assert!(!pair.cert.exists());
        let never = Pair { self_signed: Vec::new(), ..pair };
        assert!(matches!(never.check(), Err(Error::Read { .. })));
    }
}
