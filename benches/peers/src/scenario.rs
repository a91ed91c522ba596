//! What is measured, and the rounds in which it is.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;

use crate::{
    check::{Findings, Trial},
    engine::Engine,
    events::{Batch, Events},
    load::{self, Load, Sample},
    peer::{Kind, Peer, Setting},
};

/// The rate of the open loop, requests a second.
const RATE: u32 = 2_000;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    Small16,
    Small128,
    Large16,
    NewConnections,
    Refused,
    Steady,
}

impl Scenario {
    pub(crate) const ALL: [Scenario; 6] = [
        Scenario::Small16,
        Scenario::Small128,
        Scenario::Large16,
        Scenario::NewConnections,
        Scenario::Refused,
        Scenario::Steady,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Scenario::Small16 => "1k-16",
            Scenario::Small128 => "1k-128",
            Scenario::Large16 => "64k-16",
            Scenario::NewConnections => "new-tls",
            Scenario::Refused => "refused",
            Scenario::Steady => "steady",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::Small16 => "1 KiB, 16 conn.",
            Scenario::Small128 => "1 KiB, 128 conn.",
            Scenario::Large16 => "64 KiB, 16 conn.",
            Scenario::NewConnections => "new TLS connection each",
            Scenario::Refused => "refused (bad signature)",
            Scenario::Steady => "2,000 requests/s, open loop",
        }
    }

    /// Whether a peer can be measured so.
    pub(crate) fn suits(self, findings: &Findings) -> bool {
        match self {
            Scenario::Large16 => findings.can(Trial::Body64),
            Scenario::Refused => findings.kind.verifies(),
            Scenario::Small16
            | Scenario::Small128
            | Scenario::NewConnections
            | Scenario::Steady => true,
        }
    }

    /// More requests a second than any peer has answered, for signing enough events.
    fn ceiling(self) -> f64 {
        match self {
            Scenario::Small16 | Scenario::Small128 => 60_000.0,
            Scenario::Large16 => 16_000.0,
            Scenario::NewConnections => 9_000.0,
            Scenario::Refused => 90_000.0,
            Scenario::Steady => f64::from(RATE) * 1.2,
        }
    }
}

/// How long each stretch is.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// Measures one scenario on one peer once.
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
        forged: scenario == Scenario::Refused,
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
            | Scenario::Refused => 16,
        },
        reconnects: scenario == Scenario::NewConnections,
        status: if scenario == Scenario::Refused { 401 } else { 200 },
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
        | Scenario::Refused => load::closed(engine, &load),
    }
}

/// All samples, one a round.
pub(crate) type Samples = BTreeMap<(Scenario, Kind), Vec<Sample>>;

/// Measures every peer in turns: in each round all are started anew, and each scenario goes once
/// through all of them, beginning with another one each round.
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
