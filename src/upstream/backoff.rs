//! The backoff of an origin that cannot be reached.
//!
//! After a failure, no request dials the origin until the backoff has passed; then one request
//! probes it (half-open) while the others wait for the result.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The backoff after a first failure. It doubles with each further one, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(250);
/// How long requests pass over a failed origin while another one is available. A failure later than
/// this after the last one counts as a first failure.
const PASSED_OVER: Duration = Duration::from_secs(2);

/// Whether an origin may be dialed.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Whether the last attempt failed; a copy of `failing.is_some()` that needs no lock.
    is_failing: AtomicBool,
    failing: Mutex<Option<Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// The current backoff.
    backoff: Duration,
    last_failure: Instant,
    /// Whether a request has claimed the next probe.
    is_probed: bool,
    /// Whether a connection has succeeded since the last failure.
    has_recovered: bool,
}

/// The right to dial a failing origin, held by one request. If it is dropped without a result,
/// another request is woken to claim it.
#[derive(Debug)]
pub(super) struct Probe<'b> {
    backoff: &'b Backoff,
    unclaimed: &'b Notify,
    /// When the origin may be dialed.
    pub(super) at: Instant,
}

impl Backoff {
    /// Returns whether the origin may be dialed by any request.
    pub(super) fn is_available(&self) -> bool {
        !self.is_failing.load(Ordering::Relaxed)
    }

    /// Claims the next probe of a failing origin; `None` if another request has it or the origin is
    /// available. With `has_alternative`, the origin is left alone for [`PASSED_OVER`]. `unclaimed`
    /// is notified when the claim is given up.
    pub(super) fn claim_probe<'b>(
        &'b self,
        now: Instant,
        has_alternative: bool,
        unclaimed: &'b Notify,
    ) -> Option<Probe<'b>> {
        let mut failing = self.lock();
        let state = failing.as_mut().filter(|state| !state.is_probed && !state.has_recovered)?;
        let at = state.last_failure + state.backoff;
        if has_alternative && state.last_failure + PASSED_OVER > now {
            return None;
        }
        state.is_probed = true;
        Some(Probe { backoff: self, unclaimed, at })
    }

    /// Records a failed attempt. Returns whether the origin was available until now.
    pub(super) fn record_failure(&self, now: Instant) -> bool {
        let mut failing = self.lock();
        let was_available = !self.is_failing.swap(true, Ordering::Relaxed);
        let (backoff, is_probed) = match *failing {
            // Attempts that began before the first failure say nothing new.
            Some(state) if !state.has_recovered && now < state.last_failure + state.backoff => {
                return was_available;
            }
            Some(state) if now < state.last_failure + PASSED_OVER => {
                ((state.backoff * 2).min(MAX_BACKOFF), state.is_probed)
            }
            Some(state) => (MIN_BACKOFF, state.is_probed),
            None => (MIN_BACKOFF, false),
        };
        *failing = Some(Failing { backoff, last_failure: now, is_probed, has_recovered: false });
        was_available
    }

    /// Records a connection that works. Returns whether the origin was failing until now; then
    /// waiting requests are to be notified.
    pub(super) fn record_success(&self) -> bool {
        if self.is_available() {
            return false;
        }
        if let Some(state) = self.lock().as_mut() {
            // Kept, so that an origin that accepts connections and drops them is backed off from.
            state.has_recovered = true;
        }
        self.is_failing.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.backoff.lock().as_mut() {
            state.is_probed = false;
            if !state.has_recovered {
                self.unclaimed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn one_request_probes_at_a_time() {
        let (backoff, unclaimed, now) = (Backoff::default(), Notify::new(), Instant::now());
        let claim = || backoff.claim_probe(now, false, &unclaimed);
        assert!(backoff.is_available());
        assert!(claim().is_none(), "there is nothing to probe");
        assert!(backoff.record_failure(now));
        assert!(!backoff.record_failure(now), "a concurrent attempt changes nothing");
        assert!(!backoff.is_available());
        let probe = claim().expect("the first claim");
        assert_eq!(probe.at, now + MIN_BACKOFF);
        assert!(claim().is_none());
        drop(probe);
        let probe = claim().expect("the claim was released");
        assert!(backoff.record_success());
        assert!(!backoff.record_success());
        drop(probe);
        assert!(backoff.is_available() && claim().is_none());
    }

    /// Fails at each end of the backoff and returns the backoffs. With `accepts`, connections
    /// succeed in between.
    fn backoffs(backoff: &Backoff, count: usize, accepts: bool) -> Vec<u128> {
        let (unclaimed, mut now) = (Notify::new(), Instant::now());
        let next = |_| {
            backoff.record_failure(now);
            let probe = backoff.claim_probe(now, false, &unclaimed).expect("a probe");
            let wait = probe.at - now;
            now = probe.at;
            if accepts {
                assert!(backoff.record_success());
            }
            wait.as_millis()
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_backoff_doubles_and_starts_over_after_a_while() {
        let backoff = Backoff::default();
        assert_eq!(backoffs(&backoff, 5, false), [50, 100, 200, 250, 250]);
        let (unclaimed, later) = (Notify::new(), Instant::now() + 2 * PASSED_OVER);
        backoff.record_failure(later);
        let probe = backoff.claim_probe(later, false, &unclaimed).expect("a probe");
        assert_eq!(probe.at - later, MIN_BACKOFF);
    }

    #[test]
    fn connections_that_are_dropped_at_once_do_not_reset_the_backoff() {
        assert_eq!(backoffs(&Backoff::default(), 5, true), [50, 100, 200, 250, 250]);
    }

    #[test]
    fn an_origin_is_passed_over_for_longer_while_there_is_another() {
        let (backoff, unclaimed, now) = (Backoff::default(), Notify::new(), Instant::now());
        backoff.record_failure(now);
        let almost = now + PASSED_OVER - MILLISECOND;
        assert!(backoff.claim_probe(almost, true, &unclaimed).is_none());
        assert!(backoff.claim_probe(almost + MILLISECOND, true, &unclaimed).is_some());
    }

    #[tokio::test]
    async fn a_dropped_probe_wakes_one_waiting_request() {
        let (backoff, unclaimed, now) = (Backoff::default(), Notify::new(), Instant::now());
        backoff.record_failure(now);
        drop(backoff.claim_probe(now, false, &unclaimed).expect("a probe"));
        unclaimed.notified().await;
        assert!(backoff.claim_probe(now, false, &unclaimed).is_some());
    }
}
