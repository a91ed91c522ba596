//! A primary with a replica, watched by three sentinels.

use std::{fs, net::SocketAddr, process::Command};

use redis::FromRedisValue;
use tempfile::TempDir;

use super::{Redis, connect, run};
use crate::kit::{Authority, Program, free_address, tool, until};

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

    /// Starts everything, with TLS or without, and waits until every sentinel knows the others and
    /// the replica.
    pub(crate) async fn start(tls: bool) -> Option<Self> {
        tool("redis-sentinel")?;
        let authority = tls.then(Authority::new);
        let announced = |address| announced(address, tls);
        let start = || {
            let authority = authority.as_ref();
            Redis::start_with("redis-server", authority, Some(Self::PASSWORD), announced)
        };
        let (primary, replica) = (start().await, start().await);
        let (host, port) = (primary.host(), primary.address.port().to_string());
        let _: String = replica.command(&["REPLICAOF", &host, &port]).await;
        until("the replica is connected", || async {
            primary.command::<String>(&["INFO", "replication"]).await.contains("state=online")
        })
        .await;

        let dir = tempfile::tempdir().expect("a directory");
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let address = free_address();
            let file = dir.path().join(format!("{number}.conf"));
            let listener = if tls {
                let files = primary.dir.path().display();
                format!(
                    "bind 127.0.0.1 {ip}\nport 0\ntls-port {port}\ntls-replication yes\n\
                     tls-auth-clients no\ntls-ca-cert-file {files}/ca.pem\n\
                     tls-cert-file {files}/localhost.pem\ntls-key-file {files}/localhost.key\n\
                     sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n\
                     sentinel announce-ip localhost\n",
                    ip = address.ip(),
                    port = address.port()
                )
            } else {
                format!(
                    "bind {ip}\nport {port}\nsentinel announce-ip {ip}\n",
                    ip = address.ip(),
                    port = address.port()
                )
            };
            let lines = format!(
                "{listener}protected-mode no\n\
                 sentinel monitor {NAME} {host} {port} 2\n\
                 sentinel auth-pass {NAME} {}\n\
                 sentinel down-after-milliseconds {NAME} 500\n\
                 sentinel failover-timeout {NAME} 5000\n",
                Self::PASSWORD,
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
                let info: String = watched.ask(*address, &["INFO", "sentinel"]).await;
                complete &= info.contains("status=ok") && info.contains("slaves=1,sentinels=3");
            }
            complete
        };
        until("the sentinels know each other", complete).await;
        Some(watched)
    }

    /// The section `[replay]` of a gateway.
    pub(crate) fn section(&self) -> String {
        let login = format!(":{}@", Self::PASSWORD);
        let urls = self.sentinels.iter().map(|(at, _)| format!("{:?}", self.url(*at, &login)));
        let (urls, ca) = (urls.collect::<Vec<_>>().join(", "), self.primary.ca_line());
        format!("[replay]\nstore = \"redis\"\nurl = [{urls}]\n{ca}sentinel = \"{NAME}\"")
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
            let (host, port): (String, u16) = self.ask(*at, &words).await;
            (host, port) == (self.replica.host(), self.replica.address.port())
        })
        .await;
    }

    /// Returns the URL of a sentinel.
    fn url(&self, sentinel: SocketAddr, login: &str) -> String {
        if self.primary.tls {
            format!("rediss://{login}localhost:{}", sentinel.port())
        } else {
            format!("redis://{login}{sentinel}")
        }
    }

    async fn ask<T: FromRedisValue>(&self, sentinel: SocketAddr, words: &[&str]) -> T {
        let ca = self.primary.tls.then(|| self.primary.ca());
        let connection = connect(&self.url(sentinel, ""), ca).await;
        run(&mut connection.expect("the sentinel responds"), words).await
    }
}

/// Returns what a server announces: the source address of a connection on loopback is 127.0.0.1.
fn announced(address: SocketAddr, tls: bool) -> Vec<String> {
    let host = if tls { "localhost".to_owned() } else { address.ip().to_string() };
    vec!["--replica-announce-ip".to_owned(), host]
}
