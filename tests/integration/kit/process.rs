//! The gateway as a separate process that can be killed.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use super::{Connection, until};

/// Running `sealgate` process; killed when dropped.
pub(crate) struct Process {
    child: Mutex<Child>,
    id: u32,
    log: PathBuf,
    https: Option<SocketAddr>,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// Starts the binary with this configuration, in `dir`, and waits until it is ready.
    pub(crate) async fn start(dir: &Path, toml: &str) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_sealgate")), dir, toml).await
    }

    /// Same as [`start`](Self::start), with a limit set by a shell command such as
    /// `ulimit -n 1024`.
    pub(crate) async fn start_limited(dir: &Path, toml: &str, limit: &str) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("{limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_sealgate")]);
        Self::launch(shell, dir, toml).await
    }

    /// Same as [`start`](Self::start), with variables in the environment.
    pub(crate) async fn start_with(dir: &Path, toml: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
        command.envs(variables.iter().copied());
        Self::launch(command, dir, toml).await
    }

    async fn launch(mut command: Command, dir: &Path, toml: &str) -> Self {
        std::fs::write(dir.join("gateway.toml"), toml).expect("written");
        let log = dir.join(format!("{}.log", super::sender::unique("process")));
        let child = command
            .args(["--log-format", "json"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the binary starts");
        let id = child.id();
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let child = Mutex::new(child);
        let mut process = Process { child, id, log, https: None, http: none, admin: none };
        let ready = || async { process.line("ready").is_some() || process.has_ended() };
        until("the gateway is ready or ends", ready).await;
        let Some(line) = process.line("ready") else { panic!("{}", process.log()) };
        let address = |name: &str| {
            let addresses = line[name].as_array().expect("a list of addresses");
            addresses.first().and_then(|address| address.as_str()?.parse().ok())
        };
        process.https = address("https");
        (process.http, process.admin) =
            (address("http").expect("one address"), address("admin").expect("one address"));
        process
    }

    /// Opens a connection without TLS.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::plain(self.http).await
    }

    /// Returns the address of the listener without TLS.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Reads a file in `/proc/PID`.
    pub(crate) fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.id)).expect("it runs")
    }

    /// Returns the resident memory, in KiB.
    pub(crate) fn memory(&self) -> i64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        kib.expect("a size").parse().expect("a number")
    }

    /// The processor time that it has used, by itself and in the kernel.
    pub(crate) fn processor(&self) -> Duration {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>());
        // `USER_HZ` is 100 on every architecture.
        Duration::from_millis(10 * ticks.map(|ticks| ticks.expect("a number")).sum::<u64>())
    }

    /// Returns the address of the TLS listener, if there is one.
    pub(crate) fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.id, name);
    }

    /// Returns the metrics page.
    pub(crate) async fn page(&self) -> String {
        let request = b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n";
        Connection::plain(self.admin).await.exchange(request).await.text()
    }

    /// Returns the value of a metric with these labels.
    pub(crate) async fn metric(&self, name_and_labels: &str) -> f64 {
        let page = self.page().await;
        let value =
            page.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        value.expect("the metric is there").parse().expect("a number")
    }

    /// Limits the size of files that the process writes; `None` removes the limit.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let limit = format!("--fsize={soft}:unlimited");
        let status = Command::new("prlimit").args(["--pid", &self.id.to_string(), &limit]).status();
        assert!(status.expect("prlimit runs").success());
    }

    /// Stops the process with SIGSTOP. When this returns, none of its threads runs.
    pub(crate) fn freeze(&self) {
        signal(self.id, "-STOP");
        while !frozen(self.id) {
            std::thread::yield_now();
        }
    }

    /// Kills the process with SIGKILL and waits until it has exited.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Returns the whole log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    fn has_ended(&self) -> bool {
        self.child.lock().expect("not poisoned").try_wait().expect("a status").is_some()
    }

    /// Returns the first log line with this message.
    fn line(&self, message: &str) -> Option<serde_json::Value> {
        self.lines(message).into_iter().next()
    }

    /// Returns all complete log lines with this message.
    pub(crate) fn lines(&self, message: &str) -> Vec<serde_json::Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["message"] == message)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("not poisoned");
        // The process may have exited already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([name, &id.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Returns whether every thread of the process is stopped.
fn frozen(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).expect("a process");
    threads.flatten().all(|thread| {
        // A thread may exit in the meantime.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, Some('T' | 't' | 'Z' | 'X') | None)
    })
}
