//! Measures the event store on disk: events accepted and settled per second and what each of them
//! writes, the start with a million pending events and the memory that it takes, lists of a million
//! events with each filter, and the size of the directory while events expire. Fails if a target is
//! missed.
//!
//! With the name of a part as its argument (`rate`, `pending`, `settled`, `space`), measures only
//! that part. Other load on the machine only adds time, so lists count by their fastest run, and
//! the start by the CPU time that it takes. The directory is below `TMPDIR`.

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

const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

fn open(path: &Path) -> DiskStore {
    open_bounded(path, 64 << 30)
}

fn open_bounded(path: &Path, max_bytes: u64) -> DiskStore {
    let retention = Retention {
        keep: KEEP,
        keep_dead: Duration::from_secs(30 * 24 * 3600),
        keep_refused: 1000,
        max_bytes,
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

/// Returns the bytes that this process has written, by all calls of `write`.
fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("Linux");
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("a number");
    written.parse().expect("a number")
}

/// Runs `waiting` tasks, each of which does its share of `events` by `work`.
fn run_tasks<F: Future<Output = ()> + Send>(
    runtime: &Runtime,
    (waiting, events): (u64, u64),
    work: impl Fn(u64) -> F + Send + Sync + 'static,
) {
    let work = Arc::new(work);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..waiting)
            .map(|task| {
                let work = Arc::clone(&work);
                tokio::spawn(async move {
                    for number in (task..events).step_by(waiting as usize) {
                        work(number).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
    });
}

/// Accepts and settles events with `waiting` tasks, and prints the number per second, and what each
/// of them costs.
fn rate(runtime: &Runtime, waiting: u64, events: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(dir.path()));
    let (start, ticks_before, written_before) = (Instant::now(), ticks(), written());
    let delivering = Arc::clone(&store);
    run_tasks(runtime, (waiting, events), move |number| {
        let store = Arc::clone(&delivering);
        async move { deliver(&store, number, NextStep::Delivered).await }
    });
    let each = |total: u64| total as f64 / events as f64;
    println!(
        "accepted and settled, {waiting} waiting: {:.0} events/s; for each event {:.0} µs of CPU \
         time, {:.3} fsyncs, {:.0} bytes",
        events as f64 / start.elapsed().as_secs_f64(),
        each((ticks() - ticks_before) * 10_000),
        each(store.batches()),
        each(written() - written_before),
    );
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

async fn accept(store: &DiskStore, number: u64) {
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    store.accept(event(number, EventState::Pending), until).await.expect("accepted");
}

/// Stores a million events that have no attempt yet, or of which every tenth is dead and the others
/// are delivered.
fn fill(runtime: &Runtime, path: &Path, pending: bool) {
    let store = Arc::new(open(path));
    let filling = Arc::clone(&store);
    run_tasks(runtime, (1000, MILLION), move |number| {
        let store = Arc::clone(&filling);
        async move {
            if pending {
                accept(&store, number).await;
            } else if number % 10 == 9 {
                deliver(&store, number, NextStep::Dead { unknown: false }).await;
            } else {
                deliver(&store, number, NextStep::Delivered).await;
            }
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

/// Returns the CPU time of this process, in hundredths of a second.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let times = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
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
    println!("{} {} {memory}", ready.as_millis(), ticks() * 10);
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
        ("pending", EventFilter { state: Some(EventState::Pending), ..all() }, None),
        ("delivering", EventFilter { state: Some(EventState::Delivering), ..all() }, None),
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

/// Writes four times as many events as the store may hold, and then lets all of them expire.
/// Returns whether the directory never takes more than documented.
fn space(runtime: &Runtime) -> bool {
    const MAX_BYTES: u64 = 256 << 20;
    const EVENTS: u64 = 500_000;
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open_bounded(dir.path(), MAX_BYTES));
    let filling = Arc::clone(&store);
    let writing = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            run_tasks(runtime, (256, EVENTS), move |number| {
                let store = Arc::clone(&filling);
                async move { deliver(&store, number, NextStep::Delivered).await }
            });
        });
        let mut largest = 0;
        while !writer.is_finished() {
            // The gateway does this every 30 s, at a lower rate of events.
            runtime.block_on(store.expire(NOW)).expect("compacted");
            largest = largest.max(bytes_below(dir.path()));
            std::thread::sleep(Duration::from_millis(500));
        }
        largest
    });
    println!(
        "  while 1 GiB is written: {} MiB counted, at most {} MiB in files",
        store.bytes() >> 20,
        writing >> 20
    );
    let pause = expire(runtime, &store, EVENTS);
    let after = bytes_below(dir.path());
    println!(
        "  after all of them have expired: {} MiB counted, {} MiB in files; meanwhile, one event at \
         a time is accepted within {pause:.1?}",
        store.bytes() >> 20,
        after >> 20
    );
    writing <= 2 * MAX_BYTES + (256 << 20) && after <= 256 << 20
}

/// Expires all settled events, and returns the longest time for which an event waits meanwhile
/// until it is accepted.
fn expire(runtime: &Runtime, store: &Arc<DiskStore>, events: u64) -> Duration {
    runtime.block_on(async {
        let expiring = Arc::clone(store);
        let now = NOW + 2 * events + KEEP.as_millis() as u64;
        let expiry = tokio::spawn(async move { expiring.expire(now).await.expect("expired") });
        let mut longest = Duration::ZERO;
        let mut number = 2 * MILLION;
        while !expiry.is_finished() {
            let start = Instant::now();
            accept(store, number).await;
            longest = longest.max(start.elapsed());
            number += 1;
        }
        longest
    })
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let part = arguments.next();
    if part.as_deref() == Some("open") {
        measure_start(Path::new(&arguments.next().expect("a directory")));
        return ExitCode::SUCCESS;
    }
    let is_selected = |name: &str| part.as_deref().is_none_or(|part| part == name);
    let runtime = Runtime::new().expect("a runtime");
    let mut met = true;
    if is_selected("rate") {
        for (waiting, events) in [(1, 500), (64, 20_000), (512, 50_000)] {
            rate(&runtime, waiting, events);
        }
    }
    if is_selected("pending") {
        println!("1,000,000 pending events of 1 KiB:");
        let dir = tempfile::tempdir().expect("a directory");
        fill(&runtime, dir.path(), true);
        met &= start(dir.path());
    }
    if is_selected("settled") {
        println!("1,000,000 settled events of 1 KiB:");
        let dir = tempfile::tempdir().expect("a directory");
        fill(&runtime, dir.path(), false);
        met &= start(dir.path());
        met &= lists(&runtime, dir.path());
    }
    if is_selected("space") {
        println!("a store of at most 256 MiB, and 500,000 events of 1 KiB:");
        met &= space(&runtime);
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
