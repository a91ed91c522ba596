//! The commands that wait for the writer thread: at most [`MAX_COMMANDS`] of [`MAX_BYTES`].

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{command::StoreCommand, reply::LeaseOwner};
use crate::events::{model::AttemptLease, store::StoreError};

/// The most commands that wait.
const MAX_COMMANDS: usize = 65_536;
/// The most bytes that wait.
const MAX_BYTES: usize = 64 << 20;
/// The most commands and bytes that are made durable together.
const BATCH_COMMANDS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<StoreCommand>,
    bytes: usize,
    stop: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct CommandQueue {
    waiting: Mutex<Waiting>,
    added: Condvar,
}

/// What the writer thread does next.
pub(super) struct CommandBatch {
    pub(super) commands: Vec<StoreCommand>,
    /// The thread ends after this.
    pub(super) stop: bool,
}

impl CommandQueue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a command.
    ///
    /// # Errors
    /// If the queue is full or the thread has ended.
    pub(super) fn push(&self, command: StoreCommand) -> Result<(), StoreError> {
        let mut waiting = self.lock();
        if waiting.stop {
            return Err(StoreError::Unavailable("it is closed".into()));
        }
        let is_full = |waiting: &Waiting| {
            waiting.commands.len() >= MAX_COMMANDS || waiting.bytes >= MAX_BYTES
        };
        if is_full(&waiting) && !command.is_kept() {
            waiting.commands.retain(|command| !command.is_abandoned());
            waiting.bytes = waiting.commands.iter().map(StoreCommand::length).sum();
            if is_full(&waiting) {
                return Err(StoreError::Unavailable("too many events wait to be written".into()));
            }
        }
        waiting.bytes += command.length();
        waiting.commands.push_back(command);
        let is_first = waiting.commands.len() == 1;
        drop(waiting);
        if is_first {
            self.added.notify_one();
        }
        Ok(())
    }

    /// Ends the thread when everything added before this is in the files, or cannot be written.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.added.notify_one();
    }

    /// Returns whether the thread is asked to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Waits for commands and takes a batch. After a failure, waits for `retry` first.
    pub(super) fn take(&self, retry: Option<Duration>) -> CommandBatch {
        let waiting = self.lock();
        let mut waiting = match retry {
            None => {
                let idle = |waiting: &mut Waiting| waiting.commands.is_empty() && !waiting.stop;
                self.added.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner)
            }
            Some(retry) => {
                let wait = self.added.wait_timeout_while(waiting, retry, |waiting| !waiting.stop);
                wait.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && commands.len() < BATCH_COMMANDS
            && let Some(command) = waiting.commands.pop_front()
        {
            bytes += command.length();
            commands.push(command);
        }
        waiting.bytes -= bytes;
        CommandBatch { commands, stop: waiting.stop && waiting.commands.is_empty() }
    }

    /// Puts commands back that could not be carried out.
    pub(super) fn put_back(&self, commands: Vec<StoreCommand>) {
        let mut waiting = self.lock();
        for command in commands.into_iter().rev() {
            waiting.bytes += command.length();
            waiting.commands.push_front(command);
        }
    }
}

impl LeaseOwner for CommandQueue {
    fn release(&self, lease: AttemptLease) {
        // An error means that the store is closed; the attempt ends with it.
        let _ = self.push(StoreCommand::Release(lease));
    }
}
