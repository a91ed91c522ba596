//! The scenarios, and the rounds in which they are measured.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;

use crate::{
    check::{Findings, Trial},
    engine::Engine,
    events::{Batch, Events},
    load::{self, Load, Sample},
    peer::{Kind, Peer, Setting},
};

/// Rate of the open loop, in requests per second.
const RATE: u32 = 2_000;

/// Traffic pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    Small16,
    Small128,
    Large16,
    NewConnections,
    Rejected,
    Steady,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 6] = [
        Scenario::Small16,
        Scenario::Small128,
        Scenario::Large16,
        Scenario::NewConnections,
        Scenario::Rejected,
        Scenario::Steady,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Scenario::Small16 => "1k-16",
            Scenario::Small128 => "1k-128",
            Scenario::Large16 => "64k-16",
            Scenario::NewConnections => "new-tls",
            Scenario::Rejected => "rejected",
            Scenario::Steady => "steady",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::Small16 => "1 KiB, 16 conn.",
            Scenario::Small128 => "1 KiB, 128 conn.",
            Scenario::Large16 => "64 KiB, 16 conn.",
            Scenario::NewConnections => "new TLS connection per request",
            Scenario::Rejected => "rejected (bad signature)",
            Scenario::Steady => "2,000 requests/s, open loop",
        }
    }

    /// Returns whether a peer with these findings can be measured in this scenario.
    pub(crate) fn suits(self, findings: &Findings) -> bool {
        match self {
            Scenario::Large16 => findings.can(Trial::Body64),
            Scenario::Rejected => findings.kind.verifies(),
            Scenario::Small16
            | Scenario::Small128
            | Scenario::NewConnections
            | Scenario::Steady => true,
        }
    }

    /// Returns a rate, in requests per second, that no peer reaches, so that enough events are
    /// signed.
    fn ceiling(self) -> f64 {
        match self {
            Scenario::Small16 | Scenario::Small128 => 60_000.0,
            Scenario::Large16 => 16_000.0,
            Scenario::NewConnections => 9_000.0,
            Scenario::Rejected => 90_000.0,
            Scenario::Steady => f64::from(RATE) * 1.2,
        }
    }
}

/// Lengths of the phases of a measurement.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Measures one scenario on one peer, once.
pub(crate) fn measure(
    engine: &mut Engine,
    peer: &Peer,
    scenario: Scenario,
    pace: Pace,
) -> anyhow::Result<Sample> {
    let seconds = (pace.warm_up + pace.measured).as_secs_f64() + 0.2;
    let events = Events::sign(Batch {
        count: (seconds * scenario.ceiling()) as usize + 1000,
        size: if scenario == Scenario::Large16 { 64 << 10 } else { 1024 },
        forged: scenario == Scenario::Rejected,
        age: 0,
    });
    let load = Load {
        to: peer.address,
        events: &events,
        connections: match scenario {
            Scenario::Small128 => 128,
            Scenario::Steady => 64,
            Scenario::Small16
            | Scenario::Large16
            | Scenario::NewConnections
            | Scenario::Rejected => 16,
        },
        reconnects: scenario == Scenario::NewConnections,
        status: if scenario == Scenario::Rejected { 401 } else { 200 },
        warm_up: pace.warm_up,
        measured: pace.measured,
        pids: &peer.pids,
    };
    match scenario {
        Scenario::Steady => load::steady(engine, &load, f64::from(RATE)),
        Scenario::Small16
        | Scenario::Small128
        | Scenario::Large16
        | Scenario::NewConnections
        | Scenario::Rejected => load::closed(engine, &load),
    }
}

/// Samples of all rounds.
pub(crate) type Samples = BTreeMap<(Scenario, Kind), Vec<Sample>>;

/// Measures all peers in turn. All peers are restarted for each round, each scenario visits every
/// peer once per round, and each round begins with another peer.
pub(crate) fn rounds(
    engine: &mut Engine,
    setting: &Setting,
    findings: &[Findings],
    scenarios: &[Scenario],
    rounds: usize,
    pace: Pace,
) -> anyhow::Result<Samples> {
    let mut samples = Samples::new();
    for round in 0..rounds {
        let mut peers = Vec::new();
        for found in findings {
            peers.push((found, setting.start(found.kind)?));
        }
        let shift = round % peers.len().max(1);
        peers.rotate_left(shift);
        for scenario in scenarios {
            for (found, peer) in peers.iter().filter(|(found, _)| scenario.suits(found)) {
                let sample = measure(engine, peer, *scenario, pace)
                    .with_context(|| format!("{}, {}", found.kind.word(), scenario.word()))?;
                eprintln!(
                    "round {}/{rounds}  {:<8} {:<20} {:>7.1} µs  {:>7.0}/s  proxy {:>3.0} %  load {:>3.0} %  p99 {:.2} ms",
                    round + 1,
                    scenario.word(),
                    found.kind.word(),
                    sample.cost,
                    sample.rate,
                    sample.proxy_share * 100.0,
                    sample.load_share * 100.0,
                    sample.latency[1],
                );
                samples.entry((*scenario, found.kind)).or_default().push(sample);
            }
        }
    }
    Ok(samples)
}
