//! A set of public keys (JWKS, RFC 7517) that the sender publishes.
//!
//! The hot path reads what is in memory and never waits. A set from a file is read again when the file
//! has changed. A set from the network is fetched in the background ([`KeySet::maintain`]): at the
//! start, once an hour, and when a token names a key that the set does not have; one fetch at a time,
//! at most [`FETCHES_A_MINUTE`], whatever tokens arrive. If fetches fail, the old set serves for
//! [`LASTING`]. A key that a set fetched later did not have either is remembered as unknown for a
//! minute; before that, nobody can say that the token is bad, and the sender is asked to come again.

mod fetch;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::PublicKeyComponents,
    signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256},
};
use data_encoding::BASE64URL_NOPAD;
use tokio::sync::Notify;

use crate::scheme::{compiled::token::TokenAlgorithm, public_key::PublicKey};

/// The longest set that is read.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The most keys that are kept of a set.
const MAX_KEYS: usize = 100;
/// The most unknown key ids that are remembered.
const MAX_UNKNOWN: usize = 256;
/// The most fetches within any minute.
pub(super) const FETCHES_A_MINUTE: usize = 5;
/// How long a set serves after the last fetch that succeeded.
const LASTING: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Where a set comes from.
#[derive(Clone, Debug)]
enum KeySetOrigin {
    File(PathBuf),
    Https(http::Uri, fetch::Trust),
}

struct PublishedKeys {
    keys: Vec<(Option<String>, TokenAlgorithm, PublicKey)>,
    fetched: Instant,
    modified: Option<SystemTime>,
}

/// What a set says about a key id.
pub(super) enum KeyLookup {
    /// The keys that may have signed.
    Found(Vec<PublicKey>),
    /// There is no such key.
    Unknown,
    /// The set cannot be asked now.
    Unavailable,
}

/// A set of public keys, kept fresh.
pub struct KeySet {
    origin: KeySetOrigin,
    keys: ArcSwapOption<PublishedKeys>,
    /// Unknown key ids: when each was first asked for.
    asked: Mutex<HashMap<String, Instant>>,
    wanted: Notify,
}

impl KeySet {
    /// A set at `https://…` (or `http://` on this machine), or in a file: `file:keys.json`. The file
    /// is read at once, relative to `base`; nothing is fetched before [`KeySet::maintain`] runs.
    /// `authorities` is a PEM file with the authorities that vouch for an `https://` server, instead
    /// of the machine's.
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
                return Err("a key set in a file needs no authorities".to_owned());
            }
            Some(path) => KeySetOrigin::File(base.join(path)),
            None => KeySetOrigin::Https(
                fetch::address(address)?,
                authorities.map_or(Ok(fetch::Trust::Machine), fetch::Trust::read)?,
            ),
        };
        let set = KeySet {
            origin,
            keys: ArcSwapOption::empty(),
            asked: Mutex::default(),
            wanted: Notify::new(),
        };
        if let KeySetOrigin::File(path) = &set.origin {
            set.read_file(path)?;
        }
        Ok(Arc::new(set))
    }

    /// Keeps a set from the network fresh; never ends. For a set in a file there is nothing to do.
    pub async fn maintain(self: Arc<Self>) {
        match &self.origin {
            KeySetOrigin::File(_) => {}
            KeySetOrigin::Https(uri, trust) => fetch::maintain(&self, uri, trust).await,
        }
    }

    /// Fetches the set once, for commands that judge one request and end.
    ///
    /// # Errors
    /// Says why the set could not be had.
    pub async fn load(&self) -> Result<(), String> {
        match &self.origin {
            KeySetOrigin::File(path) => self.read_file(path),
            KeySetOrigin::Https(uri, trust) => {
                let begun = Instant::now();
                self.replace(&fetch::get(uri, trust).await?, begun, None)
            }
        }
    }

    /// Takes over what a set at the same address has, until a fetch of its own succeeds.
    pub fn inherit(&self, other: &KeySet) {
        if let (KeySetOrigin::Https(uri, _), KeySetOrigin::Https(same, _)) =
            (&self.origin, &other.origin)
            && uri == same
        {
            self.keys.store(other.keys.load_full());
        }
    }

    /// The keys for a token that names `kid`, or no key.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: TokenAlgorithm) -> KeyLookup {
        let now = Instant::now();
        if let KeySetOrigin::File(path) = &self.origin {
            self.reread(path);
        }
        let keys = self.keys.load();
        let lasting = |keys: &&Arc<PublishedKeys>| match self.origin {
            KeySetOrigin::File(_) => true,
            KeySetOrigin::Https(..) => now.duration_since(keys.fetched) < LASTING,
        };
        let Some(keys) = keys.as_ref().filter(lasting) else {
            self.wanted.notify_one();
            return KeyLookup::Unavailable;
        };
        let fits = keys.keys.iter().filter(|(known, alg, _)| {
            *alg == algorithm && (kid.is_none() || known.as_deref() == kid)
        });
        let fits: Vec<_> = fits.map(|(_, _, key)| key.clone()).collect();
        if !fits.is_empty() && (kid.is_some() || fits.len() == 1) {
            return KeyLookup::Found(fits);
        }
        match (&self.origin, kid) {
            (KeySetOrigin::File(_), _) | (KeySetOrigin::Https(..), None) => KeyLookup::Unknown,
            (KeySetOrigin::Https(..), Some(kid)) => self.unknown(kid, keys.fetched, now),
        }
    }

    fn unknown(&self, kid: &str, fetched: Instant, now: Instant) -> KeyLookup {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, first| now.duration_since(*first) < MINUTE);
        match asked.get(kid) {
            Some(first) if fetched > *first => return KeyLookup::Unknown,
            Some(_) => {}
            None if asked.len() < MAX_UNKNOWN && kid.len() <= 256 => {
                asked.insert(kid.to_owned(), now);
            }
            None => {}
        }
        drop(asked);
        self.wanted.notify_one();
        KeyLookup::Unavailable
    }

    /// Whether a fetch could answer what the last one did not: a key was asked for after it began, or
    /// its set has served its time.
    fn is_wanting(&self) -> bool {
        let Some(keys) = self.keys.load_full() else { return true };
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        keys.fetched.elapsed() >= LASTING || asked.values().any(|first| *first >= keys.fetched)
    }

    fn read_file(&self, path: &Path) -> Result<(), String> {
        let fail = |error| format!("{}: {error}", path.display());
        let modified = std::fs::metadata(path).and_then(|data| data.modified()).ok();
        let text = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        self.replace(&text, Instant::now(), modified).map_err(fail)
    }

    /// Reads the file again if it has changed; a file that cannot be read changes nothing.
    fn reread(&self, path: &Path) {
        let modified = std::fs::metadata(path).and_then(|data| data.modified()).ok();
        let known = self.keys.load().as_ref().and_then(|keys| keys.modified);
        if modified.is_some()
            && modified != known
            && let Err(error) = self.read_file(path)
        {
            tracing::warn!(%error, "the key set's file has changed and cannot be read");
        }
    }

    /// Takes a new set; `begun` is when it was asked for.
    fn replace(
        &self,
        text: &[u8],
        begun: Instant,
        modified: Option<SystemTime>,
    ) -> Result<(), String> {
        let keys = parse(text)?;
        self.keys.store(Some(Arc::new(PublishedKeys { keys, fetched: begun, modified })));
        Ok(())
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({:?})", self.origin)
    }
}

#[derive(serde::Deserialize)]
struct JwksDocument {
    keys: Vec<serde_json::Value>,
}

/// The keys of a set that are for signatures with an algorithm we know; others are passed over.
fn parse(text: &[u8]) -> Result<Vec<(Option<String>, TokenAlgorithm, PublicKey)>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the key set is longer than {MAX_BYTES} bytes"));
    }
    let document: JwksDocument =
        serde_json::from_slice(text).map_err(|error| format!("this is no key set: {error}"))?;
    let keys: Vec<_> = document.keys.iter().take(MAX_KEYS).filter_map(key).collect();
    if keys.is_empty() {
        return Err("the key set has no key that signatures can be verified with".to_owned());
    }
    Ok(keys)
}

fn key(jwk: &serde_json::Value) -> Option<(Option<String>, TokenAlgorithm, PublicKey)> {
    let text = |name: &str| jwk.get(name).and_then(serde_json::Value::as_str);
    let bytes = |name: &str| BASE64URL_NOPAD.decode(text(name)?.as_bytes()).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, key) = match text("kty")? {
        "RSA" => {
            let components = PublicKeyComponents { n: bytes("n")?, e: bytes("e")? };
            let der: PublicKeyX509Der<'_> = components.as_der().ok()?;
            let key = PublicKey::parse(&RSA_PKCS1_2048_8192_SHA256, der.as_ref()).ok()?;
            (TokenAlgorithm::Rs256, key)
        }
        "EC" if text("crv") == Some("P-256") => {
            let point = [&[4], bytes("x")?.as_slice(), bytes("y")?.as_slice()].concat();
            (TokenAlgorithm::Es256, PublicKey::parse(&ECDSA_P256_SHA256_FIXED, &point).ok()?)
        }
        _ => return None,
    };
    let fits = text("alg").is_none_or(|name| name == algorithm.name());
    fits.then(|| (text("kid").map(str::to_owned), algorithm, key))
}

#[cfg(test)]
mod tests;
