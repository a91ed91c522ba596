//! Three times the load that the application, or the gateway, can handle.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep_until,
};

use super::{ALONE, setting};
use crate::kit::{Connection, Event, Process, Setup, Upstream, until};

/// How many requests the application handles concurrently, like PHP-FPM with so many children.
const CHILDREN: usize = 8;
/// How long it takes per request.
const TAKES: Duration = Duration::from_millis(20);
/// Connections of the senders.
const CONNECTIONS: usize = 200;
/// Seconds per measurement, unless `SEALGATE_OVERLOAD_SECONDS` is set; then the targets are
/// asserted.
const SECONDS: u64 = 3;

/// Starts an application of a fixed capacity, in which further requests wait.
async fn application() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let children = Arc::new(Semaphore::new(CHILDREN));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&children)));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, children: Arc<Semaphore>) {
    let mut buffer = Vec::new();
    while matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
        // The end of every event's body.
        if !buffer.ends_with(b"}") {
            continue;
        }
        buffer.clear();
        let _child = children.acquire().await.expect("never closed");
        tokio::time::sleep(TAKES).await;
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// The times of the responses of each status, each from when its request was due.
type Answers = Arc<Mutex<BTreeMap<u16, Vec<Duration>>>>;

fn note(answers: &Answers, status: u16, due: Instant) {
    answers.lock().expect("not poisoned").entry(status).or_default().push(due.elapsed());
}

/// Runs senders of which each sends the next request when it has its response.
async fn closed(process: &Arc<Process>, senders: usize, time: Duration) -> Answers {
    let answers = Answers::default();
    let mut all = JoinSet::new();
    for _ in 0..senders {
        let (process, answers) = (Arc::clone(process), Arc::clone(&answers));
        all.spawn(async move {
            let mut connection = process.connect().await;
            let end = Instant::now() + time;
            while Instant::now() < end {
                let sent = Instant::now();
                let reply = connection.exchange(&Event::default().request()).await;
                note(&answers, reply.status, sent);
            }
        });
    }
    all.join_all().await;
    answers
}

/// Sends requests at a fixed rate, on whichever connection is free.
async fn open(process: &Arc<Process>, rate: f64, time: Duration) -> Answers {
    let answers = Answers::default();
    let (send, due) = mpsc::unbounded_channel::<Instant>();
    let due = Arc::new(tokio::sync::Mutex::new(due));
    let mut all = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection: Connection = process.connect().await;
        let (due, answers) = (Arc::clone(&due), Arc::clone(&answers));
        all.spawn(async move {
            loop {
                let Some(at) = due.lock().await.recv().await else { return };
                let reply = connection.exchange(&Event::default().request()).await;
                note(&answers, reply.status, at);
            }
        });
    }
    let start = Instant::now();
    let count = (rate * time.as_secs_f64()) as u32;
    for number in 0..count {
        let at = start + Duration::from_secs_f64(f64::from(number) / rate);
        sleep_until(at.into()).await;
        send.send(at).expect("the senders wait");
    }
    drop(send);
    all.join_all().await;
    answers
}

fn count(answers: &Answers, status: u16) -> usize {
    answers.lock().expect("not poisoned").get(&status).map_or(0, Vec::len)
}

fn quantile(answers: &Answers, status: u16, q: f64) -> Duration {
    let mut answers = answers.lock().expect("not poisoned");
    let times = answers.get_mut(&status).expect("there are such answers");
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q) as usize]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_rejected_at_once_and_the_rest_is_served() {
    let _alone = ALONE.lock().await;
    let long = setting("SEALGATE_OVERLOAD_SECONDS");
    let time = Duration::from_secs(long.unwrap_or(SECONDS));
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream)
        .plain()
        .upstream(&format!("\"http://{}\"", application().await))
        .route(&format!("upstream_concurrency = {CHILDREN}\nupstream_queue = {CHILDREN}"));
    let process = Arc::new(Process::start(setup.dir.path(), &setup.toml()).await);

    let peak = async || {
        let answers = closed(&process, 2 * CHILDREN, time).await;
        count(&answers, 200) as f64 / time.as_secs_f64()
    };
    let first_peak = peak().await;
    let before = process.memory();
    let answers = open(&process, 3.0 * first_peak, time).await;
    let goodput = count(&answers, 200) as f64 / time.as_secs_f64();
    let (shed, slow) = (quantile(&answers, 503, 0.5), quantile(&answers, 503, 0.99));
    let grown = process.memory() - before;
    // In a short run, other processes use the machine, now more and now less.
    let peak = if long.is_some() { first_peak } else { first_peak.min(peak().await) };
    eprintln!(
        "peak {peak:.0}/s; at three times that: {goodput:.0}/s served ({:.0} %, p99 {:?}), {} \
         rejected (median {shed:?}, p99 {slow:?}), memory {grown:+} KiB",
        100.0 * goodput / peak,
        quantile(&answers, 200, 0.99),
        count(&answers, 503),
    );
    let statuses: Vec<u16> = answers.lock().expect("not poisoned").keys().copied().collect();
    assert_eq!(statuses, [200, 503]);
    assert!(grown < 16 * 1024, "{grown} KiB");
    let least = if long.is_some() { 0.9 } else { 0.3 };
    assert!(goodput >= least * peak, "{goodput} of {peak}");
    assert!(long.is_none() || slow <= Duration::from_millis(50), "{slow:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_are_limited() {
    let upstream = Upstream::start().await;
    upstream.answer([crate::kit::Answer::Held]);
    let gateway = Setup::new(&upstream).plain().section("[limits]\nrequests = 1").start();
    let mut first = gateway.connect_plain().await;
    first.write(&Event::default().request()).await;
    upstream.seen(1).await;
    let mut second = gateway.connect_plain().await;
    let reply = second.exchange(&Event::default().request()).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
    upstream.release();
    assert_eq!(first.read().await.expect("an answer").status, 200);
    let served = || async {
        let mut third = gateway.connect_plain().await;
        third.exchange(&Event::default().request()).await.status == 200
    };
    until("a permit is free again", served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_waited_too_long_for_a_worker_are_shed() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream)
        .plain()
        .server("workers = 1")
        .section("[limits]\nqueue_time = \"2ms\"");
    let process = Arc::new(Process::start(setup.dir.path(), &setup.toml()).await);
    let mut all = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let process = Arc::clone(&process);
        all.spawn(async move {
            let (mut served, mut shed) = (0, 0);
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                let mut connection = process.connect().await;
                connection.write(&Event::default().request()).await;
                match connection.read().await.expect("a response").status {
                    200 => served += 1,
                    503 => shed += 1,
                    status => panic!("{status}"),
                }
            }
            (served, shed)
        });
    }
    let counts = all.join_all().await;
    let (served, shed) = counts.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    let counted = process.metric("sealgate_shed_total{cause=\"waited\"}").await;
    eprintln!("{served} served, {shed} shed");
    assert!(served > 0 && shed > 0, "{served} served, {shed} shed");
    assert_eq!(counted, f64::from(shed));
}
