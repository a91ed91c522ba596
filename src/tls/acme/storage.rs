//! The stored certificate, and the account with each ACME directory.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::options::AcmeOptions;
use crate::tls::{
    certificates::LoadedCertificate,
    challenges::Challenges,
    files,
    pem::{self, TlsError},
};

/// How often a lock that another replica holds is tried.
const LOCK_POLL: Duration = Duration::from_secs(1);

/// The configured directory.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    dir: PathBuf,
    /// The URL of the ACME directory.
    directory: String,
    pub(super) challenges: Challenges,
}

/// A certificate that was stored.
pub(super) struct StoredCertificate {
    pub(super) loaded: LoadedCertificate,
    /// Whether the configured ACME directory issued it, rather than an earlier one.
    pub(super) is_of_directory: bool,
}

/// The right to use the ACME directory, released when dropped and when the process ends.
#[derive(Debug)]
pub(super) struct StorageLock(#[expect(dead_code, reason = "held, not read")] File);

impl Storage {
    /// Creates the directories if they do not exist.
    pub(super) fn open(options: &AcmeOptions) -> Result<Self, TlsError> {
        let dir = options.path.clone();
        let attempt = || {
            files::create_dir(&dir)?;
            Challenges::open(dir.join("challenges"))
        };
        let challenges = attempt().map_err(|error| TlsError::Io { path: dir.clone(), error })?;
        Ok(Storage { dir, directory: options.directory.clone(), challenges })
    }

    /// Returns the file that contains the certificate and its key.
    pub(super) fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// Returns the stored certificate if it is valid now. One that cannot be used is logged.
    pub(super) fn load(&self) -> Result<Option<StoredCertificate>, TlsError> {
        let path = self.certificate();
        let content = files::read(&path).map_err(|error| TlsError::Io { path, error })?;
        let Some(content) = content.map(Zeroizing::new) else { return Ok(None) };
        match self.parse(&content) {
            Ok(loaded) => {
                let is_of_directory = content.starts_with(self.origin().as_bytes());
                let stored = StoredCertificate { loaded, is_of_directory };
                Ok(is_valid(&stored.loaded).then_some(stored))
            }
            Err(error) => {
                tracing::warn!(%error, "ACME: the stored certificate cannot be used");
                Ok(None)
            }
        }
    }

    /// Same as [`Storage::load`], without blocking the runtime on slow storage.
    pub(super) async fn load_in_background(&self) -> Result<Option<StoredCertificate>, TlsError> {
        let storage = self.clone();
        let loaded = background(move || Ok(storage.load())).await;
        loaded.map_err(|error| TlsError::Io { path: self.certificate(), error })?
    }

    /// Parses a key with its chain.
    pub(super) fn parse(&self, content: &[u8]) -> Result<LoadedCertificate, TlsError> {
        let path = self.certificate();
        let chain = pem::parse_certificates(&path, content)?;
        LoadedCertificate::new((&path, chain), (&path, content))
    }

    /// Returns the first line of a stored certificate of the configured ACME directory.
    fn origin(&self) -> String {
        format!("issued by {}\n", self.directory)
    }

    /// Stores a key with its chain.
    pub(super) async fn save(&self, pem: Zeroizing<Vec<u8>>) -> io::Result<()> {
        let path = self.certificate();
        let mut content = Zeroizing::new(Vec::with_capacity(pem.len() + 512));
        content.extend_from_slice(self.origin().as_bytes());
        content.extend_from_slice(&pem);
        background(move || files::write(&path, &content)).await
    }

    /// Returns the stored account.
    pub(super) async fn load_account(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let path = self.account();
        Ok(background(move || files::read(&path)).await?.map(Zeroizing::new))
    }

    /// Stores the account.
    pub(super) async fn save_account(&self, content: Vec<u8>) -> io::Result<()> {
        let (path, content) = (self.account(), Zeroizing::new(content));
        background(move || files::write(&path, &content)).await
    }

    /// Removes an account that the directory does not know.
    pub(super) fn remove_account(&self) -> io::Result<()> {
        std::fs::remove_file(self.account())
    }

    /// Waits for the lock that admits one replica to the ACME directory.
    pub(super) async fn lock(&self) -> io::Result<StorageLock> {
        let path = self.dir.join("lock");
        loop {
            let path = path.clone();
            if let Some(lock) = background(move || try_lock(&path)).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    fn account(&self) -> PathBuf {
        self.dir.join(format!("account-{}.json", plain(&self.directory)))
    }
}

fn try_lock(path: &Path) -> io::Result<Option<StorageLock>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(StorageLock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Runs file operations, which may be slow on shared storage, outside the runtime's threads.
async fn background<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

fn is_valid(certificate: &LoadedCertificate) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u64::try_from(certificate.validity.not_after).is_ok_and(|end| now < end)
}

/// Returns the URL of a directory without characters that are special in paths.
fn plain(directory: &str) -> String {
    let name = directory.strip_prefix("https://").unwrap_or(directory);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    name.chars().map(plain).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_its_own_account_file() {
        let production = plain("https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(production, "acme-v02.api.letsencrypt.org-directory");
        assert_eq!(plain("https://ca.internal:9000/acme/../dir"), "ca.internal-9000-acme-..-dir");
    }

    #[test]
    fn the_lock_excludes_others_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let lock = try_lock(&path).expect("a file").expect("free");
        assert!(try_lock(&path).expect("a file").is_none());
        drop(lock);
        assert!(try_lock(&path).expect("a file").is_some());
    }
}
