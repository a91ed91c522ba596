//! The report: what each peer can do, what it costs, and every target beside what was measured.

use std::{
    fmt::{self, Write},
    fs,
    process::Command,
};

use crate::{
    check::{Findings, Trial},
    extras::Extras,
    load::Sample,
    peer::Kind,
    scenario::{Samples, Scenario},
    stats::{Spread, spread},
};

/// Everything that was measured.
pub(crate) struct Report<'a> {
    pub(crate) findings: &'a [Findings],
    pub(crate) samples: &'a Samples,
    pub(crate) extras: &'a Extras,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// The command that measured it.
    pub(crate) command: &'a str,
}

/// From here on the page is written by hand and kept.
pub(crate) const BY_HAND: &str = "\n## What is missed, and why";

/// A target and what came out.
struct Target {
    what: String,
    at_most: f64,
    unit: &'static str,
    measured: Option<Spread>,
}

impl Report<'_> {
    /// The report as Markdown.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string cannot fail");
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "# Performance\n\n{}\n", INTRODUCTION.trim())?;
        writeln!(text, "![Processor time per request](performance.svg)\n")?;
        self.machine(text)?;
        self.targets(text)?;
        self.costs(text)?;
        self.rates(text)?;
        self.latencies(text)?;
        self.abilities(text)?;
        writeln!(text, "## How it is measured\n\n{}", METHOD.trim())
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.findings.iter().map(|found| found.kind)
    }

    fn machine(&self, text: &mut String) -> fmt::Result {
        let line = |file: &str, start: &str| {
            let all = fs::read_to_string(file).unwrap_or_default();
            let found = all.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            found.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cores = cores.max(fs::read_dir("/sys/class/cpu").map_or(0, Iterator::count)).max(
            fs::read_to_string("/proc/cpuinfo")
                .unwrap_or_default()
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
        );
        writeln!(
            text,
            "`{}`: {} rounds of {} s for each peer and scenario. {}, {cores} cores, \
             Linux {}. {}.\n",
            self.command,
            self.rounds,
            self.seconds,
            line("/proc/cpuinfo", "model name"),
            release.trim(),
            versions(),
        )
    }

    fn costs(&self, text: &mut String) -> fmt::Result {
        self.table(text, "Processor time per request, µs", 0, |sample| sample.cost)
    }

    fn rates(&self, text: &mut String) -> fmt::Result {
        self.table(text, "Requests a second, one core", 0, |sample| sample.rate)?;
        let share = |get: fn(&Sample) -> f64| {
            let busy =
                self.samples.iter().filter(|((scenario, _), _)| *scenario != Scenario::Steady);
            let shares = busy.flat_map(|(_, samples)| samples.iter().map(get));
            spread(shares.map(|share| share * 100.0))
        };
        if let (Some(load), Some(proxy)) = (share(|s| s.load_share), share(|s| s.proxy_share)) {
            writeln!(
                text,
                "In these, the proxy used {:.0} % of its core (median; {:.0} to {:.0} %), senders and \
                 upstream together {:.0} % of theirs ({:.0} to {:.0} %). Where the senders' share nears \
                 100 %, the rate is theirs; the processor time per request is the proxy's in any case.\n",
                proxy.median, proxy.least, proxy.greatest, load.median, load.least, load.greatest,
            )?;
        }
        Ok(())
    }

    fn table(
        &self,
        text: &mut String,
        title: &str,
        digits: usize,
        get: fn(&Sample) -> f64,
    ) -> fmt::Result {
        write!(text, "## {title}\n\nMedians of the rounds.\n\n|  |")?;
        for scenario in Scenario::ALL {
            write!(text, " {} |", scenario.title())?;
        }
        writeln!(text, "\n| --- |{}", " ---: |".repeat(Scenario::ALL.len()))?;
        for kind in self.kinds() {
            write!(text, "| {} |", kind.title())?;
            for scenario in Scenario::ALL {
                match self.spread(scenario, kind, get) {
                    Some(spread) => write!(text, " {:.digits$} |", spread.median)?,
                    None => write!(text, " – |")?,
                }
            }
            writeln!(text)?;
        }
        writeln!(text)
    }

    fn latencies(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "## Latency and memory at 2,000 requests/s, open loop\n")?;
        writeln!(text, "|  | p50, ms | p99, ms | p99.9, ms | memory, MiB |")?;
        writeln!(text, "| --- | ---: | ---: | ---: | ---: |")?;
        for kind in self.kinds() {
            let median = |get: &dyn Fn(&Sample) -> f64| {
                let samples = self.samples.get(&(Scenario::Steady, kind));
                let values = samples.into_iter().flatten().map(get);
                spread(values).map_or(f64::NAN, |spread| spread.median)
            };
            writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.2} | {:.0} |",
                kind.title(),
                median(&|sample| sample.latency[0]),
                median(&|sample| sample.latency[1]),
                median(&|sample| sample.latency[2]),
                median(&|sample| sample.memory as f64 / 1024.0),
            )?;
        }
        writeln!(text, "\nMemory is that at the end of a round, with its events on record.\n")
    }

    fn abilities(&self, text: &mut String) -> fmt::Result {
        let verifiers: Vec<_> =
            self.findings.iter().filter(|found| found.kind.verifies()).collect();
        write!(text, "## What each can do\n\nTried before anything is measured.\n\n|  |")?;
        for found in &verifiers {
            write!(text, " {} |", found.kind.word())?;
        }
        writeln!(text, "\n| --- |{}", " :---: |".repeat(verifiers.len()))?;
        for trial in Trial::ALL {
            write!(text, "| {} |", trial.title())?;
            for found in &verifiers {
                write!(text, " {} |", if found.can(trial) { "✓" } else { "✗" })?;
            }
            writeln!(text)?;
        }
        writeln!(text)
    }

    fn spread(
        &self,
        scenario: Scenario,
        kind: Kind,
        get: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        spread(self.samples.get(&(scenario, kind))?.iter().map(get))
    }

    /// Sealgate's cost over another's, round by round.
    fn ratio(&self, scenario: Scenario, to: Kind) -> Option<Spread> {
        let own = self.samples.get(&(scenario, Kind::Sealgate))?;
        let others = self.samples.get(&(scenario, to))?;
        spread(own.iter().zip(others).map(|(own, other)| own.cost / other.cost))
    }

    /// The verifying peer with the least cost.
    fn best(&self, scenario: Scenario) -> Option<Kind> {
        let cost = |kind: Kind| self.spread(scenario, kind, |sample| sample.cost);
        self.kinds()
            .filter(|kind| kind.verifies() && *kind != Kind::Sealgate)
            .filter_map(|kind| Some((kind, cost(kind)?.median)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(kind, _)| kind)
    }

    fn targets(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "## Targets\n")?;
        writeln!(text, "| what | at most | measured (least – greatest) | met |")?;
        writeln!(text, "| --- | ---: | ---: | :---: |")?;
        for Target { what, at_most, unit, measured } in self.list() {
            let (value, met) = match measured {
                Some(Spread { median, least, greatest }) => {
                    let digits = if unit.is_empty() { 2 } else { 1 };
                    let range = if least == greatest {
                        String::new()
                    } else {
                        format!(" ({least:.digits$} – {greatest:.digits$})")
                    };
                    let met = if median <= at_most { "yes" } else { "**no**" };
                    (format!("{median:.digits$}{unit}{range}"), met)
                }
                None => ("not measured here".to_owned(), "–"),
            };
            writeln!(text, "| {what} | {at_most}{unit} | {value} | {met} |")?;
        }
        writeln!(
            text,
            "\nRatios are of processor time per request, sealgate to the other, round by round; the \
             median counts. That events on record, routes and group keys do not slow a request down is \
             measured by parts: `cargo bench`.\n"
        )
    }

    fn list(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut add = |what: String, at_most: f64, unit, measured| {
            targets.push(Target { what, at_most, unit, measured });
        };
        let ratio = |scenario, to| self.ratio(scenario, to);
        let best = |scenario| {
            let kind = self.best(scenario);
            let name = kind.map_or("none here", Kind::word);
            (kind.and_then(|kind| self.ratio(scenario, kind)), name)
        };
        for scenario in [Scenario::Small16, Scenario::Small128] {
            let title = scenario.title();
            add(format!("{title}, to bare hyper"), 1.12, "", ratio(scenario, Kind::Bare));
            add(
                format!("{title}, to nginx that verifies nothing (stretch)"),
                1.0,
                "",
                ratio(scenario, Kind::Nginx),
            );
            let (measured, name) = best(scenario);
            add(format!("{title}, to the best verifying peer ({name})"), 0.60, "", measured);
        }
        let large = Scenario::Large16;
        add("64 KiB, to bare hyper + SHA-256".to_owned(), 1.05, "", ratio(large, Kind::BareHash));
        let (measured, name) = best(large);
        add(format!("64 KiB, to the best verifying peer ({name})"), 0.75, "", measured);
        let new = Scenario::NewConnections;
        add("new TLS connection each, to bare hyper".to_owned(), 1.08, "", ratio(new, Kind::Bare));
        let (measured, name) = best(Scenario::Refused);
        add(format!("refused, to the best verifying peer ({name})"), 0.45, "", measured);
        let (measured, name) = best(Scenario::Steady);
        add(format!("2,000 requests/s, to the best verifying peer ({name})"), 0.75, "", measured);
        add(
            "2,000 requests/s, p99 over the bare proxy's".to_owned(),
            0.3,
            " ms",
            self.p99_over_bare(),
        );

        let single = |value: f64| Some(Spread { median: value, least: value, greatest: value });
        let mib = |kib: f64| kib / 1024.0;
        let extras = self.extras;
        let two_workers = extras.workers.and_then(|(one, two)| single(two / one));
        add(
            "processor time per request with two workers, to one worker".to_owned(),
            1.11,
            "",
            two_workers,
        );
        add(
            "memory, idle".to_owned(),
            20.0,
            " MiB",
            extras.idle.and_then(|kib| single(mib(kib as f64))),
        );
        let held = extras.held.map_or(10_000, |(count, _)| count);
        add(
            format!("memory an idle TLS connection, {held} held"),
            30.0,
            " KiB",
            extras.held.and_then(|(_, each)| single(each)),
        );
        add(
            "memory with 1,000,000 events".to_owned(),
            400.0,
            " MiB",
            extras.full.and_then(|(_, kib)| single(mib(kib as f64))),
        );
        add("start to ready, 1,000 routes".to_owned(), 50.0, " ms", extras.ready.and_then(single));
        targets
    }

    fn p99_over_bare(&self) -> Option<Spread> {
        let own = self.samples.get(&(Scenario::Steady, Kind::Sealgate))?;
        let bare = self.samples.get(&(Scenario::Steady, Kind::Bare))?;
        spread(own.iter().zip(bare).map(|(own, bare)| own.latency[1] - bare.latency[1]))
    }
}

fn versions() -> String {
    let first = |command: &str, argument: &str| {
        let output = Command::new(command).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        Some(line.replace("nginx version: ", "").split(" 20").next()?.to_owned())
    };
    let all = [("nginx", "-v"), ("haproxy", "-v"), ("rustc", "--version")];
    all.iter()
        .filter_map(|(command, argument)| first(command, argument))
        .collect::<Vec<_>>()
        .join(", ")
}

const INTRODUCTION: &str = "
What verification costs, measured beside a proxy of the same crates that verifies nothing, and beside
nginx and HAProxy from Debian with and without verification. This page is written by the command that
measures, except for its last section, which says what is missed and why.
";

const METHOD: &str = "
- All on loopback of one machine: the proxy on core 0, senders and upstream in one thread on core 1. TLS 1.3
  (X25519, AES-128-GCM, P-256 certificate, full handshakes) in, plain HTTP keep-alive out. One worker or
  thread for each proxy.
- Every request is a Vivoldi event of its own, signed before the measurement begins. The upstream answers
  each at once with three bytes.
- Processor time is user and system time of all the proxy's processes, as the scheduler counts it.
- In each round all peers are started anew, and each scenario goes through all of them in turns.
- In the open loop, requests are due at random times (a Poisson process, the same for all) and latency
  counts from when a request was due, also while it waits for a free connection.
- Nobody writes a line per request: `access_log off`, no `log` in HAProxy, `--log-level error`.
- The bare proxy (`benches/peers/src/bare.rs`) has sealgate's threads, allocator, TLS settings and limits
  of HTTP; towards the upstream it has hyper's client. It streams bodies, knows no deadlines, counts nothing.
- The Lua (`benches/peers/conf/verify.lua`) and the HAProxy rules (`conf/haproxy-verify.cfg`) do what a
  careful user would write: strict parsing, constant-time comparison, time window, replay table. They do
  without what is marked ✗ above, and without metrics.
- One machine's noise: the same binary against itself comes out up to 15 % apart in single rounds. That is
  why the rounds alternate and medians count.
";
