//! The PostgreSQL store, against a real server on a free port.

use std::net::SocketAddr;

use super::{
    shared::{SharedServer, relay::Relay, replica, test_store},
    *,
};
use crate::{
    postgres::{DatabaseOptions, tests::cluster::Postgres as Cluster},
    replay::store::postgres::sweep,
    secret::Secret,
};

test_store!(Cluster);

impl SharedServer for Cluster {
    const STORE: &'static str = "postgres";

    async fn start() -> Option<Self> {
        Cluster::start().await
    }

    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn options_at(&self, address: SocketAddr, on_store_failure: OnStoreFailure) -> Options {
        let url = Secret::new(self.url_at(address).into_bytes());
        let store = StoreOptions::Postgres(DatabaseOptions { url, ca: None });
        Options { store, max_entries: 10_000, on_store_failure }
    }

    async fn end_lease(&self, event: u64) {
        let change = "SET lease_ends = to_timestamp(0)";
        self.sql(&format!("UPDATE sealgate.replay {change} WHERE key = {}", key_of(event))).await;
    }

    async fn end_leases(&self) {
        self.sql("UPDATE sealgate.replay SET lease_ends = to_timestamp(0)").await;
    }

    async fn end_connections(&self) {
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sealgate'",
        )
        .await;
    }

    async fn spoil(&self, event: u64) {
        self.sql(&format!("UPDATE sealgate.replay SET state = 9 WHERE key = {}", key_of(event)))
            .await;
    }

    fn freeze(&self) {
        self.freeze();
    }

    fn thaw(&self) {
        self.thaw();
    }

    fn kill(&mut self) {
        Cluster::kill(self);
    }

    async fn restart(&mut self) {
        Cluster::restart(self).await;
    }
}

/// Returns the key of an event's record, as a literal.
fn key_of(event: u64) -> String {
    format!("'\\x{}'", data_encoding::HEXLOWER.encode(&arrival(event, 1).key.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_goes_to_the_new_primary_behind_the_same_name() {
    let Some(old) = Cluster::start().await else { return };
    let Some(new) = Cluster::start().await else { return };
    let relay = Relay::start(old.address(), Duration::ZERO).await;
    let f =
        Fixture::open(old.options_at(relay.address(), OnStoreFailure::Refuse), &Clock::system());
    f.until_store(1).await;
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;

    // Demoted with its connections open, and there is no primary yet.
    old.sql("ALTER SYSTEM SET default_transaction_read_only = on").await;
    old.sql("SELECT pg_reload_conf()").await;
    while old.sql("SHOW default_transaction_read_only").await[0][0].as_deref() != Some("on") {
        tokio::task::yield_now().await;
    }
    let unavailable = async {
        while f.admit(arrival(2, 1)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), unavailable).await.unwrap();
    assert_eq!(f.rejected(arrival(3, 1)).await, Reject::StoreUnavailable);
    f.store().check().await;
    assert_eq!(f.metrics.store_up("postgres").get(), 0, "it responds, and accepts no writes");
    relay.lead_to(new.address());
    f.until_store(1).await;
    let _ = f.won(arrival(4, 1)).await.done(&ok(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_has_expired_does_not_count() {
    let Some(server) = Cluster::start().await else { return };
    let f = replica(&server, OnStoreFailure::Refuse).await;
    let terms = Terms { route: ROUTE, ttl: Duration::from_secs(50), forwards_repeats: false };
    let _ = f.won(Arrival { terms, ..arrival(1, 1) }).await.done(&ok(), false).await;
    f.won(arrival(2, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    let claim = f.won(arrival(3, 1)).await;
    let left = "SELECT extract(epoch FROM expires - now())::int FROM sealgate.replay";
    let left = server.number(&format!("{left} WHERE key = {}", key_of(1))).await;
    assert!((40..=50).contains(&left), "{left}");

    server.sql("UPDATE sealgate.replay SET expires = now() - interval '1 s'").await;
    let fresh = replica(&server, OnStoreFailure::Refuse).await;
    let stale = Arrival { stale: true, ..arrival(1, 2) };
    assert_eq!(fresh.rejected(stale).await, Reject::NotAccepted(Reason::Stale));
    let other = Arrival { pin: ContextPin([2; 16]), ..arrival(2, 2) };
    assert!(!fresh.won(other).await.possible_duplicate(), "as new as one without a record");
    assert!(!fresh.won(arrival(3, 2)).await.possible_duplicate());
    let done = fresh.won(arrival(1, 2)).await;
    done.done(&ok(), false).await.written();
    fresh.flushed().await;
    drop(claim);
    let third = replica(&server, OnStoreFailure::Refuse).await;
    assert!(third.is_replay(arrival(1, 2)).await);
    let _ = third.retry(arrival(1, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_records_are_removed_in_batches() {
    let Some(server) = Cluster::start().await else { return };
    let f = replica(&server, OnStoreFailure::Refuse).await;
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    server
        .sql(
            "INSERT INTO sealgate.replay (key, pin, state, expires, expiry_hour) \
             SELECT uuid_send(gen_random_uuid()), '', 2, to_timestamp(0), 1 \
             FROM generate_series(1, 1200)",
        )
        .await;
    let SharedStore::Postgres(store) = f.store() else { panic!() };
    sweep(&Arc::downgrade(store.database())).await;
    assert_eq!(server.number("SELECT count(*) FROM sealgate.replay").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_free_connection_is_unavailable_until_there_is_one() {
    let Some(server) = Cluster::start().await else { return };
    server.sql("ALTER ROLE sealgate CONNECTION LIMIT 0").await;
    let f = Fixture::open(server.options(OnStoreFailure::Refuse), &Clock::system());
    f.store().check().await;
    assert_eq!(f.rejected(arrival(1, 1)).await, Reject::StoreUnavailable);
    assert_eq!(f.metrics.store_up("postgres").get(), 0);
    // Fewer than the gateway would like to have.
    server.sql("ALTER ROLE sealgate CONNECTION LIMIT 2").await;
    f.until_store(1).await;
    let mut claims = tokio::task::JoinSet::new();
    let f = Arc::new(f);
    for event in 2..20 {
        let f = Arc::clone(&f);
        claims.spawn(async move { f.won(arrival(event, 1)).await });
    }
    assert_eq!(claims.join_all().await.len(), 18);
}

#[test]
fn rejects_a_malformed_url_without_showing_it() {
    let url = Secret::new(b"http://user:hunter2@host".to_vec());
    let store = StoreOptions::Postgres(DatabaseOptions { url, ca: None });
    let options = Options { store, max_entries: 1, on_store_failure: OnStoreFailure::Refuse };
    let error = Replay::open(options, Clock::system(), &Metrics::new().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("not the URL of a PostgreSQL database"), "{error}");
}
