//! How long an upstream is waited for.

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
