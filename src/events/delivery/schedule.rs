//! Begins attempts when events are due and the handler has a free slot.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{
    attempt::StoredDelivery,
    route::{AttemptSlot, DeliveryRoute},
};
use crate::events::{
    model::DueEvent,
    request::InboundRequest,
    service::{BUDGET, EventService},
};

/// The most events that are read from the store at once.
const BATCH: usize = 32;
/// The wait before the store is queried again, after an error or after another process was faster.
const PAUSE: Duration = Duration::from_millis(200);

/// Begins the attempts of a route until `stop` is cancelled.
pub(in crate::events) async fn deliver(
    events: Arc<EventService>,
    route: Arc<DeliveryRoute>,
    stop: CancellationToken,
) {
    let mut delivering = pin!(async {
        let mut has_warned = false;
        loop {
            due(&events, &route).await;
            let Some((slots, memory)) = capacity(&events, &route).await else { continue };
            let taking = route.taking();
            match events.take_due(&route.name, slots.len()).await {
                Ok(due) if due.is_empty() => {
                    drop(taking);
                    pause(&events, &route).await;
                }
                Ok(due) => {
                    has_warned = false;
                    begin(&events, &route, due, slots, memory);
                }
                Err(error) => {
                    if !has_warned {
                        tracing::error!(route = %route.name, %error, "cannot read events that are due");
                    }
                    has_warned = true;
                    drop((taking, slots, memory));
                    pause(&events, &route).await;
                }
            }
        }
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = &mut delivering => {}
    }
}

/// Waits until an event is due.
async fn due(events: &EventService, route: &DeliveryRoute) {
    loop {
        let now = events.now();
        match events.store().next_due(&route.name) {
            Some(at) if at <= now => return,
            Some(at) => tokio::select! {
                () = events.clock().sleep(Duration::from_millis(at - now)) => {}
                () = route.wake.notified() => {}
            },
            None => route.wake.notified().await,
        }
    }
}

async fn pause(events: &EventService, route: &DeliveryRoute) {
    tokio::select! {
        () = events.clock().sleep(PAUSE) => {}
        () = route.wake.notified() => {}
    }
}

/// Waits for free slots and for the memory of as many bodies. While the handler cannot be reached,
/// there is one slot, for a probe; `None` if the reason to wait for it may have changed.
async fn capacity(
    events: &EventService,
    route: &Arc<DeliveryRoute>,
) -> Option<(Vec<OwnedSemaphorePermit>, OwnedSemaphorePermit)> {
    // Created before the check, so that no recovery after it is missed.
    let recovered = route.upstream.recovered();
    if !route.upstream.is_reachable() && route.has_attempts() {
        tokio::select! {
            () = recovered => {}
            () = route.wake.notified() => {}
        }
        return None;
    }
    let body = route.body_bytes.div_ceil(1024).saturating_add(64).min(BUDGET.into()).max(1);
    let most = usize::try_from(u64::from(BUDGET) / body).unwrap_or(BATCH).clamp(1, BATCH);
    let mut slots = vec![Arc::clone(&route.slots).acquire_owned().await.ok()?];
    if !route.upstream.is_reachable() && route.has_attempts() {
        return None;
    }
    while slots.len() < most
        && route.upstream.is_reachable()
        && let Ok(slot) = Arc::clone(&route.slots).try_acquire_owned()
    {
        slots.push(slot);
    }
    let kibibytes = u32::try_from(body * slots.len() as u64).unwrap_or(BUDGET).min(BUDGET);
    let memory = events.memory().acquire_many_owned(kibibytes).await.ok()?;
    Some((slots, memory))
}

/// Begins an attempt of each event. What the bodies do not need of the memory is released.
fn begin(
    events: &Arc<EventService>,
    route: &Arc<DeliveryRoute>,
    due: Vec<DueEvent>,
    slots: Vec<OwnedSemaphorePermit>,
    mut memory: OwnedSemaphorePermit,
) {
    for (DueEvent { entry, request, lease }, slot) in due.into_iter().zip(slots) {
        let kibibytes = request.body.len().div_ceil(1024).min(memory.num_permits());
        let held = memory.split(kibibytes);
        events.publish(&entry);
        let slot = AttemptSlot::new(route, Some(slot));
        let request = InboundRequest::restored(request);
        let delivery = StoredDelivery { route: Arc::clone(route), entry, lease, request, slot };
        let running = events.track(lease, delivery.run(Arc::clone(events)));
        tokio::spawn(async move {
            running.await;
            drop(held);
        });
    }
}
