//! What the writer thread is asked to do.

use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::queue::CommandQueue;
use crate::{
    events::{
        model::{
            Acceptance, AttemptLease, DeliveryAttempt, EventEntry, EventId, EventState, NextStep,
        },
        store::{Redelivery, StoreError},
    },
    replay::Millis,
    scheme::EventKey,
};

/// An entry and its sealed request.
#[derive(Clone, Debug)]
pub(super) struct SealedEvent {
    pub(super) entry: EventEntry,
    pub(super) request: Option<Vec<u8>>,
}

impl SealedEvent {
    /// Returns the bytes that it takes in the queue.
    fn length(&self) -> usize {
        self.request.as_ref().map_or(0, Vec::len) + 512
    }
}

/// Events that expired or make room: removed if they are still in one of these states.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    pub(super) ids: Vec<EventId>,
    pub(super) state: EventState,
    /// Removed if they have been in the state since before this time.
    pub(super) before: Millis,
}

/// One command, with where its result is sent.
#[derive(Debug)]
pub(super) enum Command {
    Accept(Box<SealedEvent>, Reply<(Acceptance, Leases)>),
    Revive {
        route: Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
        reply: Reply<bool>,
    },
    Take {
        route: Arc<str>,
        now: Millis,
        limit: usize,
        reply: Reply<(Vec<EventEntry>, Leases)>,
    },
    Settle {
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
        reply: Reply<Option<EventEntry>>,
    },
    /// Ends an attempt that nobody began.
    Release(AttemptLease),
    Record(Vec<SealedEvent>, Reply<()>),
    Redeliver {
        id: EventId,
        now: Millis,
        expires: Millis,
        reply: Reply<Redelivery>,
    },
    Forget(EventId, Reply<Option<EventEntry>>),
    Remove(Removal, Reply<()>),
    Flush(Reply<()>),
}

impl Command {
    /// Returns the bytes that the command takes in the queue.
    pub(super) fn length(&self) -> usize {
        match self {
            Command::Accept(event, _) => event.length(),
            Command::Record(events, _) => events.iter().map(SealedEvent::length).sum(),
            _ => 256,
        }
    }

    /// Returns whether the command is queued even if the queue is full: there are not more of them
    /// than attempts in flight.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Command::Settle { .. } | Command::Release(_))
    }

    /// Returns whether nobody waits for the result and it is useless otherwise.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Command::Accept(_, reply) => reply.is_abandoned(),
            Command::Revive { reply, .. } => reply.is_abandoned(),
            Command::Take { reply, .. } => reply.is_abandoned(),
            Command::Redeliver { reply, .. } => reply.is_abandoned(),
            Command::Settle { reply, .. } | Command::Forget(_, reply) => reply.is_abandoned(),
            Command::Remove(_, reply) | Command::Flush(reply) => reply.is_abandoned(),
            Command::Release(_) | Command::Record(..) => false,
        }
    }

    /// Notes that the command failed because the files cannot be read.
    pub(super) fn fail(&mut self, error: &str) {
        let error = StoreError::Unavailable(error.into());
        match self {
            Command::Accept(_, reply) => reply.set(Err(error)),
            Command::Revive { reply, .. } => reply.set(Err(error)),
            Command::Take { reply, .. } => reply.set(Err(error)),
            Command::Settle { reply, .. } | Command::Forget(_, reply) => reply.set(Err(error)),
            Command::Record(_, reply) | Command::Remove(_, reply) | Command::Flush(reply) => {
                reply.set(Err(error));
            }
            Command::Redeliver { reply, .. } => reply.set(Err(error)),
            Command::Release(_) => {}
        }
    }

    /// Sends the result.
    pub(super) fn finish(self) {
        match self {
            Command::Accept(_, reply) => reply.send(),
            Command::Revive { reply, .. } => reply.send(),
            Command::Take { reply, .. } => reply.send(),
            Command::Settle { reply, .. } | Command::Forget(_, reply) => reply.send(),
            Command::Record(_, reply) | Command::Remove(_, reply) | Command::Flush(reply) => {
                reply.send();
            }
            Command::Redeliver { reply, .. } => reply.send(),
            Command::Release(_) => {}
        }
    }
}

/// The result of a command, sent when it is durable.
#[derive(Debug)]
pub(super) struct Reply<T> {
    sender: oneshot::Sender<Result<T, StoreError>>,
    result: Option<Result<T, StoreError>>,
}

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply { sender, result: None }, receiver)
    }

    /// Notes the result.
    pub(super) fn set(&mut self, result: Result<T, StoreError>) {
        self.result = Some(result);
    }

    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn send(self) {
        if let Some(result) = self.result {
            // An error means that the caller stopped waiting; leases in the result are released.
            let _ = self.sender.send(result);
        }
    }
}

/// Leases on their path to the caller: released if they do not arrive.
#[derive(Debug)]
pub(super) struct Leases {
    leases: Vec<AttemptLease>,
    queue: Weak<CommandQueue>,
}

impl Leases {
    pub(super) fn new(leases: Vec<AttemptLease>, queue: &Weak<CommandQueue>) -> Self {
        Leases { leases, queue: Weak::clone(queue) }
    }

    /// Returns the leases, which are still released if they do not arrive.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, AttemptLease> {
        self.leases.iter()
    }

    /// Returns the leases. From now on the caller must end the attempts.
    pub(super) fn take(mut self) -> Vec<AttemptLease> {
        std::mem::take(&mut self.leases)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.upgrade() {
            for lease in self.leases.drain(..) {
                queue.release(lease);
            }
        }
    }
}
