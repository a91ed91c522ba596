//! What is kept about events that are not delivered from the store: those that the handler accepted
//! synchronously, and rejected requests. It is written in batches after the response, best effort:
//! what does not fit into the queue is dropped, and nothing waits for it.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    model::{EventEntry, StoredRequest},
    service::EventService,
};

/// How long entries are collected before they are written.
const COLLECTING: Duration = Duration::from_millis(100);
/// The most entries that wait to be written.
const MAX_ENTRIES: usize = 10_000;
/// The most bytes of bodies that wait to be written.
const MAX_BYTES: usize = 16 << 20;
/// The most rejected requests in a second, and after a quiet period.
const REFUSED: f64 = 20.0;

/// The entries that wait to be written.
#[derive(Debug, Default)]
pub(super) struct HistoryQueue {
    waiting: Mutex<HistoryBatch>,
    added: Notify,
}

#[derive(Debug)]
struct HistoryBatch {
    entries: Vec<(EventEntry, Option<StoredRequest>)>,
    bytes: usize,
    dropped: u64,
    /// How many rejected requests may be kept, as of `counted`.
    allowance: f64,
    counted: Instant,
}

impl Default for HistoryBatch {
    fn default() -> Self {
        let counted = Instant::now();
        HistoryBatch { entries: Vec::new(), bytes: 0, dropped: 0, allowance: REFUSED, counted }
    }
}

impl HistoryQueue {
    fn lock(&self) -> MutexGuard<'_, HistoryBatch> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry, with its request if that is kept.
    pub(super) fn add(&self, entry: EventEntry, request: Option<StoredRequest>) {
        let mut waiting = self.lock();
        let bytes = request.as_ref().map_or(0, |request| request.body.len());
        if waiting.entries.len() >= MAX_ENTRIES || waiting.bytes + bytes > MAX_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += bytes;
        waiting.entries.push((entry, request));
        if waiting.entries.len() == 1 {
            self.added.notify_one();
        }
    }

    /// Returns whether another rejected request may be kept now. If not, nothing of it is kept.
    pub(super) fn admits_refusal(&self) -> bool {
        let (mut waiting, now) = (self.lock(), Instant::now());
        let earned = now.saturating_duration_since(waiting.counted).as_secs_f64() * REFUSED;
        waiting.allowance = (waiting.allowance + earned).min(REFUSED);
        waiting.counted = now;
        let admits = waiting.allowance >= 1.0;
        if admits {
            waiting.allowance -= 1.0;
        }
        admits
    }

    /// Writes batches; never returns.
    pub(super) async fn write_batches(&self, service: &EventService) {
        loop {
            self.added.notified().await;
            tokio::time::sleep(COLLECTING).await;
            self.write(service).await;
        }
    }

    /// Writes what waits.
    pub(super) async fn write(&self, service: &EventService) {
        let (entries, dropped) = {
            let mut waiting = self.lock();
            waiting.bytes = 0;
            (mem::take(&mut waiting.entries), mem::take(&mut waiting.dropped))
        };
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "the history has gaps: events arrive faster than it is written"
            );
        }
        if entries.is_empty() {
            return;
        }
        if service.has_readers() {
            entries.iter().for_each(|(entry, _)| service.publish(entry));
        }
        let count = entries.len();
        if let Err(error) = service.store().record(entries).await {
            tracing::warn!(count, %error, "the history has gaps: the event store failed");
        }
    }
}
