//! The locks of the claim map, by their own name: the test of its interleavings compiles the same
//! sources with a scheduler's locks in their place.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Locks. A thread that panicked while it held the lock left the map whole: every change to it is a
/// single insertion or removal, so the lock's poison is of no use here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
