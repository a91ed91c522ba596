//! Work that outlives whoever waits for it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// A future that is finished in any case: polled in place while its owner waits, and moved to a task
/// of its own when the owner stops waiting (the sender hung up, or its deadline passed). In the
/// usual case this saves a task and a wake-up for each request.
pub struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    owner: Owner,
}

/// Whether somebody still waits for a [`Detached`] future; for that future itself.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    gone: Arc<AtomicBool>,
}

impl Owner {
    /// Whether what the future returns is taken, in the same step in which it returns.
    pub fn waits(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }
}

impl<T: Send + 'static> Detached<T> {
    /// Wraps `future`; it starts when first polled or when dropped. `owner` is told when nobody waits
    /// for it any more.
    pub fn new(future: impl Future<Output = T> + Send + 'static, owner: Owner) -> Self {
        Detached { future: Some(Box::pin(future)), owner }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let (Some(future), Ok(runtime)) = (self.future.take(), Handle::try_current()) {
            self.owner.gone.store(true, Ordering::Relaxed);
            runtime.spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits() {
        let (go, wait) = oneshot::channel::<()>();
        let (report, finished) = oneshot::channel();
        let owner = Owner::default();
        let work = async move {
            wait.await.expect("the signal");
            report.send("finished").expect("the listener");
        };
        let mut work = Detached::new(work, owner.clone());
        assert!(futures_poll(&mut work).is_pending());
        assert!(owner.waits());
        drop(work);
        assert!(!owner.waits());
        go.send(()).expect("the work is alive");
        assert_eq!(finished.await, Ok("finished"));
    }

    fn futures_poll<T: Send + 'static>(work: &mut Detached<T>) -> Poll<T> {
        Pin::new(work).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
