//! Redis or Valkey, started on a free port.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use redis::{Client, TlsCertificates};
use tempfile::TempDir;

use super::{Authority, process::signal, tool, until};

/// Running server with its own directory; killed when dropped.
pub(crate) struct Redis {
    program: &'static str,
    child: Mutex<Child>,
    port: u16,
    tls: bool,
    dir: TempDir,
}

impl Redis {
    /// Starts one server of each kind that is installed. If there is none, the test is skipped, or
    /// fails if `SEALGATE_REQUIRE_ALL` is set.
    pub(crate) async fn each() -> Vec<Redis> {
        let mut servers = Vec::new();
        for program in ["redis-server", "valkey-server"] {
            let mut version = Command::new(program);
            if version.arg("--version").stdout(Stdio::null()).status().is_ok() {
                servers.push(Redis::start(program, false).await);
            }
        }
        if servers.is_empty() {
            assert!(std::env::var_os("SEALGATE_REQUIRE_ALL").is_none(), "no redis-server");
            eprintln!("SKIPPED: neither redis-server nor valkey-server is installed");
        }
        servers
    }

    /// Starts a server for `rediss://`. The file [`Redis::ca`] contains its root CA.
    pub(crate) async fn with_tls() -> Option<Redis> {
        tool("redis-server")?;
        Some(Redis::start("redis-server", true).await)
    }

    async fn start(program: &'static str, tls: bool) -> Self {
        // Another process may bind the port in the meantime; then try another one.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let dir = tempfile::tempdir().expect("a directory");
            if tls {
                let authority = Authority::new();
                authority.write(&dir.path().join("ca.pem"));
                authority.write_pair(dir.path(), "localhost");
            }
            let child = Mutex::new(spawn(program, port, tls, &dir));
            let server = Redis { program, child, port, tls, dir };
            if server.is_up().await {
                return server;
            }
        }
        panic!("{program} does not start");
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://localhost:{}", self.port)
    }

    /// Returns the path of the root CA of a server with TLS.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Stops the server with SIGSTOP.
    pub(crate) fn freeze(&self) {
        signal(self.id(), "-STOP");
    }

    /// Continues the server.
    pub(crate) fn thaw(&self) {
        signal(self.id(), "-CONT");
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Starts the server again with the same files.
    pub(crate) async fn restart(&self) {
        *self.child.lock().expect("not poisoned") =
            spawn(self.program, self.port, self.tls, &self.dir);
        assert!(self.is_up().await, "it starts again");
    }

    /// Returns the number of events on record as done.
    pub(crate) async fn successes(&self) -> usize {
        self.in_state("d").await.len()
    }

    /// Expires every lease.
    pub(crate) async fn end_leases(&self) {
        let leases = self.in_state("c").await;
        assert!(!leases.is_empty(), "there is a lease");
        let mut connection = self.connect().await.expect("the server answers");
        for key in leases {
            let mut end = redis::cmd("HSET");
            end.arg(&key).arg("l").arg("1");
            end.query_async::<()>(&mut connection).await.expect("set");
        }
    }

    /// Returns the keys of the events in this state.
    async fn in_state(&self, state: &str) -> Vec<String> {
        let mut connection = self.connect().await.expect("the server answers");
        let keys = redis::cmd("KEYS").arg("*").query_async(&mut connection).await;
        let mut found: Vec<String> = keys.expect("keys");
        for at in (0..found.len()).rev() {
            let mut ask = redis::cmd("HGET");
            ask.arg(&found[at]).arg("s");
            let known: Option<String> = ask.query_async(&mut connection).await.expect("a state");
            if known.as_deref() != Some(state) {
                found.swap_remove(at);
            }
        }
        found
    }

    fn id(&self) -> u32 {
        self.child.lock().expect("not poisoned").id()
    }

    async fn connect(&self) -> Result<redis::aio::MultiplexedConnection, redis::RedisError> {
        let client = if self.tls {
            let ca = std::fs::read(self.ca()).expect("a certificate");
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca) };
            Client::build_with_tls(self.url(), certificates)?
        } else {
            Client::open(self.url())?
        };
        client.get_multiplexed_async_connection().await
    }

    /// Waits until the server responds; returns `false` if it exits instead.
    async fn is_up(&self) -> bool {
        let ended = || {
            let mut child = self.child.lock().expect("not poisoned");
            child.try_wait().expect("a status").is_some()
        };
        let ready = || async {
            let Ok(mut connection) = self.connect().await else { return ended() };
            redis::cmd("PING").query_async::<()>(&mut connection).await.is_ok()
        };
        until("the server answers or ends", ready).await;
        !ended()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("not poisoned");
        // The server may have exited already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(program: &str, port: u16, tls: bool, dir: &TempDir) -> Child {
    let mut command = Command::new(program);
    if tls {
        command.args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
        for (option, file) in [
            ("--tls-ca-cert-file", "ca.pem"),
            ("--tls-cert-file", "localhost.pem"),
            ("--tls-key-file", "localhost.key"),
        ] {
            command.arg(option).arg(dir.path().join(file));
        }
    } else {
        command.args(["--port", &port.to_string()]);
    }
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always"])
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}
