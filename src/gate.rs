//! The path of a request through the gateway. [`pipeline`] names its steps in order; this module
//! holds what they share, and turns their result into a response that is counted and logged.

mod access_log;
mod flight;
mod http_rules;
mod observe;
mod offline;
mod pipeline;
mod request_id;
mod sampler;
mod verification;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tokio_util::task::TaskTracker;

use self::{access_log::LogEntry, pipeline::Pipeline, sampler::Sampler};
pub use self::{http_rules::WireFacts, offline::check_rules, pipeline::Site};
use crate::{
    capacity::{Capacity, ConnectionSlot},
    events::Events,
    metrics::{Metrics, NO_ROUTE, RouteMetrics, ShedCounters},
    reject::Reject,
    replay::{Receipt, Replay},
    response::SanitizedResponse,
    traces::Traces,
    upstream::{ClientAddr, Peer},
};

/// The gateway without its listeners.
pub struct Gate {
    /// The current site; a reload replaces it.
    pub site: ArcSwap<Site>,
    /// The exchanges with upstreams, which can outlive their senders' connections.
    pub flights: TaskTracker,
    pipeline: Pipeline,
    shed: ShedCounters,
    unrouted: Arc<RouteMetrics>,
    sampler: Sampler,
    traces: Option<Traces>,
}

impl Gate {
    /// Returns a gate that serves `site` within `capacity`. With `events`, there is an event store;
    /// with `traces`, requests are traced.
    pub fn new(
        site: Site,
        replay: Replay,
        events: Option<Events>,
        capacity: Capacity,
        (metrics, traces): (&Metrics, Option<Traces>),
    ) -> Self {
        let flights = TaskTracker::new();
        Gate {
            site: ArcSwap::from_pointee(site),
            flights: flights.clone(),
            pipeline: Pipeline { replay, events, capacity, flights },
            shed: metrics.shed(),
            unrouted: metrics.route(NO_ROUTE),
            sampler: Sampler::new(),
            traces,
        }
    }

    /// Sets the lines per second for each client network, about requests without a verified sender.
    pub fn set_unverified_lines(&self, lines: u32) {
        self.sampler.set_lines(lines);
    }

    /// Returns whether a log line about a client that may not be authentic is written, and counts
    /// it if not.
    pub fn admits_line(&self, client: IpAddr) -> bool {
        self.sampler.admits(client)
    }

    /// Removes expired events, so that the gauges are exact.
    pub fn expire(&self) {
        self.pipeline.replay.expire();
    }

    /// Returns the replay guard.
    pub(crate) fn replay(&self) -> &Replay {
        &self.pipeline.replay
    }

    /// Returns the event store, if there is one.
    pub fn events(&self) -> Option<&Events> {
        self.pipeline.events.as_ref()
    }

    /// Logs how many requests of the last second have no log line. Must be called once per second.
    pub fn log_omitted(&self) {
        self.sampler.flush();
    }

    /// Handles one request, which came over `connection`: returns its response, and counts and logs
    /// it. The receipt, if there is one, is to be confirmed when the response was written.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        wire: WireFacts,
        peer: Peer,
        connection: &ConnectionSlot,
    ) -> (Response<Full<Bytes>>, Option<Receipt>)
    where
        B: Body<Data = Bytes>,
    {
        let site = self.site.load_full();
        let client = ClientAddr::of(peer, request.headers(), &site.trusted_proxies);
        let mut entry = LogEntry::begin(&request, &client, &self.unrouted);
        if site.health_path.as_deref() == Some(request.uri().path()) {
            let response = SanitizedResponse::empty(StatusCode::OK).into_response();
            return (entry.stamp(response), None);
        }
        let challenges = site.challenges.as_ref();
        if let Some(content) = challenges.and_then(|all| all.http_response(request.uri().path())) {
            let mut response = SanitizedResponse::empty(StatusCode::OK).into_response();
            *response.body_mut() = Full::from(content);
            return (entry.stamp(response), None);
        }
        if let Some(traces) = &self.traces {
            entry.begin_trace(traces, client.is_proxied());
        }
        match self.pipeline.run(request, wire, (client, connection), &site, &mut entry).await {
            Ok(reply) => {
                (entry.finish(reply.outcome, reply.response, &self.sampler), reply.receipt)
            }
            Err(reject) => {
                if let Reject::Overloaded(cause) = reject {
                    self.shed.count(cause);
                }
                (entry.reject(&reject, &self.sampler), None)
            }
        }
    }
}
