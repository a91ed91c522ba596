//! Measures the event store on disk: events accepted and settled per second, the start with a
//! million pending events and the memory that it takes, and lists of a million events with each
//! filter. Fails if a target is missed.
//!
//! Other load on the machine only adds time, so lists count by their fastest run, and the start by
//! the CPU time that it takes. The directory is below `TMPDIR`.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method};
use prometheus::IntGauge;
use sealgate::internals::{
    events::{
        Acceptance, DeliveryAttempt, DiskStore, EventEntry, EventFilter, EventId, EventState,
        EventStore, NewEvent, NextStep, Retention, StoredRequest,
    },
    scheme::{ContextPin, EventKey},
};
use tokio::runtime::Runtime;

const NOW: u64 = 1_764_500_000_000;
const MILLION: u64 = 1_000_000;
/// Maximum time to start with a million pending events.
const READY: Duration = Duration::from_secs(3);
/// Maximum memory with a million pending events, in KiB.
const MEMORY: u64 = 300 << 10;
/// Maximum time to list a page of a million events.
const LIST: Duration = Duration::from_millis(200);

fn open(path: &Path) -> DiskStore {
    let retention = Retention {
        keep: Duration::from_secs(7 * 24 * 3600),
        keep_dead: Duration::from_secs(30 * 24 * 3600),
        keep_refused: 1000,
        max_bytes: 64 << 30,
        max_pending: 10 * MILLION,
    };
    DiskStore::open(path, None, retention, IntGauge::new("up", "up").unwrap()).expect("it opens")
}

fn event(number: u64, state: EventState) -> NewEvent {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let route = if number.is_multiple_of(4) { "payments" } else { "orders" };
    let header = |name: &str, value: &'static str| (name.into(), HeaderValue::from_static(value));
    NewEvent {
        entry: EventEntry {
            id: EventId::new(NOW + number, number.into()),
            route: route.into(),
            scheme: "standard-webhooks".into(),
            event_id: Some(format!("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W{number}").into()),
            key: "default".into(),
            secret: 1,
            state,
            received: NOW + number,
            attempts: u32::from(state == EventState::Delivering),
            next_attempt: (state == EventState::Pending).then_some(NOW + number),
            expires: NOW + 72 * 3_600_000,
            bytes: 1024,
            record: Some(EventKey(key)),
            pin: ContextPin([3; 16]),
            order: None,
            possible_duplicate: false,
            redelivery: false,
            has_request: true,
            log: Vec::new(),
            refusal: None,
        },
        request: StoredRequest {
            method: Method::POST,
            target: "/hooks/orders".into(),
            is_http2: false,
            headers: vec![
                header("Host", "hooks.example.com"),
                header("Content-Type", "application/json"),
                header("Content-Length", "1024"),
                header("webhook-id", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"),
                header("webhook-timestamp", "1764500000"),
                header("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
            ],
            body: Bytes::from_static(&[b'x'; 1024]),
            peer: "192.0.2.7".parse().expect("an address"),
            tls: true,
            client: None,
            request_id: HeaderValue::from_static("7b1d9e4f2a"),
        },
    }
}

/// Accepts and settles events with `waiting` tasks, and returns the number per second.
fn rate(runtime: &Runtime, waiting: u64, events: u64) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(dir.path()));
    let start = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..waiting)
            .map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for number in (task..events).step_by(waiting as usize) {
                        deliver(&store, number, NextStep::Delivered).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
    events as f64 / start.elapsed().as_secs_f64()
}

async fn deliver(store: &DiskStore, number: u64, next: NextStep) {
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let accepted = store.accept(event(number, EventState::Delivering), until).await;
    let Ok(Acceptance::New(_, Some(lease))) = accepted else { panic!("{accepted:?}") };
    let attempt = DeliveryAttempt {
        at: NOW + number,
        status: Some(200),
        error: None,
        duration_ms: 5,
        resigned: false,
    };
    store.settle(lease, attempt, next).await.expect("settled");
}

/// Stores a million events that have no attempt yet, or of which every tenth is dead and the others
/// are delivered.
fn fill(runtime: &Runtime, path: &Path, pending: bool) {
    let store = Arc::new(open(path));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..1000)
            .map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for number in (task..MILLION).step_by(1000) {
                        let until = tokio::time::Instant::now() + Duration::from_secs(60);
                        if pending {
                            let event = event(number, EventState::Pending);
                            store.accept(event, until).await.expect("accepted");
                        } else if number % 10 == 9 {
                            deliver(&store, number, NextStep::Dead { unknown: false }).await;
                        } else {
                            deliver(&store, number, NextStep::Delivered).await;
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
    println!("  {} MiB counted, {} MiB in files", store.bytes() >> 20, bytes_below(path) >> 20);
}

/// Returns the bytes that the files below a directory take.
fn bytes_below(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(path).expect("a directory").map(|file| file.expect("a file").path());
    files
        .map(|path| match fs::metadata(&path) {
            Ok(file) if file.is_dir() => bytes_below(&path),
            Ok(file) => file.blocks() * 512,
            // Removed in the meantime.
            Err(_) => 0,
        })
        .sum()
}

/// Opens the store in this process and prints what that took: milliseconds, milliseconds of CPU
/// time, and KiB of memory.
fn measure_start(path: &Path) {
    let start = Instant::now();
    let store = open(path);
    let ready = start.elapsed();
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("memory");
    let memory = memory.trim().trim_end_matches(" kB");
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let ticks: u64 = stat
        .split_whitespace()
        .skip(13)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    println!("{} {} {memory}", ready.as_millis(), ticks * 10);
    drop(store);
}

/// Starts another process that opens the store. Returns whether it is fast and small enough.
fn start(path: &Path) -> bool {
    let this = std::env::current_exe().expect("this program");
    let output = Command::new(this).arg("open").arg(path).output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().expect("number"));
    let mut next = || numbers.next().expect("three numbers");
    let (ready, processor, memory) = (next(), next(), next());
    println!("  open: {ready} ms, {processor} ms of CPU time, {} MiB of memory", memory >> 10);
    Duration::from_millis(processor) <= READY && memory <= MEMORY
}

/// Lists a page with each filter. Returns whether all are fast enough.
fn lists(runtime: &Runtime, path: &Path) -> bool {
    let store = open(path);
    let all = EventFilter::default;
    let route = || Some(Arc::from("payments"));
    let middle = EventId::new(NOW + MILLION / 2, 0);
    let unknown = Some(Arc::from("unknown"));
    let event_id = Some(Arc::from("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W4242"));
    let mut fast = true;
    for (name, filter, cursor) in [
        ("none", all(), None),
        ("none, from the middle", all(), Some(middle)),
        ("route", EventFilter { route: route(), ..all() }, None),
        ("state", EventFilter { state: Some(EventState::Dead), ..all() }, None),
        ("empty state", EventFilter { state: Some(EventState::Failed), ..all() }, None),
        (
            "route, state",
            EventFilter { route: route(), state: Some(EventState::Delivered), ..all() },
            Some(middle),
        ),
        ("event", EventFilter { event_id: event_id.clone(), ..all() }, None),
        ("unknown event", EventFilter { event_id: unknown, ..all() }, None),
        (
            "since, until",
            EventFilter { since: Some(NOW + 9), until: Some(NOW + 99), ..all() },
            None,
        ),
        (
            "all",
            EventFilter {
                route: route(),
                state: Some(EventState::Dead),
                event_id,
                since: Some(NOW),
                until: Some(NOW + MILLION),
            },
            None,
        ),
    ] {
        let list = || {
            let start = Instant::now();
            let page = runtime.block_on(store.list(&filter, cursor, 100)).expect("listed");
            (start.elapsed(), page.entries.len())
        };
        let first = list();
        let fastest = (0..5).map(|_| list()).min().expect("five runs");
        println!(
            "  list, filter {name}: {} entries in {:.1?}, {:.1?} the first time",
            fastest.1, fastest.0, first.0
        );
        fast &= fastest.0 <= LIST;
    }
    fast
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("open") {
        measure_start(Path::new(&arguments.next().expect("a directory")));
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::new().expect("a runtime");
    for (waiting, events) in [(1, 500), (64, 20_000), (512, 50_000)] {
        let rate = rate(&runtime, waiting, events);
        println!("accepted and settled, {waiting} waiting: {rate:.0} events/s");
    }
    let mut fast = true;
    println!("1,000,000 pending events of 1 KiB:");
    let dir = tempfile::tempdir().expect("a directory");
    fill(&runtime, dir.path(), true);
    fast &= start(dir.path());
    drop(dir);
    println!("1,000,000 settled events of 1 KiB:");
    let dir = tempfile::tempdir().expect("a directory");
    fill(&runtime, dir.path(), false);
    fast &= start(dir.path());
    fast &= lists(&runtime, dir.path());
    if fast { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
