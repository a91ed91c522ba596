//! The store `disk`: records in files of this machine, written by a thread of its own.
//!
//! Everything that is on record stands in memory too ([`Local`]), read in when the store is opened;
//! after that the files are only written to. Writers hand their record to the thread and wait;
//! the thread writes whatever has come together and makes it durable with one `fdatasync`, so
//! that the cost of that is shared by all who wait. What nobody waits for (a claim, a failure, the
//! note that an answer was written out) takes the same way.
//!
//! A claim found in the files was in flight when the last process ended: its outcome is unknown.
//!
//! While the files cannot be written, because the disk is full or gone, nothing is lost: the
//! newest state of each record is kept, the files are opened anew from time to time, and written to as soon
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

use crate::replay::{
    clock::Millis,
    disk::{entry::Entry, files::Files},
    local::Local,
    record::Key,
};

pub(crate) mod entry;
mod files;
pub(crate) mod journal;

/// The most records that are made durable together.
const BATCH: usize = 4096;
/// How soon a store that failed is tried again: first, and at most.
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

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Note {
    /// The newest state of a record.
    Put { key: Key, entry: Entry, receipt: Receipt },
    /// The record is over.
    Forget(Key),
    /// Tell when everything before this is in the files.
    Flush(oneshot::Sender<()>),
    /// End when everything before this is in the files, or cannot be.
    Stop,
}

/// Who is told that a record is in the files.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// Nobody.
    Unasked,
    /// Who waits; dropped unsent when it cannot be written now.
    Waiting(oneshot::Sender<()>),
    /// The claim map.
    Behind,
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Disk {
    notes: mpsc::Sender<Note>,
    up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    #[cfg(test)]
    pub(crate) broken: Arc<AtomicBool>,
}

impl Disk {
    /// Opens the files, reads every record that is not over into `local` and starts the thread.
    ///
    /// # Errors
    /// When another process holds the files, or they cannot be read or made.
    pub(crate) fn open(
        path: &Path,
        notes: (mpsc::Sender<Note>, mpsc::Receiver<Note>),
        local: &Arc<Local>,
        now: Millis,
        up: IntGauge,
    ) -> Result<Self, DiskError> {
        let files = Files::open(path).map_err(|error| match error {
            fjall::Error::Locked => DiskError::Held(path.into()),
            error => DiskError::Unusable(path.into(), error),
        })?;
        let (sender, received) = notes;
        files
            .load(local, now, &sender)
            .map_err(|error| DiskError::Unusable(path.into(), error))?
            .ok_or_else(|| DiskError::Format(path.into()))?;
        up.set(1);
        let shared = Arc::new(AtomicBool::new(true));
        #[cfg(test)]
        let broken = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            path: path.into(),
            files: Some(files),
            owed: HashMap::new(),
            local: Arc::downgrade(local),
            up: Arc::clone(&shared),
            gauge: up,
            #[cfg(test)]
            broken: Arc::clone(&broken),
        };
        let thread = std::thread::Builder::new()
            .name("replay-disk".into())
            .spawn(move || writer.run(&received))?;
        Ok(Disk {
            notes: sender,
            up: shared,
            thread: Some(thread),
            #[cfg(test)]
            broken,
        })
    }

    /// Whether the last attempt to write succeeded.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Hands a record to the thread.
    pub(crate) fn put(&self, key: Key, entry: Entry, receipt: Receipt) {
        self.tell(Note::Put { key, entry, receipt });
    }

    /// Hands a record to the thread and waits until it is durable. `false` if it cannot be now.
    pub(crate) async fn put_durably(&self, key: Key, entry: Entry) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.put(key, entry, Receipt::Waiting(sender));
        receiver.await.is_ok()
    }

    /// Waits until everything handed over so far is in the files.
    pub(crate) async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        self.tell(Note::Flush(sender));
        // An error means that the thread is gone, and then there is nothing to wait for.
        let _ = receiver.await;
    }

    /// Ends the thread as the end of the process does, and closes the files.
    #[cfg(test)]
    pub(crate) fn stop_for_test(&self) {
        self.tell(Note::Stop);
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
    }

    fn tell(&self, note: Note) {
        // An error means that the thread is gone: it ends only when this handle is dropped, or by a
        // panic, after which every waiter is told that its record is not durable.
        let _ = self.notes.send(note);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.tell(Note::Stop);
        if let Some(thread) = self.thread.take() {
            // An error is the thread's panic, which has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What is still to be written for a record.
#[derive(Debug)]
struct Owed {
    /// `None`: the record is to leave the files.
    entry: Option<Entry>,
    behind: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

struct Writer {
    path: PathBuf,
    /// `None` after a failure, until they can be opened again.
    files: Option<Files>,
    owed: HashMap<Key, Owed>,
    local: Weak<Local>,
    up: Arc<AtomicBool>,
    gauge: IntGauge,
    #[cfg(test)]
    broken: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, notes: &mpsc::Receiver<Note>) {
        let mut retry = RETRY[0];
        let mut flushes = Vec::new();
        loop {
            let first = if self.owed.is_empty() {
                notes.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                notes.recv_timeout(retry)
            };
            let mut stop = matches!(first, Err(RecvTimeoutError::Disconnected));
            for note in first.into_iter().chain(notes.try_iter().take(BATCH)) {
                match note {
                    Note::Put { key, entry, receipt } => self.owe(key, Some(entry), receipt),
                    Note::Forget(key) => self.owe(key, None, Receipt::Unasked),
                    Note::Flush(sender) => flushes.push(sender),
                    Note::Stop => stop = true,
                }
            }
            match self.pay() {
                Ok(()) => {
                    self.tell_up();
                    retry = RETRY[0];
                    // A flush that nobody waits for any more needs no answer.
                    for flush in flushes.drain(..) {
                        let _ = flush.send(());
                    }
                }
                Err(error) => {
                    self.tell_down(&error);
                    retry = (retry * 2).min(RETRY[1]);
                }
            }
            if stop {
                return;
            }
        }
    }

    fn owe(&mut self, key: Key, entry: Option<Entry>, receipt: Receipt) {
        let owed = self.owed.entry(key).or_insert_with(|| Owed {
            entry: None,
            behind: false,
            waiting: Vec::new(),
        });
        owed.entry = entry;
        match receipt {
            Receipt::Unasked => {}
            Receipt::Waiting(sender) => owed.waiting.push(sender),
            Receipt::Behind => owed.behind = true,
        }
    }

    /// Writes everything that is owed.
    fn pay(&mut self) -> fjall::Result<()> {
        #[cfg(test)]
        if self.broken.load(Ordering::Relaxed) {
            self.files = None;
            return Err(fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
        }
        let files = match self.files.take() {
            Some(files) => files,
            None => Files::open(&self.path)?,
        };
        files.write(&self.owed)?;
        self.files = Some(files);
        let local = self.local.upgrade();
        for (key, owed) in self.owed.drain() {
            for waiting in owed.waiting {
                // Whoever gave up waiting has asked for the record to be written behind.
                let _ = waiting.send(());
            }
            if owed.behind
                && let Some(local) = &local
            {
                local.stored(&key);
            }
        }
        Ok(())
    }

    fn tell_up(&self) {
        if !self.up.swap(true, Ordering::Relaxed) {
            self.gauge.set(1);
            tracing::info!(path = %self.path.display(), "the replay store can be written again");
        }
    }

    fn tell_down(&mut self, error: &fjall::Error) {
        if self.up.swap(false, Ordering::Relaxed) {
            self.gauge.set(0);
            tracing::error!(
                path = %self.path.display(),
                error = reason(error),
                "the replay store cannot be written"
            );
        }
        // Last, so that who hears of it finds it told.
        self.owed.values_mut().for_each(|owed| owed.waiting.clear());
    }
}
