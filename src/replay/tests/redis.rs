//! The Redis store, against a real server on a free port.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use super::{
    shared::{SharedServer, relay::Relay, replica, test_store},
    *,
};
use crate::secret::Secret;

test_store!(Server);

/// A running server; killed when dropped.
struct Server {
    program: &'static str,
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    async fn cli(&self, command: &[&str]) -> ::redis::Value {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut query = ::redis::cmd(command[0]);
        for arg in &command[1..] {
            query.arg(*arg);
        }
        query.query_async(&mut connection).await.unwrap()
    }
}

impl SharedServer for Server {
    const STORE: &'static str = "redis";

    async fn start() -> Option<Server> {
        let program = ["redis-server", "valkey-server"].into_iter().find(|program| {
            Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok()
        });
        let Some(program) = program else {
            assert!(
                std::env::var_os("SEALGATE_REQUIRE_ALL").is_none(),
                "neither redis-server nor valkey-server is installed"
            );
            eprintln!("skipped: neither redis-server nor valkey-server is installed");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        // Another process may bind the port in the meantime; then try another one.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = spawn(program, port, &dir);
            if answers(&mut child, port).await {
                return Some(Server { program, child, port, dir });
            }
        }
        panic!("{program} does not start");
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn options_at(&self, address: SocketAddr, on_store_failure: OnStoreFailure) -> Options {
        let store = StoreOptions::Redis(RedisOptions {
            urls: vec![Secret::new(format!("redis://{address}").into_bytes())],
            topology: Topology::Single,
            prefix: "sealgate:".into(),
            ca: None,
        });
        Options { store, max_entries: 10_000, on_store_failure }
    }

    async fn end_lease(&self, event: u64) {
        self.cli(&["HSET", &key_of(event), "l", "1"]).await;
    }

    async fn end_leases(&self) {
        let expire =
            "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('HSET', key, 'l', 1) end";
        self.cli(&["EVAL", expire, "0"]).await;
    }

    async fn end_connections(&self) {
        self.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }

    async fn spoil(&self, event: u64) {
        self.cli(&["HSET", &key_of(event), "v", "2"]).await;
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    async fn restart(&mut self) {
        let mut child = spawn(self.program, self.port, &self.dir);
        assert!(answers(&mut child, self.port).await, "the port is taken");
        self.child = child;
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the key of an event's record.
fn key_of(event: u64) -> String {
    format!("sealgate:{{{}}}", data_encoding::HEXLOWER.encode(&arrival(event, 1).key.0))
}

fn spawn(program: &str, port: u16, dir: &tempfile::TempDir) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn answers(child: &mut Child, port: u16) -> bool {
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await
            && ::redis::cmd("PING").query_async::<()>(&mut connection).await.is_ok()
        {
            return true;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_record_of_another_format_is_not_changed() {
    let Some(server) = Server::start().await else { return };
    let f = replica(&server, OnStoreFailure::Refuse).await;
    let key = key_of(1);
    server.cli(&["HSET", &key, "v", "2", "s", "x"]).await;
    assert_eq!(f.rejected(arrival(1, 1)).await, Reject::StoreUnavailable);
    assert_eq!(server.cli(&["HGET", &key, "s"]).await, ::redis::Value::BulkString(b"x".to_vec()));
}

#[tokio::test]
async fn a_record_expires_after_the_ttl_of_its_route() {
    let Some(server) = Server::start().await else { return };
    let f = replica(&server, OnStoreFailure::Refuse).await;
    let terms = Terms { route: ROUTE, ttl: Duration::from_secs(50), forwards_repeats: false };
    let _ = f.won(Arrival { terms, ..arrival(1, 1) }).await.done(&ok(), false).await;
    let key = key_of(1);
    let ::redis::Value::Int(left) = server.cli(&["PTTL", &key]).await else { panic!() };
    assert!((40_000..=50_000).contains(&left), "{left}");
}

#[test]
fn rejects_a_malformed_url_without_showing_it() {
    let url = Secret::new(b"http://user:hunter2@host".to_vec());
    let (urls, topology) = (vec![url], Topology::Single);
    let store =
        StoreOptions::Redis(RedisOptions { urls, topology, prefix: String::new(), ca: None });
    let options = Options { store, max_entries: 1, on_store_failure: OnStoreFailure::Refuse };
    let error = Replay::open(options, Clock::system(), &Metrics::new().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("not the URL of a Redis server"), "{error}");
}

#[tokio::test]
async fn a_claim_goes_to_the_new_primary_behind_the_same_name() {
    let Some(old) = Server::start().await else { return };
    let Some(new) = Server::start().await else { return };
    let relay = Relay::start(old.address(), Duration::ZERO).await;
    let options = old.options_at(relay.address(), OnStoreFailure::Refuse);
    let f = Fixture::open(options, &Clock::system());
    f.until_store(1).await;

    // Demoted with its connections open, and there is no primary yet.
    old.cli(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]).await;
    assert_eq!(f.rejected(arrival(1, 1)).await, Reject::StoreUnavailable);
    assert_eq!(f.metrics.store_up("redis").get(), 0);
    f.store().check().await;
    assert_eq!(
        f.metrics.store_up("redis").get(),
        0,
        "a replica responds, and does not accept writes"
    );
    relay.lead_to(new.address());
    let _ = f.won(arrival(1, 2)).await.done(&ok(), false).await;
    f.until_store(1).await;
}

#[tokio::test]
async fn a_user_needs_no_more_than_the_documented_permissions() {
    let Some(server) = Server::start().await else { return };
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rules) = page.split_once("| ACL | `").unwrap();
    let (rules, _) = rules.split_once(" ~<prefix>*`").unwrap();
    let rules = rules.replace("\\|", "|");
    let mut command = vec!["ACL", "SETUSER", "gateway", "on", ">password", "~sealgate:*"];
    command.extend(rules.split(' '));
    server.cli(&command).await;
    let mut options = server.options(OnStoreFailure::Refuse);
    if let StoreOptions::Redis(redis) = &mut options.store {
        let url = format!("redis://gateway:password@127.0.0.1:{}", server.port);
        redis.urls = vec![Secret::new(url.into_bytes())];
    }
    let f = Fixture::open(options, &Clock::manual(1_000_000));
    f.until_store(1).await;
    let (done, failed) = (f.won(arrival(1, 1)).await, f.won(arrival(2, 1)).await);
    f.clock.advance(Duration::from_millis(RENEWAL));
    f.replay.0.renew().await.unwrap();
    failed.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    done.done(&ok(), false).await.written();
    f.flushed().await;
    let fresh = replica(&server, OnStoreFailure::Refuse).await;
    assert!(fresh.is_replay(arrival(1, 1)).await);
    assert!(fresh.won(arrival(2, 2)).await.possible_duplicate());
}
