//! Measurements of sealgate alone: start, memory, a second worker.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    engine::{Engine, Turn},
    events::{Batch, Events},
    load::{self, Load, exchange},
    peer::{Kind, ONE, Setting, Shape},
};

/// Results; memory in KiB.
#[derive(Default)]
pub(crate) struct Extras {
    /// Median time from the start of the process, with 1,000 routes, to its first response, in ms.
    pub(crate) ready: Option<f64>,
    pub(crate) idle: Option<u64>,
    /// Number of idle TLS connections, and the memory per connection.
    pub(crate) held: Option<(usize, f64)>,
    /// Number of events on record, and the memory with them.
    pub(crate) full: Option<(usize, u64)>,
    /// CPU time per request with one worker and with two, on two cores.
    pub(crate) workers: Option<(f64, f64)>,
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Runs all measurements; `short` skips the long ones.
pub(crate) fn measure(
    engine: &mut Engine,
    setting: &Setting,
    short: bool,
) -> anyhow::Result<Extras> {
    let mut extras = Extras::default();

    let many = Shape { more_routes: 999, ..ONE };
    let mut times = Vec::new();
    for _ in 0..7 {
        let peer = setting.start_as(Kind::Sealgate, many)?;
        let answered = Instant::now();
        ensure!(exchange(engine, peer.address, HEALTH)? == 200, "not healthy");
        times.push((peer.started_in + answered.elapsed()).as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    extras.ready = times.get(times.len() / 2).copied();
    eprintln!("ready with 1,000 routes in {:.1} ms", extras.ready.unwrap_or(f64::NAN));

    let peer = setting.start(Kind::Sealgate)?;
    ensure!(exchange(engine, peer.address, HEALTH)? == 200, "not healthy");
    let idle = peer.memory();
    extras.idle = Some(idle);
    let count = if short { 1_000 } else { 10_000 };
    let senders = hold(engine, peer.address, count)?;
    rest(engine)?;
    let held = peer.memory();
    extras.held = Some((count, (held.saturating_sub(idle)) as f64 / count as f64));
    senders.into_iter().for_each(|sender| engine.end(sender));
    drop(peer);
    eprintln!("idle {idle} KiB, with {count} connections {held} KiB");

    if !short {
        let peer = setting.start(Kind::Sealgate)?;
        let mut sent = 0;
        while sent < 1_000_000 {
            let events = Events::sign(Batch { count: 100_000, size: 64, forged: false, age: 0 });
            let load = Load {
                to: peer.address,
                events: &events,
                connections: 64,
                reconnects: false,
                status: 200,
                warm_up: Duration::ZERO,
                measured: Duration::from_secs(30),
                pids: &peer.pids,
            };
            load::closed(engine, &load)?;
            sent += events.len();
        }
        extras.full = Some((sent, peer.memory()));
        eprintln!("with {sent} events {} KiB", peer.memory());
    }

    // Both rates leave a core half idle, so that the gateway never waits for the senders.
    let rate = if short { 1_000.0 } else { 12_000.0 };
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..if short { 1 } else { 5 } {
        for (workers, costs) in [1, 2].into_iter().zip(&mut costs) {
            let peer = setting.start_as(Kind::Sealgate, Shape { workers, cores: "0,1", ..ONE })?;
            let events = Events::sign(Batch { count: 60_000, size: 1024, forged: false, age: 0 });
            let load = Load {
                to: peer.address,
                events: &events,
                connections: 64,
                reconnects: false,
                status: 200,
                warm_up: Duration::from_millis(300),
                measured: Duration::from_secs(2),
                pids: &peer.pids,
            };
            costs.push(load::steady(engine, &load, rate)?.cost);
        }
    }
    let [one, two] = costs.map(|mut costs| {
        costs.sort_unstable_by(f64::total_cmp);
        costs[costs.len() / 2]
    });
    extras.workers = Some((one, two));
    eprintln!("one worker {one:.1} µs, two workers {two:.1} µs");
    Ok(extras)
}

/// Waits until sealgate has parked the connections, which it does after a second without a request.
fn rest(engine: &mut Engine) -> anyhow::Result<()> {
    let mut turn = Turn::default();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        engine.turn(Duration::from_millis(100), &mut turn)?;
        ensure!(turn.broken.is_empty(), "a held connection broke");
    }
    Ok(())
}

/// Opens connections that receive one response each and then stay idle.
fn hold(engine: &mut Engine, to: SocketAddr, count: usize) -> anyhow::Result<Vec<usize>> {
    let mut held = Vec::with_capacity(count);
    let mut turn = Turn::default();
    while held.len() < count {
        let few = load::open(engine, to, (count - held.len()).min(256))?;
        for sender in &few {
            engine.send(*sender, HEALTH, Instant::now())?;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut answered = 0;
        while answered < few.len() {
            ensure!(Instant::now() < deadline, "connections get no response");
            engine.turn(Duration::from_millis(20), &mut turn)?;
            ensure!(turn.broken.is_empty(), "a held connection broke");
            answered += turn.answered.drain(..).count();
        }
        held.extend(few);
    }
    Ok(held)
}
