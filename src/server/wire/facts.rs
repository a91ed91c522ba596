//! The facts about heads that hyper hides, on their way from the wire to the gate.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::gate::WireFacts;

/// Facts about the heads of one connection, in the order of the heads. The wire pushes, the service
/// pops.
#[derive(Debug, Default)]
pub(in crate::server) struct FactsQueue {
    facts: Mutex<VecDeque<WireFacts>>,
    /// Whether the service handles a request.
    in_service: AtomicBool,
    half_closed: Arc<AtomicBool>,
}

impl FactsQueue {
    /// Returns the facts about the next head that hyper passes to the service. Call once per head.
    pub(in crate::server) fn pop(&self) -> WireFacts {
        self.in_service.store(true, Ordering::Relaxed);
        let mut facts = self.queue().pop_front().unwrap_or_default();
        facts.half_closed = Arc::clone(&self.half_closed);
        facts
    }

    /// Notes that the service has handled its request.
    pub(in crate::server) fn finish(&self) {
        self.in_service.store(false, Ordering::Relaxed);
    }

    /// Returns whether the client has ended its side of the connection.
    pub(in crate::server) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// Notes that the client has ended its side. Returns whether it may wait for a response.
    pub(super) fn half_close(&self) -> bool {
        self.half_closed.store(true, Ordering::Relaxed);
        self.in_service.load(Ordering::Relaxed)
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
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
