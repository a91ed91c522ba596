//! Whether a database can be written.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntGauge;

use super::DatabaseKind;

/// A store that has not finished a write within this time is down.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the files: they are up while writes finish in time and without an error.
#[derive(Debug)]
pub(crate) struct DiskHealth {
    kind: DatabaseKind,
    path: PathBuf,
    start: Instant,
    failed: AtomicBool,
    /// When the current write started, in milliseconds after `start`, plus one; 0 without a write.
    write_started: AtomicU64,
    /// What the gauge and the log say.
    reported: Mutex<Reported>,
}

#[derive(Debug)]
struct Reported {
    up: bool,
    gauge: IntGauge,
}

impl DiskHealth {
    pub(crate) fn new(kind: DatabaseKind, path: PathBuf, gauge: IntGauge) -> Self {
        gauge.set(1);
        DiskHealth {
            kind,
            path,
            start: Instant::now(),
            failed: AtomicBool::new(false),
            write_started: AtomicU64::new(0),
            reported: Mutex::new(Reported { up: true, gauge }),
        }
    }

    /// Returns whether the last write succeeded and the current one is not late.
    pub(crate) fn is_up(&self) -> bool {
        !self.failed.load(Ordering::Relaxed) && !self.hangs()
    }

    fn hangs(&self) -> bool {
        let started = self.write_started.load(Ordering::Relaxed);
        started != 0 && self.elapsed() > started + millis(WRITE_TIMEOUT)
    }

    pub(crate) fn write_starts(&self) {
        self.write_started.store(self.elapsed(), Ordering::Relaxed);
    }

    /// Notes the end of a write, with its error if it failed.
    pub(crate) fn write_ended(&self, error: Option<String>) {
        self.failed.store(error.is_some(), Ordering::Relaxed);
        self.write_started.store(0, Ordering::Relaxed);
        self.report(error.unwrap_or_default());
    }

    /// Updates gauge and log. A write that hangs cannot do this itself, so it also happens once a
    /// second.
    pub(crate) fn check(&self) {
        if self.hangs() {
            self.report(format!("a write has not finished within {WRITE_TIMEOUT:?}"));
        }
    }

    fn report(&self, error: String) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let up = self.is_up();
        if reported.up == up {
            return;
        }
        reported.up = up;
        reported.gauge.set(i64::from(up));
        let path = self.path.display();
        if up {
            tracing::info!(%path, "the {} can be written again", self.kind.name);
        } else {
            tracing::error!(%path, error, "the {} cannot be written", self.kind.name);
        }
    }

    /// Milliseconds since the start, plus one.
    fn elapsed(&self) -> u64 {
        millis(self.start.elapsed()) + 1
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1)
}
