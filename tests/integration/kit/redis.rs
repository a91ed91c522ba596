//! Redis or Valkey: one server, a primary with sentinels, or a cluster.

mod cluster;
mod sentinel;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, TlsCertificates, aio::MultiplexedConnection,
};
use tempfile::TempDir;

pub(crate) use self::{cluster::RedisCluster, sentinel::WatchedRedis};
use super::{Authority, PATIENCE, free_address, process::signal, tool, until};

/// Running server with its own directory; killed when dropped.
pub(crate) struct Redis {
    program: &'static str,
    options: Vec<String>,
    child: Mutex<Child>,
    address: SocketAddr,
    password: Option<&'static str>,
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
                servers.push(Redis::start(program, None).await);
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
        Some(Redis::start("redis-server", Some(&Authority::new())).await)
    }

    async fn start(program: &'static str, authority: Option<&Authority>) -> Self {
        Self::start_with(program, authority, None, |_| Vec::new()).await
    }

    /// Starts a server with the options for its address. With an authority, it uses TLS; with a
    /// password, it requires it.
    async fn start_with(
        program: &'static str,
        authority: Option<&Authority>,
        password: Option<&'static str>,
        options: impl Fn(SocketAddr) -> Vec<String>,
    ) -> Self {
        // Another process may bind the port in the meantime; then try another one.
        for _ in 0..20 {
            let address = free_address();
            let dir = tempfile::tempdir().expect("a directory");
            if let Some(authority) = authority {
                authority.write(&dir.path().join("ca.pem"));
                authority.write_pair(dir.path(), "localhost");
            }
            let mut options = options(address);
            if let Some(password) = password {
                options.extend(
                    ["--requirepass", password, "--masterauth", password].map(str::to_owned),
                );
            }
            let tls = authority.is_some();
            let child = Mutex::new(spawn(program, address, tls, &dir, &options));
            let server = Redis { program, options, child, address, password, tls, dir };
            if server.is_up().await {
                return server;
            }
        }
        panic!("{program} does not start");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let login = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{login}{}:{}", self.host(), self.address.port())
    }

    /// Returns the host by which the server is called: with TLS, the name in its certificate.
    fn host(&self) -> String {
        if self.tls { "localhost".to_owned() } else { self.address.ip().to_string() }
    }

    /// Returns the line `ca` of a section `[replay]`; nothing without TLS.
    fn ca_line(&self) -> String {
        if self.tls { format!("ca = {:?}\n", self.ca()) } else { String::new() }
    }

    /// Runs a command.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connect().await.expect("the server responds");
        run(&mut connection, words).await
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
            spawn(self.program, self.address, self.tls, &self.dir, &self.options);
        assert!(self.is_up().await, "it starts again");
    }

    /// Returns the number of events on record as done.
    pub(crate) async fn successes(&self) -> usize {
        self.each_in_state("d", "n = n + 1").await
    }

    /// Expires every lease.
    pub(crate) async fn end_leases(&self) {
        let ended = self.each_in_state("c", "redis.call('HSET', key, 'l', 1) n = n + 1").await;
        assert!(ended > 0, "there is a lease");
    }

    /// Returns the number of leases that end after this time, in milliseconds since the Unix epoch.
    pub(crate) async fn leases_beyond(&self, time: u64) -> usize {
        let count =
            format!("if tonumber(redis.call('HGET', key, 'l')) > {time} then n = n + 1 end");
        self.each_in_state("c", &count).await
    }

    /// Runs Lua code with the `key` of each event in this state, and returns `n`.
    async fn each_in_state(&self, state: &str, action: &str) -> usize {
        let script = format!(
            "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
             if redis.call('HGET', key, 's') == '{state}' then {action} end end return n"
        );
        self.command(&["EVAL", &script, "0"]).await
    }

    fn id(&self) -> u32 {
        self.child.lock().expect("not poisoned").id()
    }

    async fn connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        connect(&self.url(), self.tls.then(|| self.ca())).await
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

/// Connects to a server or a sentinel, with TLS if there is a file with its root CA.
async fn connect(
    url: &str,
    ca: Option<PathBuf>,
) -> Result<MultiplexedConnection, redis::RedisError> {
    let client = match ca {
        Some(ca) => {
            let ca = std::fs::read(ca).expect("a certificate");
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca) };
            Client::build_with_tls(url, certificates)?
        }
        None => Client::open(url)?,
    };
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&patient).await
}

/// Runs a command on an open connection.
async fn run<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    let reply = command.query_async(connection).await;
    reply.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn spawn(
    program: &str,
    address: SocketAddr,
    tls: bool,
    dir: &TempDir,
    options: &[String],
) -> Child {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new(program);
    if tls {
        // A certificate is for a name, and `localhost` is 127.0.0.1.
        command.args(["--bind", &host, "127.0.0.1", "--port", "0", "--tls-port", &port]);
        command.args(["--tls-auth-clients", "no", "--tls-replication", "yes"]);
        for (option, file) in [
            ("--tls-ca-cert-file", "ca.pem"),
            ("--tls-cert-file", "localhost.pem"),
            ("--tls-key-file", "localhost.key"),
        ] {
            command.arg(option).arg(dir.path().join(file));
        }
    } else {
        command.args(["--bind", &host, "--port", &port]);
    }
    command
        .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        .args(options)
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}
