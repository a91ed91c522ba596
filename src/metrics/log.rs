//! Log lines that are not written. The log exists once per process, and so do their counters.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, Opts};

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
