//! Measurements of sealgate's delivery modes: what an event costs that is stored, or that could be,
//! relative to one that is forwarded synchronously.

use std::{
    fs::File,
    io::{Seek, Write},
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    engine::{Engine, Turn},
    events::{Batch, Events},
    load::{self, Load},
    peer::{Kind, Mode, ONE, Peer, Setting, Shape},
    procs,
};

/// Deliveries have ended if the upstream receives nothing for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Rate of the open loop, in events per second.
const RATE: f64 = 2_000.0;
/// Rate at which the handler works after an outage, in events per second.
const CAPACITY: f64 = 2_000.0;
/// Interval between new events after the outage.
const NEW: Duration = Duration::from_millis(100);

/// Results.
#[derive(Default)]
pub(crate) struct Deliveries {
    /// CPU time per event in µs, in each round: `sync`, `fallback`, `async`.
    pub(crate) costs: Vec<[f64; 3]>,
    /// Events accepted and delivered per second with `async`, on all cores, in each round.
    pub(crate) rates: Vec<f64>,
    /// Median time of an fsync, and p99 of the latency with `async`, in ms.
    pub(crate) latency: Option<(f64, f64)>,
    /// Number of events that queued up, the share of the handler's capacity at which they were
    /// delivered, and the longest delay of a new event in the meantime, in ms.
    pub(crate) drain: Option<(usize, f64, f64)>,
}

/// Runs all measurements; `short` makes them smaller.
pub(crate) fn measure(
    engine: &mut Engine,
    setting: &Setting,
    short: bool,
) -> anyhow::Result<Deliveries> {
    let mut deliveries = Deliveries::default();
    let count = if short { 4_000 } else { 40_000 };
    for _ in 0..if short { 1 } else { 5 } {
        let mut costs = [0.0; 3];
        for (mode, cost) in Mode::ALL.into_iter().zip(&mut costs) {
            let peer = setting.start_as(Kind::Sealgate, Shape { mode, ..ONE })?;
            *cost = deliver(engine, &peer, count)?.0;
        }
        eprintln!("sync {:.1} µs, fallback {:.1} µs, async {:.1} µs", costs[0], costs[1], costs[2]);
        deliveries.costs.push(costs);
        let shape = Shape { mode: Mode::Async, workers: 2, cores: "0,1", ..ONE };
        let peer = setting.start_as(Kind::Sealgate, shape)?;
        let rate = deliver(engine, &peer, count)?.1;
        eprintln!("async on two cores, which the senders share: {rate:.0} events/s delivered");
        deliveries.rates.push(rate);
    }

    let fsync = fsync(setting)?;
    let peer = setting.start_as(Kind::Sealgate, Shape { mode: Mode::Async, ..ONE })?;
    let seconds = if short { 1 } else { 5 };
    let count = (RATE * 1.2) as usize * (seconds + 1);
    let events = Events::sign(Batch { count, size: 1024, forged: false, age: 0 });
    let load = Load {
        warm_up: Duration::from_millis(500),
        measured: Duration::from_secs(seconds as u64),
        ..load(&peer, &events)
    };
    let p99 = load::steady(engine, &load, RATE)?.latency[1];
    eprintln!("fsync {fsync:.2} ms, async at 2,000/s: p99 {p99:.2} ms");
    deliveries.latency = Some((fsync, p99));
    drop(peer);

    deliveries.drain = Some(drain(engine, setting, if short { 5_000 } else { 200_000 })?);
    Ok(deliveries)
}

fn load<'a>(peer: &'a Peer, events: &'a Events) -> Load<'a> {
    Load {
        to: peer.address,
        events,
        connections: 64,
        reconnects: false,
        status: 200,
        warm_up: Duration::ZERO,
        measured: Duration::from_secs(100),
        pids: &peer.pids,
    }
}

/// Sends events and waits until they are delivered. Returns the CPU time per event in µs, and the
/// number of events per second.
fn deliver(engine: &mut Engine, peer: &Peer, count: usize) -> anyhow::Result<(f64, f64)> {
    let events = Events::sign(Batch { count, size: 1024, forged: false, age: 0 });
    let (start, before) = (Instant::now(), procs::processor_time(&peer.pids));
    let seen_before = engine.upstream.seen;
    load::closed(engine, &load(peer, &events))?;
    let (mut seen, mut last) = (engine.upstream.seen, Instant::now());
    let mut turn = Turn::default();
    while last.elapsed() < QUIET {
        engine.turn(Duration::from_millis(20), &mut turn)?;
        if engine.upstream.seen > seen {
            (seen, last) = (engine.upstream.seen, Instant::now());
        }
    }
    let delivered = (seen - seen_before) as f64;
    // The last events of the closed loop get no response.
    ensure!(delivered > count as f64 * 0.95, "{delivered} of {count} events were delivered");
    let used = procs::processor_time(&peer.pids).saturating_sub(before);
    Ok((used.as_secs_f64() * 1e6 / delivered, delivered / (last - start).as_secs_f64()))
}

/// Returns the median time of an fsync in the directory of the peers, in ms.
fn fsync(setting: &Setting) -> anyhow::Result<f64> {
    let mut file = File::create(setting.dir.join("fsync"))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        file.rewind()?;
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Queues events while the handler is down. Then the handler works at its capacity, and new events
/// arrive.
fn drain(
    engine: &mut Engine,
    setting: &Setting,
    count: usize,
) -> anyhow::Result<(usize, f64, f64)> {
    let address = engine.address()?;
    // Nothing listens there.
    let down = Setting { upstream: ([127, 0, 0, 1], 9).into(), ..setting.clone() };
    let shape = Shape { mode: Mode::Async, ..ONE };
    let peer = down.start_as(Kind::Sealgate, shape)?;
    let mut left = count;
    while left > 0 {
        let few = left.min(50_000);
        let events = Events::sign(Batch { count: few, size: 1024, forged: false, age: 0 });
        load::closed(engine, &load(&peer, &events))?;
        left -= few;
    }
    drop(peer);
    let up = Setting { upstream: address, ..setting.clone() };
    engine.upstream.holds = true;
    let peer = up.restart(shape)?;
    let marked = Events::sign(Batch { count: 1000, size: 100, forged: false, age: 0 });
    let sender = load::open(engine, peer.address, 1)?[0];
    let seconds = (count as f64 / CAPACITY / 2.0).min(20.0);
    let (start, mut turn, mut answered) = (Instant::now(), Turn::default(), 0);
    let (mut next, mut waiting, mut longest) = (0, None, Duration::ZERO);
    engine.upstream.marked_length = 100;
    while start.elapsed().as_secs_f64() < seconds {
        engine.turn(Duration::from_millis(1), &mut turn)?;
        ensure!(turn.broken.is_empty(), "a connection broke");
        let allowed = (start.elapsed().as_secs_f64() * CAPACITY) as usize;
        answered += engine.answer(allowed - answered);
        match waiting {
            None if start.elapsed() > NEW * (next as u32 + 1) && next < marked.len() => {
                waiting = Some((Instant::now(), engine.upstream.marked));
                engine.send(sender, &marked.request(next), Instant::now())?;
                next += 1;
            }
            Some((since, before)) if engine.upstream.marked > before => {
                longest = longest.max(since.elapsed());
                waiting = None;
            }
            Some((since, _)) => longest = longest.max(since.elapsed()),
            None => {}
        }
    }
    let share = answered as f64 / seconds / CAPACITY;
    engine.release();
    engine.end(sender);
    let delay = longest.as_secs_f64() * 1e3;
    eprintln!(
        "after {count} events have queued up: {:.0} % of the capacity, new events within {delay:.0} ms",
        share * 100.0
    );
    Ok((count, share, delay))
}
