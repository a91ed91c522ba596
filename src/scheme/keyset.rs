//! A set of public keys (JWKS, RFC 7517) that the sender publishes.
//!
//! Verification reads what is in memory and never waits; [`KeySet::maintain`] keeps it fresh in the
//! background. A set in a file is read again when the file changes. A set on the network is fetched
//! at the start, once an hour, and when a token names a key that the set does not have: one fetch
//! at a time and at most [`FETCHES_A_MINUTE`], whatever tokens arrive. While fetches fail, the old
//! set is used for [`LASTING`].
//!
//! A token with an unknown key ID gets 503 until a fetch that began later has returned a set
//! without that ID; then the ID is known to be unknown for a minute. When more than [`MAX_UNKNOWN`]
//! IDs arrive in a minute, further ones are unknown at once, provided that the set was fetched
//! within the last minute.

mod certificate;
mod fetch;
mod jwk;
pub(super) mod named;
pub(super) mod request;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::{
    metrics::KeySetMetrics,
    scheme::public_key::{PublicKey, PublicKeyAlgorithm},
    tls::ServerTrust,
};

/// The longest set that is read.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The most unknown key IDs that are kept.
const MAX_UNKNOWN: usize = 256;
/// The longest key ID that is remembered.
const MAX_KID: usize = 256;
/// The most fetches within any minute.
pub(super) const FETCHES_A_MINUTE: usize = 5;
/// How long a set is used after the last fetch that succeeded.
const LASTING: Duration = Duration::from_secs(24 * 3600);
/// How often the file of a set is checked for changes.
const POLL: Duration = Duration::from_millis(500);
const MINUTE: Duration = Duration::from_secs(60);

/// Where a set comes from.
#[derive(Clone, Debug)]
enum KeySetOrigin {
    File(PathBuf),
    Https(http::Uri, ServerTrust),
}

impl fmt::Display for KeySetOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySetOrigin::File(path) => path.display().fmt(f),
            KeySetOrigin::Https(uri, _) => uri.fmt(f),
        }
    }
}

struct PublishedKeys {
    keys: Vec<jwk::PublishedKey>,
    /// The keys that were skipped, each with the cause.
    skipped: Vec<String>,
    fetched: Instant,
    modified: Option<SystemTime>,
}

/// What a set has for a key ID.
pub(super) enum KeyLookup {
    /// The keys that may have signed.
    Found(Vec<PublicKey>),
    /// There is no such key.
    Unknown,
    /// The set has no such key, and a newer set must be fetched to know whether there is one.
    Pending,
    /// There is no set.
    Unavailable,
}

/// The key IDs that tokens named and the set did not have.
#[derive(Default)]
struct UnknownIds {
    /// When each was first named.
    first_named: HashMap<String, Instant>,
    /// When the last one was first named that a fetch must be made for.
    last: Option<Instant>,
}

/// A set of public keys, kept fresh.
pub struct KeySet {
    origin: KeySetOrigin,
    keys: ArcSwapOption<PublishedKeys>,
    unknown: Mutex<UnknownIds>,
    wanted: Notify,
    metrics: OnceLock<KeySetMetrics>,
}

impl KeySet {
    /// Returns the set at an `https://` address (or `http://` on this machine), or in a file:
    /// `file:keys.json`. The file is read at once, relative to `base`; nothing is fetched before
    /// [`KeySet::maintain`] runs. `authorities` is a PEM file with the CA certificates that the
    /// `https://` server is verified with, instead of the system's.
    ///
    /// # Errors
    /// Says what is wrong with the address or with a file.
    pub fn new(
        address: &str,
        base: &Path,
        authorities: Option<&Path>,
    ) -> Result<Arc<KeySet>, String> {
        let origin = match address.strip_prefix("file:") {
            Some(_) if authorities.is_some() => {
                return Err("a key set in a file needs no CA certificates".to_owned());
            }
            Some(path) => KeySetOrigin::File(base.join(path)),
            None => KeySetOrigin::Https(
                fetch::address(address)?,
                authorities.map_or(Ok(ServerTrust::System), ServerTrust::read)?,
            ),
        };
        let set = KeySet {
            origin,
            keys: ArcSwapOption::empty(),
            unknown: Mutex::default(),
            wanted: Notify::new(),
            metrics: OnceLock::new(),
        };
        if let KeySetOrigin::File(path) = &set.origin {
            set.read_file(path)?;
        }
        Ok(Arc::new(set))
    }

    /// Returns the name of the set in metrics: where it comes from.
    pub fn name(&self) -> String {
        self.origin.to_string()
    }

    /// Counts fetches in `metrics` from now on.
    pub fn count_in(&self, metrics: KeySetMetrics) {
        let is_read = matches!(self.origin, KeySetOrigin::File(_));
        if self.metrics.set(metrics).is_ok() && is_read {
            // It was read with the configuration.
            self.count(true);
        }
    }

    /// Counts an attempt to fetch or read the set.
    fn count(&self, is_successful: bool) {
        let Some(metrics) = self.metrics.get() else { return };
        if is_successful {
            metrics.ok.inc();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            metrics.fetched.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        } else {
            metrics.failed.inc();
        }
    }

    /// Keeps the set fresh; never returns.
    pub async fn maintain(self: Arc<Self>) {
        match &self.origin {
            KeySetOrigin::File(_) => self.poll_file().await,
            KeySetOrigin::Https(uri, trust) => fetch::maintain(&self, uri, trust).await,
        }
    }

    /// Reads or fetches the set once.
    ///
    /// # Errors
    /// Says why that failed.
    pub async fn load(&self) -> Result<(), String> {
        match &self.origin {
            KeySetOrigin::File(path) => self.read_file(path),
            KeySetOrigin::Https(uri, trust) => {
                let begun = Instant::now();
                self.replace(&fetch::get(uri, trust).await?, begun, None)
            }
        }
    }

    /// Takes over the keys of another set with the same address, until its own fetch succeeds.
    pub fn inherit(&self, other: &KeySet) {
        if let (KeySetOrigin::Https(uri, _), KeySetOrigin::Https(same, _)) =
            (&self.origin, &other.origin)
            && uri == same
        {
            self.keys.store(other.keys.load_full());
        }
    }

    /// Returns whether the set is in memory and has no key for `algorithm`.
    pub(super) fn lacks(&self, algorithm: PublicKeyAlgorithm) -> bool {
        let keys = self.keys.load();
        keys.as_ref().is_some_and(|set| set.keys.iter().all(|key| key.algorithm != algorithm))
    }

    /// Returns the keys for a token or signature that names `kid`, or no key.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: PublicKeyAlgorithm) -> KeyLookup {
        let now = Instant::now();
        let keys = self.keys.load();
        let serves = |keys: &&Arc<PublishedKeys>| match self.origin {
            KeySetOrigin::File(_) => true,
            KeySetOrigin::Https(..) => now.duration_since(keys.fetched) < LASTING,
        };
        let Some(keys) = keys.as_ref().filter(serves) else {
            self.wanted.notify_one();
            return KeyLookup::Unavailable;
        };
        let fits = keys.keys.iter().filter(|key| {
            key.algorithm == algorithm && (kid.is_none() || key.kid.as_deref() == kid)
        });
        let fits: Vec<_> = fits.map(|key| key.key.clone()).collect();
        if !fits.is_empty() && (kid.is_some() || fits.len() == 1) {
            return KeyLookup::Found(fits);
        }
        match (&self.origin, kid) {
            (KeySetOrigin::File(_), _) | (KeySetOrigin::Https(..), None) => KeyLookup::Unknown,
            (KeySetOrigin::Https(..), Some(kid)) => self.find_unknown(kid, keys.fetched, now),
        }
    }

    fn find_unknown(&self, kid: &str, fetched: Instant, now: Instant) -> KeyLookup {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.first_named.retain(|_, first| now.duration_since(*first) < MINUTE);
        match unknown.first_named.get(kid) {
            Some(first) if fetched > *first => return KeyLookup::Unknown,
            Some(_) => {}
            None if unknown.first_named.len() < MAX_UNKNOWN && kid.len() <= MAX_KID => {
                unknown.first_named.insert(kid.to_owned(), now);
                unknown.last = Some(now);
            }
            None if now.duration_since(fetched) < MINUTE => return KeyLookup::Unknown,
            None => unknown.last = Some(now),
        }
        drop(unknown);
        self.wanted.notify_one();
        KeyLookup::Pending
    }

    /// Returns whether a fetch could find what the last one did not: an unknown key was named after
    /// it began, or its set is too old to be used.
    fn needs_fetch(&self) -> bool {
        let Some(keys) = self.keys.load_full() else { return true };
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        keys.fetched.elapsed() >= LASTING || unknown.last.is_some_and(|last| last >= keys.fetched)
    }

    fn read_file(&self, path: &Path) -> Result<(), String> {
        let fail = |error| format!("{}: {error}", path.display());
        let modified = modified(path);
        let text = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        self.replace(&text, Instant::now(), modified).map_err(fail)
    }

    /// Reads the file again whenever it changes, on a thread that nothing waits for. A file that
    /// cannot be read changes nothing.
    async fn poll_file(self: &Arc<Self>) {
        loop {
            tokio::time::sleep(POLL).await;
            let set = Arc::clone(self);
            // The thread panics only if the runtime is shutting down.
            let _ = tokio::task::spawn_blocking(move || set.reread_file()).await;
        }
    }

    fn reread_file(&self) {
        let KeySetOrigin::File(path) = &self.origin else { return };
        let modified = modified(path);
        let known = self.keys.load().as_ref().and_then(|keys| keys.modified);
        if modified.is_none() || modified == known {
            return;
        }
        let read = self.read_file(path);
        self.count(read.is_ok());
        if let Err(error) = read {
            tracing::warn!(%error, "cannot read the changed file of a key set");
        }
    }

    /// Replaces the keys; `begun` is when they were requested.
    fn replace(
        &self,
        text: &[u8],
        begun: Instant,
        modified: Option<SystemTime>,
    ) -> Result<(), String> {
        let (keys, skipped) = jwk::parse(text)?;
        let known = self.keys.load();
        if known.as_ref().is_none_or(|known| known.skipped != skipped) {
            for key in &skipped {
                tracing::warn!(set = %self.origin, key, "a key of the key set is not used");
            }
        }
        self.keys.store(Some(Arc::new(PublishedKeys { keys, skipped, fetched: begun, modified })));
        Ok(())
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|data| data.modified()).ok()
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({})", self.origin)
    }
}

#[cfg(test)]
mod tests;
