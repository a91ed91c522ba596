//! The time by which records live and die.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

/// Milliseconds since the Unix epoch, never going back within one process.
pub(crate) type Millis = u64;

/// Where the time comes from.
///
/// The system's time of day is read once; from then on the monotonic clock counts, so that a step
/// of the time of day neither ends a record early nor keeps it for ever.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { epoch: Millis, start: Instant },
    Manual(Arc<watch::Sender<Millis>>),
}

impl Clock {
    /// Returns the machine's clock.
    pub fn system() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock(Source::System { epoch: millis(since), start: Instant::now() })
    }

    /// Returns a clock that shows `start` (milliseconds since the Unix epoch) until it is advanced;
    /// for tests.
    pub fn manual(start: u64) -> Self {
        Clock(Source::Manual(Arc::new(watch::Sender::new(start))))
    }

    /// Moves a manual clock, and every copy of it, forward. The machine's clock is not affected.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::System { .. } => {}
            Source::Manual(now) => now.send_modify(|now| *now = now.saturating_add(millis(by))),
        }
    }

    /// Returns the current time.
    pub(crate) fn now(&self) -> Millis {
        match &self.0 {
            Source::System { epoch, start } => epoch.saturating_add(millis(start.elapsed())),
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Waits for so long, by this clock.
    pub(crate) async fn sleep(&self, time: Duration) {
        match &self.0 {
            Source::System { .. } => tokio::time::sleep(time).await,
            Source::Manual(now) => {
                let end = self.now().saturating_add(millis(time));
                // An error means that the clock is gone, which cannot be: `self` holds it.
                let _ = now.subscribe().wait_for(|now| *now >= end).await;
            }
        }
    }
}

/// Returns a duration in whole milliseconds, or the maximum if it does not fit.
pub(crate) fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
