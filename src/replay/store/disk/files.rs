//! The files of the store, managed by fjall.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::mpsc,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::replay::{
    claims::Claims,
    clock::Millis,
    record::EventKey,
    store::disk::{
        entry::Entry,
        journal,
        queue::{Batch, WriteQueue},
    },
    sync::lock,
};

/// The largest number of records that are made durable together.
const COMMIT: usize = 4096;

/// The open files.
pub(super) struct Files {
    path: PathBuf,
    database: Database,
    records: Keyspace,
}

/// A damaged part of the store.
#[derive(Debug)]
pub(crate) struct Damage {
    file: PathBuf,
    cause: String,
}

impl Damage {
    /// Returns the part of the store at `path` that `error` is about. fjall names the kind of file
    /// and not the file, so below `keyspaces` this is a directory.
    pub(super) fn of(path: &Path, error: &fjall::Error) -> Self {
        let file = match error {
            fjall::Error::JournalRecovery(_)
            | fjall::Error::InvalidTag(_)
            | fjall::Error::InvalidTrailer => journal::newest(path).ok().flatten(),
            fjall::Error::Storage(_) | fjall::Error::Unrecoverable => Some(path.join("keyspaces")),
            _ => None,
        };
        Damage { file: file.unwrap_or_else(|| path.into()), cause: reason(error) }
    }

    fn unreadable_record(path: &Path) -> Self {
        let cause = "a record was written by a newer version of sealgate, or overwritten";
        Damage { file: path.join("keyspaces"), cause: cause.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.file.is_dir() { "a file in " } else { "" };
        write!(f, "{kind}{} cannot be read ({})", self.file.display(), self.cause)
    }
}

/// Returns the text of the innermost error. fjall's own text is the `Debug` form of its error.
pub(super) fn reason(error: &fjall::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns whether the error is about the content of the files.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Locked => false,
        fjall::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
        }
        _ => true,
    }
}

impl Files {
    /// Opens the files, after dropping a last batch that was written in part.
    ///
    /// # Errors
    /// Also if other batches cannot be read; the journal is then left as it was.
    pub(super) fn open(path: &Path) -> fjall::Result<Self> {
        let before = journal::Before::read(path)?;
        let (opened, cut) = match (Files::try_open(path), &before) {
            (Err(fjall::Error::JournalRecovery(_)), Some(before)) => {
                before.cut_last_batch()?;
                (Files::try_open(path), true)
            }
            (opened, _) => (opened, false),
        };
        if let Some(before) = before {
            if opened.is_ok() && before.has_lost_batches()? {
                drop(opened);
                before.restore()?;
                return Err(fjall::Error::InvalidTrailer);
            }
            match &opened {
                Ok(_) if cut => tracing::warn!(
                    path = %path.display(),
                    "the replay store's last records were written in part and are dropped"
                ),
                Err(_) if cut => before.restore()?,
                Ok(_) | Err(_) => {}
            }
        }
        opened
    }

    fn try_open(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .worker_threads(1)
            .cache_size(4 << 20)
            .max_journaling_size(64 << 20)
            .open()?;
        let records = database
            .keyspace("records", || KeyspaceCreateOptions::default().max_memtable_size(8 << 20))?;
        Ok(Files { path: path.into(), database, records })
    }

    /// Reads the records into `claims`, with two threads, because decoding is most of the work.
    ///
    /// # Errors
    /// The inner one if a record cannot be decoded.
    pub(super) fn load(
        &self,
        claims: &Claims,
        now: Millis,
        queue: &WriteQueue,
    ) -> fjall::Result<Result<(), Damage>> {
        const CHUNK: usize = 4096;
        let (sender, receiver) = mpsc::sync_channel::<Vec<(EventKey, Entry)>>(8);
        let receiver = std::sync::Mutex::new(receiver);
        let restore = || {
            let mut queued = Vec::new();
            loop {
                let chunk = lock(&receiver).recv();
                let Ok(chunk) = chunk else { return queued };
                queued.extend(chunk.into_iter().map(|(key, entry)| {
                    let ttl = entry.ttl;
                    claims.restore(key, entry.into_record(), ttl)
                }));
            }
        };
        let queued = std::thread::scope(|scope| {
            let workers = [scope.spawn(restore), scope.spawn(restore)];
            // Owned here, so that the workers end when reading does, also after an error.
            let sender = sender;
            let mut chunk = Vec::with_capacity(CHUNK);
            for found in self.records.iter() {
                let (key, value) = found.into_inner()?;
                let (Ok(key), Some(entry)) = (key.as_ref().try_into(), Entry::decode(&value))
                else {
                    return Ok(None);
                };
                let key = EventKey(key);
                if entry.expires <= now {
                    queue.forget(key);
                    continue;
                }
                chunk.push((key, entry));
                if chunk.len() == CHUNK {
                    // An error means that both workers panicked, which joining them reports.
                    let _ = sender.send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)));
                }
            }
            let _ = sender.send(chunk);
            drop(sender);
            let mut queued = Vec::new();
            for worker in workers {
                match worker.join() {
                    Ok(some) => queued.extend(some),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<_, fjall::Error>(Some(queued))
        })?;
        let damage = || Damage::unreadable_record(&self.path);
        Ok(queued.map(|queued| claims.enqueue_restored(queued)).ok_or_else(damage))
    }

    /// Writes records. Each commit is durable before the next one starts, so at most the last one
    /// can be written in part.
    pub(super) fn write(&self, records: &Batch) -> fjall::Result<()> {
        let mut records = records.iter().peekable();
        while records.peek().is_some() {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
            for (key, pending) in records.by_ref().take(COMMIT) {
                match &pending.entry {
                    Some(entry) => batch.insert(&self.records, key.0, entry.encode()),
                    None => batch.remove(&self.records, key.0),
                }
            }
            batch.commit()?;
        }
        Ok(())
    }
}
