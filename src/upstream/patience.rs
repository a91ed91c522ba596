//! How long an upstream is waited for, and for whom it waits.

use std::{future::poll_fn, pin::pin, task::Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::Context;

/// What comes of `call` until `ends`; `None` if that passes first. As long as the sender waits, who ends this by its
/// own deadline, no timer is armed for a later one.
pub(super) async fn until<T>(
    ends: Instant,
    context: &Context,
    call: impl Future<Output = T>,
) -> Option<T> {
    let mut call = pin!(call);
    let mut timer = pin!(None::<Sleep>);
    poll_fn(|task| {
        if let Poll::Ready(called) = call.as_mut().poll(task) {
            return Poll::Ready(Some(called));
        }
        if ends > context.answer_by && context.owner.waits() {
            return Poll::Pending;
        }
        if timer.is_none() {
            timer.set(Some(sleep_until(ends)));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(task).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Lets the tasks of this thread go first that are ready now. What they are about to send and what this one is
/// about to send then goes out in one go, which wakes an upstream on the same machine once and not for each.
pub(super) async fn after_others() {
    let mut asked = false;
    poll_fn(|task| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
