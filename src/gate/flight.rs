//! The part of a request that outlives its sender's connection, on routes with an event store: the
//! event is stored, forwarded, or forwarded and then stored.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode, request::Parts};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::access_log::LateLine;
use crate::{
    body::Payload,
    capacity::Permit,
    events::{
        DeliveryMode, EventFacts, EventState, Events, FirstAttempt, HistoryMode, InboundRequest,
        StoreError,
    },
    reject::{Outcome, Reject},
    replay::{Claim, Claimed, Failure, PendingClaim, Settled},
    response::{ANSWER, SanitizedResponse},
    route::Route,
    scheme::{UnixMillis, Verified},
    upstream::{self, ClientAddr, Detached, ExchangeContext, HeaderCase, Owner, Verdict},
};

/// The longest time before the sender's deadline at which an event is stored whose exchange is
/// still in flight.
const STORE_RESERVE: Duration = Duration::from_millis(500);

/// An authentic, new request on its way to the upstream or into the event store.
pub(super) struct Flight {
    pub(super) route: Arc<Route>,
    pub(super) events: Events,
    pub(super) claim: Claim,
    pub(super) context: ExchangeContext,
    pub(super) permit: Option<Permit>,
    pub(super) flights: TaskTracker,
    /// For an outcome after the sender has stopped waiting.
    pub(super) late: LateLine,
}

/// A request that may be stored, and what its entry will say.
struct KeptRequest {
    facts: EventFacts,
    request: InboundRequest,
}

impl Flight {
    /// Returns whether events of this route are stored or recorded.
    pub(super) fn involves_events(route: &Route) -> bool {
        let options = &route.delivery.options;
        options.mode != DeliveryMode::Sync || options.history != HistoryMode::Off
    }

    /// Forwards or stores the request, received at `arrived`, and returns its outcome.
    pub(super) async fn run(
        self,
        (head, case, mut payload): (Parts, HeaderCase, Payload),
        verified: Verified,
        arrived: UnixMillis,
    ) -> (Settled, Outcome) {
        let mode = self.route.delivery.options.mode;
        // The upstream gets the body itself, and the store a second handle on it.
        let kept = (mode != DeliveryMode::Async).then(|| payload.keep());
        let (payload, sent) = match kept {
            Some(kept) => (kept, Some(payload)),
            None => (payload, None),
        };
        let (client, request_id) = (self.context.client.clone(), self.context.request_id.clone());
        let request = InboundRequest { head, case, payload, client, request_id };
        let received = u64::try_from(arrived.0).unwrap_or(0);
        let facts = EventFacts::new(&verified, received, &self.route.delivery, &request);
        let kept = KeptRequest { facts, request };
        match sent {
            None => self.accept(kept).await,
            Some(payload) if mode == DeliveryMode::Fallback => {
                match self.acknowledge(&kept).await {
                    Ok(ended) => ended,
                    Err(flight) => flight.forward_or_store(kept, payload, verified).await,
                }
            }
            Some(payload) => self.forward(kept, payload, verified).await,
        }
    }

    /// Returns the deadline for storing an event, so that the sender gets its response in time.
    fn store_until(&self) -> Instant {
        self.context.answer_by - reserve(&self.route) / 4
    }

    /// Stores the event before it is delivered.
    async fn accept(self, KeptRequest { facts, request }: KeptRequest) -> (Settled, Outcome) {
        let until = self.store_until();
        let Flight { route, events, claim, context, permit, late, .. } = self;
        let marked = claim.possible_duplicate();
        let accepted = events.accept(&route.delivery, &facts, request, marked, until).await;
        drop(permit);
        match accepted {
            Ok(is_new) => {
                let outcome = if is_new { Outcome::Queued } else { Outcome::Duplicate };
                acknowledge(claim, context.owner.is_present(), outcome).await
            }
            Err(error) => {
                let outcome = Err(rejection(&error));
                claim.failed(Failure::Known, outcome.clone()).await;
                if !context.owner.waits() {
                    late.log(&outcome, context.owner.origin());
                }
                (Settled { outcome, receipt: None }, Outcome::Unavailable)
            }
        }
    }

    /// Acknowledges an event that is stored already although the replay guard does not know it:
    /// its record was lost in a restart, or a crash came before it.
    async fn acknowledge(self, kept: &KeptRequest) -> Result<(Settled, Outcome), Self> {
        let Some(record) = kept.facts.record() else { return Err(self) };
        let (events, route) = (&self.events, &self.route.delivery);
        let find = events.find(route, record, self.claim.possible_duplicate());
        // Without a result, the event counts as new.
        let Ok(Ok(Some(entry))) = timeout_at(self.store_until(), find).await else {
            return Err(self);
        };
        match entry.state {
            EventState::Pending | EventState::Delivering | EventState::Delivered => {}
            EventState::Dead if events.revive(route, record).await.is_ok() => {}
            EventState::Dead | EventState::Failed | EventState::Refused => return Err(self),
        }
        let is_present = self.context.owner.is_present();
        Ok(acknowledge(self.claim, is_present, Outcome::Duplicate).await)
    }

    /// Begins the exchange with the upstream.
    fn exchange(
        route: &Route,
        request: &InboundRequest,
        (payload, verified): (Payload, Verified),
        marked: bool,
        (context, permit): (ExchangeContext, Option<Permit>),
    ) -> impl Future<Output = Result<SanitizedResponse, Reject>> + Send + use<> {
        let exchange = upstream::exchange(
            Arc::clone(&route.upstream),
            (&request.head, &request.case),
            payload,
            &Verdict::Verified(verified),
            marked,
            context,
        );
        async move {
            let outcome = exchange.await;
            drop(permit);
            outcome
        }
    }

    /// Forwards the request and records the outcome in the history.
    async fn forward(
        self,
        KeptRequest { facts, request }: KeptRequest,
        payload: Payload,
        verified: Verified,
    ) -> (Settled, Outcome) {
        let Flight { route, events, claim, context, permit, late, .. } = self;
        let owner = context.owner.clone();
        let first = FirstAttempt::begin(claim.possible_duplicate());
        let (sent, marked) = ((payload, verified), first.possible_duplicate);
        let outcome = Self::exchange(&route, &request, sent, marked, (context, permit)).await;
        events.record(&route.delivery, &facts, &request, (first, &outcome));
        (settle(claim, outcome, &owner, &late).await, Outcome::Forwarded)
    }

    /// Forwards the request, and stores the event if the handler fails or is late.
    async fn forward_or_store(
        self,
        KeptRequest { facts, request }: KeptRequest,
        payload: Payload,
        verified: Verified,
    ) -> (Settled, Outcome) {
        let until = self.store_until();
        let Flight { route, events, claim, context, permit, flights, late } = self;
        let (owner, answer_by) = (context.owner.clone(), context.answer_by);
        let first = FirstAttempt::begin(claim.possible_duplicate());
        let (sent, marked) = ((payload, verified), first.possible_duplicate);
        let exchange = Self::exchange(&route, &request, sent, marked, (context, permit));
        let mut exchange = Box::pin(exchange);
        let delivery = &route.delivery;
        let stored = match timeout_at(answer_by - reserve(&route), &mut exchange).await {
            Ok(outcome) if is_final(&outcome) => Err(outcome),
            Ok(outcome) => {
                let failed = (first, &outcome);
                let stored = events.accept_failed(delivery, &facts, &request, failed, until).await;
                stored.map_err(|_| outcome)
            }
            Err(_) => {
                let stored = events.accept_running(delivery, &facts, &request, first, until).await;
                match stored {
                    Ok(running) => {
                        owner.leave();
                        let (route, events) = (Arc::clone(&route), events.clone());
                        let (owner, late) = (owner.clone(), late.clone());
                        flights.spawn(async move {
                            let outcome = exchange.await;
                            match running {
                                // Logged as an attempt of the stored event.
                                Some(running) => {
                                    let delivery = &route.delivery;
                                    events.end_running(delivery, running, first, outcome).await;
                                }
                                None => late.log(&outcome, owner.origin()),
                            }
                        });
                        Ok(())
                    }
                    // As without an event store.
                    Err(_) => Err(exchange.await),
                }
            }
        };
        match stored {
            Ok(()) => acknowledge(claim, owner.is_present(), Outcome::Queued).await,
            Err(outcome) => {
                events.record(&route.delivery, &facts, &request, (first, &outcome));
                (settle(claim, outcome, &owner, &late).await, Outcome::Forwarded)
            }
        }
    }
}

/// The result of storing an event together with its replay record.
pub(super) enum StoredFirst {
    /// The response to the sender.
    Here(Settled, Outcome),
    /// The replay store has decided otherwise: what the request may do instead, and what was given
    /// for it.
    Declined(Result<Claimed, Reject>, Box<InboundRequest>, Option<Permit>),
}

/// Stores an event together with its replay record, even if the sender hangs up.
///
/// # Errors
/// [`Reject::Deadline`].
pub(super) async fn store(
    events: &Events,
    flights: &TaskTracker,
    route: &Arc<Route>,
    (verified, arrived, request, permit): (&Verified, UnixMillis, InboundRequest, Option<Permit>),
    claim: PendingClaim,
    (answer_by, owner): (Instant, Owner),
) -> Result<StoredFirst, Reject> {
    let received = u64::try_from(arrived.0).unwrap_or(0);
    let facts = EventFacts::new(verified, received, &route.delivery, &request);
    let (events, route) = (events.clone(), Arc::clone(route));
    let storing = accept_recorded(events, route, (facts, request, permit), claim, answer_by);
    let storing = Detached::new(flights.track_future(storing), owner);
    timeout_at(answer_by, storing).await.map_err(|_| Reject::Deadline)
}

async fn accept_recorded(
    events: Events,
    route: Arc<Route>,
    (facts, request, permit): (EventFacts, InboundRequest, Option<Permit>),
    claim: PendingClaim,
    answer_by: Instant,
) -> StoredFirst {
    let until = answer_by - reserve(&route) / 4;
    match events.accept_recorded(&route.delivery, &facts, request, &claim, until).await {
        Ok(Ok(is_new)) => {
            let outcome = if is_new { Outcome::Queued } else { Outcome::Duplicate };
            let response = acknowledgement(outcome);
            let receipt = Some(claim.recorded(&response));
            StoredFirst::Here(Settled { outcome: Ok(response), receipt }, outcome)
        }
        Ok(Err((reply, request))) => {
            StoredFirst::Declined(claim.decided(reply), Box::new(request), permit)
        }
        Err(error) => {
            claim.withdraw(rejection(&error));
            let outcome = Err(rejection(&error));
            StoredFirst::Here(Settled { outcome, receipt: None }, Outcome::Unavailable)
        }
    }
}

/// Notes a sender's retry of an event that was delivered or stored: a dead one becomes pending
/// again, and with `duplicates = "forward"` a delivered one does too.
///
/// # Errors
/// [`Reject::EventsFull`] or [`Reject::EventsUnavailable`], if nothing would retry the event.
pub(super) async fn repeat(
    events: &Events,
    route: &Route,
    (head, case, payload): (Parts, HeaderCase, Payload),
    (verified, request_id, arrived): (&Verified, &HeaderValue, UnixMillis),
    (answer_by, client): (Instant, ClientAddr),
) -> Result<(), Reject> {
    let Some(record) = verified.record() else { return Ok(()) };
    let (delivery, until) = (&route.delivery, answer_by - reserve(route) / 4);
    let noted = if delivery.options.forwards_duplicates {
        let request_id = request_id.clone();
        let request = InboundRequest { head, case, payload, client, request_id };
        let received = u64::try_from(arrived.0).unwrap_or(0);
        let facts = EventFacts::new(verified, received, delivery, &request);
        events.accept(delivery, &facts, request, true, until).await.map(drop)
    } else {
        let revived = timeout_at(until, events.revive(delivery, record)).await;
        revived.unwrap_or_else(|_| Err(StoreError::Unavailable("it is late".into())))
    };
    match noted {
        // The handler may have the event already.
        Err(_) if delivery.options.mode == DeliveryMode::Fallback => Ok(()),
        noted => noted.map_err(|error| rejection(&error)),
    }
}

/// Returns whether the outcome of a synchronous attempt is passed on to the sender, and not
/// repeated by the gateway.
fn is_final(outcome: &Result<SanitizedResponse, Reject>) -> bool {
    let status = outcome.as_ref().map(|response| response.status);
    status.is_ok_and(|status| status.is_success() || status == StatusCode::GONE)
}

/// Returns how long before the sender's deadline a late event is stored.
fn reserve(route: &Route) -> Duration {
    (route.answer_within / 4).min(STORE_RESERVE)
}

/// Settles a claim by the outcome of its exchange, and logs one that nobody waits for.
async fn settle(
    claim: Claim,
    outcome: Result<SanitizedResponse, Reject>,
    owner: &Owner,
    late: &LateLine,
) -> Settled {
    let settled = upstream::settle(claim, outcome, owner).await;
    if !owner.waits() {
        late.log(&settled.outcome, owner.origin());
    }
    settled
}

/// Ends the claim of an event that is in the store.
async fn acknowledge(claim: Claim, waits: bool, outcome: Outcome) -> (Settled, Outcome) {
    let response = acknowledgement(outcome);
    let receipt = Some(claim.done(&response, waits).await);
    (Settled { outcome: Ok(response), receipt }, outcome)
}

fn acknowledgement(outcome: Outcome) -> SanitizedResponse {
    let mut response = SanitizedResponse::empty(StatusCode::OK);
    response.headers.insert(ANSWER, HeaderValue::from_static(outcome.label()));
    response
}

fn rejection(error: &StoreError) -> Reject {
    match error {
        StoreError::Full => Reject::EventsFull,
        StoreError::Unavailable(_) => Reject::EventsUnavailable,
    }
}
