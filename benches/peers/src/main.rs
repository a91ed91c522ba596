//! Compares sealgate with the proxies that a user would choose instead. `benches/peers/run` builds
//! and starts this program; `docs/performance.md` has the results.

mod bare;
mod check;
mod delivery;
mod engine;
mod events;
mod extras;
mod http1;
mod load;
mod peer;
mod plot;
mod procs;
mod report;
mod scenario;
mod sender;
mod stats;
mod upstream;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail, ensure};
use mimalloc::MiMalloc;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    check::{Findings, Trial},
    engine::Engine,
    peer::{Kind, Setting},
    scenario::{Pace, Scenario},
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const USAGE: &str = "\
usage: peers compare SEALGATE [--short] [--rounds N] [--seconds S] [--only PEER,…] [--out DIR]
       peers deliveries SEALGATE [--short]           only the delivery modes of sealgate
       peers hold SEALGATE PEER SCENARIO SECONDS     load on one peer, for a profiler
       peers bare LISTEN UPSTREAM CERT KEY stream|hash WORKERS
peers:     sealgate bare bare+sha256 nginx haproxy nginx+lua haproxy+verify haproxy+verify-128k
scenarios: 1k-16 1k-128 64k-16 new-tls rejected steady";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["compare", sealgate, rest @ ..] => compare(sealgate, rest),
        ["deliveries", sealgate] => deliveries(sealgate, false),
        ["deliveries", sealgate, "--short"] => deliveries(sealgate, true),
        ["hold", sealgate, peer, scenario, seconds] => hold(sealgate, peer, scenario, seconds),
        ["bare", listen, upstream, cert, key, body, workers] => {
            bare(listen, upstream, [cert, key], body, workers)
        }
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bare(
    listen: &str,
    upstream: &str,
    [cert, key]: [&str; 2],
    body: &str,
    workers: &str,
) -> anyhow::Result<()> {
    bare::run(&bare::Options {
        listen: listen.parse()?,
        upstream: upstream.parse()?,
        cert: cert.to_owned(),
        key: key.to_owned(),
        hash: body == "hash",
        workers: workers.parse()?,
    })
}

/// Moves senders and upstream to the second core and prepares the directory and the settings of the
/// peers.
fn set_up(sealgate: &str) -> anyhow::Result<(Engine, Setting)> {
    let allowed = sched_getaffinity(None)?;
    ensure!(allowed.is_set(0) && allowed.is_set(1), "cores 0 and 1 are needed");
    let mut second = CpuSet::new();
    second.set(1);
    sched_setaffinity(None, &second)?;
    let engine = Engine::new(sender::client_config()?)?;
    let setting = Setting {
        dir: std::env::temp_dir().join(format!("sealgate-peers-{}", std::process::id())),
        sealgate: fs::canonicalize(sealgate).with_context(|| sealgate.to_owned())?,
        upstream: engine.address()?,
    };
    setting.prepare()?;
    Ok((engine, setting))
}

fn deliveries(sealgate: &str, short: bool) -> anyhow::Result<()> {
    let (mut engine, setting) = set_up(sealgate)?;
    delivery::measure(&mut engine, &setting, short)?;
    Ok(fs::remove_dir_all(&setting.dir)?)
}

fn hold(sealgate: &str, peer: &str, scenario: &str, seconds: &str) -> anyhow::Result<()> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == peer).context("no such peer")?;
    let scenario =
        Scenario::ALL.into_iter().find(|s| s.word() == scenario).context("no such scenario")?;
    let (mut engine, setting) = set_up(sealgate)?;
    let started = setting.start(kind)?;
    println!("{} {:?}", kind.word(), started.pids);
    let measured = Duration::from_secs_f64(seconds.parse()?);
    let pace = Pace { warm_up: Duration::from_millis(300), measured };
    let sample = scenario::measure(&mut engine, &started, scenario, pace)?;
    println!("{sample:?}\n{} requests forwarded in all", engine.upstream.seen);
    drop(started);
    Ok(fs::remove_dir_all(&setting.dir)?)
}

fn compare(sealgate: &str, options: &[&str]) -> anyhow::Result<()> {
    let (mut short, mut rounds, mut seconds, mut only, mut out) = (false, None, None, None, None);
    let mut command = "benches/peers/run".to_owned();
    for option in options.iter().filter(|option| !matches!(**option, "--out" | "docs" | "target")) {
        command = format!("{command} {option}");
    }
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().with_context(|| format!("{option} needs a value"));
        match *option {
            "--short" => short = true,
            "--rounds" => rounds = Some(value()?.parse::<usize>()?),
            "--seconds" => seconds = Some(value()?.parse::<f64>()?),
            "--only" => only = Some(value()?.split(',').collect::<Vec<_>>()),
            "--out" => out = Some(PathBuf::from(value()?)),
            _ => bail!("{option}?\n{USAGE}"),
        }
    }
    let rounds = rounds.unwrap_or(if short { 2 } else { 10 });
    let seconds = seconds.unwrap_or(if short { 0.5 } else { 2.0 });
    let pace = Pace {
        warm_up: Duration::from_secs_f64(if short { 0.2 } else { 0.4 }),
        measured: Duration::from_secs_f64(seconds),
    };

    let (mut engine, setting) = set_up(sealgate)?;
    let result = (|| {
        let findings = find(&mut engine, &setting, only.as_deref())?;
        let samples =
            scenario::rounds(&mut engine, &setting, &findings, &Scenario::ALL, rounds, pace)?;
        let extras = extras::measure(&mut engine, &setting, short)?;
        let deliveries = delivery::measure(&mut engine, &setting, short)?;
        let report = report::Report {
            findings: &findings,
            samples: &samples,
            extras: &extras,
            deliveries: &deliveries,
            rounds,
            seconds,
            command: &command,
        };
        let page = out.as_ref().map(|out| out.join("performance.md"));
        let before = page.as_ref().and_then(|page| fs::read_to_string(page).ok());
        let text = report.render(before.as_deref().unwrap_or_default());
        println!("{text}");
        if let (Some(out), Some(page)) = (out, page) {
            fs::create_dir_all(&out)?;
            fs::write(page, text)?;
            fs::write(out.join("performance.svg"), plot::draw(&samples))?;
        }
        Ok(())
    })();
    if result.is_ok() {
        fs::remove_dir_all(&setting.dir)?;
    } else {
        eprintln!("peers: configurations and logs are in {}", setting.dir.display());
    }
    result
}

/// Checks every peer that is installed and selected. A peer that does not verify ends the
/// comparison.
fn find(
    engine: &mut Engine,
    setting: &Setting,
    only: Option<&[&str]>,
) -> anyhow::Result<Vec<Findings>> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if only.is_some_and(|only| !only.contains(&kind.word())) {
            continue;
        }
        if let Some(missing) = kind.missing() {
            eprintln!("{}: skipped, {missing} is not installed", kind.word());
            continue;
        }
        let peer = setting.start(kind)?;
        let findings = check::check(engine, kind, &peer);
        for trial in Trial::ALL.into_iter().filter(|_| kind.verifies()) {
            let mark = if findings.can(trial) { "✓" } else { "✗" };
            eprintln!("{:<20} {mark} {}", kind.word(), trial.title());
        }
        ensure!(
            findings.is_sound(),
            "{} lacks a capability that the comparison needs",
            kind.word()
        );
        all.push(findings);
    }
    Ok(all)
}
