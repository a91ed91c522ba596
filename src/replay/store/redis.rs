//! The store `redis`: Redis or Valkey, shared by all replicas.
//!
//! Each event is a hash under `<prefix><event in hex>`: `v` format version, `s` state (`c`laimed,
//! `f`ailed, `d`one), `p` pin, `t` name and `l` end of the lease (by the server's clock, in ms), `u` whether
//! an attempt may have reached the upstream, `c` status, `i` the requests whose 2xx was written
//! out, `n` that the record is no older than the lease. The key itself lasts as long as the record, and not as long as the lease: pin and mark outlive a
//! process that died with a claim. Every change is one script, so that no other command comes between.
//!
//! Limits: replication of Redis is asynchronous. A failover can lose the last writes that were
//! acknowledged, and an event whose success is among them can be forwarded again.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use data_encoding::HEXLOWER;
use prometheus::IntGauge;
use redis::{
    Client, RedisError, Script, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::Instant;

use crate::{
    reject::Reason,
    replay::{
        clock::millis,
        record::{Arrival, EventKey, Identities, LeaseToken},
        store::lease::{
            Attempt, ClaimReply, DoneEvent, EventStatus, LEASE, Lease, Renewal, Unreachable,
        },
    },
    secret::Secret,
};

/// The version of the records' format.
const VERSION: &str = "1";

/// The URL is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "not the URL of a Redis server: redis://[user:password@]host[:port][/database], or rediss:// with TLS"
)]
pub(crate) struct NotRedis;

/// A connection that renews itself, and the scripts.
pub(crate) struct Redis {
    connection: ConnectionManager,
    prefix: String,
    claim: Script,
    done: Script,
    failed: Script,
    renew: Script,
    status: Script,
    up: AtomicBool,
    gauge: IntGauge,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Redis {
    /// Makes the client; it connects when it is first asked something. `ca` are the authorities that
    /// vouch for a `rediss://` server, PEM, instead of the machine's.
    ///
    /// # Errors
    /// When the URL is none.
    pub(crate) fn new(
        url: &Secret,
        prefix: &str,
        ca: Option<&[u8]>,
        gauge: IntGauge,
    ) -> Result<Self, NotRedis> {
        let url = std::str::from_utf8(url.expose()).map_err(|_| NotRedis)?.trim();
        let client = match ca {
            Some(ca) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.into()) };
                Client::build_with_tls(url, certificates)
            }
            None => Client::open(url),
        };
        let client = client.map_err(|_| NotRedis)?;
        // The request's own deadline bounds every call; these bound what goes on behind it.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50));
        let connection =
            ConnectionManager::new_lazy_with_config(client, config).map_err(|_| NotRedis)?;
        gauge.set(0);
        Ok(Redis {
            connection,
            prefix: prefix.to_owned(),
            claim: Script::new(include_str!("redis/claim.lua")),
            done: Script::new(include_str!("redis/done.lua")),
            failed: Script::new(include_str!("redis/failed.lua")),
            renew: Script::new(include_str!("redis/renew.lua")),
            status: Script::new(include_str!("redis/status.lua")),
            up: AtomicBool::new(false),
            gauge,
        })
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
        let answer = self.run(&self.claim, &arrival.key, &args, until).await?;
        Ok(match words(&answer).as_slice() {
            [b"won", unknown] => ClaimReply::Won { unknown: *unknown == b"1" },
            [b"busy"] => ClaimReply::Busy,
            [b"stale"] => ClaimReply::Rejected(Reason::Stale),
            [b"mismatch"] => ClaimReply::Rejected(Reason::ContextMismatch),
            [b"done", status, lasts, answered] => {
                ClaimReply::Done(done(status, lasts, answered).ok_or(Unreachable)?)
            }
            other => return Err(misunderstood(other)),
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
        let answer = self.run(&self.done, &arrival.key, &args, until).await?;
        match words(&answer).as_slice() {
            [b"held" | b"done" | b"late"] => Ok(()),
            other => Err(misunderstood(other)),
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
        let answer = self.run(&self.failed, &arrival.key, &args, until).await?;
        match words(&answer).as_slice() {
            [b"held" | b"lost"] => Ok(()),
            other => Err(misunderstood(other)),
        }
    }

    pub(crate) async fn renew(&self, leases: &[Lease], until: Instant) -> Vec<Renewal> {
        let duration = LEASE.to_string();
        let mut renewals = Vec::with_capacity(leases.len());
        for Lease { key, token } in leases {
            let args = [VERSION.as_bytes(), &token.0, duration.as_bytes()];
            renewals.push(match self.run(&self.renew, key, &args, until).await {
                Ok(answer) if words(&answer).as_slice() == [b"lost"] => Renewal::Lost,
                Ok(_) => Renewal::Renewed,
                Err(Unreachable) => Renewal::Unreachable,
            });
        }
        renewals
    }

    pub(crate) async fn status(
        &self,
        arrival: &Arrival,
        until: Instant,
    ) -> Result<EventStatus, Unreachable> {
        let args = [VERSION.as_bytes(), &arrival.pin.0];
        let answer = self.run(&self.status, &arrival.key, &args, until).await?;
        Ok(match words(&answer).as_slice() {
            [b"open"] => EventStatus::Open,
            [b"busy"] => EventStatus::InFlight,
            [b"mismatch"] => EventStatus::Mismatch,
            [b"failed", b"0"] => EventStatus::Open,
            [b"failed", status] => EventStatus::Failed(number(status).ok_or(Unreachable)?),
            [b"done", status, lasts, answered] => {
                EventStatus::Done(done(status, lasts, answered).ok_or(Unreachable)?)
            }
            other => return Err(misunderstood(other)),
        })
    }

    /// Whether the server answers at all, for the gauge.
    pub(crate) async fn ping(&self) {
        let mut connection = self.connection.clone();
        let ping = async { redis::cmd("PING").query_async::<()>(&mut connection).await };
        match tokio::time::timeout(Duration::from_secs(1), ping).await {
            Ok(Ok(())) => self.set_up(),
            Ok(Err(error)) => self.set_down(&error),
            Err(_) => self.set_down(&"no answer in time"),
        }
    }

    async fn run(
        &self,
        script: &Script,
        key: &EventKey,
        args: &[&[u8]],
        until: Instant,
    ) -> Result<Vec<Vec<u8>>, Unreachable> {
        let mut invocation = script.key(format!("{}{}", self.prefix, HEXLOWER.encode(&key.0)));
        for arg in args {
            invocation.arg(*arg);
        }
        let mut connection = self.connection.clone();
        let answer = tokio::time::timeout_at(until, invocation.invoke_async(&mut connection)).await;
        match answer {
            Ok(Ok(words)) => {
                self.set_up();
                Ok(words)
            }
            Ok(Err(error)) => {
                self.set_down(&error);
                Err(Unreachable)
            }
            Err(_) => {
                self.set_down(&"no answer in time");
                Err(Unreachable)
            }
        }
    }

    fn set_up(&self) {
        if !self.up.load(Ordering::Relaxed) && !self.up.swap(true, Ordering::Relaxed) {
            self.gauge.set(1);
            tracing::info!("the replay store answers");
            tokio::spawn(check_policy(self.connection.clone()));
        }
    }

    fn set_down(&self, why: &dyn fmt::Display) {
        self.gauge.set(0);
        if self.up.swap(false, Ordering::Relaxed) {
            tracing::error!(error = %why, "the replay store does not answer");
        } else {
            tracing::debug!(error = %why, "the replay store does not answer");
        }
    }
}

/// A server that makes room by itself forgets events that a sender is still to retry.
async fn check_policy(mut connection: ConnectionManager) {
    let info: Result<String, RedisError> =
        redis::cmd("INFO").arg("memory").query_async(&mut connection).await;
    match info.as_deref().map(policy) {
        Ok(Some("noeviction")) => {}
        Ok(Some(policy)) => tracing::warn!(
            policy,
            "the replay store evicts records when its memory is full: set maxmemory-policy noeviction"
        ),
        Ok(None) | Err(_) => {
            tracing::warn!(
                "the replay store's maxmemory-policy cannot be read; it must be noeviction"
            );
        }
    }
}

fn policy(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim)
}

/// How long a record lasts, in milliseconds; the server takes no more than 2^63 in all.
fn ttl(arrival: &Arrival) -> String {
    millis(arrival.terms.ttl).min(1 << 48).to_string()
}

fn words(answer: &[Vec<u8>]) -> Vec<&[u8]> {
    answer.iter().map(Vec::as_slice).collect()
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn done(status: &[u8], lasts: &[u8], answered: &[u8]) -> Option<DoneEvent> {
    // A record without an end was not made by us; it counts as one that ends now.
    let lasts = number::<i64>(lasts)?.max(0).unsigned_abs();
    Some(DoneEvent { status: number(status)?, answered: Identities::decode(answered)?, lasts })
}

fn misunderstood(words: &[&[u8]]) -> Unreachable {
    let first = words.first().map(|word| String::from_utf8_lossy(word));
    tracing::error!(answer = ?first, "the replay store holds a record that this version cannot read");
    Unreachable
}
