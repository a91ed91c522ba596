//! A private PostgreSQL cluster: its own files, socket and port.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The password of the gateway's role.
pub(crate) const PASSWORD: &str = "canary-of-the-database";

/// Running cluster; killed when dropped. Its files belong to the user `postgres` where the tests
/// run as root, because PostgreSQL does not run as root.
pub(crate) struct Postgres {
    bin: PathBuf,
    child: Mutex<Child>,
    address: SocketAddr,
    dir: TempDir,
}

impl Postgres {
    /// Starts a cluster with the role `sealgate` of docs/postgresql.md in the database `shop`. If
    /// PostgreSQL is not installed, the test is skipped, or fails if `SEALGATE_REQUIRE_ALL` is set.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// Starts a cluster that requires TLS of clients that connect by TCP, also at `localhost`. The
    /// certificate and the key are `localhost.pem` and `localhost.key` in a directory.
    pub(crate) async fn start_with_tls(certificate: &Path) -> Option<Self> {
        Self::start_with(Some(certificate)).await
    }

    async fn start_with(certificate: Option<&Path>) -> Option<Self> {
        let Some(bin) = programs() else {
            assert!(std::env::var_os("SEALGATE_REQUIRE_ALL").is_none(), "no PostgreSQL");
            eprintln!("SKIPPED: PostgreSQL is not installed");
            return None;
        };
        // Another process may bind the port in the meantime; then try another one.
        for _ in 0..20 {
            let address = free_address();
            let dir = tempfile::tempdir().expect("a directory");
            initialize(bin, dir.path(), address, certificate);
            let child = Mutex::new(spawn(bin, dir.path()));
            let cluster = Postgres { bin: bin.clone(), child, address, dir };
            if cluster.is_up().await {
                cluster.create_role().await;
                return Some(cluster);
            }
        }
        panic!("PostgreSQL does not start");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for the gateway's role.
    pub(crate) fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// Returns the URL for the gateway's role at another address, such as that of a relay.
    pub(crate) fn url_at(&self, address: SocketAddr) -> String {
        format!("postgres://sealgate:{PASSWORD}@{address}/shop")
    }

    pub(crate) fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Returns a command that runs as the user that runs PostgreSQL, to which `dir` is given.
    pub(crate) fn unprivileged(&self, program: &str, dir: &Path) -> Command {
        for file in std::fs::read_dir(dir).expect("a directory").flatten() {
            give_to_postgres(&file.path(), 0o600);
        }
        give_to_postgres(dir, 0o755);
        unprivileged(Path::new(program))
    }

    /// Runs statements as the superuser, and returns the values of the rows.
    pub(crate) async fn sql(&self, statements: &str) -> Vec<Vec<Option<String>>> {
        let client = self.superuser("shop").await.expect("the server responds");
        run(&client, statements).await
    }

    /// Runs a query for one number.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let rows = self.sql(query).await;
        let value = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
        value.unwrap_or_else(|| panic!("a number: {query}: {rows:?}"))
    }

    /// Stops every process of the cluster with SIGSTOP.
    pub(crate) fn freeze(&self) {
        // The first process starts no further one when it is stopped.
        signal(&[self.id()], "-STOP");
        signal(&self.others(), "-STOP");
    }

    /// Continues every process of the cluster.
    pub(crate) fn thaw(&self) {
        signal(&self.others(), "-CONT");
        signal(&[self.id()], "-CONT");
    }

    /// Kills every process of the cluster with SIGKILL.
    pub(crate) fn kill(&self) {
        self.freeze();
        let others = self.others();
        let mut child = self.child.lock().expect("not poisoned");
        child.kill().expect("it can be killed");
        signal(&others, "-KILL");
        child.wait().expect("it ends");
    }

    /// Stops the cluster as its operator does: connections are closed, and a checkpoint is written.
    pub(crate) fn stop(&self) {
        signal(&[self.id()], "-INT");
        self.child.lock().expect("not poisoned").wait().expect("it ends");
    }

    /// Starts the cluster again with the same files.
    pub(crate) async fn restart(&self) {
        // A process of the killed cluster can hold its shared memory for a moment.
        let start = Instant::now();
        loop {
            *self.child.lock().expect("not poisoned") = spawn(&self.bin, self.dir.path());
            if self.is_up().await {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "it starts again: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns 0 after [`Postgres::kill`].
    pub(crate) fn number_of_processes(&self) -> usize {
        let mut child = self.child.lock().expect("not poisoned");
        usize::from(child.try_wait().expect("a status").is_none())
    }

    /// Logs the statements of every connection of the gateway's role that is opened from now on.
    pub(crate) async fn log_statements(&self) {
        self.sql("ALTER ROLE sealgate SET log_statement = 'all'").await;
    }

    /// Returns the statements that were logged.
    pub(crate) fn statements(&self) -> Vec<String> {
        let log = self.log();
        let statements = log.lines().filter_map(|line| line.split_once("execute <unnamed>: "));
        statements.map(|(_, statement)| statement.to_owned()).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn id(&self) -> u32 {
        self.child.lock().expect("not poisoned").id()
    }

    /// Returns the process IDs of the cluster without the first one.
    fn others(&self) -> Vec<u32> {
        let id = self.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let children = std::fs::read_to_string(path).expect("it runs");
        children.split_whitespace().map(|id| id.parse().expect("a process ID")).collect()
    }

    /// Creates the database and the role, by the statements of the documentation.
    async fn create_role(&self) {
        let client = self.superuser("postgres").await.expect("the server responds");
        run(&client, "CREATE DATABASE shop").await;
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/postgresql.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let (_, block) = page.split_once("```sql\nCREATE ROLE").expect("the statements");
        let (block, _) = block.split_once("```").expect("their end");
        self.sql(&format!("CREATE ROLE{}", block.replace("'PASSWORD'", &format!("'{PASSWORD}'"))))
            .await;
    }

    /// Connects as the superuser by the Unix socket.
    async fn superuser(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).port(self.address.port());
        config.user("postgres").dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// Waits until the server accepts connections; returns `false` if it exits instead.
    async fn is_up(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.superuser("postgres").await.is_ok() {
                return true;
            }
            if self.child.lock().expect("not poisoned").try_wait().expect("a status").is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("PostgreSQL does not respond: {}", self.log());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("not poisoned");
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // Ends all other processes, too. A process that is stopped has to be continued first.
        let id = child.id();
        let _ = Command::new("kill").args(["-QUIT", &id.to_string()]).status();
        let _ = Command::new("kill").args(["-CONT", &id.to_string()]).status();
        let _ = child.wait();
    }
}

async fn run(client: &Client, statements: &str) -> Vec<Vec<Option<String>>> {
    let replies = client.simple_query(statements).await;
    let replies = replies.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    let row = |reply: &SimpleQueryMessage| match reply {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    replies.iter().filter_map(row).collect()
}

/// Returns the directory of the programs, which Debian does not have on the `PATH`.
fn programs() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let debian = debian.map(|version| version.path().join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        debian.chain(std::env::split_paths(&path)).find(|dir| dir.join("initdb").exists())
    };
    FOUND.get_or_init(find).as_ref()
}

/// Returns a command that runs as `postgres` where the tests run as root.
fn unprivileged(program: &Path) -> Command {
    if std::fs::metadata("/proc/self").expect("procfs").uid() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

/// Creates the files of a cluster, as a copy of files that are kept next to the test binary.
fn initialize(bin: &Path, dir: &Path, address: SocketAddr, certificate: Option<&Path>) {
    let version = bin.parent().and_then(Path::file_name).expect("a directory");
    let binary = std::env::current_exe().expect("a path");
    let name = format!("postgresql-{}", version.to_string_lossy());
    let template = binary.parent().expect("a directory").join(name);
    if template.exists() {
        copy(&template, &dir.join("data"));
    } else {
        give_to_postgres(dir, 0o755);
        let mut command = unprivileged(&bin.join("initdb"));
        command.args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]);
        command.args(["--encoding=UTF8", "--no-locale", "--no-sync"]);
        command.args(["--wal-segsize=1", "--pgdata"]);
        let output = command.arg(dir.join("data")).output().expect("initdb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let own = template.with_extension(dir.file_name().expect("a unique name"));
        copy(&dir.join("data"), &own);
        // Another test may have been faster.
        if std::fs::rename(&own, &template).is_err() {
            std::fs::remove_dir_all(&own).expect("removed");
        }
    }
    let mut settings = format!(
        "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\n\
         shared_buffers = '32MB'\nmax_connections = 100\nfsync = off\n",
        address.ip(),
        address.port(),
        dir.display()
    );
    if let Some(certificate) = certificate {
        for file in ["localhost.pem", "localhost.key"] {
            let copied = dir.join("data").join(file);
            std::fs::copy(certificate.join(file), &copied).expect("copied");
            give_to_postgres(&copied, 0o600);
        }
        let files = "ssl_cert_file = 'localhost.pem'\nssl_key_file = 'localhost.key'";
        let addresses = format!("listen_addresses = '{}, 127.0.0.1'", address.ip());
        settings = format!("{settings}ssl = on\n{files}\n{addresses}\n");
    }
    let file = dir.join("data/postgresql.auto.conf");
    std::fs::write(&file, settings).expect("written");
    give_to_postgres(dir, 0o755);
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(from).arg(to);
    assert!(copy.status().expect("cp runs").success());
}

/// Makes the user that runs PostgreSQL the owner of a file or directory.
fn give_to_postgres(path: &Path, mode: u32) {
    if std::fs::metadata("/proc/self").expect("procfs").uid() == 0 {
        let status = Command::new("chown").arg("postgres:postgres").arg(path).status();
        assert!(status.expect("chown runs").success());
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("changed");
}

fn spawn(bin: &Path, dir: &Path) -> Child {
    let log = dir.join("log");
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
    unprivileged(&bin.join("postgres"))
        .arg("-D")
        .arg(dir.join("data"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts")
}

fn signal(processes: &[u32], name: &str) {
    if processes.is_empty() {
        return;
    }
    let processes = processes.iter().map(u32::to_string);
    // A process may have ended in the meantime.
    let _ = Command::new("kill").arg(name).args(processes).stderr(Stdio::null()).status();
}

/// Returns a free loopback address. PostgreSQL cannot report the port that it got. It is not
/// 127.0.0.1, so that no other test gets the port before the server has bound it.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = Ipv4Addr::new(127, 0, 2, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((ip, 0)).expect("a port");
    listener.local_addr().expect("an address")
}
