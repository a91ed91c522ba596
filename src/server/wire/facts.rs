//! The facts about heads that hyper hides, on their way from the wire to the gate.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::gate::WireFacts;

/// Facts about the heads of one connection, in the order of the heads. The wire pushes, the service
/// pops.
#[derive(Debug, Default)]
pub(in crate::server) struct FactsQueue(Mutex<VecDeque<WireFacts>>);

impl FactsQueue {
    /// Returns the facts about the next head that hyper passes to the service. Call once per head.
    pub(in crate::server) fn pop(&self) -> WireFacts {
        self.queue().pop_front().unwrap_or_default()
    }

    pub(super) fn push(&self, facts: WireFacts) {
        self.queue().push_back(facts);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    #[cfg(test)]
    pub(super) fn drain(&self) -> Vec<WireFacts> {
        self.queue().drain(..).collect()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<WireFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
