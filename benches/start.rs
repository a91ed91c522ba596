//! Measures the start with 1,000 routes, the memory of an idle gateway, and a scrape of its
//! metrics.
//!
//! Fails if a target is missed: ready within 50 ms, at most 20 MiB idle with one route. Other load
//! on the machine only adds time, so the fastest start counts, minus the time it waited for a core.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const READY: Duration = Duration::from_millis(50);
const IDLE: u64 = 20 << 10;
const STARTS: usize = 11;

/// Location of the routes' secrets.
#[derive(Clone, Copy)]
enum Secrets {
    Environment,
    Files,
}

/// Running gateway, with the measurements of its start.
struct Gateway {
    process: Child,
    admin: String,
    ready: Duration,
    /// CPU time of all threads until then.
    processor: Duration,
    /// Time that the first thread waited for a core until then.
    waited: Duration,
}

impl Gateway {
    fn start(dir: &Path, routes: usize, secrets: Secrets) -> Self {
        let config = dir.join("gateway.toml");
        fs::write(&config, configuration(routes, secrets)).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
        command.args(["--log-format", "json", "--config"]).arg(config).stderr(Stdio::piped());
        command.envs((0..routes).map(|number| (format!("SECRET_{number}"), secret(number))));
        let start = Instant::now();
        let mut process = command.spawn().expect("it starts");
        let mut line = String::new();
        let log = process.stderr.as_mut().expect("it is piped");
        BufReader::new(log).read_line(&mut line).expect("a line");
        let address = line.split_once("\"admin\":\"[").and_then(|(_, rest)| rest.split_once(']'));
        let (admin, _) = address.unwrap_or_else(|| panic!("not ready: {line}"));
        let admin = admin.to_owned();
        assert!(get(&admin, "/readyz").ends_with("ok\n"));
        let ready = start.elapsed();
        let (processor, waited) = scheduled(process.id());
        Gateway { process, admin, ready, processor, waited }
    }

    /// Returns the time until ready without the wait for a core.
    fn alone(&self) -> Duration {
        self.ready.saturating_sub(self.waited)
    }

    /// Returns the resident memory, in KiB.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("it is alive");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the CPU time of all threads of a process, and the time that its first thread waited for
/// a core.
fn scheduled(pid: u32) -> (Duration, Duration) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive");
    let stat = |thread: &Path, field: usize| {
        let text = fs::read_to_string(thread.join("schedstat")).expect("it is alive");
        let nanos = text.split_whitespace().nth(field).and_then(|field| field.parse().ok());
        Duration::from_nanos(nanos.expect("a number"))
    };
    let processor = threads.flatten().map(|thread| stat(&thread.path(), 0)).sum();
    (processor, stat(Path::new(&format!("/proc/{pid}/task/{pid}")), 1))
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

fn secret(number: usize) -> String {
    format!("the-secret-of-route-number-{number:06}")
}

fn configuration(routes: usize, secrets: Secrets) -> String {
    let mut text = String::from(
        "[server]\nhttp_listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
    );
    let schemes = ["vivoldi", "stripe", "github", "shopify", "slack"];
    for number in 0..routes {
        let scheme = schemes[number % schemes.len()];
        let secret = match secrets {
            Secrets::Environment => format!("env = \"SECRET_{number}\""),
            Secrets::Files => format!("file = \"secret-{number}\""),
        };
        write!(
            text,
            "[[route]]\nname = \"route-{number}\"\npath = \"/hooks/{number}\"\n\
             scheme = \"{scheme}\"\nupstream = \"http://127.0.0.1:8080\"\nsecret = {{ {secret} }}\n"
        )
        .expect("a string takes all that is written to it");
    }
    text
}

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("a directory");
    for number in 0..1000 {
        let file = dir.path().join(format!("secret-{number}"));
        fs::write(&file, secret(number)).expect("written");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("ours");
    }
    let mut missed = false;
    println!("routes  secrets in    ready: fastest    median         CPU       idle");
    for (routes, secrets, place) in [
        (1, Secrets::Environment, "environment"),
        (1000, Secrets::Environment, "environment"),
        (1000, Secrets::Files, "files"),
    ] {
        let start = |_| Gateway::start(dir.path(), routes, secrets);
        let mut starts: Vec<Gateway> = (0..STARTS).map(start).collect();
        let idle = starts[0].resident();
        starts.sort_unstable_by_key(Gateway::alone);
        let fastest = starts[0].alone();
        starts.sort_unstable_by_key(|gateway| gateway.ready);
        let median = starts[STARTS / 2].ready;
        starts.sort_unstable_by_key(|gateway| gateway.processor);
        let processor = starts[STARTS / 2].processor;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{routes:>6}  {place:<12} {:>12.1} ms {:>6.1} ms {:>8.1} ms {:>6.1} MiB",
            millis(fastest),
            millis(median),
            millis(processor),
            idle as f64 / 1024.0
        );
        missed |= fastest > READY || (routes == 1 && idle > IDLE);
    }
    let gateway = Gateway::start(dir.path(), 1000, Secrets::Environment);
    let scrape = || {
        let start = Instant::now();
        (get(&gateway.admin, "/metrics").len(), start.elapsed())
    };
    let (size, _) = scrape();
    let fastest = (0..STARTS).map(|_| scrape().1).min().expect("some");
    println!(
        "\na scrape with 1,000 routes: {:.1} ms, {:.2} MB; the gateway then holds {:.1} MiB",
        fastest.as_secs_f64() * 1e3,
        size as f64 / 1e6,
        gateway.resident() as f64 / 1024.0
    );
    if missed {
        eprintln!("missed: ready within {READY:?}, or at most {} MiB idle", IDLE >> 10);
    }
    ExitCode::from(u8::from(missed))
}
