//! The files of the store, managed by fjall.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{
    database::{self, Damage, DatabaseKind},
    replay::{
        claims::Claims,
        clock::Millis,
        record::EventKey,
        store::disk::{
            entry::Entry,
            queue::{PendingWrites, WriteQueue},
        },
        sync::lock,
    },
};

pub(super) const KIND: DatabaseKind = DatabaseKind {
    name: "replay store",
    loss: "events recorded in it are then forgotten, so a sender's retry of one is forwarded again \
           and its replay is not recognized",
};

/// The largest number of records that are made durable together.
const COMMIT: usize = 4096;

/// The open files.
pub(super) struct Files {
    path: PathBuf,
    database: Database,
    records: Keyspace,
}

impl Files {
    /// Opens the files, after dropping a last batch that was written in part.
    ///
    /// # Errors
    /// Also if other batches cannot be read; the journal is then left as it was.
    pub(super) fn open(path: &Path) -> fjall::Result<Self> {
        database::open(KIND, path, |builder| {
            let database = builder
                .worker_threads(1)
                .cache_size(4 << 20)
                .max_journaling_size(64 << 20)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(8 << 20);
            let records = database.keyspace("records", options)?;
            Ok(Files { path: path.into(), database, records })
        })
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
    pub(super) fn write(&self, records: &PendingWrites) -> fjall::Result<()> {
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
