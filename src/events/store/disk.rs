//! The store `disk`: events in files of this machine, changed by one thread.
//!
//! Operations that change something are commands. The thread takes all that wait, adds their
//! changes to one batch, and makes it durable with one `fdatasync`, so all who wait share its cost.
//! Entries, requests and indexes are in the files; only the schedule of unsettled events is in
//! memory. Lists and single events are read from the files by Tokio's blocking threads.
//!
//! While the files cannot be written, commands stay queued until their callers stop waiting, and
//! the files are opened again from time to time. An attempt in flight when the process ended has an
//! unknown outcome.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{sync::oneshot, time::Instant};

pub use self::format::DiskOpenError;
use self::{
    changes::{EventChanges, Kept},
    command::{SealedEvent, StoreCommand},
    files::{EventFiles, KIND},
    list::{ListRequest, UnsettledIds},
    queue::CommandQueue,
    reply::CommandReply,
    writer::{EventWriter, View},
};
use super::{EventPage, EventStore, Operation, Redelivery, StoreError};
use crate::{
    database::{DiskError, DiskHealth},
    events::{
        codec,
        model::{
            Acceptance, AttemptLease, Backlog, DeliveryAttempt, DueEvent, EventEntry, EventFilter,
            EventId, NewEvent, NextStep, Retention, StoredRequest,
        },
        seal::Seal,
    },
    replay::Millis,
    scheme::EventKey,
    secret::Secret,
};

mod changes;
mod command;
mod files;
mod format;
mod list;
mod queue;
mod reply;
mod retention;
mod schedule;
mod writer;

/// How long callers wait for an operation without a deadline. Tests run on busy machines.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 2 });

/// How long the end of the process waits for a write that hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The handle of the store.
pub struct DiskStore {
    seal: Seal,
    retention: Retention,
    queue: Arc<CommandQueue>,
    view: Arc<View>,
    health: Arc<DiskHealth>,
    /// Disconnected when the thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
    #[cfg(test)]
    faults: Arc<writer::Faults>,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("bytes", &self.view.bytes()).finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the files, reads the schedule and starts the thread. `up` is 1 while the files can be
    /// written.
    ///
    /// # Errors
    /// If another process holds the files, the key is wrong or missing, or the files are damaged or
    /// cannot be read or created.
    pub fn open(
        path: &Path,
        key: Option<&Secret>,
        retention: Retention,
        up: IntGauge,
    ) -> Result<Self, DiskOpenError> {
        let seal = Seal::new(key).map_err(DiskOpenError::new)?;
        let disk_error = |error| DiskOpenError::new(DiskError::new(KIND, path, error));
        let files = EventFiles::open(path, &seal).map_err(disk_error)?;
        files
            .check()
            .map_err(disk_error)?
            .map_err(|mismatch| DiskOpenError::mismatch(path, mismatch))?;
        let queue = Arc::<CommandQueue>::default();
        let kept = Kept::new(retention, Arc::<CommandQueue>::downgrade(&queue));
        let (mut changes, _) = EventChanges::load(Arc::new(files), &kept).map_err(disk_error)?;
        let view = Arc::<View>::default();
        view.update(&mut changes);
        let health = Arc::new(DiskHealth::new(KIND, path.into(), up));
        let (running, ended) = mpsc::channel();
        #[cfg(test)]
        let faults = Arc::<writer::Faults>::default();
        let writer = EventWriter {
            path: path.into(),
            seal: seal.clone(),
            queue: Arc::clone(&queue),
            view: Arc::clone(&view),
            health: Arc::clone(&health),
            #[cfg(test)]
            faults: Arc::clone(&faults),
        };
        let thread = std::thread::Builder::new().name("events-disk".into()).spawn(move || {
            writer.run(changes);
            drop(running);
        });
        thread.map_err(|error| DiskOpenError::new(DiskError::Thread(KIND, error)))?;
        Ok(DiskStore {
            seal,
            retention,
            queue,
            view,
            health,
            ended: Mutex::new(ended),
            #[cfg(test)]
            faults,
        })
    }

    /// Returns the number of batches in the files. Each was made durable by one `fdatasync`.
    pub fn batches(&self) -> u64 {
        self.view.batches()
    }

    /// Queues a command and waits until it is durable.
    async fn run<T>(
        &self,
        until: Instant,
        command: impl FnOnce(CommandReply<T>) -> StoreCommand,
    ) -> Result<T, StoreError> {
        let (reply, receiver) = CommandReply::new();
        self.queue.push(command(reply))?;
        self.wait(until, receiver).await
    }

    async fn wait<T>(
        &self,
        until: Instant,
        receiver: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout_at(until, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unavailable("its thread has ended".into())),
            Err(_) => {
                self.health.check();
                Err(StoreError::Unavailable("it did not finish in time".into()))
            }
        }
    }

    /// Reads the files in a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&EventFiles) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(files) = self.view.files() else {
            return Err(StoreError::Unavailable("its files cannot be written".into()));
        };
        let read = tokio::task::spawn_blocking(move || read(&files));
        match tokio::time::timeout(OPERATION_TIMEOUT, read).await {
            Ok(Ok(Ok(read))) => Ok(read),
            Ok(Ok(Err(error))) => {
                Err(StoreError::Unavailable(crate::database::reason(&error).into()))
            }
            Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string().into())),
            Err(_) => Err(StoreError::Unavailable("it did not finish in time".into())),
        }
    }

    /// Ends the attempt of an event whose request cannot be read, so that it does not block others.
    async fn bury(&self, lease: AttemptLease, now: Millis) -> Result<(), StoreError> {
        tracing::error!(id = %lease.id, "the request of a stored event cannot be read");
        let error = Some("unreadable".into());
        let attempt =
            DeliveryAttempt { at: now, status: None, error, duration_ms: 0, resigned: false };
        let next = NextStep::Dead { unknown: false };
        self.settle(lease, attempt, next).await.map(drop)
    }

    fn sealed(&self, id: EventId, request: &StoredRequest) -> Vec<u8> {
        self.seal.seal(&id.0.to_be_bytes(), codec::encode_request(request))
    }
}

fn soon() -> Instant {
    Instant::now() + OPERATION_TIMEOUT
}

impl EventStore for DiskStore {
    fn accept(&self, event: NewEvent, until: Instant) -> Operation<'_, Acceptance> {
        Box::pin(async move {
            let request = Some(self.sealed(event.entry.id, &event.request));
            let event = Box::new(SealedEvent { entry: event.entry, request });
            let (acceptance, leases) =
                self.run(until, |reply| StoreCommand::Accept(event, reply)).await?;
            leases.take();
            Ok(acceptance)
        })
    }

    fn find(&self, route: &Arc<str>, record: EventKey) -> Operation<'_, Option<EventEntry>> {
        let route = Arc::clone(route);
        Box::pin(self.read(move |files| {
            let Some(id) = files.find(files.record_digest(&route, record))? else {
                return Ok(None);
            };
            Ok(files.entry(id)?.map(|stored| stored.entry))
        }))
    }

    fn revive(
        &self,
        route: &Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
    ) -> Operation<'_, bool> {
        let route = Arc::clone(route);
        let revive =
            move |reply| StoreCommand::Revive { route, record, next_attempt, expires, reply };
        Box::pin(self.run(soon(), revive))
    }

    fn take_due(
        &self,
        route: &Arc<str>,
        now: Millis,
        limit: usize,
    ) -> Operation<'_, Vec<DueEvent>> {
        let route = Arc::clone(route);
        Box::pin(async move {
            let take = |reply| StoreCommand::Take { route, now, limit, reply };
            let (entries, leases) = self.run(soon(), take).await?;
            if entries.is_empty() {
                return Ok(Vec::new());
            }
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            let read = move |files: &EventFiles| {
                Ok(ids.into_iter().map(|id| files.request(id).ok().flatten()).collect())
            };
            let requests: Vec<Option<StoredRequest>> = self.read(read).await?;
            for (lease, request) in leases.iter().zip(&requests) {
                if request.is_none() {
                    self.bury(*lease, now).await?;
                }
            }
            // Nothing is awaited from here on, so that no lease is lost.
            let taken = entries.into_iter().zip(leases.take()).zip(requests);
            let due = taken.filter_map(|((entry, lease), request)| {
                Some(DueEvent { entry, request: request?, lease })
            });
            Ok(due.collect())
        })
    }

    fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        self.view.next_due(route)
    }

    fn due_changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.view.due_changed.notified())
    }

    fn settle(
        &self,
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
    ) -> Operation<'_, Option<EventEntry>> {
        Box::pin(self.run(soon(), move |reply| StoreCommand::Settle {
            lease,
            attempt,
            next,
            reply,
        }))
    }

    fn give_up(&self, overdue: Vec<EventEntry>, now: Millis) -> Operation<'_, Vec<EventEntry>> {
        let ids = overdue.iter().map(|entry| entry.id).collect();
        Box::pin(self.run(soon(), move |reply| StoreCommand::GiveUp { ids, now, reply }))
    }

    fn renew<'s>(&'s self, _: &'s [AttemptLease]) -> Operation<'s, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn record(&self, events: Vec<(EventEntry, Option<StoredRequest>)>) -> Operation<'_, ()> {
        let seal = |(entry, request): (EventEntry, Option<StoredRequest>)| {
            let request = request.map(|request| self.sealed(entry.id, &request));
            SealedEvent { entry, request }
        };
        let events = events.into_iter().map(seal).collect();
        Box::pin(self.run(soon(), move |reply| StoreCommand::Record(events, reply)))
    }

    fn entry(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        Box::pin(self.read(move |files| Ok(files.entry(id)?.map(|stored| stored.entry))))
    }

    fn request(&self, id: EventId) -> Operation<'_, Option<StoredRequest>> {
        Box::pin(self.read(move |files| files.request(id)))
    }

    fn list<'s>(
        &'s self,
        filter: &'s EventFilter,
        cursor: Option<EventId>,
        limit: usize,
    ) -> Operation<'s, EventPage> {
        let request = ListRequest::new(filter.clone(), cursor, limit);
        Box::pin(async move {
            let Some(request) = request else { return Ok(EventPage::default()) };
            let mut unsettled = UnsettledIds::default();
            if request.needs_unsettled() {
                let find = |reply| StoreCommand::FindUnsettled(request.clone(), reply);
                unsettled = self.run(soon(), find).await?;
            }
            self.read(move |files| list::list(files, request, unsettled)).await
        })
    }

    fn redeliver(&self, id: EventId, now: Millis, expires: Millis) -> Operation<'_, Redelivery> {
        let redeliver = move |reply| StoreCommand::Redeliver { id, now, expires, reply };
        Box::pin(self.run(soon(), redeliver))
    }

    fn forget(&self, id: EventId) -> Operation<'_, Option<EventEntry>> {
        Box::pin(self.run(soon(), move |reply| StoreCommand::Forget(id, reply)))
    }

    fn backlogs(&self) -> Operation<'_, HashMap<Arc<str>, Backlog>> {
        Box::pin(std::future::ready(Ok(self.view.backlogs())))
    }

    fn expire(&self, now: Millis) -> Operation<'_, ()> {
        Box::pin(self.remove_expired(now))
    }

    fn bytes(&self) -> u64 {
        self.view.bytes()
    }

    fn is_up(&self) -> bool {
        self.health.check();
        self.health.is_up()
    }

    fn flush(&self) -> Operation<'_, ()> {
        Box::pin(self.run(soon(), StoreCommand::Flush))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.queue.stop();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // A write that hangs must not keep the process from ending; nothing is sent here.
        let _ = ended.recv_timeout(STOP_TIMEOUT);
    }
}

#[cfg(test)]
mod tests;
