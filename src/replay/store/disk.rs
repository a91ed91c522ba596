//! The store `disk`: records in files of this machine, written by a thread.
//!
//! Every record is also in memory ([`Claims`]), read when the store is opened; after that the files
//! are only written. Requests hand their record to the thread and wait; the thread writes whatever
//! is queued and makes it durable with one `fdatasync`, so all who wait share its cost. Records that
//! nobody waits for (a claim, a failure, the note that a response was written out) are queued too.
//!
//! A claim found in the files was in flight when the last process ended: its outcome is unknown.
//!
//! While the files cannot be written, because the disk is full or gone, nothing is lost: the newest
//! state of each record is kept, the files are opened again from time to time, and written as soon
//! as that succeeds.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use prometheus::IntGauge;
use tokio::sync::oneshot;

use self::{
    entry::Entry,
    files::Files,
    queue::{DiskOp, OnWritten, PendingWrite},
};
use crate::replay::{claims::Claims, clock::Millis, record::EventKey};

pub(crate) mod entry;
mod files;
pub(crate) mod journal;
pub(crate) mod queue;

/// The largest number of records that are made durable together.
const BATCH: usize = 4096;
/// The first and the longest interval between attempts to write a store that failed.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error(
        "the replay store at {} is held by another process: only one gateway at a time can use it",
        .0.display()
    )]
    Held(PathBuf),
    #[error("the replay store at {} cannot be used: {}", .0.display(), reason(.1))]
    Unusable(PathBuf, #[source] fjall::Error),
    #[error("the replay store at {} was written by another version of sealgate", .0.display())]
    Format(PathBuf),
    #[error("the thread of the replay store cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// fjall's own text for an I/O error is its `Debug` form.
fn reason(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Disk {
    ops: mpsc::Sender<DiskOp>,
    up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    pub(crate) broken: Arc<AtomicBool>,
}

impl Disk {
    /// Opens the files, reads every live record into `claims` and starts the thread.
    ///
    /// # Errors
    /// If another process holds the files, or they cannot be read or created.
    pub(crate) fn open(
        path: &Path,
        (ops, received): (mpsc::Sender<DiskOp>, mpsc::Receiver<DiskOp>),
        claims: &Arc<Claims>,
        now: Millis,
        up: IntGauge,
    ) -> Result<Self, DiskError> {
        let files = Files::open(path).map_err(|error| match error {
            fjall::Error::Locked => DiskError::Held(path.into()),
            error => DiskError::Unusable(path.into(), error),
        })?;
        files
            .load(claims, now, &ops)
            .map_err(|error| DiskError::Unusable(path.into(), error))?
            .ok_or_else(|| DiskError::Format(path.into()))?;
        up.set(1);
        let is_up = Arc::new(AtomicBool::new(true));
        #[cfg(test)]
        let broken = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            path: path.into(),
            files: Some(files),
            pending: HashMap::new(),
            claims: Arc::downgrade(claims),
            up: Arc::clone(&is_up),
            gauge: up,
            #[cfg(test)]
            broken: Arc::clone(&broken),
        };
        let thread = std::thread::Builder::new()
            .name("replay-disk".into())
            .spawn(move || writer.run(&received))?;
        Ok(Disk {
            ops,
            up: is_up,
            thread: Some(thread),
            #[cfg(test)]
            broken,
        })
    }

    /// Returns whether the last attempt to write succeeded.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Queues a record for the thread.
    pub(crate) fn put(&self, key: EventKey, entry: Entry, on_written: OnWritten) {
        self.send(DiskOp::Put { key, entry, on_written });
    }

    /// Queues a record and waits until it is durable; returns `false` if it cannot be written now.
    pub(crate) async fn put_durably(&self, key: EventKey, entry: Entry) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.put(key, entry, OnWritten::Notify(sender));
        receiver.await.is_ok()
    }

    /// Waits until everything queued so far is in the files.
    pub(crate) async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        self.send(DiskOp::Flush(sender));
        // An error means that the thread is gone, and then there is nothing to wait for.
        let _ = receiver.await;
    }

    /// Ends the thread as the end of the process does, and closes the files.
    #[cfg(test)]
    pub(crate) fn stop_for_test(&self) {
        self.send(DiskOp::Stop);
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
    }

    fn send(&self, op: DiskOp) {
        // An error means that the thread is gone: it ends only when this handle is dropped, or by a
        // panic, after which every waiter learns that its record is not durable.
        let _ = self.ops.send(op);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.send(DiskOp::Stop);
        if let Some(thread) = self.thread.take() {
            // An error is the thread's panic, which has been reported where it happened.
            let _ = thread.join();
        }
    }
}

struct Writer {
    path: PathBuf,
    /// `None` after a failure, until they can be opened again.
    files: Option<Files>,
    pending: HashMap<EventKey, PendingWrite>,
    claims: Weak<Claims>,
    up: Arc<AtomicBool>,
    gauge: IntGauge,
    #[cfg(test)]
    broken: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, ops: &mpsc::Receiver<DiskOp>) {
        let mut retry = RETRY[0];
        let mut flushes = Vec::new();
        loop {
            let first = if self.pending.is_empty() {
                ops.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                ops.recv_timeout(retry)
            };
            let mut stop = matches!(first, Err(RecvTimeoutError::Disconnected));
            for op in first.into_iter().chain(ops.try_iter().take(BATCH)) {
                match op {
                    DiskOp::Put { key, entry, on_written } => {
                        self.enqueue(key, Some(entry), on_written);
                    }
                    DiskOp::Forget(key) => self.enqueue(key, None, OnWritten::Nothing),
                    DiskOp::Flush(sender) => flushes.push(sender),
                    DiskOp::Stop => stop = true,
                }
            }
            match self.write_pending() {
                Ok(()) => {
                    self.set_up();
                    retry = RETRY[0];
                    // An error means that nobody waits for this flush any more.
                    for flush in flushes.drain(..) {
                        let _ = flush.send(());
                    }
                }
                Err(error) => {
                    self.set_down(&error);
                    retry = (retry * 2).min(RETRY[1]);
                }
            }
            if stop {
                return;
            }
        }
    }

    fn enqueue(&mut self, key: EventKey, entry: Option<Entry>, on_written: OnWritten) {
        let pending = self.pending.entry(key).or_default();
        pending.entry = entry;
        match on_written {
            OnWritten::Nothing => {}
            OnWritten::Notify(sender) => pending.waiting.push(sender),
            OnWritten::MarkStored => pending.mark_stored = true,
        }
    }

    /// Writes everything that is queued.
    fn write_pending(&mut self) -> fjall::Result<()> {
        #[cfg(test)]
        if self.broken.load(Ordering::Relaxed) {
            self.files = None;
            return Err(fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
        }
        let files = match self.files.take() {
            Some(files) => files,
            None => Files::open(&self.path)?,
        };
        files.write(&self.pending)?;
        self.files = Some(files);
        let claims = self.claims.upgrade();
        for (key, pending) in self.pending.drain() {
            for waiting in pending.waiting {
                // A request that stopped waiting has asked for the record to be written behind.
                let _ = waiting.send(());
            }
            if pending.mark_stored
                && let Some(claims) = &claims
            {
                claims.mark_stored(&key);
            }
        }
        Ok(())
    }

    fn set_up(&self) {
        if !self.up.swap(true, Ordering::Relaxed) {
            self.gauge.set(1);
            tracing::info!(path = %self.path.display(), "the replay store can be written again");
        }
    }

    fn set_down(&mut self, error: &fjall::Error) {
        if self.up.swap(false, Ordering::Relaxed) {
            self.gauge.set(0);
            tracing::error!(
                path = %self.path.display(),
                error = reason(error),
                "the replay store cannot be written"
            );
        }
        // Last, so that a request that learns of the failure finds it logged.
        self.pending.values_mut().for_each(|pending| pending.waiting.clear());
    }
}
