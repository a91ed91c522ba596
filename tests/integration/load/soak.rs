//! A long run under half load, with an upstream that fails, hangs and resets, with reloads and with
//! senders that reconnect: no event is lost or duplicated, and memory stays constant.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{ALONE, setting};
use crate::kit::{
    Answer, Connection, Entry, Event, Ledger, PATIENCE, Process, Setup, Upstream, ask, until,
};

/// Duration in seconds, unless `SEALGATE_SOAK_SECONDS` is set.
const SECONDS: u64 = 12;
const SENDERS: usize = 8;
/// Requests of a sender per connection.
const REQUESTS: usize = 40;
const RELOADS: Duration = Duration::from_secs(2);
/// Maximum growth of memory from the second quarter of the run to the last, in KiB: in the short
/// run, in which the replay guard is still filling, and in a long one.
const GROWTH: [i64; 2] = [8 * 1024, 2 * 1024];

/// Plans the responses: of 16 events one fails and one is reset, and of 256 one hangs, once each.
fn plan(event: &str, count: usize) -> Answer {
    let last = event.len().saturating_sub(2);
    let number = u8::from_str_radix(&event[last..], 16).unwrap_or(0);
    match (count, number % 16, number) {
        (1, _, 0x77) => Answer::Silence,
        (1, 3, _) => Answer::Status(500),
        (1, 5, _) => Answer::Reset,
        _ => Answer::Status(200),
    }
}

/// Sends events until `stop`, each until it is acknowledged, and pauses after each for as long as
/// it took: half the load.
async fn sender(
    process: Arc<Process>,
    certificate: Option<Vec<u8>>,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut events = 0;
    loop {
        let mut connection = match (&certificate, process.https()) {
            (Some(certificate), Some(https)) => Connection::tls(https, certificate.clone()).await,
            _ => process.connect().await,
        };
        for _ in 0..REQUESTS {
            if stop.load(Ordering::Relaxed) {
                return events;
            }
            let event = Event::default();
            let start = Instant::now();
            let end = start + PATIENCE;
            loop {
                let reply = ask(&mut connection, &ledger, &event.retried()).await;
                match reply.expect("an answer").status {
                    200 => break,
                    504 => {
                        let given_up =
                            || async { ledger.of(&event.id).contains(&Entry::BrokenOff) };
                        until("the upstream sees that it was given up", given_up).await;
                    }
                    _ => {}
                }
                assert!(Instant::now() < end, "{:?}", ledger.of(&event.id));
            }
            events += 1;
            tokio::time::sleep(start.elapsed()).await;
        }
    }
}

fn mean(samples: &[i64]) -> i64 {
    samples.iter().sum::<i64>() / i64::try_from(samples.len().max(1)).expect("few samples")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_loses_and_duplicates_nothing_and_keeps_its_memory() {
    let _alone = ALONE.lock().await;
    let long = setting("SEALGATE_SOAK_SECONDS");
    let time = Duration::from_secs(long.unwrap_or(SECONDS));
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, plan).await;
    // Events expire within the run, so that the size of the replay guard is constant in the end.
    let ttl = (time / 8).as_secs().max(1);
    let setup = Setup::new(&upstream)
        .section(&format!("[replay]\nttl = \"{ttl}s\""))
        .route("upstream_timeout = \"500ms\"\nanswer_within = \"500ms\"");
    let process = Arc::new(Process::start(setup.dir.path(), &setup.toml()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    let certificate = std::fs::read(setup.dir.path().join("tls.crt")).expect("made at start");
    for number in 0..SENDERS {
        let over_tls = (number % 2 == 0).then(|| certificate.clone());
        let (process, stop) = (Arc::clone(&process), Arc::clone(&stop));
        senders.spawn(sender(process, over_tls, ledger.clone(), stop));
    }
    let start = Instant::now();
    let (mut samples, mut reloads) = (Vec::new(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    while start.elapsed() < time {
        ticks.tick().await;
        samples.push(process.memory());
        if start.elapsed() > RELOADS * (reloads + 1) {
            process.signal("-HUP");
            reloads += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let events: usize = senders.join_all().await.into_iter().sum();
    ledger.agree_that_all_is_done();
    let quarter = samples.len() / 4;
    let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[3 * quarter..]));
    let broken = ledger.count(|entry| *entry == Entry::BrokenOff);
    let failed = ledger.count(|entry| *entry == Entry::Answered(500));
    eprintln!(
        "{events} events in {time:?} with {failed} failures, {broken} reset, {reloads} \
         reloads; memory {early} KiB in the second quarter, {late} KiB in the last"
    );
    assert!(failed > 0 && broken > 0 && reloads > 0);
    assert!(process.metric("sealgate_config_reloads_total{result=\"ok\"}").await > 0.0);
    assert!(late - early < GROWTH[usize::from(long.is_some())], "from {early} to {late} KiB");
}
