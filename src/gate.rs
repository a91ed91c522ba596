//! The way of a request, in one direction: HTTP rules → route → body → scheme → replay → forward →
//! answer. Whatever refuses does so by a [`Reject`], which is counted, logged and answered in one
//! place.

mod http_rules;
mod judge;
mod observe;
mod passed;
mod record;
mod trace;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;

pub use self::http_rules::WireFacts;
use self::{judge::Turn, passed::Passed, record::Record};
use crate::{
    body::{self, Budget},
    metrics::{Metrics, NO_ROUTE, RouteMetrics},
    reject::{Outcome, Reject},
    rejections::Rejections,
    replay::{Receipt, Replay},
    response::SanitizedResponse,
    route::{Mode, Routes},
    upstream::{self, ClientAddr, Detached, Networks, Peer},
};

/// What a reload replaces as a whole.
pub struct Site {
    /// The routes.
    pub routes: Routes,
    /// Where refused requests are looked into.
    pub rejections: Rejections,
    /// Whether a replay is acknowledged (200) or refused (409).
    pub acknowledge_replays: bool,
    /// A path that answers 200 to load balancers.
    pub health_path: Option<String>,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Networks,
}

/// The gateway without its listeners.
pub struct Gate {
    /// Replaced by a reload.
    pub site: ArcSwap<Site>,
    /// The forwards under way; they outlive their senders' connections.
    pub flights: TaskTracker,
    replay: Replay,
    budget: Arc<Budget>,
    unrouted: Arc<RouteMetrics>,
}

impl Gate {
    /// A gate over `site`, with `budget` for bodies.
    pub fn new(site: Site, replay: Replay, budget: Arc<Budget>, metrics: &Metrics) -> Self {
        Gate {
            site: ArcSwap::from_pointee(site),
            flights: TaskTracker::new(),
            replay,
            budget,
            unrouted: metrics.route(NO_ROUTE),
        }
    }

    /// Lets expired events go, so that the gauges are exact.
    pub fn tidy(&self) {
        self.replay.tidy();
    }

    /// Takes a request through, answers it, counts it and logs it.
    pub async fn handle(
        &self,
        request: Request<Incoming>,
        wire: WireFacts,
        peer: Peer,
    ) -> Response<Full<Bytes>> {
        let site = self.site.load_full();
        let client = ClientAddr::of(peer, request.headers(), &site.trusted_proxies);
        let mut record = Record::begin(request.headers(), &client, &self.unrouted);
        if site.health_path.as_deref() == Some(request.uri().path()) {
            return record.stamped(SanitizedResponse::empty(StatusCode::OK).into_response());
        }
        match self.pass(request, &wire, client, &site, &mut record).await {
            Ok(passed) => {
                let response = record.passed(passed.outcome, passed.response);
                passed.receipt.into_iter().for_each(Receipt::written);
                response
            }
            Err(reject) => record.rejected(&reject),
        }
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        wire: &WireFacts,
        client: ClientAddr,
        site: &Site,
        record: &mut Record,
    ) -> Result<Passed, Reject> {
        let (head, body) = request.into_parts();
        let host = http_rules::check(&head, wire)?;
        let route = record.enter(site.routes.find(&head.uri, host)?);
        let entered = route.enter(client.address);
        if route.mode == Mode::Enforce {
            entered.clone()?;
        }
        route.admit(&head)?;
        let wants_digest = route.verifier.wants_digest();
        let payload = body::receive(body, route.body, &self.budget, wants_digest).await?;
        if let Some(greeting) = route.verifier.challenge(&head, &payload, record.now()) {
            return greeting.map(Passed::handshake);
        }
        let context = record.context(&route, client);
        let judged = self.judge(&route, (&head, &payload), entered, &context, record).await;
        if let Err(reject) = &judged {
            site.rejections.note(&route, reject, record.id(), record.now(), (&head, &payload));
        }
        if route.mode == Mode::Observe {
            let head = (&head, &wire.header_case);
            return self.observe(&route, head, payload, judged, context, record).await;
        }
        let (verified, claimed) = judged?;
        let claim = match judge::turn(claimed, context.answer_by).await? {
            Turn::Forward(claim) => claim,
            Turn::Join(settled) => return Passed::answered(settled, &route, Outcome::Joined),
            Turn::Repeat(it) => return Passed::repeated(it, &route, site.acknowledge_replays),
        };
        let (answer_by, owner) = (context.answer_by, context.owner.clone());
        let upstream = Arc::clone(&route.upstream);
        let flight =
            upstream::send(upstream, (&head, &wire.header_case), payload, verified, claim, context);
        let flight = Detached::new(self.flights.track_future(flight), owner);
        let settled = timeout_at(answer_by, flight).await.map_err(|_| Reject::Deadline)?;
        Passed::answered(settled, &route, Outcome::Forwarded)
    }
}
