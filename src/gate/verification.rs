//! Verification that does not hold up other requests: what the head decides is decided before the
//! body is read, and large bodies are verified on other threads than the worker's.

use std::{
    mem,
    net::IpAddr,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header::EXPECT, request::Parts};
use http_body::Body;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    body::{self, Payload},
    capacity::Reservation,
    reject::{Reject, Shed},
    rejections::{RejectedEntry, Rejections},
    response::SanitizedResponse,
    route::Route,
    scheme::{ChallengeReply, HeadCheck, UnixMillis, Verified},
};

/// Bodies up to this length are verified by the worker itself: a byte costs a few nanoseconds under
/// every scheme (`cargo bench --bench work`), so this takes less than a millisecond.
const MAX_INLINE: usize = 256 * 1024;

/// How long the body of a request is that is read only to diagnose or capture the request.
const MAX_NOTED: u64 = 256 * 1024;
/// How long such a body may take to arrive.
const NOTED_WITHIN: Duration = Duration::from_millis(100);

/// Large bodies are verified on one thread per core, whatever the number of workers and requests.
static LARGE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// Verifies a request whose head has been checked.
///
/// # Errors
/// As [`Verifier::verify`](crate::scheme::Verifier::verify).
pub(super) async fn verify(
    route: &Arc<Route>,
    check: HeadCheck,
    head: &mut Parts,
    payload: &mut Payload,
    now: UnixMillis,
) -> Result<Verified, Reject> {
    if payload.len() <= MAX_INLINE {
        return route.verifier.verify_after(check, head, payload, now);
    }
    let permit = Arc::clone(&LARGE).acquire_owned().await;
    let own_head = mem::replace(head, Request::new(()).into_parts().0);
    let own_payload = mem::replace(payload, Payload::from(Bytes::new()));
    let route = Arc::clone(route);
    let verification = spawn_blocking(move || {
        let _permit = permit;
        let verified = route.verifier.verify_after(check, &own_head, &own_payload, now);
        (own_head, own_payload, verified)
    });
    match verification.await {
        Ok((own_head, own_payload, verified)) => {
            (*head, *payload) = (own_head, own_payload);
            verified
        }
        // The thread panicked, or the process ends.
        Err(_) => Err(Reject::Overloaded(Shed::Waited)),
    }
}

/// Has the key fetched that a request needs.
pub(super) fn want_key(route: &Route, reject: &Reject, client: IpAddr) {
    if let (Reject::KeyPending(Some(name)), Some(keys)) = (reject, route.verifier.named_keys()) {
        keys.want(name, client);
    }
}

/// Confirms to the sender what a challenge asks for, and returns the response to it.
///
/// # Errors
/// [`Reject::Unconfirmed`]: the sender is to repeat the challenge.
pub(super) async fn confirmed(
    route: &Route,
    reply: ChallengeReply,
) -> Result<SanitizedResponse, Reject> {
    if let (Some(path), Some(keys)) = (&reply.confirm, route.verifier.named_keys()) {
        match keys.confirm(path).await {
            Ok(()) => tracing::info!(route = &*route.name, "confirmed to the sender"),
            Err(error) => {
                tracing::warn!(route = &*route.name, error, "cannot confirm to the sender");
                return Err(Reject::Unconfirmed);
            }
        }
    }
    Ok(reply.response)
}

/// Diagnoses or captures a request that its head has rejected, if that is due and its body is short
/// and has arrived.
pub(super) async fn note<B: Body<Data = Bytes>>(
    rejections: &Rejections,
    route: &Arc<Route>,
    rejected: &RejectedEntry<'_>,
    (head, body): (&Parts, B),
    reserve: impl FnOnce(u64) -> Result<Reservation, Reject>,
) {
    if !rejections.wants(route, rejected) || head.headers.contains_key(EXPECT) {
        rejections.note_head(route, rejected);
        return;
    }
    let limits = body::BodyLimits { bytes: route.body.bytes.min(MAX_NOTED), time: NOTED_WITHIN };
    if let Ok(reservation) = reserve(limits.bytes)
        && let Ok(payload) = body::receive(body, limits, reservation, false).await
    {
        rejections.note(route, rejected, (head, &payload));
    } else {
        rejections.note_head(route, rejected);
    }
}
