//! At most so many requests of a route are at its upstreams at one time; a few more wait in line.

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::{metrics::Gauge, reject::Reject};

/// The slots of a route, and the places in the line before them.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Semaphore,
    places: Semaphore,
}

impl Slots {
    /// So many slots and places; without slots there is no limit.
    pub(super) fn new(slots: usize, places: usize) -> Option<Self> {
        (slots > 0).then(|| Slots { slots: Semaphore::new(slots), places: Semaphore::new(places) })
    }

    /// A slot, for which whoever came first is first; `waiting` counts those in line.
    ///
    /// # Errors
    /// [`Reject::Overloaded`] at once if the line is full, and at `by` if there was no slot until then.
    pub(super) async fn enter(
        &self,
        by: Instant,
        waiting: &Gauge,
    ) -> Result<SemaphorePermit<'_>, Reject> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        let full = |_| Reject::Overloaded("the line before the upstream is full");
        let _place = self.places.try_acquire().map_err(full)?;
        let _counted = Counted::among(waiting);
        match timeout_at(by, self.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(Reject::Overloaded("no slot at the upstream in time")),
        }
    }
}

/// One more in a gauge, for as long as it lives.
pub(super) struct Counted<'g>(&'g Gauge);

impl<'g> Counted<'g> {
    pub(super) fn among(gauge: &'g Gauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted<'_> {
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
    async fn the_line_is_bounded_in_length_and_time() {
        let (slots, waiting) = (Slots::new(1, 1).expect("a limit"), Gauge::default());
        let soon = Instant::now() + Duration::from_millis(50);
        let held = slots.enter(soon, &waiting).await.expect("a free slot");
        let (second, third) =
            tokio::join!(slots.enter(soon, &waiting), slots.enter(soon, &waiting));
        assert_eq!(second.err(), Some(Reject::Overloaded("no slot at the upstream in time")));
        assert_eq!(third.err(), Some(Reject::Overloaded("the line before the upstream is full")));
        drop(held);
        assert!(slots.enter(soon, &waiting).await.is_ok(), "places and slots were given back");
        assert_eq!(waiting.get(), 0);
        assert!(Slots::new(0, 5).is_none());
    }

    #[tokio::test]
    async fn whoever_came_first_is_first() {
        let (slots, waiting) = (Slots::new(1, 8).expect("a limit"), Gauge::default());
        let late = Instant::now() + Duration::from_secs(20);
        let held = slots.enter(late, &waiting).await.expect("a free slot");
        let order = std::sync::Mutex::new(Vec::new());
        let take = async |number: i64| {
            let slot = slots.enter(late, &waiting).await.expect("a slot in time");
            order.lock().expect("not poisoned").push(number);
            yield_now().await;
            drop(slot);
        };
        tokio::join!(take(1), take(2), take(3), async {
            assert_eq!(waiting.get(), 3);
            drop(held);
            take(4).await;
        });
        assert_eq!(order.into_inner().expect("not poisoned"), [1, 2, 3, 4]);
    }
}
