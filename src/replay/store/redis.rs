//! The store `redis`: Redis or Valkey, shared by all replicas.
//!
//! Each event is a hash with the key `<prefix>{<event in hex>}`. The braces make the event the hash
//! tag, so every script has one slot in a cluster. Fields: `v` format version, `s` state
//! (`c`laimed, `f`ailed, `d`one, or `x` after an operator had it forgotten), `p` pin, `t` token and
//! `l` end of the lease (by the server's clock, in ms), `u` whether an attempt may have reached the
//! upstream, `c` status, `i` the requests whose 2xx was written out, `n` that the record is no
//! older than the lease. The key expires with the record and not with the lease, so the pin and the
//! mark outlive a process that died with a claim. Every change is one script.
//!
//! Every script is idempotent: a claim gives the same reply under the same token, and the other
//! scripts record facts. A call whose reply is lost, or that reaches a server that cannot accept
//! it, is therefore repeated within its deadline (`servers`).
//!
//! Limits: replication of Redis is asynchronous. A failover can lose the last writes that were
//! acknowledged, and an event whose success is among them can be forwarded again.

mod cluster;
mod login;
mod script;
mod sentinel;
mod server;
mod servers;

use std::{fmt, time::Duration};

use data_encoding::HEXLOWER;
use prometheus::IntGauge;
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::time::{Instant, timeout_at};

use self::{
    login::Login,
    script::{CLAIM, Call, DONE, FAILED, FORGET, Key, RENEW, STATUS, Words},
    servers::Servers,
};
use crate::{
    availability::{Availability, REPLAY_STORE},
    reject::Reason,
    replay::{
        clock::millis,
        options::{RedisOptions, Topology},
        record::{Arrival, EventKey, Identities, LeaseToken},
        store::lease::{
            Attempt, ClaimReply, DoneEvent, EventStatus, FORGOTTEN, ForgetReply, LEASE, Lease,
            Renewal, Unreachable,
        },
    },
};

/// The version of the records' format.
const VERSION: &str = "1";

/// A call that had less time than this does not show that the store is unavailable.
const CONCLUSIVE: Duration = Duration::from_millis(400);

/// Why a URL cannot be used. The message does not contain the URL, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It cannot be read.
    #[error(
        "not the URL of a Redis server: redis://[user:password@]host[:port][/database], or rediss:// with TLS"
    )]
    Malformed,
    /// It differs from the first one in more than host and port.
    #[error("not the same scheme, user, password and database in every URL")]
    Different,
    /// It names a database of a cluster.
    #[error("a Redis cluster has no database but 0")]
    Database,
}

/// Checks the URLs of the servers.
///
/// # Errors
/// Returns the index of the first one that cannot be used, and why.
pub fn check_urls(options: &RedisOptions) -> Result<(), (usize, UrlError)> {
    servers(options).map(drop)
}

fn servers(options: &RedisOptions) -> Result<Servers, (usize, UrlError)> {
    let mut first: Option<Login> = None;
    let mut addresses = Vec::new();
    for (at, url) in options.urls.iter().enumerate() {
        let url = std::str::from_utf8(url.expose()).ok().map(str::trim);
        let login = url.and_then(|url| Login::from_url(url, options.ca.as_deref()));
        let (login, address) = login.ok_or((at, UrlError::Malformed))?;
        if options.topology == Topology::Cluster && login.database() != 0 {
            return Err((at, UrlError::Database));
        }
        if first.as_ref().is_some_and(|first| !first.is_same_as(&login)) {
            return Err((at, UrlError::Different));
        }
        first.get_or_insert(login);
        addresses.push(address);
    }
    let servers = first.and_then(|login| Servers::new(&options.topology, login, addresses));
    servers.ok_or((0, UrlError::Malformed))
}

/// The store.
pub(crate) struct Redis {
    servers: Servers,
    prefix: String,
    health: Availability,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Redis {
    /// Creates the client, which connects when it is first used.
    ///
    /// # Errors
    /// If a URL cannot be used.
    pub(crate) fn new(options: &RedisOptions, gauge: IntGauge) -> Result<Self, UrlError> {
        let servers = servers(options).map_err(|(_, error)| error)?;
        let health = Availability::new(REPLAY_STORE, gauge);
        Ok(Redis { servers, prefix: options.prefix.clone(), health })
    }

    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        until: Instant,
    ) -> Result<ClaimReply, Unreachable> {
        let (lease, ttl) = (LEASE.to_string(), ttl(arrival));
        let args = [
            VERSION.as_bytes(),
            &token.0,
            lease.as_bytes(),
            ttl.as_bytes(),
            &arrival.pin.0,
            if arrival.stale { b"1" } else { b"0" },
        ];
        let reply = self.run(CLAIM.call(&self.key(&arrival.key), &args), until).await?;
        Ok(match words(&reply).as_slice() {
            [b"won", unknown] => ClaimReply::Won { unknown: *unknown == b"1" },
            [b"busy"] => ClaimReply::Busy,
            [b"stale"] => ClaimReply::Rejected(Reason::Stale),
            [b"mismatch"] => ClaimReply::Rejected(Reason::ContextMismatch),
            [b"done", status, lasts, answered] => {
                ClaimReply::Done(done(status, lasts, answered).ok_or(Unreachable)?)
            }
            other => return Err(unreadable(other)),
        })
    }

    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        status: u16,
        answered: Option<&Identities>,
        until: Instant,
    ) -> Result<(), Unreachable> {
        let mut identities = Vec::new();
        answered.into_iter().for_each(|answered| answered.encode_into(&mut identities));
        let (ttl, status) = (ttl(arrival), status.to_string());
        let args = [
            VERSION.as_bytes(),
            &token.0,
            ttl.as_bytes(),
            &arrival.pin.0,
            status.as_bytes(),
            &identities,
        ];
        let reply = self.run(DONE.call(&self.key(&arrival.key), &args), until).await?;
        match words(&reply).as_slice() {
            [b"held" | b"done" | b"late"] => Ok(()),
            other => Err(unreadable(other)),
        }
    }

    pub(crate) async fn failed(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        attempt: Attempt,
        status: u16,
        until: Instant,
    ) -> Result<(), Unreachable> {
        let (ttl, status) = (ttl(arrival), status.to_string());
        let args = [
            VERSION.as_bytes(),
            &token.0,
            ttl.as_bytes(),
            &arrival.pin.0,
            status.as_bytes(),
            match attempt {
                Attempt::None => b"n",
                Attempt::Failed => b"0",
                Attempt::Unknown => b"1",
            },
        ];
        let reply = self.run(FAILED.call(&self.key(&arrival.key), &args), until).await?;
        match words(&reply).as_slice() {
            [b"held" | b"lost"] => Ok(()),
            other => Err(unreadable(other)),
        }
    }

    /// Renews leases in the order given, and returns a result for each.
    pub(crate) async fn renew(&self, leases: &[Lease], until: Instant) -> Vec<Renewal> {
        let (start, duration) = (Instant::now(), LEASE.to_string());
        let call = |Lease { key, token }: &Lease| {
            RENEW.call(&self.key(key), &[VERSION.as_bytes(), &token.0, duration.as_bytes()])
        };
        let calls: Vec<_> = leases.iter().map(call).collect();
        let results = self.servers.call_all(&calls, until).await;
        let renewal = |result| match self.note(result, start, until) {
            Ok(reply) if matches!(words(&reply).as_slice(), [b"held"]) => Renewal::Renewed,
            Ok(_) => Renewal::Lost,
            Err(Unreachable) => Renewal::Unreachable,
        };
        results.into_iter().map(renewal).collect()
    }

    pub(crate) async fn status(
        &self,
        arrival: &Arrival,
        until: Instant,
    ) -> Result<EventStatus, Unreachable> {
        let args = [VERSION.as_bytes(), &arrival.pin.0];
        let reply = self.run(STATUS.call(&self.key(&arrival.key), &args), until).await?;
        Ok(match words(&reply).as_slice() {
            [b"open"] => EventStatus::Open,
            [b"busy"] => EventStatus::InFlight,
            [b"mismatch"] => EventStatus::Mismatch,
            [b"forgotten"] => EventStatus::Forgotten,
            [b"failed", b"0"] => EventStatus::Open,
            [b"failed", status] => EventStatus::Failed(number(status).ok_or(Unreachable)?),
            [b"done", status, lasts, answered] => {
                EventStatus::Done(done(status, lasts, answered).ok_or(Unreachable)?)
            }
            other => return Err(unreadable(other)),
        })
    }

    pub(crate) async fn forget(
        &self,
        key: &EventKey,
        until: Instant,
    ) -> Result<ForgetReply, Unreachable> {
        let lifetime = FORGOTTEN.to_string();
        let args = [VERSION.as_bytes(), lifetime.as_bytes()];
        let reply = self.run(FORGET.call(&self.key(key), &args), until).await?;
        match words(&reply).as_slice() {
            [b"forgotten"] => Ok(ForgetReply::Forgotten),
            [b"busy"] => Ok(ForgetReply::Busy),
            other => Err(unreadable(other)),
        }
    }

    /// Checks whether the store accepts writes, and sets the gauge.
    pub(crate) async fn check(&self) {
        let until = Instant::now() + Duration::from_secs(1);
        let probe = timeout_at(until, self.servers.probe(&self.prefix, until));
        match probe.await.unwrap_or_else(|_| Err(no_reply())) {
            Ok(()) => {
                if self.health.set_available() {
                    self.check_policy().await;
                }
            }
            Err(error) => self.health.set_unavailable(&error),
        }
    }

    /// Returns whether the last check or call succeeded.
    pub(crate) fn is_available(&self) -> bool {
        self.health.is_available()
    }

    /// Waits for `interval`, or until a store that was unavailable replies.
    pub(crate) async fn next_check(&self, interval: Duration) {
        self.health.next_check(interval).await;
    }

    /// Warns if the server evicts records by itself: a sender may still retry their events.
    async fn check_policy(&self) {
        let until = Instant::now() + Duration::from_secs(1);
        let info = timeout_at(until, self.servers.memory_info(until)).await;
        match info.as_ref().map(|info| info.as_deref().map(policy)) {
            Ok(Ok(Some("noeviction"))) => {}
            Ok(Ok(Some(policy))) => tracing::warn!(
                policy,
                "the replay store evicts records when its memory is full: set maxmemory-policy noeviction"
            ),
            Ok(Ok(None) | Err(_)) | Err(_) => tracing::warn!(
                "the replay store's maxmemory-policy cannot be read; it must be noeviction"
            ),
        }
    }

    fn key(&self, event: &EventKey) -> Key {
        Key::new(&self.prefix, &HEXLOWER.encode(&event.0))
    }

    async fn run(&self, call: Call, until: Instant) -> Result<Words, Unreachable> {
        let start = Instant::now();
        let result = timeout_at(until, self.servers.call(&call, until)).await;
        self.note(result.unwrap_or_else(|_| Err(no_reply())), start, until)
    }

    /// Records what a result says about the store's availability.
    fn note(
        &self,
        result: RedisResult<Words>,
        start: Instant,
        until: Instant,
    ) -> Result<Words, Unreachable> {
        match result {
            Ok(words) => {
                self.health.replied();
                Ok(words)
            }
            Err(error) => {
                if until - start >= CONCLUSIVE {
                    self.health.set_unavailable(&error);
                }
                Err(Unreachable)
            }
        }
    }
}

fn no_reply() -> RedisError {
    RedisError::from((ErrorKind::Io, "no reply in time"))
}

fn policy(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim)
}

/// Returns the lifetime of a record in milliseconds. Redis accepts expiry times below 2^63 only.
fn ttl(arrival: &Arrival) -> String {
    millis(arrival.terms.ttl).min(1 << 48).to_string()
}

fn words(reply: &[Vec<u8>]) -> Vec<&[u8]> {
    reply.iter().map(Vec::as_slice).collect()
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn done(status: &[u8], lasts: &[u8], answered: &[u8]) -> Option<DoneEvent> {
    // A record without an expiry time is not one of ours; treat it as expiring now.
    let lasts = number::<i64>(lasts)?.max(0).unsigned_abs();
    Some(DoneEvent { status: number(status)?, answered: Identities::decode(answered)?, lasts })
}

fn unreadable(words: &[&[u8]]) -> Unreachable {
    let first = words.first().map(|word| String::from_utf8_lossy(word));
    let message = "the replay store contains a record that this version cannot read";
    tracing::error!(reply = ?first, "{message}");
    Unreachable
}
