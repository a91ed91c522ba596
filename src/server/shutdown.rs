//! The signal on which connections finish.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a connection without a request stays open after the signal, and how long one over
/// HTTP/2 accepts requests after its GOAWAY.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// The connections that are open, and the signal on which they finish.
#[derive(Default)]
pub(super) struct Shutdown {
    /// Tracks the tasks of connections.
    pub(super) connections: TaskTracker,
    token: CancellationToken,
    /// Checked before the token, which has a lock.
    begun: AtomicBool,
}

impl Shutdown {
    /// Asks every connection to finish.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
        self.connections.close();
    }

    /// Returns whether connections are to finish. What is driven by [`Shutdown::drive`] is polled
    /// when that changes.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Drives a connection to its end, or after the signal until it has had no request for
    /// [`GRACE`], whatever the client does. The token is polled once, so that it wakes this task;
    /// from then on each wake-up costs an atomic load, where `select!` would take the token's lock.
    pub(super) async fn drive(
        &self,
        connection: impl Future<Output = ()>,
        is_busy: impl Fn() -> bool,
    ) {
        let mut connection = pin!(connection);
        let mut signal = pin!(self.token.cancelled());
        let mut is_registered = false;
        let mut grace: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|context| {
            if !is_registered {
                is_registered = true;
                // What it returns is also in `begun`.
                let _ = signal.as_mut().poll(context);
            }
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            if !self.has_begun() {
                return Poll::Pending;
            }
            if is_busy() {
                grace = None;
                return Poll::Pending;
            }
            ready!(grace.get_or_insert_with(|| Box::pin(sleep(GRACE))).as_mut().poll(context));
            Poll::Ready(())
        })
        .await;
    }
}
