//! How long requests wait for the stores.

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::number::SECONDS;

/// The durations of the operations of a replay store that requests wait for.
#[derive(Clone, Debug)]
pub struct ReplayStoreDurations {
    /// Claiming an event.
    pub claim: Histogram,
    /// Recording a success before the sender gets it.
    pub done: Histogram,
}

/// The durations of the operations of the event store.
#[derive(Clone, Debug)]
pub struct EventStoreDurations {
    /// Storing an event before the sender gets its success status.
    pub accept: Histogram,
    /// Taking events that are due.
    pub take: Histogram,
    /// Recording the result of an attempt.
    pub settle: Histogram,
}

impl ReplayStoreDurations {
    /// Returns the durations of the store `store`.
    pub(super) fn of(all: &HistogramVec, store: &str) -> Self {
        let of = |operation: &str| all.with_label_values(&[store, operation]);
        ReplayStoreDurations { claim: of("claim"), done: of("done") }
    }
}

impl EventStoreDurations {
    /// Registers the durations of the event store.
    ///
    /// # Errors
    /// If this is called twice for a registry.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let all = histograms(
            "sealgate_events_store_duration_seconds",
            "Duration of the event store's operations.",
            &["operation"],
        )?;
        registry.register(Box::new(all.clone()))?;
        let of = |operation: &str| all.with_label_values(&[operation]);
        Ok(EventStoreDurations { accept: of("accept"), take: of("take"), settle: of("settle") })
    }
}

/// Returns a histogram of durations for each combination of labels.
pub(super) fn histograms(
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)
}

/// Waits for an operation of a store, and adds how long it took to `durations`.
pub async fn timed<T>(durations: &Histogram, operation: impl Future<Output = T>) -> T {
    let timer = durations.start_timer();
    let result = operation.await;
    timer.observe_duration();
    result
}
