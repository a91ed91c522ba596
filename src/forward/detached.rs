//! Work that outlives whoever waits for it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// A future that is finished in any case: polled in place while its owner waits, and moved to a task
/// of its own when the owner stops waiting (the sender hung up, or its deadline passed). In the
/// usual case this saves a task and a wake-up for each request.
pub struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T: Send + 'static> Detached<T> {
    /// Wraps `future`; it starts when first polled or when dropped.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Detached { future: Some(Box::pin(future)) }
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
        let mut work = Detached::new(async move {
            wait.await.expect("the signal");
            report.send("finished").expect("the listener");
        });
        assert!(futures_poll(&mut work).is_pending());
        drop(work);
        go.send(()).expect("the work is alive");
        assert_eq!(finished.await, Ok("finished"));
    }

    fn futures_poll<T: Send + 'static>(work: &mut Detached<T>) -> Poll<T> {
        Pin::new(work).poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
