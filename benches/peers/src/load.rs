//! Load on one proxy. Closed loop: each connection sends its next request when it has received its
//! response. Open loop: requests are due at times that do not depend on responses, and latency is
//! counted from these times.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    engine::{Engine, Turn},
    events::Events,
    procs,
};

/// Longest wait in one turn.
const TURN: Duration = Duration::from_millis(20);
/// Timeout for opening connections and for a response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Parameters of one measurement.
pub(crate) struct Load<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) events: &'a Events,
    pub(crate) connections: usize,
    /// Whether each request uses a new connection.
    pub(crate) reconnects: bool,
    /// Status that every response must have.
    pub(crate) status: u16,
    /// Time before the measurement begins.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Process IDs of the proxy.
    pub(crate) pids: &'a [u32],
}

/// Results of one measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// CPU time of the proxy per request, in µs.
    pub(crate) cost: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Share of their core that the senders and the upstream used.
    pub(crate) load_share: f64,
    /// Share of its core that the proxy used.
    pub(crate) proxy_share: f64,
    /// Latencies in ms: p50, p99, p99.9.
    pub(crate) latency: [f64; 3],
    /// Memory at the end, in KiB.
    pub(crate) memory: u64,
}

/// Point in time, with the CPU time used until then.
struct Mark {
    at: Instant,
    proxy: Duration,
    load: Duration,
    requests: usize,
}

impl Mark {
    fn now(load: &Load<'_>, requests: usize) -> Self {
        Mark {
            proxy: procs::processor_time(load.pids),
            load: procs::processor_time(&[std::process::id()]),
            at: Instant::now(),
            requests,
        }
    }
}

fn sample(start: &Mark, end: &Mark, latencies: &mut [Duration], load: &Load<'_>) -> Sample {
    let requests = (end.requests - start.requests) as f64;
    let seconds = (end.at - start.at).as_secs_f64();
    let proxy = (end.proxy.saturating_sub(start.proxy)).as_secs_f64();
    latencies.sort_unstable();
    let quantile = |q: f64| {
        let at = (latencies.len() as f64 * q) as usize;
        latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    Sample {
        cost: proxy * 1e6 / requests,
        rate: requests / seconds,
        load_share: (end.load.saturating_sub(start.load)).as_secs_f64() / seconds,
        proxy_share: proxy / seconds,
        latency: [quantile(0.5), quantile(0.99), quantile(0.999)],
        memory: procs::memory(load.pids),
    }
}

/// Opens connections and waits for their handshakes.
pub(crate) fn open(
    engine: &mut Engine,
    to: SocketAddr,
    count: usize,
) -> anyhow::Result<Vec<usize>> {
    let mut open = Vec::with_capacity(count);
    let mut turn = Turn::default();
    while open.len() < count {
        let few = (count - open.len()).min(64);
        let new = (0..few)
            .map(|_| engine.connect(to))
            .collect::<Result<Vec<_>, _>>()
            .context("connect")?;
        let deadline = Instant::now() + PATIENCE;
        while !new.iter().all(|index| engine.is_ready(*index)) {
            ensure!(Instant::now() < deadline, "handshakes take too long");
            engine.turn(TURN, &mut turn)?;
            ensure!(turn.broken.is_empty(), "a connection broke while it was opened");
        }
        open.extend(new);
    }
    Ok(open)
}

/// Runs the closed loop for a bounded time; each event is sent at most once.
pub(crate) fn closed(engine: &mut Engine, load: &Load<'_>) -> anyhow::Result<Sample> {
    let mut next = 0;
    let mut done = 0;
    let mut buffer = Vec::new();
    let mut senders = if load.reconnects {
        (0..load.connections).map(|_| engine.connect(load.to)).collect::<Result<_, _>>()?
    } else {
        open(engine, load.to, load.connections)?
    };
    let mut post = |engine: &mut Engine, sender: usize, next: &mut usize| -> anyhow::Result<()> {
        buffer.clear();
        load.events.write(*next, &mut buffer);
        *next += 1;
        Ok(engine.send(sender, &buffer, Instant::now())?)
    };
    let began = Instant::now();
    for sender in &senders {
        post(engine, *sender, &mut next)?;
    }
    let mut turn = Turn::default();
    let mut start: Option<Mark> = None;
    let mut latencies = Vec::new();
    let mut heard = Instant::now();
    while next < load.events.len() {
        engine.turn(TURN, &mut turn)?;
        ensure!(turn.broken.is_empty(), "{} connections broke", turn.broken.len());
        let now = Instant::now();
        if turn.answered.is_empty() {
            ensure!(now - heard < PATIENCE, "no answer for {PATIENCE:?}");
        } else {
            heard = now;
        }
        for answered in turn.answered.drain(..) {
            if answered.status != load.status {
                bail!("status {} after {done} requests", answered.status);
            }
            done += 1;
            if start.is_some() {
                latencies.push(now - answered.since);
            }
            if next == load.events.len() {
                continue;
            }
            let mut sender = answered.sender;
            if load.reconnects || answered.closing {
                engine.end(sender);
                let new = engine.connect(load.to)?;
                senders.iter_mut().filter(|s| **s == sender).for_each(|s| *s = new);
                sender = new;
            }
            post(engine, sender, &mut next)?;
        }
        match &start {
            None if began.elapsed() >= load.warm_up => start = Some(Mark::now(load, done)),
            Some(start) if now - start.at >= load.measured => break,
            None | Some(_) => {}
        }
    }
    let end = Mark::now(load, done);
    let start = start.context("no event was left after the warm-up")?;
    let sample = sample(&start, &end, &mut latencies, load);
    for sender in senders {
        engine.end(sender);
    }
    settle(engine)?;
    Ok(sample)
}

/// Runs the open loop at an average of `rate` requests per second, with random gaps that are the
/// same for every proxy. The latency of a request includes its wait for a free connection.
pub(crate) fn steady(engine: &mut Engine, load: &Load<'_>, rate: f64) -> anyhow::Result<Sample> {
    let senders = open(engine, load.to, load.connections)?;
    let mut free = senders.clone();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut gaps = Gaps { state: 0x9e37_79b9_7f4a_7c15, mean: 1.0 / rate };
    let mut buffer = Vec::new();
    let (mut next, mut done) = (0, 0);
    let mut turn = Turn::default();
    let began = Instant::now();
    let mut due = began + gaps.next();
    let mut start: Option<Mark> = None;
    let mut latencies = Vec::new();
    loop {
        let now = Instant::now();
        while due <= now {
            waiting.push_back(due);
            due += gaps.next();
        }
        while let (Some(since), Some(sender)) = (waiting.front().copied(), free.last().copied()) {
            ensure!(next < load.events.len(), "too few events");
            buffer.clear();
            load.events.write(next, &mut buffer);
            engine.send(sender, &buffer, since)?;
            next += 1;
            free.pop();
            waiting.pop_front();
        }
        ensure!(waiting.len() < 10_000, "the proxy does not keep up");
        let now = Instant::now();
        engine.turn(due.saturating_duration_since(now).min(TURN), &mut turn)?;
        ensure!(turn.broken.is_empty(), "{} connections broke", turn.broken.len());
        let now = Instant::now();
        for answered in turn.answered.drain(..) {
            if answered.status != load.status {
                bail!("status {} after {done} requests", answered.status);
            }
            done += 1;
            free.push(answered.sender);
            if start.is_some() {
                latencies.push(now - answered.since);
            }
        }
        match &start {
            None if began.elapsed() >= load.warm_up => start = Some(Mark::now(load, done)),
            Some(start) if now - start.at >= load.measured => break,
            None | Some(_) => {}
        }
    }
    let end = Mark::now(load, done);
    let start = start.context("no time was left after the warm-up")?;
    let sample = sample(&start, &end, &mut latencies, load);
    for sender in senders {
        engine.end(sender);
    }
    settle(engine)?;
    Ok(sample)
}

/// Processes closed connections, so that one measurement does not affect the next.
fn settle(engine: &mut Engine) -> anyhow::Result<()> {
    let mut turn = Turn::default();
    for _ in 0..5 {
        engine.turn(TURN, &mut turn)?;
    }
    Ok(())
}

/// Returns the random gaps of a Poisson process, the same in every run.
struct Gaps {
    state: u64,
    mean: f64,
}

impl Gaps {
    fn next(&mut self) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let uniform = ((self.state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() * self.mean)
    }
}

/// Sends one request on a new connection and returns the status of the response.
pub(crate) fn exchange(engine: &mut Engine, to: SocketAddr, request: &[u8]) -> anyhow::Result<u16> {
    let sender = engine.connect(to)?;
    engine.send(sender, request, Instant::now())?;
    let status = answers(engine, &[sender], PATIENCE)?;
    engine.end(sender);
    status.first().copied().context("no answer")
}

/// Waits for the responses to the requests of `senders`.
pub(crate) fn answers(
    engine: &mut Engine,
    senders: &[usize],
    patience: Duration,
) -> anyhow::Result<Vec<u16>> {
    let deadline = Instant::now() + patience;
    let mut statuses = Vec::new();
    let mut turn = Turn::default();
    while statuses.len() < senders.len() && Instant::now() < deadline {
        engine.turn(TURN, &mut turn)?;
        statuses.extend(turn.answered.drain(..).map(|answered| answered.status));
        if !turn.broken.is_empty() {
            bail!("the connection broke without an answer");
        }
    }
    Ok(statuses)
}
