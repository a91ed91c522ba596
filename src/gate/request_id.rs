//! Request IDs: 32 hex digits that name one request in the log, in the response and in the request
//! to the upstream.
//!
//! They are unpredictable. A sequential ID would show an outsider how many requests arrived between
//! two of the outsider's own.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use data_encoding::HEXLOWER;
use http::HeaderValue;
use sha2::{Digest, Sha256};

/// Returns a new ID: a digest of a key of this process and a counter.
///
/// # Panics
/// If the system provides no random bytes for the key.
pub(super) fn next() -> HeaderValue {
    static KEYED: LazyLock<Sha256> = LazyLock::new(|| {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system provides random bytes");
        Sha256::new_with_prefix(key)
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let digest = KEYED.clone().chain_update(number).finalize();
    let mut digits = [0; 32];
    HEXLOWER.encode_mut(&digest[..16], &mut digits);
    HeaderValue::from_bytes(&digits).expect("hex digits are a header value")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_have_no_common_prefix() {
        let ids: Vec<_> = (0..1000).map(|_| next()).collect();
        let text = |id: &HeaderValue| id.to_str().expect("hex digits").to_owned();
        assert_eq!(ids.iter().map(text).collect::<HashSet<_>>().len(), ids.len());
        let starts: HashSet<_> = ids.iter().map(|id| text(id)[..8].to_owned()).collect();
        assert!(starts.len() > 990, "{}", starts.len());
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
