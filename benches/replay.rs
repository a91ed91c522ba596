//! The cost of the replay guard: a claim and its success in memory, the latency that each store
//! adds with 1, 64 and 512 concurrent requests, the memory of a million events, and the time to
//! read a million events at start.
//!
//! Fails if a target is missed. `--targets` checks only the targets, with fewer events.
//!
//! Starts `redis-server` on a free port; if it is not installed, its rows are omitted.

use std::{
    net::TcpListener,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group};
use http::{HeaderMap, Method, Request, StatusCode};
use sealgate::internals::{
    body::Payload,
    metrics::Metrics,
    replay::{
        Claimed, Clock, LocalDecision, OnStoreFailure, Options, RedisOptions, Replay, ShareId,
        StoreOptions, Terms, Topology,
    },
    response::SanitizedResponse,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verified, Verifier},
    secret::Secret,
};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const TTL: Duration = Duration::from_secs(86_400);
const MILLION: usize = 1_000_000;

/// Creates authentic requests, each for a new event.
struct Sender(Verifier);

impl Sender {
    fn new() -> Self {
        let scheme = Scheme::builtin("vivoldi").expect("built in");
        let global = vec![Secret::new(b"a-secret-of-thirty-two-bytes-....".to_vec())];
        let credentials = Credentials { global, ..Credentials::default() };
        Sender(Verifier::new(scheme, "bench", credentials).expect("a secret is all it needs"))
    }

    fn request(&self) -> Verified {
        let path = "/webhooks/vivoldi";
        let body = Payload::from(Bytes::from_static(b"{}"));
        let draft = Draft { method: Method::POST, path, headers: HeaderMap::new(), body: &body };
        let headers = self.0.sign(Some("global"), draft, NOW).expect("it can be signed");
        let mut request = Request::post(path);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        self.0.verify(&head, &body, NOW).expect("authentic")
    }

    fn requests(&self, count: usize) -> Vec<Verified> {
        (0..count).map(|_| self.request()).collect()
    }
}

fn open(store: StoreOptions) -> Replay {
    let on_store_failure = OnStoreFailure::Refuse;
    let options = Options { store, max_entries: 10 * MILLION, on_store_failure };
    Replay::open(options, Clock::system(), &Metrics::new().expect("the metrics are constants"))
        .expect("the store can be opened")
}

/// Processes an event from the claim to the recorded success.
async fn event(replay: &Replay, request: &Verified, answer: &SanitizedResponse) {
    let answer_by = tokio::time::Instant::now() + Duration::from_secs(30);
    let terms = Terms { route: ShareId::of_route("bench"), ttl: TTL, forwards_repeats: false };
    let claimed = match replay.claim(request, terms, answer_by).await {
        Ok(LocalDecision::Decided(claimed)) => Ok(claimed),
        Ok(LocalDecision::Pending(claim)) => claim.claim().await,
        Err(reject) => Err(reject),
    };
    match claimed {
        Ok(Claimed::Won(claim)) => drop(claim.done(answer, false).await),
        other => panic!("a new event is free: {other:?}"),
    }
}

/// Returns the mean latency of `count` events, with `at_once` of them concurrent.
fn latency(
    runtime: &Runtime,
    replay: &Replay,
    sender: &Sender,
    at_once: usize,
    count: usize,
) -> (Duration, Vec<Duration>) {
    let each = count.div_ceil(at_once);
    let mut tasks = Vec::new();
    for _ in 0..at_once {
        let (replay, requests) = (replay.clone(), sender.requests(each));
        tasks.push(async move {
            let answer = SanitizedResponse::empty(StatusCode::OK);
            let mut times = Vec::with_capacity(each);
            for request in &requests {
                let start = Instant::now();
                event(&replay, request, &answer).await;
                times.push(start.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = runtime.block_on(async {
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.expect("no panic"));
        }
        times
    });
    times.sort_unstable();
    let sum: Duration = times.iter().sum();
    (sum / u32::try_from(times.len()).expect("few"), times)
}

fn memory(criterion: &mut Criterion) {
    let sender = Sender::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let mut group = criterion.benchmark_group("replay");
    group.bench_function("claim and success in memory", |bencher| {
        let replay = runtime.block_on(async { open(StoreOptions::Memory) });
        bencher.iter_custom(|count| {
            let count = usize::try_from(count).expect("it fits");
            let mut taken = Duration::ZERO;
            let answer = SanitizedResponse::empty(StatusCode::OK);
            for _ in 0..count.div_ceil(10_000) {
                let requests = sender.requests(10_000);
                let start = Instant::now();
                runtime.block_on(async {
                    for request in &requests {
                        event(&replay, request, &answer).await;
                    }
                });
                taken += start.elapsed();
            }
            taken.mul_f64(count as f64 / (count.div_ceil(10_000) * 10_000) as f64)
        });
    });
    group.finish();
}

fn stores(criterion: &mut Criterion) {
    let sender = Sender::new();
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let redis = Redis::start();
    let mut stores = vec![("memory", StoreOptions::Memory)];
    stores.push(("disk", StoreOptions::Disk { path: dir.path().join("replay") }));
    match &redis {
        Some(redis) => stores.push(("redis", redis.store())),
        None => eprintln!("skipped: redis-server is not installed"),
    }
    let mut table = String::from("\nadded latency   at once      mean       p50       p99\n");
    let mut group = criterion.benchmark_group("replay/added latency");
    group.sample_size(10);
    for (name, store) in stores {
        let replay = runtime.block_on(async { open(store) });
        latency(&runtime, &replay, &sender, 1, 200);
        for at_once in [1, 64, 512] {
            let (mean, times) = latency(&runtime, &replay, &sender, at_once, at_once.max(8) * 128);
            let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
            table += &format!(
                "{name:<15} {at_once:>7} {:>7.1} µs {:>6.1} µs {:>6.1} µs\n",
                mean.as_secs_f64() * 1e6,
                at(50),
                at(99)
            );
            group.bench_function(BenchmarkId::new(name, at_once), |bencher| {
                bencher.iter_custom(|count| {
                    let events = usize::try_from(count).expect("it fits").max(at_once);
                    let (mean, _) = latency(&runtime, &replay, &sender, at_once, events);
                    mean * u32::try_from(count).expect("it fits")
                });
            });
        }
    }
    group.finish();
    eprintln!("{table}");
}

/// Returns how many MiB this many done events take in memory.
fn memory_of(events: usize, runtime: &Runtime, sender: &Sender) -> f64 {
    let answer = SanitizedResponse::empty(StatusCode::OK);
    let before = resident();
    let replay = runtime.block_on(async { open(StoreOptions::Memory) });
    runtime.block_on(async {
        for _ in 0..events {
            event(&replay, &sender.request(), &answer).await;
        }
    });
    (resident() - before) as f64 / 1024.0
}

/// Returns how long it takes to read this many events from the disk.
fn reading_of(events: usize, runtime: &Runtime, sender: &Arc<Sender>) -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("replay");
    let replay = runtime.block_on(async { open(StoreOptions::Disk { path: path.clone() }) });
    latency(runtime, &replay, sender, 512, events);
    runtime.block_on(replay.flush(tokio::time::Instant::now() + Duration::from_secs(60)));
    drop(replay);
    let start = Instant::now();
    drop(runtime.block_on(async { open(StoreOptions::Disk { path }) }));
    start.elapsed()
}

/// Checks the targets for a million events: 400 MiB in memory, and read from the disk in 3 s.
fn million() -> bool {
    let (runtime, sender) = (Runtime::new().expect("a runtime"), Arc::new(Sender::new()));
    let memory = memory_of(MILLION, &runtime, &sender);
    eprintln!("a million done events in memory: {memory:.0} MiB (at most 400)");
    let reading = reading_of(MILLION, &runtime, &sender);
    eprintln!("a million events read from the disk: {reading:.2?} (at most 3 s)");
    memory <= 400.0 && reading <= Duration::from_secs(3)
}

/// Checks in a few seconds, and in any build, what a million events would reveal: the memory of an
/// event, and reading times that grow faster than the number of events.
fn growth() -> bool {
    let (runtime, sender) = (Runtime::new().expect("a runtime"), Arc::new(Sender::new()));
    let memory = memory_of(MILLION / 5, &runtime, &sender);
    eprintln!("200,000 done events in memory: {memory:.0} MiB (at most 80)");
    let few = reading_of(MILLION / 40, &runtime, &sender);
    let many = reading_of(MILLION / 10, &runtime, &sender);
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    eprintln!(
        "reading 4 times as many events from the disk takes {ratio:.1} times as long (at most 8)"
    );
    memory <= 80.0 && ratio <= 8.0
}

/// Returns the resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Some(Redis { child, port })
    }

    fn store(&self) -> StoreOptions {
        let url = Secret::new(format!("redis://127.0.0.1:{}", self.port).into_bytes());
        let (urls, topology) = (vec![url], Topology::Single);
        StoreOptions::Redis(RedisOptions { urls, topology, prefix: "bench:".into(), ca: None })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

criterion_group!(benches, memory, stores);

fn main() -> ExitCode {
    // The targets come first: in memory that was used and freed before, events seem to take less.
    if std::env::args().any(|argument| argument == "--targets") {
        return ExitCode::from(u8::from(!growth()));
    }
    let kept = million();
    benches();
    Criterion::default().configure_from_args().final_summary();
    ExitCode::from(u8::from(!kept))
}
