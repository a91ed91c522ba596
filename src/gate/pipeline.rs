//! The steps of a request, in order. A step that rejects the request returns a [`Reject`]; the
//! caller counts it, logs it and makes the response, so no step does.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;

use super::{
    access_log::LogEntry,
    flight::{self, Flight, StoredFirst},
    http_rules::{self, WireFacts},
    observe, verification,
};
use crate::{
    body::{self, Payload},
    capacity::{Account, Capacity, ConnectionSlot},
    events::{DeliveryMode, Events, InboundRequest},
    reject::{Outcome, Reject},
    rejections::Rejections,
    replay::{Claimed, Ended, LocalDecision, Receipt, Repeat, Replay, Settled},
    response::{self, ANSWER, SanitizedResponse},
    route::{Mode, Route, Routes},
    tls::Challenges,
    traces::TracedStep,
    upstream::{self, ClientAddr, Detached, ExchangeContext, Networks, Owner, Verdict},
};

/// The part of the configuration that a reload replaces as a whole.
pub struct Site {
    /// The routes.
    pub routes: Routes,
    /// Diagnosis and capture of rejected requests.
    pub rejections: Rejections,
    /// Whether a replay is acknowledged (200) or rejected (409).
    pub acknowledge_replays: bool,
    /// The path that returns 200 to load balancers.
    pub health_path: Option<String>,
    /// Peers whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: Networks,
    /// Responses to ACME challenges, if certificates are obtained automatically.
    pub challenges: Option<Challenges>,
}

/// The services that the steps use.
pub(super) struct Pipeline {
    pub(super) replay: Replay,
    /// The event store, if there is one.
    pub(super) events: Option<Events>,
    pub(super) capacity: Capacity,
    pub(super) flights: TaskTracker,
}

/// The response to a request that is not rejected.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    pub(super) response: Response<Full<Bytes>>,
    /// Recorded when the response has been written.
    pub(super) receipt: Option<Receipt>,
}

impl Pipeline {
    /// Performs all steps for a request, and notes their findings in `entry`.
    pub(super) async fn run<B>(
        &self,
        request: Request<B>,
        wire: WireFacts,
        (client, connection): (ClientAddr, &ConnectionSlot),
        site: &Site,
        entry: &mut LogEntry<'_>,
    ) -> Result<Reply, Reject>
    where
        B: Body<Data = Bytes>,
    {
        // HTTP rules and route.
        let (mut head, body) = request.into_parts();
        let found = http_rules::check(&head, &wire)
            .and_then(|host| site.routes.find(&head.uri, host).map(Arc::clone));
        if found.as_ref().map_or(true, |route| route.matched().is_some()) {
            entry.set_target(&head);
        }
        let route = found?;
        entry.set_route(&route);

        // Admission, then everything else that the head alone can decide.
        let admitted = route.admit(client.address);
        if route.mode == Mode::Enforce {
            admitted.clone()?;
        }
        let ruled = match (route.mode, route.check_head(&head)) {
            (Mode::Observe, Err(reject @ (Reject::Method(_) | Reject::ContentEncoding))) => {
                Err(reject)
            }
            (_, checked) => Ok(checked?),
        };
        body::check_announced(&body, route.body)?;
        let account = self.account(&client, connection);
        let step = entry.begin_step();
        let check = match (route.mode, route.verifier.check_head(&head)) {
            (Mode::Enforce, Err(reject)) => {
                entry.end_step(TracedStep::Verify, step, &Err::<(), _>(&reject));
                verification::want_key(&route, &reject, client.address);
                let reserve = |bytes| self.capacity.receive(&account, bytes);
                entry.explain(&route, &reject, (&head, &Payload::from(Bytes::new())));
                let (rejections, rejected) = (&site.rejections, entry.rejected(&reject));
                verification::note(rejections, &route, &rejected, (&head, body), reserve).await;
                return Err(reject);
            }
            (_, check) => check.unwrap_or_default(),
        };

        // Body.
        let with_digest = route.verifier.wants_digest();
        let reservation = self.capacity.receive(&account, route.body.bytes)?;
        let mut payload = body::receive(body, route.body, reservation, with_digest).await?;
        entry.set_length(payload.len());

        // Challenge: the gateway responds to it, because it is not an event.
        if let Some(reply) = route.verifier.challenge(&head, &payload, entry.arrived()) {
            if let Err(reject) = &reply {
                verification::want_key(&route, reject, client.address);
            }
            return verification::confirmed(&route, reply?).await.map(Reply::to_challenge);
        }

        // Scheme: is the request authentic?
        let now = entry.arrived();
        let step = entry.begin_step();
        let verified = match admitted.and(ruled) {
            Ok(()) => verification::verify(&route, check, &mut head, &mut payload, now).await,
            Err(reject) => Err(reject),
        };
        entry.end_step(TracedStep::Verify, step, &verified);
        match &verified {
            Ok(verified) => entry.set_verified(verified),
            Err(reject) => {
                verification::want_key(&route, reject, client.address);
                entry.explain(&route, reject, (&head, &payload));
            }
        }

        // Capacity: only what may be forwarded needs a permit.
        let permit = if verified.is_ok() || route.mode == Mode::Observe {
            payload.hold(&route.share, verified.is_ok())?;
            Some(self.capacity.permit(&account, &route.share, verified.is_ok())?)
        } else {
            None
        };

        // Replay guard: may the event be forwarded?
        let answer_by = entry.deadline(route.answer_within);
        let (mut case, mut permit) = (wire.header_case, permit);
        let checked = match verified {
            Ok(verified) => {
                let step = entry.begin_step();
                let admission = self.replay.claim(&verified, route.terms, answer_by).await;
                let claimed = match (admission, self.events_that_claim(&route)) {
                    (Err(reject), _) => Err(reject),
                    (Ok(LocalDecision::Decided(claimed)), _) => Ok(claimed),
                    (Ok(LocalDecision::Pending(claim)), None) => claim.claim().await,
                    (Ok(LocalDecision::Pending(claim)), Some(events)) => {
                        // The event and its replay record are stored in one transaction.
                        let (client, request_id) = (client.clone(), entry.id().clone());
                        let request = InboundRequest { head, case, payload, client, request_id };
                        let new = (&verified, entry.arrived(), request, permit);
                        let owner = Owner::new(wire.half_closed.clone());
                        let by = (answer_by, owner);
                        let storing = flight::store(events, &self.flights, &route, new, claim, by);
                        // In a box, because its future is large.
                        match Box::pin(storing).await? {
                            StoredFirst::Here(settled, outcome) => {
                                entry.end_step(TracedStep::Claim, step, &settled.outcome);
                                if outcome == Outcome::Queued {
                                    account.note_authentic();
                                    connection.note_authentic();
                                }
                                return Reply::from_upstream(settled, &route, outcome);
                            }
                            StoredFirst::Declined(claimed, request, held) => {
                                InboundRequest { head, case, payload, .. } = *request;
                                permit = held;
                                claimed
                            }
                        }
                    }
                };
                entry.end_step(TracedStep::Claim, step, &claimed);
                claimed.map(|claimed| (verified, claimed))
            }
            Err(reject) => Err(reject),
        };
        if let Ok((_, Claimed::Won(_))) = &checked {
            // Not for a copy: anyone who holds a captured request can send it.
            account.note_authentic();
            connection.note_authentic();
        }
        if let Err(reject) = &checked {
            site.rejections.note(&route, &entry.rejected(reject), (&head, &payload));
        }

        // Mode: what the route does with this result.
        let (verdict, mut claimed) = match route.mode {
            Mode::Enforce => {
                let (verified, claimed) = checked?;
                (Verdict::Verified(verified), claimed)
            }
            Mode::Observe => observe::permit(checked, &route, (&head, &payload), entry),
        };

        // Copies: one request per event is forwarded, and the others wait for its outcome.
        let claim = loop {
            claimed = match claimed {
                Claimed::Won(claim) => break claim,
                Claimed::Done(repeat) => {
                    if let (Repeat::Retry(_), Verdict::Verified(verified), Some(events)) =
                        (&repeat, &verdict, &self.events)
                        && route.delivery.options.mode != DeliveryMode::Sync
                    {
                        let request = (head, case, payload);
                        let known = (verified, entry.id(), entry.arrived());
                        let until = (answer_by, client);
                        // In a box, because it is rare and its future is large.
                        Box::pin(flight::repeat(events, &route, request, known, until)).await?;
                    }
                    return Reply::to_repeat(repeat, &route, site.acknowledge_replays);
                }
                Claimed::InFlight(first) => {
                    let ended = timeout_at(answer_by, first.outcome()).await;
                    match ended.map_err(|_| Reject::InFlight)?? {
                        Ended::Settled(settled) => {
                            return Reply::from_upstream(settled, &route, Outcome::Joined);
                        }
                        Ended::Released(claimed) => claimed,
                    }
                }
            };
        };

        // Upstream or event store: either continues if the sender disconnects or its deadline
        // passes.
        let owner = Owner::new(wire.half_closed);
        let context = ExchangeContext {
            client,
            request_id: entry.id().clone(),
            answer_by,
            connect_by: None,
            owner: owner.clone(),
            matched: route.matched(),
            metrics: Arc::clone(&route.metrics),
            span: entry.upstream_span(),
        };
        let (late, waiting, served) = (entry.late(&route), owner.clone(), owner.clone());
        let flight = match (verdict, &self.events) {
            (Verdict::Verified(verified), Some(events)) if Flight::involves_events(&route) => {
                let flight = Flight {
                    route: Arc::clone(&route),
                    events: events.clone(),
                    claim,
                    context,
                    permit,
                    flights: self.flights.clone(),
                    late,
                };
                let request = (head, case, payload);
                let flight = flight.run(request, verified, entry.arrived());
                Detached::new(self.flights.track_future(flight), owner)
            }
            (verdict, _) => {
                let upstream = Arc::clone(&route.upstream);
                let head = (&head, &case);
                let forward = upstream::send(upstream, head, payload, verdict, claim, context);
                let flight = async move {
                    let settled = forward.await;
                    drop(permit);
                    if !waiting.waits() {
                        late.log(&settled.outcome, waiting.origin());
                    }
                    (settled, Outcome::Forwarded)
                };
                Detached::new(self.flights.track_future(flight), owner)
            }
        };
        let ended = timeout_at(answer_by, flight).await;
        entry.set_origin(served.origin());
        let (settled, outcome) = ended.map_err(|_| Reject::Deadline)?;
        Reply::from_upstream(settled, &route, outcome)
    }
}

impl Pipeline {
    /// Returns the event store if it decides about the claims of a route's events.
    fn events_that_claim(&self, route: &Route) -> Option<&Events> {
        let events = self.events.as_ref()?;
        let stores_first = route.delivery.options.mode == DeliveryMode::Async;
        let claims = stores_first && route.mode == Mode::Enforce && events.decides_claims();
        claims.then_some(events)
    }

    /// Returns the account of a request's client, which can differ from that of its connection.
    fn account<'c>(&self, client: &ClientAddr, connection: &'c ConnectionSlot) -> Cow<'c, Account> {
        if client.address == client.peer.address {
            Cow::Borrowed(connection.account())
        } else {
            Cow::Owned(self.capacity.account(client.address))
        }
    }
}

impl Reply {
    /// Returns the upstream's response. A 2xx becomes the scheme's success status, the one that the
    /// sender recognizes.
    fn from_upstream(settled: Settled, route: &Route, outcome: Outcome) -> Result<Self, Reject> {
        let mut response = settled.outcome?;
        if response.status.is_success() {
            response.status = route.verifier.scheme().success();
        }
        Ok(Reply { outcome, response: response.into_response(), receipt: settled.receipt })
    }

    /// Returns the response to a challenge.
    fn to_challenge(response: SanitizedResponse) -> Self {
        let mut response = response.into_response();
        let outcome = Outcome::Challenge;
        response.headers_mut().insert(ANSWER, HeaderValue::from_static(outcome.label()));
        Reply { outcome, response, receipt: None }
    }

    /// Returns the response to a copy of an event that is done.
    ///
    /// # Errors
    /// [`Reject::Replay`], unless replays are acknowledged.
    fn to_repeat(repeat: Repeat, route: &Route, acknowledge: bool) -> Result<Self, Reject> {
        let (outcome, receipt) = match repeat {
            Repeat::Retry(receipt) => (Outcome::Duplicate, Some(receipt)),
            Repeat::Replay if acknowledge => (Outcome::Replay, None),
            Repeat::Replay => return Err(Reject::Replay),
        };
        let response = response::empty(route.verifier.scheme().success(), outcome);
        Ok(Reply { outcome, response, receipt })
    }
}
