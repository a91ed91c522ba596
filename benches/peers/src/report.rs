//! The report: capabilities and costs of each peer, and every target with its measured value.

use std::{
    fmt::{self, Write},
    fs,
    process::Command,
};

use crate::{
    check::{Findings, Trial},
    delivery::Deliveries,
    extras::Extras,
    load::Sample,
    peer::Kind,
    scenario::{Samples, Scenario},
    stats::{Spread, spread},
};

/// Results of one comparison.
pub(crate) struct Report<'a> {
    pub(crate) findings: &'a [Findings],
    pub(crate) samples: &'a Samples,
    pub(crate) extras: &'a Extras,
    pub(crate) deliveries: &'a Deliveries,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// Command line that measured them.
    pub(crate) command: &'a str,
}

/// Headings of the sections that are written by hand, with the heading that ends each of them.
const BY_HAND: [(&str, Option<&str>); 2] =
    [("\n## Other measurements\n", Some("\n## Targets\n")), ("\n### Missed targets\n", None)];

/// Returns the sections of `page` that are written by hand.
fn by_hand(page: &str) -> [&str; 2] {
    BY_HAND.map(|(from, to)| {
        let section = page.find(from).map_or("", |at| &page[at..]);
        let end = to.and_then(|to| section.find(to)).unwrap_or(section.len());
        section[..end].trim_start_matches('\n')
    })
}

/// A target and its measured value.
struct Target {
    what: String,
    at_most: f64,
    unit: &'static str,
    measured: Option<Spread>,
}

impl Report<'_> {
    /// Returns the report as Markdown, with the sections of `page` that are written by hand.
    pub(crate) fn render(&self, page: &str) -> String {
        let mut text = String::new();
        self.write(&mut text, by_hand(page)).expect("writing to a string cannot fail");
        text
    }

    fn write(&self, text: &mut String, [others, missed]: [&str; 2]) -> fmt::Result {
        writeln!(text, "# Performance\n\n{}\n", INTRODUCTION.trim())?;
        self.summary(text)?;
        writeln!(text, "![CPU time per request](performance.svg)\n")?;
        self.machine(text)?;
        self.abilities(text)?;
        self.costs(text)?;
        self.rates(text)?;
        self.latencies(text)?;
        self.deliveries(text)?;
        writeln!(text, "## Method\n\n{}\n", METHOD.trim())?;
        if !others.is_empty() {
            writeln!(text, "{}\n", others.trim_end())?;
        }
        self.targets(text)?;
        write!(text, "{missed}")
    }

    /// The figures that matter most when choosing a gateway.
    fn summary(&self, text: &mut String) -> fmt::Result {
        let small = Scenario::Small16;
        let own = |scenario, get: fn(&Sample) -> f64| {
            self.spread(scenario, Kind::Sealgate, get).map_or(f64::NAN, |spread| spread.median)
        };
        writeln!(
            text,
            "- A verified request with a body of 1 KiB costs {:.0} µs of CPU time:",
            own(small, |sample| sample.cost)
        )?;
        for peer in [self.best(small), Some(Kind::Nginx)].into_iter().flatten() {
            if let Some(ratio) = self.ratio(small, peer) {
                writeln!(text, "  - {:.2} times the cost of {}", ratio.median, peer.name())?;
            }
        }
        writeln!(
            text,
            "- One core forwards {:.0} such requests per second.",
            own(small, |sample| sample.rate)
        )?;
        writeln!(
            text,
            "- At 2,000 requests/s, the p99 latency is {:.2} ms.",
            own(Scenario::Steady, |sample| sample.latency[1])
        )?;
        let extras = self.extras;
        if let (Some(idle), Some((count, each))) = (extras.idle, extras.held) {
            writeln!(
                text,
                "- An idle gateway uses {:.1} MiB of memory. Each of {count} idle TLS connections adds \
                 {each:.1} KiB.",
                mib(idle)
            )?;
        }
        if let Some((_, full)) = extras.full {
            writeln!(
                text,
                "- A gateway with 1,000,000 events on record uses {:.1} MiB.",
                mib(full)
            )?;
        }
        if let Some(ready) = extras.ready {
            writeln!(
                text,
                "- A gateway with 1,000 routes is ready {ready:.1} ms after its start."
            )?;
        }
        writeln!(text)
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
            "Measured by `{}`:\n{} rounds of {} s per peer and scenario.\n{}, {cores} cores, \
             Linux {}.\n{}.\nTLS libraries: {}.\n",
            self.command,
            self.rounds,
            self.seconds,
            line("/proc/cpuinfo", "model name"),
            release.trim(),
            versions(),
            tls_libraries(),
        )
    }

    fn costs(&self, text: &mut String) -> fmt::Result {
        self.table(text, "CPU time per request, µs", 0, |sample| sample.cost)
    }

    fn rates(&self, text: &mut String) -> fmt::Result {
        self.table(text, "Requests per second on one core", 0, |sample| sample.rate)?;
        let share = |get: fn(&Sample) -> f64| {
            let busy =
                self.samples.iter().filter(|((scenario, _), _)| *scenario != Scenario::Steady);
            let shares = busy.flat_map(|(_, samples)| samples.iter().map(get));
            spread(shares.map(|share| share * 100.0))
        };
        if let (Some(load), Some(proxy)) = (share(|s| s.load_share), share(|s| s.proxy_share)) {
            writeln!(
                text,
                "The proxies used {:.0}% of their core (median; {:.0}% to {:.0}%), the senders and the upstream\n\
                 {:.0}% of theirs ({:.0}% to {:.0}%). Where the senders' share approaches 100%, the senders\n\
                 limit the rate, but not the CPU time per request.\n",
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
        write!(text, "## {title}\n\nMedians of all rounds.\n\n|  |")?;
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
        writeln!(
            text,
            "\nMemory is measured at the end of a round, with the events of the round on record.\n"
        )
    }

    fn deliveries(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "## Delivery modes of sealgate\n")?;
        writeln!(
            text,
            "1 KiB, 64 connections, the event store on disk. The time per event contains its delivery.\n"
        )?;
        writeln!(text, "|  | CPU time per event, µs | relative to `sync` |")?;
        writeln!(text, "| --- | ---: | ---: |")?;
        let modes = ["`sync`", "`fallback`, `history = \"metadata\"`", "`async`"];
        for (mode, name) in modes.into_iter().enumerate() {
            let cost = spread(self.deliveries.costs.iter().map(|costs| costs[mode]));
            let cost = cost.map_or(f64::NAN, |cost| cost.median);
            let ratio = self.relative_to_sync(mode).map_or(f64::NAN, |ratio| ratio.median);
            writeln!(text, "| {name} | {cost:.0} | {ratio:.2} |")?;
        }
        if let Some(rate) = spread(self.deliveries.rates.iter().copied()) {
            writeln!(
                text,
                "\nOn two cores, which the senders and the upstream share, `async` accepts and delivers\n\
                 {:.0} events per second.",
                rate.median
            )?;
        }
        if let Some((fsync, p99)) = self.deliveries.latency {
            writeln!(
                text,
                "At 2,000 events/s, the p99 latency of the acknowledgement is {p99:.1} ms; an fsync\n\
                 takes {fsync:.1} ms (median)."
            )?;
        }
        if let Some((count, share, delay)) = self.deliveries.drain {
            writeln!(
                text,
                "After {count} events have queued up, they are delivered at {:.0}% of the rate that the\n\
                 handler can process, and a new event is delivered within {delay:.0} ms.",
                share * 100.0
            )?;
        }
        writeln!(text)
    }

    /// Returns the CPU time per event of a delivery mode divided by that of `sync`, per round.
    fn relative_to_sync(&self, mode: usize) -> Option<Spread> {
        spread(self.deliveries.costs.iter().map(|costs| costs[mode] / costs[0]))
    }

    fn abilities(&self, text: &mut String) -> fmt::Result {
        let verifiers: Vec<_> =
            self.findings.iter().filter(|found| found.kind.verifies()).collect();
        write!(
            text,
            "## Capabilities\n\nThe command checks these before it measures anything.\n\n|  |"
        )?;
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

    /// Returns sealgate's cost divided by the other's, per round.
    fn ratio(&self, scenario: Scenario, to: Kind) -> Option<Spread> {
        let own = self.samples.get(&(scenario, Kind::Sealgate))?;
        let others = self.samples.get(&(scenario, to))?;
        spread(own.iter().zip(others).map(|(own, other)| own.cost / other.cost))
    }

    /// Returns the verifying peer with the lowest cost.
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
        writeln!(text, "| target | at most | measured (lowest – highest) | met |")?;
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
                    let met = if median <= at_most { "yes" } else { "no" };
                    (format!("{median:.digits$}{unit}{range}"), met)
                }
                None => ("not measured".to_owned(), "–"),
            };
            writeln!(text, "| {what} | {at_most}{unit} | {value} | {met} |")?;
        }
        writeln!(
            text,
            "\nRatios compare sealgate's CPU time per request with the peer's in the same round; the target \
             applies\nto their median.\n"
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
            let name = kind.map_or("none installed", Kind::word);
            (kind.and_then(|kind| self.ratio(scenario, kind)), name)
        };
        for (scenario, most) in [(Scenario::Small16, 1.20), (Scenario::Small128, 1.12)] {
            let title = scenario.title();
            add(format!("{title}: relative to bare hyper"), most, "", ratio(scenario, Kind::Bare));
            add(
                format!("{title}: relative to nginx without verification (stretch)"),
                1.0,
                "",
                ratio(scenario, Kind::Nginx),
            );
            let (measured, name) = best(scenario);
            add(
                format!("{title}: relative to the best verifying peer ({name})"),
                0.62,
                "",
                measured,
            );
        }
        let large = Scenario::Large16;
        add(
            "64 KiB: relative to bare hyper + SHA-256".to_owned(),
            1.05,
            "",
            ratio(large, Kind::BareHash),
        );
        let (measured, name) = best(large);
        add(format!("64 KiB: relative to the best verifying peer ({name})"), 0.75, "", measured);
        let new = Scenario::NewConnections;
        add(
            "new TLS connection per request: relative to bare hyper".to_owned(),
            1.10,
            "",
            ratio(new, Kind::Bare),
        );
        let (measured, name) = best(Scenario::Rejected);
        add(format!("rejected: relative to the best verifying peer ({name})"), 0.50, "", measured);
        add(
            "2,000 requests/s: relative to bare hyper".to_owned(),
            1.10,
            "",
            ratio(Scenario::Steady, Kind::Bare),
        );
        add(
            "2,000 requests/s: p99 above that of bare hyper".to_owned(),
            0.3,
            " ms",
            self.p99_over_bare(),
        );

        let single = |value: f64| Some(Spread { median: value, least: value, greatest: value });
        let extras = self.extras;
        let two_workers = extras.workers.and_then(|(one, two)| single(two / one));
        add(
            "CPU time per request with two workers: relative to one worker".to_owned(),
            1.11,
            "",
            two_workers,
        );
        add("memory, idle".to_owned(), 20.0, " MiB", extras.idle.and_then(|kib| single(mib(kib))));
        let held = extras.held.map_or(10_000, |(count, _)| count);
        add(
            format!("memory per idle TLS connection, with {held} of them"),
            30.0,
            " KiB",
            extras.held.and_then(|(_, each)| single(each)),
        );
        add(
            "memory with 1,000,000 events on record".to_owned(),
            400.0,
            " MiB",
            extras.full.and_then(|(_, kib)| single(mib(kib))),
        );
        add(
            "time from start to ready, 1,000 routes".to_owned(),
            50.0,
            " ms",
            extras.ready.and_then(single),
        );
        let deliveries = self.deliveries;
        add(
            "`async`: CPU time per event relative to `sync`".to_owned(),
            2.5,
            "",
            self.relative_to_sync(2),
        );
        add(
            "`fallback`, the handler is healthy: CPU time relative to `sync`".to_owned(),
            1.05,
            "",
            self.relative_to_sync(1),
        );
        add(
            "`async`, two cores: 10,000 events/s relative to the rate".to_owned(),
            1.0,
            "",
            spread(deliveries.rates.iter().map(|rate| 10_000.0 / rate)),
        );
        add(
            "`async`, 2,000 events/s: p99 above four fsyncs".to_owned(),
            5.0,
            " ms",
            deliveries.latency.and_then(|(fsync, p99)| single(p99 - 4.0 * fsync)),
        );
        add(
            "after an outage: capacity of the handler relative to the rate".to_owned(),
            1.25,
            "",
            deliveries.drain.and_then(|(_, share, _)| single(1.0 / share)),
        );
        add(
            "after an outage: delay of a new event".to_owned(),
            1000.0,
            " ms",
            deliveries.drain.and_then(|(.., delay)| single(delay)),
        );
        targets
    }

    fn p99_over_bare(&self) -> Option<Spread> {
        let own = self.samples.get(&(Scenario::Steady, Kind::Sealgate))?;
        let bare = self.samples.get(&(Scenario::Steady, Kind::Bare))?;
        spread(own.iter().zip(bare).map(|(own, bare)| own.latency[1] - bare.latency[1]))
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn versions() -> String {
    let first = |command: &str, argument: &str| {
        let output = Command::new(command).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        let line = line.replace("nginx version: ", "");
        Some(line.split(" 20").next()?.split(" (").next()?.to_owned())
    };
    let all = [("nginx", "-v"), ("haproxy", "-v"), ("rustc", "--version")];
    all.iter()
        .filter_map(|(command, argument)| first(command, argument))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns the TLS library of each peer that is installed.
fn tls_libraries() -> String {
    let lock = include_str!("../Cargo.lock");
    let aws_lc = lock.split_once("name = \"aws-lc-sys\"\nversion = \"");
    let version = aws_lc.and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    let mut all = vec![format!("AWS-LC of aws-lc-sys {version} (sealgate, bare)")];
    for (name, argument) in [("nginx", "-V"), ("haproxy", "-vv")] {
        let Ok(output) = Command::new(name).arg(argument).output() else { continue };
        let text = [output.stdout, output.stderr].concat();
        if let Some(library) = openssl(&String::from_utf8_lossy(&text)) {
            all.push(format!("{library} ({name})"));
        }
    }
    all.join(", ")
}

/// Returns the OpenSSL that a program runs with, by what it prints about itself.
fn openssl(text: &str) -> Option<String> {
    let marks = ["running with OpenSSL ", "Running on OpenSSL version : OpenSSL "];
    let found = marks.into_iter().find_map(|mark| text.split_once(mark));
    // nginx names one version if it runs with the one that it was built with.
    let (_, rest) = found.or_else(|| text.split_once("built with OpenSSL "))?;
    Some(format!("OpenSSL {}", rest.split_whitespace().next()?))
}

const INTRODUCTION: &str = "
This page shows what a request through sealgate costs. It compares sealgate with nginx and
HAProxy, each with and without verification, and with a minimal proxy (\"bare\") that is built from
the same crates and verifies nothing. `benches/peers/run` generates this page, except for the
sections *Other measurements* and *Missed targets*.
";

const METHOD: &str = "
- Everything runs on the loopback interface of one machine: the proxy on core 0, the senders and
  the upstream in one thread on core 1. Inbound connections use TLS 1.3 (X25519, AES-128-GCM,
  P-256 certificate, full handshakes); outbound connections are plain HTTP with keep-alive. Each
  proxy has one worker.
- Each request is a different Vivoldi event, signed before the measurement begins. The upstream
  responds immediately with three bytes.
- CPU time is the user and system time of all processes of the proxy, as accounted by the
  scheduler.
- All peers are restarted for each round, and each scenario measures them one after the other.
- In the open loop, requests are due at random times (a Poisson process, the same for all peers).
  Latency is counted from the time at which a request is due, including any wait for a connection.
- No peer writes a log line per request: `access_log off` for nginx, no `log` for HAProxy and
  `--log-level error` for sealgate.
- The bare proxy (`benches/peers/src/bare.rs`) has the same threads, allocator, TLS settings and
  HTTP limits as sealgate, and hyper's client towards the upstream. It streams bodies and has no
  deadlines and no metrics.
- The Lua code (`benches/peers/conf/verify.lua`) and the HAProxy rules (`conf/haproxy-verify.cfg`)
  contain what a careful user would write: strict parsing, constant-time comparison, a time window
  and a replay table. They lack the capabilities that are marked ✗ under *Capabilities*, and they
  have no metrics.
- nginx and HAProxy are the packages of Debian 12. sealgate has not been compared with HAProxy 3,
  whose source is in none of the package registries that the build uses.
- In single rounds, the same binary compared with itself differs by up to 15%. The rounds
  therefore alternate between the peers, and the page shows medians.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_sections_that_are_written_by_hand() {
        let page =
            "# P\n\n## Other measurements\n\na\n\n## Targets\n\nb\n\n### Missed targets\n\nc\n";
        assert_eq!(by_hand(page), ["## Other measurements\n\na\n", "### Missed targets\n\nc\n"]);
        assert_eq!(by_hand("# P\n"), ["", ""]);
    }

    #[test]
    fn names_the_openssl_that_a_peer_runs_with() {
        for (text, version) in [
            (
                "built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan)",
                "3.0.19",
            ),
            ("built with OpenSSL 3.0.22 25 Aug 2026\nTLS SNI", "3.0.22"),
            (
                "OpenSSL version : OpenSSL 3.0.22\nRunning on OpenSSL version : OpenSSL 3.0.19 27",
                "3.0.19",
            ),
        ] {
            assert_eq!(openssl(text), Some(format!("OpenSSL {version}")), "{text}");
        }
        assert_eq!(openssl("built with something else"), None);
    }
}
