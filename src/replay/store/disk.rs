//! The store `disk`: records in files of this machine, written by a thread.
//!
//! Every record is also in memory ([`Claims`]), read when the store is opened; after that the files
//! are only written. Requests queue their record and wait; the thread writes whatever is queued and
//! makes it durable with one `fdatasync`, so all who wait share its cost. Records that nobody waits
//! for (a claim, a failure, the note that a response was written out) are queued too.
//!
//! A claim found in the files was in flight when the last process ended: its outcome is unknown.
//!
//! While the files cannot be written, because the disk is full, gone or does not finish a write,
//! nothing is lost: the newest state of each record stays queued, the files are opened again from
//! time to time, and written as soon as that succeeds.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak, mpsc},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::sync::oneshot;

use self::{
    entry::Entry,
    files::{Files, KIND},
    queue::{OnWritten, Work, WriteQueue},
};
use crate::{
    database::{self, DiskError, DiskHealth},
    replay::{claims::Claims, clock::Millis, record::EventKey, sync::lock},
};

pub(crate) mod entry;
mod files;
pub(crate) mod queue;

/// The first and the longest interval between attempts to write a store that failed.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// How long the end of the process waits for a write that hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Disk {
    queue: Arc<WriteQueue>,
    health: Arc<DiskHealth>,
    /// Disconnected when the thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
    #[cfg(test)]
    pub(crate) faults: Arc<Faults>,
}

/// Faults that a test injects into the writer thread.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Every write fails.
    pub(crate) broken: std::sync::atomic::AtomicBool,
    /// The next write starts and does not end while this is locked.
    pub(crate) hangs: std::sync::Mutex<()>,
}

impl Disk {
    /// Opens the files, reads every live record into `claims` and starts the thread.
    ///
    /// # Errors
    /// If another process holds the files, or they are damaged or cannot be read or created.
    pub(crate) fn open(
        path: &Path,
        queue: Arc<WriteQueue>,
        claims: &Arc<Claims>,
        now: Millis,
        gauge: IntGauge,
    ) -> Result<Self, DiskError> {
        let files = Files::open(path).map_err(|error| DiskError::new(KIND, path, error))?;
        let read =
            files.load(claims, now, &queue).map_err(|error| DiskError::new(KIND, path, error))?;
        read.map_err(|damage| DiskError::Damaged(KIND, path.into(), damage))?;
        let health = Arc::new(DiskHealth::new(KIND, path.into(), gauge));
        let (running, ended) = mpsc::channel();
        #[cfg(test)]
        let faults = Arc::<Faults>::default();
        let writer = Writer {
            path: path.into(),
            files: Some(files),
            claims: Arc::downgrade(claims),
            queue: Arc::clone(&queue),
            health: Arc::clone(&health),
            #[cfg(test)]
            faults: Arc::clone(&faults),
        };
        let thread = std::thread::Builder::new().name("replay-disk".into()).spawn(move || {
            writer.run();
            drop(running);
        });
        thread.map_err(|error| DiskError::Thread(KIND, error))?;
        Ok(Disk {
            queue,
            health,
            ended: Mutex::new(ended),
            #[cfg(test)]
            faults,
        })
    }

    /// Returns whether the last write succeeded and the current one is not late.
    pub(crate) fn is_up(&self) -> bool {
        self.health.is_up()
    }

    /// Reports a write that hangs.
    pub(crate) fn check(&self) {
        self.health.check();
    }

    /// Queues a record.
    pub(crate) fn put(&self, key: EventKey, entry: Entry, on_written: OnWritten) {
        self.queue.put(key, entry, on_written);
    }

    /// Queues a record and waits until it is durable. It stays queued if the caller stops waiting.
    pub(crate) async fn put_durably(&self, key: EventKey, entry: Entry) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.put(key, entry, OnWritten::Notify(sender));
        receiver.await.is_ok()
    }

    /// Waits until everything queued so far is in the files.
    pub(crate) async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        self.queue.flush(sender);
        // An error means that the thread is gone, and then there is nothing to wait for.
        let _ = receiver.await;
    }

    /// Returns the number of records that are queued.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Ends the thread as the end of the process does, and closes the files.
    #[cfg(test)]
    pub(crate) fn stop_for_test(&self) {
        self.queue.stop();
        assert_eq!(lock(&self.ended).recv(), Err(mpsc::RecvError));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.queue.stop();
        // A write that hangs must not keep the process from ending; nothing is sent here.
        let _ = lock(&self.ended).recv_timeout(STOP_TIMEOUT);
    }
}

struct Writer {
    path: PathBuf,
    /// `None` after a failure, until they can be opened again.
    files: Option<Files>,
    claims: Weak<Claims>,
    queue: Arc<WriteQueue>,
    health: Arc<DiskHealth>,
    #[cfg(test)]
    faults: Arc<Faults>,
}

impl Writer {
    fn run(mut self) {
        let mut retry = None;
        loop {
            let mut work = self.queue.take(retry);
            self.health.write_starts();
            let written = self.write(&work);
            let stop = work.stop;
            retry = match written {
                Ok(()) => {
                    self.health.write_ended(None);
                    self.notify(&mut work);
                    None
                }
                Err(error) => {
                    self.queue.put_back(work);
                    // Last, so that nobody sees the failure before the queue is complete again.
                    self.health.write_ended(Some(database::reason(&error)));
                    Some(retry.map_or(RETRY[0], |retry| (retry * 2).min(RETRY[1])))
                }
            };
            if stop {
                return;
            }
        }
    }

    fn write(&mut self, work: &Work) -> fjall::Result<()> {
        #[cfg(test)]
        {
            drop(lock(&self.faults.hangs));
            if self.faults.broken.load(std::sync::atomic::Ordering::Relaxed) {
                self.files = None;
                return Err(fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
            }
        }
        let files = match self.files.take() {
            Some(files) => files,
            None => Files::open(&self.path)?,
        };
        files.write(&work.batch)?;
        self.files = Some(files);
        Ok(())
    }

    /// Notifies all who wait for work that is done.
    fn notify(&self, work: &mut Work) {
        let claims = self.claims.upgrade();
        for (key, pending) in work.batch.drain() {
            for waiting in pending.waiting {
                // An error means that the request stopped waiting.
                let _ = waiting.send(());
            }
            if pending.mark_stored
                && let Some(claims) = &claims
            {
                claims.mark_stored(&key);
            }
        }
        for flush in work.flushes.drain(..) {
            // An error means that nobody waits for this flush any more.
            let _ = flush.send(());
        }
    }
}
