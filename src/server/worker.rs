//! Worker threads: one single-threaded runtime each, so that a request never changes threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use prometheus::IntGauge;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::AbortHandle,
};

/// A thread with a runtime. Dropping it ends both.
pub(super) struct Worker {
    handle: WorkerHandle,
    _stop: oneshot::Sender<()>,
}

/// A reference to a worker, for listeners.
#[derive(Clone)]
pub(super) struct WorkerHandle {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place in the counts of its worker and listener, given up when dropped.
pub(super) struct ConnectionCount {
    connections: Arc<AtomicUsize>,
    gauge: IntGauge,
}

impl Worker {
    /// Starts a worker.
    ///
    /// # Errors
    /// Those of creating a runtime or a thread.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("sealgate-worker".to_owned()).spawn(move || {
            // The error of a dropped sender is the signal.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        let handle = WorkerHandle { runtime: handle, connections: Arc::default() };
        Ok(Worker { handle, _stop: stop })
    }

    /// Returns a reference to the worker.
    pub(super) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }
}

impl WorkerHandle {
    /// Returns the worker with the fewest connections.
    pub(super) fn least_loaded(workers: &[WorkerHandle]) -> Option<&WorkerHandle> {
        workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
    }

    /// Counts a connection on this worker and in `gauge`.
    pub(super) fn count(&self, gauge: &IntGauge) -> ConnectionCount {
        self.connections.fetch_add(1, Ordering::Relaxed);
        gauge.inc();
        ConnectionCount { connections: Arc::clone(&self.connections), gauge: gauge.clone() }
    }

    /// Spawns a task on the worker.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }
}

/// A check of whether the workers run.
pub struct Liveness(Vec<WorkerHandle>);

impl Liveness {
    pub(super) fn new(workers: Vec<WorkerHandle>) -> Self {
        Liveness(workers)
    }

    /// Returns when every worker has run a task; never if one is stuck.
    pub async fn check(&self) {
        for worker in &self.0 {
            // The only error is that the task was aborted, because the gateway ends.
            let _ = worker.runtime.spawn(async {}).await;
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}
