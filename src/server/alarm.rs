//! When a connection was woken for bytes that have come, to know how long they wait for the worker.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

/// The waker of a connection's task, which notes when it was woken.
struct Alarm {
    task: Waker,
    /// In nanoseconds since the first use of the clock; 0 if it was not woken.
    woken: AtomicU64,
}

/// The alarm of one connection, set when its task first waits.
#[derive(Default)]
pub(super) struct AlarmClock(Option<(Arc<Alarm>, Waker)>);

fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Never 0, and no process runs for 584 years.
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.load(Ordering::Relaxed) == 0 {
            self.woken.store(now(), Ordering::Relaxed);
        }
        self.task.wake_by_ref();
    }
}

impl AlarmClock {
    /// Returns a waker that wakes `task` and notes when.
    pub(super) fn waker(&mut self, task: &Waker) -> &Waker {
        let is_set = self.0.as_ref().is_some_and(|(alarm, _)| alarm.task.will_wake(task));
        if !is_set {
            self.0 = None;
        }
        let (_, waker) = self.0.get_or_insert_with(|| {
            let alarm = Arc::new(Alarm { task: task.clone(), woken: AtomicU64::new(0) });
            (Arc::clone(&alarm), alarm.into())
        });
        waker
    }

    /// Returns how long ago the task was woken since this was last called.
    pub(super) fn waited(&self) -> Duration {
        let woken = self.0.as_ref().map_or(0, |(alarm, _)| alarm.woken.swap(0, Ordering::Relaxed));
        if woken == 0 { Duration::ZERO } else { Duration::from_nanos(now().saturating_sub(woken)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_counted_from_the_first_wake_up() {
        let mut clock = AlarmClock::default();
        assert_eq!(clock.waited(), Duration::ZERO);
        let waker = clock.waker(Waker::noop()).clone();
        assert_eq!(clock.waited(), Duration::ZERO, "it was not woken");
        waker.wake_by_ref();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        waker.wake_by_ref();
        assert!(clock.waited() >= Duration::from_millis(5));
        assert_eq!(clock.waited(), Duration::ZERO, "it was not woken again");
    }
}
