//! The files of the store, which fjall keeps.

use std::{collections::HashMap, path::Path, sync::mpsc};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::replay::{
    claims::Claims,
    clock::Millis,
    record::EventKey,
    store::disk::{
        entry::Entry,
        journal,
        queue::{DiskOp, PendingWrite},
    },
    sync::lock,
};

/// The open files.
pub(super) struct Files {
    database: Database,
    records: Keyspace,
}

impl Files {
    /// Opens them, after dropping a torn last batch.
    pub(super) fn open(path: &Path) -> fjall::Result<Self> {
        match Files::try_open(path) {
            Err(fjall::Error::JournalRecovery(_)) => {
                let torn = journal::cut_torn_tail(path)?;
                let opened = Files::try_open(path);
                match &opened {
                    Ok(_) => tracing::warn!(
                        path = %path.display(),
                        "the replay store's last records were written in part and are dropped"
                    ),
                    Err(_) => torn.restore()?,
                }
                opened
            }
            other => other,
        }
    }

    fn try_open(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .worker_threads(1)
            .cache_size(4 << 20)
            .max_journaling_size(64 << 20)
            .open()?;
        let records = database
            .keyspace("records", || KeyspaceCreateOptions::default().max_memtable_size(8 << 20))?;
        Ok(Files { database, records })
    }

    /// Reads the records into `local`, with two threads, since that is most of the work. `None` if
    /// there is something that is not a record of this version.
    pub(super) fn load(
        &self,
        claims: &Claims,
        now: Millis,
        ops: &mpsc::Sender<DiskOp>,
    ) -> fjall::Result<Option<()>> {
        const CHUNK: usize = 4096;
        let (sender, receiver) = mpsc::sync_channel::<Vec<(EventKey, Entry)>>(8);
        let receiver = std::sync::Mutex::new(receiver);
        let restore = || {
            let mut queued = Vec::new();
            loop {
                let chunk = lock(&receiver).recv();
                let Ok(chunk) = chunk else { return queued };
                queued.extend(chunk.into_iter().map(|(key, entry)| {
                    let terms = entry.terms();
                    claims.restore(key, entry.into_record(), terms)
                }));
            }
        };
        let queued = std::thread::scope(|scope| {
            let workers = [scope.spawn(restore), scope.spawn(restore)];
            // Owned here, so that the workers end when reading does, whichever way.
            let sender = sender;
            let mut chunk = Vec::with_capacity(CHUNK);
            for found in self.records.iter() {
                let (key, value) = found.into_inner()?;
                let (Ok(key), Some(entry)) = (<[u8; 16]>::try_from(&*key), Entry::decode(&value))
                else {
                    return Ok(None);
                };
                let key = EventKey(key);
                if entry.expires <= now {
                    // The receiver is the caller's and stands until the thread is started.
                    let _ = ops.send(DiskOp::Forget(key));
                    continue;
                }
                chunk.push((key, entry));
                if chunk.len() == CHUNK {
                    // An error means that both workers panicked; joining them tells.
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
        Ok(queued.map(|queued| claims.enqueue_restored(queued)))
    }

    /// One batch at a time is not yet durable, so that at most the last one can be torn.
    pub(super) fn write(&self, pending: &HashMap<EventKey, PendingWrite>) -> fjall::Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, pending) in pending {
            match &pending.entry {
                Some(entry) => batch.insert(&self.records, key.0, entry.encode()),
                None => batch.remove(&self.records, key.0),
            }
        }
        batch.commit()
    }
}
