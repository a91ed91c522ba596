//! Sessions of people who use the inspector: login, CSRF tokens, expiry, and a limit on attempts to
//! log in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderName, header::COOKIE};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::access::TokenDigest;

/// The name of the cookie.
pub(super) const COOKIE_NAME: &str = "sealgate_session";
/// The header that carries the CSRF token of a change.
pub(super) const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// How long an unused session lasts.
const IDLE: Duration = Duration::from_secs(12 * 60 * 60);
/// The most sessions; a new one replaces the one that was unused for longest.
const MAX_SESSIONS: usize = 256;
/// How many logins may fail within [`FAILURE_WINDOW`] for one network.
const MAX_FAILURES: u32 = 10;
/// The time after which failed logins are forgotten.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// The most networks whose failures are counted separately; the others share one count.
const MAX_NETWORKS: usize = 1024;

/// The sessions, and recent failures to log in.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<SessionKey, Session>>,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

/// The SHA-256 of a cookie's value. A lookup by it reveals nothing about the value by its duration.
type SessionKey = [u8; 32];

#[derive(Debug)]
struct Session {
    token: TokenDigest,
    csrf: String,
    used: Instant,
}

/// A session as its requests see it.
#[derive(Clone, Debug)]
pub(super) struct OpenSession {
    /// The token with which it was opened.
    pub(super) token: TokenDigest,
    /// Its CSRF token.
    pub(super) csrf: String,
    key: SessionKey,
}

impl OpenSession {
    /// Returns whether a request has the session's CSRF token.
    pub(super) fn has_csrf(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(&CSRF).map(|value| value.as_bytes());
        sent.is_some_and(|sent| sent.ct_eq(self.csrf.as_bytes()).into())
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, (u32, Instant)>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns for how long `client` must not try to log in, if it failed too often.
    pub(super) fn locked_out(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut failures = self.failures();
        failures.retain(|_, (_, since)| now < *since + FAILURE_WINDOW);
        let (count, since) = failures.get(&counted(&failures, client))?;
        (*count >= MAX_FAILURES).then(|| *since + FAILURE_WINDOW - now)
    }

    /// Counts a failed login.
    pub(super) fn count_failure(&self, client: IpAddr, now: Instant) {
        let mut failures = self.failures();
        let network = counted(&failures, client);
        failures.entry(network).or_insert((0, now)).0 += 1;
    }

    /// Opens a session for the holder of a token. Returns the value of its cookie and the session;
    /// `None` if the system provides no random bytes.
    pub(super) fn open(&self, token: TokenDigest, now: Instant) -> Option<(String, OpenSession)> {
        let (cookie, csrf) = (random()?, random()?);
        let key = digest(&cookie);
        let mut open = self.lock();
        open.retain(|_, session| now < session.used + IDLE);
        if open.len() >= MAX_SESSIONS
            && let Some(oldest) = open.iter().min_by_key(|(_, session)| session.used)
        {
            let oldest = *oldest.0;
            open.remove(&oldest);
        }
        open.insert(key, Session { token, csrf: csrf.clone(), used: now });
        Some((cookie, OpenSession { token, csrf, key }))
    }

    /// Returns the session of a request, which is thereby used.
    pub(super) fn find(&self, headers: &HeaderMap, now: Instant) -> Option<OpenSession> {
        let key = digest(cookie(headers)?);
        let mut open = self.lock();
        let session = open.get_mut(&key)?;
        if now >= session.used + IDLE {
            open.remove(&key);
            return None;
        }
        session.used = now;
        Some(OpenSession { token: session.token, csrf: session.csrf.clone(), key })
    }

    /// Ends a session.
    pub(super) fn close(&self, session: &OpenSession) {
        self.lock().remove(&session.key);
    }
}

/// Returns the network under which the failures of a client are counted: its /64 of IPv6.
fn counted(failures: &HashMap<IpAddr, (u32, Instant)>, client: IpAddr) -> IpAddr {
    let network = match client.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    };
    let is_counted = failures.len() < MAX_NETWORKS || failures.contains_key(&network);
    if is_counted { network } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn digest(cookie: &str) -> SessionKey {
    Sha256::digest(cookie.as_bytes()).into()
}

/// Returns 256 random bits as text.
fn random() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(BASE64URL_NOPAD.encode(&bytes))
}

/// Returns the value of the session's cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with_cookie(cookie: &str) -> HeaderMap {
        let value = format!("theme=dark; {COOKIE_NAME}={cookie}");
        [(COOKIE, HeaderValue::from_str(&value).expect("a value"))].into_iter().collect()
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_closed() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let (cookie, session) = sessions.open(TokenDigest::of(b"t"), start).expect("random bytes");
        assert!(cookie.len() >= 43 && session.csrf.len() >= 43 && cookie != session.csrf);
        let headers = with_cookie(&cookie);
        let almost = start + IDLE - Duration::from_secs(1);
        assert!(sessions.find(&headers, almost).is_some());
        assert!(sessions.find(&headers, almost + IDLE / 2).is_some(), "each use counts");
        assert!(sessions.find(&headers, almost + IDLE / 2 + IDLE).is_none());
        let (cookie, session) = sessions.open(TokenDigest::of(b"t"), start).expect("random bytes");
        sessions.close(&session);
        assert!(sessions.find(&with_cookie(&cookie), start).is_none());
        assert!(sessions.find(&with_cookie("guess"), start).is_none());
        assert!(sessions.find(&HeaderMap::new(), start).is_none());
    }

    #[test]
    fn sessions_are_bounded() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let open = |at: u64| {
            let at = start + Duration::from_secs(at);
            sessions.open(TokenDigest::of(b"t"), at).expect("random bytes").0
        };
        let cookies: Vec<_> = (0..=MAX_SESSIONS as u64).map(open).collect();
        let now = start + Duration::from_secs(MAX_SESSIONS as u64);
        assert!(sessions.find(&with_cookie(&cookies[0]), now).is_none());
        assert!(cookies[1..].iter().all(|c| sessions.find(&with_cookie(c), now).is_some()));
    }

    #[test]
    fn a_change_needs_the_csrf_token_of_its_session() {
        let sessions = Sessions::default();
        let (_, session) =
            sessions.open(TokenDigest::of(b"t"), Instant::now()).expect("random bytes");
        let with = |token: &str| {
            [(CSRF, HeaderValue::from_str(token).expect("a value"))].into_iter().collect()
        };
        assert!(session.has_csrf(&with(&session.csrf)));
        assert!(!session.has_csrf(&with(&session.csrf[1..])));
        assert!(!session.has_csrf(&HeaderMap::new()));
    }

    #[test]
    fn logins_are_limited_after_failures() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let client: IpAddr = "2001:db8::1".parse().expect("an address");
        for _ in 0..MAX_FAILURES {
            assert_eq!(sessions.locked_out(client, start), None);
            sessions.count_failure(client, start);
        }
        let neighbor = "2001:db8::2".parse().expect("an address");
        assert_eq!(sessions.locked_out(neighbor, start), Some(FAILURE_WINDOW));
        let other = "2001:db8:1::1".parse().expect("an address");
        assert_eq!(sessions.locked_out(other, start), None);
        assert_eq!(sessions.locked_out(client, start + FAILURE_WINDOW), None);
    }

    #[test]
    fn failures_of_many_networks_share_one_count() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let client = |number: u32| IpAddr::V4(number.into());
        for number in 0..MAX_NETWORKS as u32 + MAX_FAILURES {
            sessions.count_failure(client(number), now);
        }
        assert!(sessions.failures().len() <= MAX_NETWORKS + 1);
        assert!(sessions.locked_out(client(1 << 20), now).is_some());
        assert_eq!(sessions.locked_out(client(0), now), None);
    }
}
