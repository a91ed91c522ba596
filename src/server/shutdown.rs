//! The signal on which connections finish.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// The connections that are open, and the signal on which they finish.
#[derive(Default)]
pub(super) struct Shutdown {
    /// Tracks the tasks of connections.
    pub(super) connections: TaskTracker,
    token: CancellationToken,
    /// Checked before the token, which has a lock.
    stopped: AtomicBool,
}

impl Shutdown {
    /// Asks every connection to finish.
    pub(super) fn begin(&self) {
        self.stopped.store(true, Ordering::Release);
        self.token.cancel();
        self.connections.close();
    }

    /// Waits for the signal.
    pub(super) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Returns a token that is cancelled by the signal.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Drives a connection until it ends or is parked (`None`). When the server stops, `finish` is
    /// called once, and the connection is no longer parked. The token is polled once, so that it
    /// wakes this task; from then on each wake-up costs an atomic load, where `select!` would take
    /// the token's lock.
    pub(super) async fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        finish: impl Fn(Pin<&mut C>),
        is_parked: impl Fn() -> bool,
    ) -> Option<C::Output> {
        let mut begun = pin!(self.begun());
        let (mut registered, mut finishing) = (false, false);
        poll_fn(|context| {
            if !finishing && (!registered || self.stopped.load(Ordering::Acquire)) {
                registered = true;
                if begun.as_mut().poll(context).is_ready() {
                    finishing = true;
                    finish(connection.as_mut());
                }
            }
            match connection.as_mut().poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if is_parked() && !finishing => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}
