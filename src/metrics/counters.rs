//! Counters of what does not happen as usual: log lines that are not written, requests that are
//! shed, and spans. The log exists once per process, and so do the counters of its lines.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, Opts};

use crate::reject::Shed;

/// Why a log line is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DroppedLine {
    /// Its client has caused too many lines.
    Sampled,
    /// Standard error does not accept it.
    Failed,
}

static COUNTERS: LazyLock<(IntCounterVec, [IntCounter; 2])> = LazyLock::new(|| {
    let options =
        Opts::new("sealgate_log_dropped_total", "Log lines that were not written, by cause.");
    let vec = IntCounterVec::new(options, &["cause"]).expect("a valid name");
    let each = ["sampled", "failed"].map(|cause| vec.with_label_values(&[cause]));
    (vec, each)
});

impl DroppedLine {
    /// Counts lines that are not written.
    pub fn count(self, lines: u64) {
        COUNTERS.1[self as usize].inc_by(lines);
    }

    /// Returns the counters of the process.
    pub(super) fn counters() -> IntCounterVec {
        COUNTERS.0.clone()
    }
}

/// Counters of finished spans, by what happened to them.
#[derive(Clone, Debug)]
pub struct SpanCounters {
    /// The collector accepted them.
    pub exported: IntCounter,
    /// The collector did not accept them.
    pub failed: IntCounter,
    /// The queue was full.
    pub dropped: IntCounter,
}

/// Counters of what was shed, by cause.
#[derive(Clone, Debug)]
pub struct ShedCounters([IntCounter; Shed::ALL.len()]);

impl ShedCounters {
    pub(super) fn of(shed: &IntCounterVec) -> Self {
        ShedCounters(Shed::ALL.map(|cause| shed.with_label_values(&[cause.label()])))
    }

    /// Counts one.
    pub fn count(&self, cause: Shed) {
        self.0[cause as usize].inc();
    }
}
