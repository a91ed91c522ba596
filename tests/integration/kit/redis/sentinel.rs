//! A primary with a replica, watched by three sentinels.

use std::{fs, net::SocketAddr, process::Command};

use redis::{Client, FromRedisValue};
use tempfile::TempDir;

use super::{Redis, run};
use crate::kit::{Program, free_address, tool, until};

const NAME: &str = "shop";

/// The servers and their sentinels.
pub(crate) struct WatchedRedis {
    pub(crate) primary: Redis,
    pub(crate) replica: Redis,
    sentinels: Vec<(SocketAddr, Program)>,
    _dir: TempDir,
}

impl WatchedRedis {
    /// The password of the servers; the sentinels have none.
    pub(crate) const PASSWORD: &str = "the-password-of-the-store";

    /// Starts everything, and waits until every sentinel knows the others and the replica.
    pub(crate) async fn start() -> Option<Self> {
        tool("redis-sentinel")?;
        let start = || Redis::start_with("redis-server", false, Some(Self::PASSWORD), announced);
        let (primary, replica) = (start().await, start().await);
        let (ip, port) = (primary.address.ip().to_string(), primary.address.port().to_string());
        let _: String = replica.command(&["REPLICAOF", &ip, &port]).await;
        until("the replica is connected", || async {
            primary.command::<String>(&["INFO", "replication"]).await.contains("state=online")
        })
        .await;

        let dir = tempfile::tempdir().expect("a directory");
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let address = free_address();
            let file = dir.path().join(format!("{number}.conf"));
            let lines = format!(
                "bind {host}\nport {}\nprotected-mode no\nsentinel announce-ip {host}\n\
                 sentinel monitor {NAME} {ip} {port} 2\n\
                 sentinel auth-pass {NAME} {}\n\
                 sentinel down-after-milliseconds {NAME} 500\n\
                 sentinel failover-timeout {NAME} 5000\n",
                address.port(),
                Self::PASSWORD,
                host = address.ip()
            );
            fs::write(&file, lines).expect("written");
            let mut program = Program::silent(Command::new("redis-sentinel").arg(&file));
            program.listens(address).await;
            sentinels.push((address, program));
        }
        let watched = WatchedRedis { primary, replica, sentinels, _dir: dir };
        let complete = || async {
            let mut complete = true;
            for (address, _) in &watched.sentinels {
                let info = ask::<String>(*address, &["INFO", "sentinel"]).await;
                complete &= info.contains("status=ok") && info.contains("slaves=1,sentinels=3");
            }
            complete
        };
        until("the sentinels know each other", complete).await;
        Some(watched)
    }

    /// The section `[replay]` of a gateway.
    pub(crate) fn section(&self) -> String {
        let urls =
            self.sentinels.iter().map(|(at, _)| format!("\"redis://:{}@{at}\"", Self::PASSWORD));
        let urls: Vec<_> = urls.collect();
        format!("[replay]\nstore = \"redis\"\nurl = [{}]\nsentinel = \"{NAME}\"", urls.join(", "))
    }

    /// Kills the primary. Before that, it accepts no writes until the replica has all of them: a
    /// primary that is killed at once loses what it has acknowledged and not yet replicated.
    pub(crate) async fn kill_primary(&self) {
        let _: String = self.primary.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        until("the replica has every write", || async {
            let info: String = self.primary.command(&["INFO", "replication"]).await;
            let number = |name: &str| {
                let (_, rest) = info.split_once(name).expect("a replica");
                rest.split([',', '\r']).next().expect("a number").to_owned()
            };
            number("master_repl_offset:") == number("offset=")
        })
        .await;
        self.primary.kill();
    }

    /// Waits until the sentinels have made the replica the primary.
    pub(crate) async fn failed_over(&self) {
        let (at, _) = &self.sentinels[0];
        until("the sentinels name the new primary", || async {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            let (host, port): (String, u16) = ask(*at, &words).await;
            format!("{host}:{port}") == self.replica.address.to_string()
        })
        .await;
    }
}

/// Returns the address to announce: the source address of a connection on loopback is 127.0.0.1.
fn announced(address: SocketAddr) -> Vec<String> {
    vec!["--replica-announce-ip".to_owned(), address.ip().to_string()]
}

async fn ask<T: FromRedisValue>(sentinel: SocketAddr, words: &[&str]) -> T {
    let client = Client::open(format!("redis://{sentinel}")).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    run(&mut connection.expect("the sentinel responds"), words).await
}
