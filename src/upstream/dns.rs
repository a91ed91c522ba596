//! The addresses of an upstream's host name.
//!
//! Lookups use the system's resolver (`getaddrinfo`), so that `/etc/hosts`, `nsswitch.conf` and
//! search domains apply as they do to every other program. It does not report a TTL; results are
//! reused for [`LIFETIME`], the TTL that CoreDNS sets for Kubernetes services. A resolver of our
//! own would report TTLs, but ignore `nsswitch.conf`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

/// How long the result of a lookup is used.
const LIFETIME: Duration = Duration::from_secs(5);

/// The result of the last lookup. Concurrent callers share one lookup.
#[derive(Debug, Default)]
pub(super) struct DnsCache {
    last: Arc<Mutex<Option<DnsResult>>>,
}

#[derive(Debug)]
struct DnsResult {
    addresses: Arc<[SocketAddr]>,
    expires: Instant,
    /// Whether to look the name up again before that.
    is_expired: bool,
}

impl DnsCache {
    /// Returns the addresses, IPv6 and IPv4 in turn (RFC 8305 section 4). Calls `lookup` if there
    /// is no recent result. If that fails, an older result is used.
    ///
    /// # Errors
    /// The error of `lookup`, if there is no older result.
    pub(super) async fn addresses(
        &self,
        now: Instant,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let mut last = Arc::clone(&self.last).lock_owned().await;
        if let Some(result) =
            last.as_ref().filter(|result| !result.is_expired && result.expires > now)
        {
            return Ok(Arc::clone(&result.addresses));
        }
        // A task, so that a lookup that is slower than its caller's timeout still fills the cache.
        let lookup = tokio::spawn(async move {
            let found = lookup.await.and_then(|found| {
                if found.is_empty() {
                    Err(io::ErrorKind::AddrNotAvailable.into())
                } else {
                    Ok(found)
                }
            });
            let addresses = match (found, last.as_ref()) {
                (Ok(found), _) => interleave(&found),
                (Err(error), Some(older)) => {
                    tracing::warn!(%error, "DNS lookup failed; using the addresses found before");
                    Arc::clone(&older.addresses)
                }
                (Err(error), None) => return Err(error),
            };
            let expires = now + LIFETIME;
            *last =
                Some(DnsResult { addresses: Arc::clone(&addresses), expires, is_expired: false });
            Ok(addresses)
        });
        lookup.await.map_err(io::Error::other)?
    }

    /// Makes the next caller look the name up again.
    pub(super) async fn expire(&self) {
        if let Some(result) = self.last.lock().await.as_mut() {
            result.is_expired = true;
        }
    }
}

/// Alternates between the families, beginning with that of the first address.
fn interleave(addresses: &[SocketAddr]) -> Arc<[SocketAddr]> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut ordered = Vec::with_capacity(addresses.len());
    while ordered.len() < addresses.len() {
        ordered.extend(first.next());
        ordered.extend(other.next());
    }
    ordered.into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    type Lookup = std::future::Ready<io::Result<Vec<SocketAddr>>>;

    fn finds(text: &str) -> Lookup {
        std::future::ready(Ok(vec![address(text)]))
    }

    fn fails() -> Lookup {
        std::future::ready(Err(io::ErrorKind::NotFound.into()))
    }

    #[tokio::test]
    async fn results_are_reused_until_they_expire() {
        let (cache, now) = (DnsCache::default(), Instant::now());
        let (one, two) = ("192.0.2.1:80", "192.0.2.2:80");
        let almost = now + LIFETIME - Duration::from_millis(1);
        for (at, lookup, seen) in [(now, one, one), (almost, two, one), (now + LIFETIME, two, two)]
        {
            let found = cache.addresses(at, finds(lookup)).await.expect("found");
            assert_eq!(*found, [address(seen)]);
        }
        cache.expire().await;
        assert_eq!(*cache.addresses(now, finds(one)).await.expect("found"), [address(one)]);
    }

    #[tokio::test]
    async fn a_failed_lookup_falls_back_to_the_older_result() {
        let (cache, now) = (DnsCache::default(), Instant::now());
        let known = "192.0.2.1:80";
        assert!(cache.addresses(now, fails()).await.is_err());
        assert!(cache.addresses(now, std::future::ready(Ok(Vec::new()))).await.is_err());
        assert!(cache.addresses(now, finds(known)).await.is_ok(), "failures are not cached");
        let later = now + LIFETIME;
        // The second call finds the older result cached again.
        for lookup in [fails(), finds("192.0.2.2:80")] {
            let found = cache.addresses(later, lookup).await.expect("the older result");
            assert_eq!(*found, [address(known)]);
        }
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_lookup() {
        let (cache, now) = (DnsCache::default(), Instant::now());
        let calls = Arc::new(AtomicUsize::new(0));
        let lookup = || {
            let calls = Arc::clone(&calls);
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(vec![address("192.0.2.1:80")])
            }
        };
        let (one, two, three) = tokio::join!(
            cache.addresses(now, lookup()),
            cache.addresses(now, lookup()),
            cache.addresses(now, lookup())
        );
        assert!([one, two, three].iter().all(Result::is_ok));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_slow_lookup_fills_the_cache_after_its_caller_gave_up() {
        let (cache, now) = (DnsCache::default(), Instant::now());
        let (finish, wait) = oneshot::channel::<()>();
        let slow = async {
            let _ = wait.await;
            Ok(vec![address("192.0.2.1:80")])
        };
        let caller =
            tokio::time::timeout(Duration::from_millis(1), cache.addresses(now, slow)).await;
        assert!(caller.is_err(), "it gave up");
        finish.send(()).expect("the lookup continues");
        let seen = cache.addresses(now, fails()).await.expect("the result of the slow lookup");
        assert_eq!(*seen, [address("192.0.2.1:80")]);
    }

    #[test]
    fn families_alternate_in_the_resolvers_order() {
        let order = |texts: &[&str]| -> Vec<String> {
            let addresses: Vec<_> = texts.iter().map(|text| address(text)).collect();
            interleave(&addresses).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"]),
            ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]
        );
        assert_eq!(order(&["127.0.0.1:1", "[::1]:1"]), ["127.0.0.1:1", "[::1]:1"]);
        assert!(order(&[]).is_empty());
    }
}
