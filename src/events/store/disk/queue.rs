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
    /// The number of commands for which the thread waits, while it collects them.
    expected: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct CommandQueue {
    waiting: Mutex<Waiting>,
    added: Condvar,
}

/// How long the writer thread collects commands after a batch. Many callers whose commands were in
/// the batch send another one at once. Without a short wait, these commands would miss the next
/// batch, and the callers would then alternate between two batches of half the size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Collecting {
    /// The number of commands in the last batch.
    pub(super) last: usize,
    /// The longest wait.
    pub(super) at_most: Duration,
}

impl Collecting {
    /// Returns the wait after a batch that took so long: short in comparison.
    pub(super) fn after(last: usize, took: Duration) -> Self {
        const MOST: Duration = Duration::from_millis(1);
        Collecting { last, at_most: (took / 8).min(MOST) }
    }
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
        let count = waiting.commands.len();
        let is_awaited = count == 1 || count == waiting.expected;
        drop(waiting);
        if is_awaited {
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
    pub(super) fn take(&self, retry: Option<Duration>, collecting: Collecting) -> CommandBatch {
        let mut waiting = self.lock();
        let mut waiting = match retry {
            None => {
                waiting.expected = (waiting.commands.len() + collecting.last).min(BATCH_COMMANDS);
                let is_partial = |waiting: &mut Waiting| {
                    waiting.commands.len() < waiting.expected && !waiting.stop
                };
                let collected =
                    self.added.wait_timeout_while(waiting, collecting.at_most, is_partial);
                let waiting = collected.unwrap_or_else(PoisonError::into_inner).0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::store::disk::reply::CommandReply;

    #[test]
    fn commands_that_follow_a_batch_are_taken_together() {
        let queue = CommandQueue::default();
        let flush = || StoreCommand::Flush(CommandReply::new().0);
        queue.push(flush()).unwrap();
        let collecting = Collecting { last: 1, at_most: Duration::from_secs(60) };
        let batch = std::thread::scope(|scope| {
            let taking = scope.spawn(|| queue.take(None, collecting));
            while queue.lock().expected != 2 {
                std::thread::yield_now();
            }
            queue.push(flush()).unwrap();
            taking.join().unwrap()
        });
        assert_eq!(batch.commands.len(), 2);
        let wait = Collecting::after(2, Duration::from_millis(4)).at_most;
        assert_eq!(wait, Duration::from_micros(500));
    }
}
