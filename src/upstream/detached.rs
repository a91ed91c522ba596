//! Work that continues after its owner stops waiting.

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep_until},
};

/// A future that always completes: it is polled in place while its owner waits, and spawned when
/// the owner stops waiting (the sender hung up, or its deadline passed). In the usual case this
/// saves a task and a wake-up for each request.
pub struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    owner: Owner,
}

/// Whether the owner of a [`Detached`] future still waits for it, as seen by the future itself.
#[derive(Clone, Debug)]
pub struct Owner(Arc<OwnerState>);

/// What an owner and the future know about each other.
#[derive(Debug)]
struct OwnerState {
    /// Whether the owner has stopped waiting.
    gone: AtomicBool,
    /// Whether the client has ended its side of the connection.
    half_closed: Arc<AtomicBool>,
    /// The position of the origin that serves the request.
    origin: AtomicUsize,
}

impl Default for Owner {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Owner {
    /// Returns an owner that waits, and counts as gone once its client has ended its side.
    pub fn new(half_closed: Arc<AtomicBool>) -> Self {
        let (gone, origin) = (AtomicBool::new(false), AtomicUsize::new(usize::MAX));
        Owner(Arc::new(OwnerState { gone, half_closed, origin }))
    }

    /// Notes that the caller no longer waits.
    pub fn leave(&self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }

    /// Returns whether the future's result will be taken when the future returns it in this poll.
    pub fn waits(&self) -> bool {
        !self.0.gone.load(Ordering::Relaxed)
    }

    /// Returns the position of the origin that serves the request; `usize::MAX` if none does.
    pub fn origin(&self) -> usize {
        self.0.origin.load(Ordering::Relaxed)
    }

    /// Notes the origin that serves the request.
    pub(super) fn set_origin(&self, position: usize) {
        self.0.origin.store(position, Ordering::Relaxed);
    }

    /// Returns whether the owner waits, and its client is certainly there to read the result.
    pub fn is_present(&self) -> bool {
        self.waits() && !self.0.half_closed.load(Ordering::Relaxed)
    }
}

impl<T: Send + 'static> Detached<T> {
    /// Wraps `future`, which starts when it is first polled or dropped. From then on `owner`
    /// reports whether someone waits for it.
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
            self.owner.leave();
            runtime.spawn(future);
        }
    }
}

/// Returns the output of `future`, or `None` once `deadline` has passed. While the owner waits, its
/// own deadline `answer_by` ends this wait, so no timer is armed for a later one.
pub(super) async fn timeout_at<T>(
    deadline: Instant,
    answer_by: Instant,
    owner: &Owner,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = pin!(None::<Sleep>);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        if deadline > answer_by && owner.waits() {
            return Poll::Pending;
        }
        if timer.is_none() {
            timer.set(Some(sleep_until(deadline)));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(context).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Yields to the tasks of this thread that are ready now. Their writes and the caller's next write
/// then happen together, which wakes an upstream on the same machine once instead of once per
/// request. Unlike [`tokio::task::yield_now`], this does not poll for I/O.
pub(super) async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_continues_when_its_owner_is_gone() {
        let (go, wait) = oneshot::channel::<()>();
        let (report, finished) = oneshot::channel();
        let owner = Owner::default();
        let work = async move {
            wait.await.expect("the signal");
            report.send("finished").expect("the listener");
        };
        let mut work = Detached::new(work, owner.clone());
        assert!(Pin::new(&mut work).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(owner.waits());
        drop(work);
        assert!(!owner.waits());
        go.send(()).expect("the work is alive");
        assert_eq!(finished.await, Ok("finished"));
    }
}
