//! The limit on a route's concurrent upstream requests, with a bounded queue.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::{
    metrics::Gauge,
    reject::{Reject, Shed},
};

/// The permits of a route, and the places in the queue for them.
#[derive(Debug)]
pub(super) struct UpstreamPermits {
    permits: Arc<Semaphore>,
    queue: Semaphore,
}

impl UpstreamPermits {
    /// Returns `None` if `permits` is 0: there is no limit.
    pub(super) fn new(permits: usize, queue: usize) -> Option<Self> {
        (permits > 0).then(|| UpstreamPermits {
            permits: Arc::new(Semaphore::new(permits)),
            queue: Semaphore::new(queue),
        })
    }

    /// Returns the permits themselves, for attempts that wait without a timeout.
    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Waits for a permit, first come first served. `waiting` counts the queued requests.
    ///
    /// # Errors
    /// [`Reject::Overloaded`] at once if the queue is full, and at `deadline` if no permit was
    /// free.
    pub(super) async fn acquire(
        &self,
        deadline: Instant,
        waiting: &Gauge,
    ) -> Result<SemaphorePermit<'_>, Reject> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let full = |_| Reject::Overloaded(Shed::Upstream);
        let _queued = self.queue.try_acquire().map_err(full)?;
        let _counted = GaugeGuard::increment(waiting);
        match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Reject::Overloaded(Shed::Upstream)),
        }
    }
}

/// One unit in a gauge, removed on drop.
pub(super) struct GaugeGuard<'g>(&'g Gauge);

impl<'g> GaugeGuard<'g> {
    pub(super) fn increment(gauge: &'g Gauge) -> Self {
        gauge.inc();
        GaugeGuard(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_in_length_and_time() {
        let (permits, waiting) = (UpstreamPermits::new(1, 1).expect("a limit"), Gauge::default());
        let soon = Instant::now() + Duration::from_millis(50);
        let held = permits.acquire(soon, &waiting).await.expect("a free permit");
        let (second, third) =
            tokio::join!(permits.acquire(soon, &waiting), permits.acquire(soon, &waiting));
        assert_eq!(second.err(), Some(Reject::Overloaded(Shed::Upstream)));
        assert_eq!(third.err(), Some(Reject::Overloaded(Shed::Upstream)));
        drop(held);
        assert!(permits.acquire(soon, &waiting).await.is_ok(), "both were given back");
        assert_eq!(waiting.get(), 0);
        assert!(UpstreamPermits::new(0, 5).is_none());
    }

    #[tokio::test]
    async fn permits_are_first_come_first_served() {
        let (permits, waiting) = (UpstreamPermits::new(1, 8).expect("a limit"), Gauge::default());
        let late = Instant::now() + Duration::from_secs(20);
        let held = permits.acquire(late, &waiting).await.expect("a free permit");
        let order = std::sync::Mutex::new(Vec::new());
        let take = async |number: i64| {
            let permit = permits.acquire(late, &waiting).await.expect("a permit in time");
            order.lock().expect("not poisoned").push(number);
            yield_now().await;
            drop(permit);
        };
        tokio::join!(take(1), take(2), take(3), async {
            assert_eq!(waiting.get(), 3);
            drop(held);
            take(4).await;
        });
        assert_eq!(order.into_inner().expect("not poisoned"), [1, 2, 3, 4]);
    }
}
