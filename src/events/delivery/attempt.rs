//! One attempt to deliver an event of the store.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, request::Parts};
use tokio::time::Instant;

use super::{
    retry::AttemptResult,
    route::{AttemptSlot, DeliveryRoute},
};
use crate::{
    events::{
        model::{AttemptLease, DeliveryAttempt, EventEntry, NextStep},
        request::InboundRequest,
        service::{EventService, rfc3339},
    },
    metrics::AttemptOutcome,
    replay::Millis,
    scheme::UnixMillis,
    traces::{RootSpan, TraceContext},
    upstream::{self, ExchangeContext, Owner, StoredAttempt, Verdict},
};

/// The longest time that an attempt may take beyond `upstream_timeout`.
const FAR: Duration = Duration::from_secs(86_400);

/// An event whose attempt begins.
pub(in crate::events) struct StoredDelivery {
    pub(in crate::events) route: Arc<DeliveryRoute>,
    /// The entry, with this attempt counted.
    pub(in crate::events) entry: EventEntry,
    pub(in crate::events) lease: AttemptLease,
    pub(in crate::events) request: InboundRequest,
    pub(in crate::events) slot: AttemptSlot,
}

/// An attempt that has ended.
pub(in crate::events) struct EndedAttempt {
    /// When it began.
    pub(in crate::events) at: Millis,
    pub(in crate::events) took: Duration,
    pub(in crate::events) result: AttemptResult,
    pub(in crate::events) resigned: bool,
    /// The ID of the sender's request.
    pub(in crate::events) request_id: HeaderValue,
}

impl EndedAttempt {
    /// Returns the attempt as it is stored.
    pub(in crate::events) fn logged(&self) -> DeliveryAttempt {
        DeliveryAttempt {
            at: self.at,
            status: self.result.status,
            error: self.result.error.map(Into::into),
            duration_ms: u32::try_from(self.took.as_millis()).unwrap_or(u32::MAX),
            resigned: self.resigned,
        }
    }
}

impl StoredDelivery {
    /// Sends the request, and settles the event by the outcome.
    pub(in crate::events) async fn run(self, events: Arc<EventService>) {
        let StoredDelivery { route, entry, lease, mut request, mut slot } = self;
        slot.ready().await;
        let at = events.now();
        let resigned = resign(&route, &entry, &mut request, at);
        let verdict = Verdict::Stored(StoredAttempt {
            scheme: Arc::clone(&entry.scheme),
            key: Arc::clone(&entry.key),
            event_id: entry.event_id.clone(),
            number: entry.attempts,
            received: rfc3339(entry.received),
            redelivery: entry.redelivery,
            resigned,
        });
        let span = events.traces().and_then(|traces| {
            let sent = TraceContext::of(&request.head.headers);
            let accepted = (sent, request.client.is_proxied());
            let mut span = traces.attempt(&request.request_id, accepted, entry.attempts)?;
            span.set_route(Arc::clone(&route.name));
            Some(span)
        });
        let started = Instant::now();
        let request_id = request.request_id;
        let context = ExchangeContext {
            client: request.client,
            request_id: request_id.clone(),
            answer_by: started + FAR,
            connect_by: Some(started + route.connecting()),
            owner: Owner::default(),
            matched: route.matched,
            metrics: Arc::clone(&route.metrics),
            span: span.as_ref().map(RootSpan::upstream),
        };
        let exchange = upstream::exchange(
            Arc::clone(&route.upstream),
            (&request.head, &request.case),
            request.payload,
            &verdict,
            entry.possible_duplicate,
            context,
        );
        let outcome = exchange.await;
        let result = AttemptResult::of(&outcome, events.now());
        let ended = EndedAttempt { at, took: started.elapsed(), result, resigned, request_id };
        // The handler is free again, whatever the store does.
        slot.release();
        let (status, error) = (ended.result.status, ended.result.error);
        let outcome = ended.settle(&events, &route, &entry, lease).await;
        if let Some(span) = span {
            let failed = outcome != AttemptOutcome::Delivered;
            span.end(status, outcome.label(), error, failed);
        }
        drop(slot);
    }
}

/// Signs a request again if its signature will not be fresh for much longer. Returns whether it
/// did.
fn resign(
    route: &DeliveryRoute,
    entry: &EventEntry,
    request: &mut InboundRequest,
    now: Millis,
) -> bool {
    let window = route.verifier.scheme().window().filter(|_| route.options.resigns);
    let is_late = window.is_some_and(|window| {
        u128::from(now.saturating_sub(entry.received)) > window.as_millis() / 2
    });
    if !is_late {
        return false;
    }
    let at = UnixMillis(i64::try_from(now).unwrap_or(i64::MAX));
    let InboundRequest { head, payload, .. } = request;
    match route.verifier.resign(&entry.key, entry.secret, head, payload, at) {
        Ok(headers) => {
            replace(head, headers);
            true
        }
        Err(problem) => {
            tracing::warn!(route = %route.name, id = %entry.id, %problem, "cannot sign an event again");
            false
        }
    }
}

/// Replaces the values of headers that a request has.
fn replace(head: &mut Parts, headers: Vec<(http::HeaderName, http::HeaderValue)>) {
    for (name, value) in headers {
        if let Some(known) = head.headers.get_mut(&name) {
            *known = value;
        }
    }
}

impl EndedAttempt {
    /// Counts and logs the attempt by what follows it; `entry` is the event's during the attempt.
    /// Returns its outcome.
    pub(in crate::events) fn note(
        &self,
        route: &DeliveryRoute,
        entry: &EventEntry,
        next: NextStep,
    ) -> AttemptOutcome {
        let outcome = match next {
            NextStep::Delivered => AttemptOutcome::Delivered,
            NextStep::Dead { .. } => AttemptOutcome::Dead,
            NextStep::Retry { unknown: true, .. } => AttemptOutcome::Unknown,
            NextStep::Retry { unknown: false, .. } => AttemptOutcome::Failed,
        };
        route.deliveries().attempts(outcome).inc();
        log(route, entry, self, next, outcome);
        outcome
    }

    /// Settles the event of the attempt, whose entry is as it was when the attempt began. The
    /// attempt is counted and logged. Returns its outcome.
    pub(in crate::events) async fn settle(
        &self,
        events: &EventService,
        route: &DeliveryRoute,
        entry: &EventEntry,
        lease: AttemptLease,
    ) -> AttemptOutcome {
        let now = events.now();
        let next = route.options.retry.next(entry, &self.result, now, jitter(entry));
        let settled = events.settle(lease, self.logged(), next).await;
        let outcome = self.note(route, entry, next);
        if next == NextStep::Delivered {
            let delay = Duration::from_millis(now.saturating_sub(entry.received));
            route.deliveries().delay.observe(delay.as_secs_f64());
        }
        if let Some(settled) = settled {
            events.publish(&settled);
        }
        route.wake();
        outcome
    }
}

/// Returns a number between 0 and 1 that differs between the attempts of all events.
pub(in crate::events) fn jitter(entry: &EventEntry) -> f64 {
    let mixed = (entry.id.0 as u64)
        .wrapping_add(u64::from(entry.attempts))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64
        / (1_u64 << 53) as f64
}

fn log(
    route: &DeliveryRoute,
    entry: &EventEntry,
    ended: &EndedAttempt,
    next: NextStep,
    outcome: AttemptOutcome,
) {
    /// tracing needs the level of an event at compile time.
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                $level,
                route = %route.name,
                result = outcome.label(),
                id = %entry.id,
                event_id = entry.event_id.as_deref(),
                request_id = ended.request_id.to_str().unwrap_or(""),
                key = %entry.key,
                attempt = entry.attempts,
                status = ended.result.status,
                error = ended.result.error,
                resigned = ended.resigned.then_some(true),
                next = match next {
                    NextStep::Retry { at, .. } => Some(rfc3339(at)),
                    NextStep::Delivered | NextStep::Dead { .. } => None,
                },
                ms = ended.took.as_micros() as f64 / 1000.0,
                "attempt"
            )
        };
    }
    match outcome {
        AttemptOutcome::Delivered => line!(tracing::Level::INFO),
        AttemptOutcome::Failed | AttemptOutcome::Unknown => line!(tracing::Level::WARN),
        AttemptOutcome::Dead => line!(tracing::Level::ERROR),
    }
}
