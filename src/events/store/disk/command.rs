//! The commands for the writer thread.

use std::sync::Arc;

use super::{
    list::{ListRequest, UnsettledIds},
    reply::{CommandReply, Leases},
};
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
    /// Returns the bytes that it occupies in the queue.
    fn length(&self) -> usize {
        self.request.as_ref().map_or(0, Vec::len) + 512
    }
}

/// Events that have expired or are removed to free space: removed if they are still in one of these
/// states.
#[derive(Clone, Debug)]
pub(super) struct EventRemoval {
    pub(super) ids: Vec<EventId>,
    pub(super) state: EventState,
    /// Removed if they have been in the state since before this time.
    pub(super) before: Millis,
}

/// One command, with where its result is sent.
#[derive(Debug)]
pub(super) enum StoreCommand {
    Accept(Box<SealedEvent>, CommandReply<(Acceptance, Leases)>),
    Revive {
        route: Arc<str>,
        record: EventKey,
        next_attempt: Millis,
        expires: Millis,
        reply: CommandReply<bool>,
    },
    Take {
        route: Arc<str>,
        now: Millis,
        limit: usize,
        reply: CommandReply<(Vec<EventEntry>, Leases)>,
    },
    Settle {
        lease: AttemptLease,
        attempt: DeliveryAttempt,
        next: NextStep,
        reply: CommandReply<Option<EventEntry>>,
    },
    GiveUp {
        ids: Vec<EventId>,
        now: Millis,
        reply: CommandReply<Vec<EventEntry>>,
    },
    /// Ends an attempt that its caller never began.
    Release(AttemptLease),
    Record(Vec<SealedEvent>, CommandReply<()>),
    Redeliver {
        id: EventId,
        now: Millis,
        expires: Millis,
        reply: CommandReply<Redelivery>,
    },
    Forget(EventId, CommandReply<Option<EventEntry>>),
    Remove(EventRemoval, CommandReply<()>),
    /// Finds the unsettled events among which a list selects.
    FindUnsettled(ListRequest, CommandReply<UnsettledIds>),
    Flush(CommandReply<()>),
}

impl StoreCommand {
    /// Returns the bytes that the command occupies in the queue.
    pub(super) fn length(&self) -> usize {
        match self {
            StoreCommand::Accept(event, _) => event.length(),
            StoreCommand::Record(events, _) => events.iter().map(SealedEvent::length).sum(),
            _ => 256,
        }
    }

    /// Returns whether the command is queued even if the queue is full: there are not more of them
    /// than attempts in flight.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, StoreCommand::Settle { .. } | StoreCommand::Release(_))
    }

    /// Returns whether the command is useless because its caller has stopped waiting.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            StoreCommand::Accept(_, reply) => reply.is_abandoned(),
            StoreCommand::Revive { reply, .. } => reply.is_abandoned(),
            StoreCommand::Take { reply, .. } => reply.is_abandoned(),
            StoreCommand::GiveUp { reply, .. } => reply.is_abandoned(),
            StoreCommand::Redeliver { reply, .. } => reply.is_abandoned(),
            StoreCommand::FindUnsettled(_, reply) => reply.is_abandoned(),
            StoreCommand::Settle { reply, .. } | StoreCommand::Forget(_, reply) => {
                reply.is_abandoned()
            }
            StoreCommand::Remove(_, reply) | StoreCommand::Flush(reply) => reply.is_abandoned(),
            StoreCommand::Release(_) | StoreCommand::Record(..) => false,
        }
    }

    /// Notes that the command failed because the files cannot be read.
    pub(super) fn fail(&mut self, error: &str) {
        let error = StoreError::Unavailable(error.into());
        match self {
            StoreCommand::Accept(_, reply) => reply.set(Err(error)),
            StoreCommand::Revive { reply, .. } => reply.set(Err(error)),
            StoreCommand::Take { reply, .. } => reply.set(Err(error)),
            StoreCommand::GiveUp { reply, .. } => reply.set(Err(error)),
            StoreCommand::Settle { reply, .. } | StoreCommand::Forget(_, reply) => {
                reply.set(Err(error))
            }
            StoreCommand::Record(_, reply)
            | StoreCommand::Remove(_, reply)
            | StoreCommand::Flush(reply) => {
                reply.set(Err(error));
            }
            StoreCommand::Redeliver { reply, .. } => reply.set(Err(error)),
            StoreCommand::FindUnsettled(_, reply) => reply.set(Err(error)),
            StoreCommand::Release(_) => {}
        }
    }

    /// Sends the result.
    pub(super) fn finish(self) {
        match self {
            StoreCommand::Accept(_, reply) => reply.send(),
            StoreCommand::Revive { reply, .. } => reply.send(),
            StoreCommand::Take { reply, .. } => reply.send(),
            StoreCommand::GiveUp { reply, .. } => reply.send(),
            StoreCommand::Settle { reply, .. } | StoreCommand::Forget(_, reply) => reply.send(),
            StoreCommand::Record(_, reply)
            | StoreCommand::Remove(_, reply)
            | StoreCommand::Flush(reply) => {
                reply.send();
            }
            StoreCommand::Redeliver { reply, .. } => reply.send(),
            StoreCommand::FindUnsettled(_, reply) => reply.send(),
            StoreCommand::Release(_) => {}
        }
    }
}
