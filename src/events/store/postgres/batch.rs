//! Operations that arrive together, grouped into one statement. While a statement is on its way to
//! the disk, further operations gather for the next one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::events::store::StoreError;

/// The most operations of a statement.
const MOST: usize = 64;

/// The most bytes of the operations of a statement, unless one alone has more.
const MOST_BYTES: usize = 1 << 20;

/// How long before the deadline of its callers a statement gives up.
const MARGIN: Duration = Duration::from_millis(20);

/// The number of statements of a kind that are on their way concurrently.
const WRITERS: usize = 2;

/// An operation that waits for its result.
pub(super) struct BatchItem<I, O> {
    pub(super) item: I,
    bytes: usize,
    pub(super) until: Instant,
    result: oneshot::Sender<Result<O, StoreError>>,
}

impl<I, O> BatchItem<I, O> {
    /// Passes the result on, if anyone still waits for it.
    pub(super) fn finish(self, result: Result<O, StoreError>) {
        drop(self.result.send(result));
    }
}

/// Returns when a statement has to end: before the last of its callers gives up, so that the reason
/// becomes known.
pub(super) fn latest<I, O>(batch: &[BatchItem<I, O>]) -> Option<Instant> {
    let last = batch.iter().map(|queued| queued.until).max()?;
    last.checked_sub(MARGIN)
}

/// The operations of one kind that wait.
pub(super) struct Batches<I, O> {
    state: Mutex<BatchState<I, O>>,
    /// Statements outlive the callers and their threads.
    runtime: Handle,
}

struct BatchState<I, O> {
    queued: Vec<BatchItem<I, O>>,
    writers: usize,
}

impl<I: Send + 'static, O: Send + 'static> Batches<I, O> {
    /// Creates an empty batch. Must be called inside the runtime in which the statements run.
    pub(super) fn new() -> Arc<Self> {
        let state = Mutex::new(BatchState { queued: Vec::new(), writers: 0 });
        Arc::new(Batches { state, runtime: Handle::current() })
    }

    fn state(&self) -> MutexGuard<'_, BatchState<I, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an operation of so many bytes to the next statement, and returns its result at `until`
    /// at the latest. `write` runs one statement, and finishes each operation in it.
    pub(super) async fn run<W, F>(
        self: &Arc<Self>,
        (item, bytes): (I, usize),
        until: Instant,
        write: W,
    ) -> Result<O, StoreError>
    where
        W: Fn(Vec<BatchItem<I, O>>) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let (result, receiver) = oneshot::channel();
        let starts = {
            let mut state = self.state();
            state.queued.push(BatchItem { item, bytes, until, result });
            let starts = state.writers < WRITERS;
            state.writers += usize::from(starts);
            starts
        };
        if starts {
            let mut writer = BatchWriter { batches: Arc::clone(self), is_active: true };
            self.runtime.spawn(async move {
                while let Some(batch) = writer.next() {
                    write(batch).await;
                }
            });
        }
        match timeout_at(until, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unavailable("the process ends".into())),
            Err(_) => Err(StoreError::Unavailable("no reply in time".into())),
        }
    }
}

/// One of the tasks that run the statements.
struct BatchWriter<I: Send + 'static, O: Send + 'static> {
    batches: Arc<Batches<I, O>>,
    is_active: bool,
}

impl<I: Send + 'static, O: Send + 'static> BatchWriter<I, O> {
    /// Returns the operations of the next statement, the oldest first. If none waits, the task is
    /// counted as ended in the same step, so that the next operation starts another one.
    fn next(&mut self) -> Option<Vec<BatchItem<I, O>>> {
        let mut state = self.batches.state();
        // Their callers have stopped waiting.
        state.queued.retain(|queued| !queued.result.is_closed());
        let mut bytes = 0;
        let fits = |queued: &&BatchItem<I, O>| {
            bytes += queued.bytes;
            bytes <= MOST_BYTES
        };
        let count = state.queued.iter().take(MOST).take_while(fits).count();
        let count = count.max(1).min(state.queued.len());
        if count == 0 {
            state.writers -= 1;
            self.is_active = false;
            return None;
        }
        let batch = state.queued.drain(..count).collect();
        Some(batch)
    }
}

impl<I: Send + 'static, O: Send + 'static> Drop for BatchWriter<I, O> {
    fn drop(&mut self) {
        if self.is_active {
            self.batches.state().writers -= 1;
        }
    }
}
