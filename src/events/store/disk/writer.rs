//! The thread that changes the store.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    changes::{EventChanges, Kept},
    command::StoreCommand,
    files::EventFiles,
    format::Totals,
    queue::{Collecting, CommandQueue},
};
use crate::{
    database::{self, DiskHealth},
    events::{model::Backlog, seal::Seal},
    replay::Millis,
};

/// The first and the longest interval between attempts to write a store that failed.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// The files are compacted after so many bytes were removed, and a quarter of what is left.
const MIN_GARBAGE: u64 = 32 << 20;

/// What the writer thread shows to all others.
#[derive(Default)]
pub(super) struct View {
    state: Mutex<ViewState>,
    /// Notified when an event is due earlier than before.
    pub(super) due_changed: Notify,
}

#[derive(Default)]
struct ViewState {
    /// `None` while the files are closed after a failure.
    files: Option<Arc<EventFiles>>,
    totals: Totals,
    /// The bytes that were removed since the files were opened.
    removed: u64,
    /// The same when they were last compacted.
    compacted: u64,
    routes: HashMap<Arc<str>, RouteStatus>,
}

#[derive(Clone, Copy, Default)]
struct RouteStatus {
    backlog: Backlog,
    next_due: Option<Millis>,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the files, if they are open.
    pub(super) fn files(&self) -> Option<Arc<EventFiles>> {
        self.lock().files.clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().totals.bytes
    }

    pub(super) fn batches(&self) -> u64 {
        self.lock().totals.batch
    }

    /// Returns the files if enough was removed from them that they should be compacted now.
    pub(super) fn to_be_compacted(&self) -> Option<Arc<EventFiles>> {
        let mut state = self.lock();
        if state.removed - state.compacted < MIN_GARBAGE.max(state.totals.bytes / 4) {
            return None;
        }
        state.compacted = state.removed;
        state.files.clone()
    }

    pub(super) fn next_due(&self, route: &Arc<str>) -> Option<Millis> {
        self.lock().routes.get(route)?.next_due
    }

    pub(super) fn backlogs(&self) -> HashMap<Arc<str>, Backlog> {
        let state = self.lock();
        let views = state.routes.iter().map(|(route, view)| (Arc::clone(route), view.backlog));
        views.filter(|(_, backlog)| *backlog != Backlog::default()).collect()
    }

    /// Shows the changes of a batch.
    pub(super) fn update(&self, changes: &mut EventChanges) {
        let mut state = self.lock();
        let mut is_earlier = false;
        if state.files.is_none() {
            state.files = Some(Arc::clone(&changes.files));
            state.compacted = 0;
        }
        state.totals = changes.totals;
        state.removed = changes.removed;
        for route in changes.touched.drain() {
            let next_due = changes.schedule.next_due(&route);
            let backlog = changes.schedule.backlog(&route);
            let before = state.routes.insert(route, RouteStatus { backlog, next_due });
            let before = before.and_then(|before| before.next_due);
            is_earlier |= next_due.is_some_and(|next| before.is_none_or(|before| next < before));
        }
        drop(state);
        if is_earlier {
            self.due_changed.notify_waiters();
        }
    }

    fn close(&self) {
        self.lock().files = None;
    }
}

/// Faults that a test injects.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Every write fails.
    pub(super) broken: std::sync::atomic::AtomicBool,
    /// The next write fails after it was made durable.
    pub(super) unknown: std::sync::atomic::AtomicBool,
    /// The next write starts and does not end while this is locked.
    pub(super) hangs: Mutex<()>,
}

pub(super) struct EventWriter {
    pub(super) path: PathBuf,
    pub(super) seal: Seal,
    pub(super) queue: Arc<CommandQueue>,
    pub(super) view: Arc<View>,
    pub(super) health: Arc<DiskHealth>,
    #[cfg(test)]
    pub(super) faults: Arc<Faults>,
}

/// The state of the store, with or without its files.
enum StoreState {
    Open(Box<EventChanges>),
    /// With the commands of a batch that could not be written, or perhaps was.
    Closed(Kept, Vec<StoreCommand>),
}

impl EventWriter {
    pub(super) fn run(self, changes: EventChanges) {
        let mut store = StoreState::Open(Box::new(changes));
        let (mut retry, mut collecting) = (None, Collecting::default());
        loop {
            let mut work = self.queue.take(retry, collecting);
            let (start, count) = (Instant::now(), work.commands.len());
            self.health.write_starts();
            work.commands.retain(|command| !command.is_abandoned());
            let failure;
            (store, failure) = self.write(store, work.commands);
            retry = failure.is_some().then(|| match retry {
                Some(retry) => RETRY[1].min(retry * 2),
                None => RETRY[0],
            });
            collecting = Collecting::after(count, start.elapsed());
            let has_failed = failure.is_some();
            self.health.write_ended(failure.map(|error| database::reason(&error)));
            if work.stop || (has_failed && self.queue.is_stopped()) {
                return;
            }
        }
    }

    /// Writes a batch. Returns the error if the files are closed now.
    fn write(
        &self,
        store: StoreState,
        mut commands: Vec<StoreCommand>,
    ) -> (StoreState, Option<fjall::Error>) {
        let mut changes = match store {
            StoreState::Open(changes) => changes,
            StoreState::Closed(kept, unfinished) => match self.reopen(&kept) {
                Ok((mut changes, is_written)) => {
                    self.view.update(&mut changes);
                    if is_written {
                        unfinished.into_iter().for_each(StoreCommand::finish);
                    } else {
                        let unfinished = unfinished.into_iter().filter(|it| !it.is_abandoned());
                        commands.splice(0..0, unfinished);
                    }
                    Box::new(changes)
                }
                Err(error) => {
                    self.queue.put_back(commands);
                    return (StoreState::Closed(kept, unfinished), Some(error));
                }
            },
        };
        for command in &mut commands {
            if let Err(error) = changes.run(command) {
                command.fail(&database::reason(&error));
            }
        }
        if let Err(error) = changes.make_reserve() {
            tracing::warn!(error = database::reason(&error), "cannot remove old events");
        }
        match self.commit(&mut changes) {
            Ok(()) => {
                self.view.update(&mut changes);
                commands.into_iter().for_each(StoreCommand::finish);
                (StoreState::Open(changes), None)
            }
            Err(error) => {
                self.view.close();
                (StoreState::Closed(changes.keep(), commands), Some(error))
            }
        }
    }

    fn reopen(&self, kept: &Kept) -> fjall::Result<(EventChanges, bool)> {
        EventChanges::load(Arc::new(self.open()?), kept)
    }

    fn open(&self) -> fjall::Result<EventFiles> {
        #[cfg(test)]
        self.fail_for_test()?;
        EventFiles::open(&self.path, &self.seal)
    }

    fn commit(&self, changes: &mut EventChanges) -> fjall::Result<()> {
        #[cfg(test)]
        self.fail_for_test().inspect_err(|_| changes.lose_batch())?;
        changes.commit()?;
        #[cfg(test)]
        if self.faults.unknown.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Err(fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    #[cfg(test)]
    fn fail_for_test(&self) -> fjall::Result<()> {
        drop(self.faults.hangs.lock().unwrap_or_else(PoisonError::into_inner));
        if self.faults.broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(fjall::Error::Io(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }
}
