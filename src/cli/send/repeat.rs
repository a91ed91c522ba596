//! `send --repeat`: sends many events one after the other, and reports response times.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::time::{MissedTickBehavior, interval};

/// The interval between updates of the progress bar.
const PICTURE: Duration = Duration::from_millis(100);

/// The results of the events that were sent.
#[derive(Default)]
pub(super) struct Tally {
    statuses: BTreeMap<u16, u64>,
    took: Vec<Duration>,
}

impl Tally {
    /// Records one response.
    fn note(&mut self, status: StatusCode, took: Duration) {
        *self.statuses.entry(status.as_u16()).or_default() += 1;
        self.took.push(took);
    }

    /// Returns whether every response was a 2xx.
    pub(super) fn is_success(&self) -> bool {
        self.statuses.keys().all(|status| (200..300).contains(status))
    }

    /// Formats the counts by status and the response times.
    pub(super) fn summary(mut self) -> String {
        self.took.sort_unstable();
        let counts: Vec<_> = self.statuses.iter().map(|(s, n)| format!("{s}: {n}")).collect();
        let at = |permille: usize| {
            let last = self.took.len().saturating_sub(1);
            let found = self.took.get((self.took.len() * permille / 1000).min(last));
            found.map_or(0.0, |took| took.as_secs_f64() * 1000.0)
        };
        format!(
            "{} sent  {}\np50 {:.1} ms  p90 {:.1} ms  p99 {:.1} ms  max {:.1} ms\n",
            self.took.len(),
            counts.join("  "),
            at(500),
            at(900),
            at(990),
            at(1000)
        )
    }
}

/// Calls `send` for each of `count` events, at most `rate` times per second. The progress bar
/// appears only on a terminal.
///
/// # Errors
/// The first error of `send`.
pub(super) async fn repeat(
    count: u64,
    rate: Option<u32>,
    mut send: impl AsyncFnMut() -> anyhow::Result<StatusCode>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut pace = rate.map(|rate| interval(Duration::from_secs(1) / rate.max(1)));
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let shown = stderr().is_terminal();
    let mut drawn: Option<Instant> = None;
    for done in 1..=count {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let began = Instant::now();
        let status = send().await?;
        tally.note(status, began.elapsed());
        if shown && (done == count || drawn.is_none_or(|at| at.elapsed() > PICTURE)) {
            let filled = usize::try_from(done * 40 / count).unwrap_or(40);
            let end = if done == count { "\n" } else { "" };
            let mut stderr = stderr();
            write!(stderr, "\r[{:<40}] {done}/{count}{end}", "=".repeat(filled))?;
            stderr.flush()?;
            drawn = Some(Instant::now());
        }
    }
    Ok(tally)
}
