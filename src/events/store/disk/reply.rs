//! The results of commands on their path to the callers.

use std::{fmt, sync::Weak};

use tokio::sync::oneshot;

use crate::events::{model::AttemptLease, store::StoreError};

/// The result of a command, sent when it is durable.
#[derive(Debug)]
pub(super) struct CommandReply<T> {
    sender: oneshot::Sender<Result<T, StoreError>>,
    result: Option<Result<T, StoreError>>,
}

impl<T> CommandReply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (sender, receiver) = oneshot::channel();
        (CommandReply { sender, result: None }, receiver)
    }

    /// Notes the result.
    pub(super) fn set(&mut self, result: Result<T, StoreError>) {
        self.result = Some(result);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn send(self) {
        if let Some(result) = self.result {
            // An error means that the caller stopped waiting; leases in the result are released.
            let _ = self.sender.send(result);
        }
    }
}

/// Ends attempts whose lease did not arrive at the caller.
pub(super) trait LeaseOwner: fmt::Debug + Send + Sync {
    /// Ends an attempt that its caller never began.
    fn release(&self, lease: AttemptLease);
}

/// Leases on their path to the caller: released if they do not arrive.
#[derive(Debug)]
pub(super) struct Leases {
    leases: Vec<AttemptLease>,
    owner: Weak<dyn LeaseOwner>,
}

impl Leases {
    pub(super) fn new(leases: Vec<AttemptLease>, owner: &Weak<dyn LeaseOwner>) -> Self {
        Leases { leases, owner: Weak::clone(owner) }
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
        if let Some(owner) = self.owner.upgrade() {
            for lease in self.leases.drain(..) {
                owner.release(lease);
            }
        }
    }
}
