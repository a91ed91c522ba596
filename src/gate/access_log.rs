//! The access log: one line per request, written with its metrics when the response is known. A
//! line never holds a secret, a signature or a body, and nothing that an unauthentic request chose
//! except the 32 hex digits of its trace ID. Lines that anybody can cause are sampled.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tracing::Level;

use super::{request_id, sampler::Sampler, trace::TraceId};
use crate::{
    metrics::{NO_ROUTE, RouteMetrics},
    reject::{Outcome, Reject},
    response::{self, REQUEST_ID},
    route::Route,
    scheme::{UnixMillis, Verified},
    upstream::ClientAddr,
};

/// What is known about one request, for its log line and its metrics.
pub(super) struct LogEntry {
    id: HeaderValue,
    trace: Option<TraceId>,
    client: IpAddr,
    started: Instant,
    arrived: UnixMillis,
    route: Option<Arc<Route>>,
    metrics: Arc<RouteMetrics>,
    authentic: Option<Authentic>,
    mark: Option<&'static str>,
    subject: Option<String>,
}

/// What an authentic request says about itself.
struct Authentic {
    event_id: Option<HeaderValue>,
    key: Arc<str>,
    /// The position of the secret, from 1; 0 for a key of a key set.
    secret: u16,
}

impl LogEntry {
    /// Begins the entry of a request whose route is not known yet.
    pub(super) fn begin(
        headers: &HeaderMap,
        client: &ClientAddr,
        unrouted: &Arc<RouteMetrics>,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        LogEntry {
            id: request_id::next(),
            trace: TraceId::of(headers),
            client: client.address,
            started: Instant::now(),
            arrived: UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            route: None,
            metrics: Arc::clone(unrouted),
            authentic: None,
            mark: None,
            subject: None,
        }
    }

    /// Returns when the request arrived, by the system clock.
    pub(super) fn arrived(&self) -> UnixMillis {
        self.arrived
    }

    /// Returns the end of a time limit that began when the request arrived.
    pub(super) fn deadline(&self, limit: Duration) -> Instant {
        self.started + limit
    }

    /// Returns the request ID.
    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Notes the route.
    pub(super) fn set_route(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
        self.metrics = Arc::clone(&route.metrics);
    }

    /// Notes that the request is authentic.
    pub(super) fn set_verified(&mut self, verified: &Verified) {
        let (event_id, key) = (verified.event_id().cloned(), Arc::clone(verified.key()));
        let (secret, now) = (verified.secret(), self.arrived.0 / 1000);
        if let Some(route) = &self.route {
            route.secrets.note(&key, secret, now);
        }
        self.authentic = Some(Authentic { event_id, key, secret });
        if let Some(age) = verified.age() {
            self.metrics.skew.observe(age as f64 / 1000.0);
        }
        self.metrics.last_verified.set(now);
    }

    /// Notes the subject of a token that the operator has not pinned yet.
    pub(super) fn set_subject(&mut self, subject: Option<String>) {
        self.subject = subject;
    }

    /// Notes the mark that an observing route put on the request.
    pub(super) fn set_mark(&mut self, mark: Option<&'static str>) {
        self.mark = mark;
    }

    /// Adds the request ID to a response, and empties the response if the sender wants that.
    pub(super) fn stamp(&self, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        if self.route.as_ref().is_some_and(|route| route.verifier.scheme().wants_bare_answers()) {
            response::strip_content(&mut response);
        }
        response.headers_mut().insert(REQUEST_ID, self.id.clone());
        response
    }

    /// Ends the entry of a request that was not rejected, and returns its response.
    pub(super) fn finish(
        self,
        outcome: Outcome,
        response: Response<Full<Bytes>>,
        sampler: &Sampler,
    ) -> Response<Full<Bytes>> {
        let response = self.stamp(response);
        let hint = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "the upstream rejected a request that the gateway verified; its own check may be \
                 at fault (the sender's samples compare milliseconds with seconds)"
            }
            _ => "",
        };
        let level = if hint.is_empty() { Level::INFO } else { Level::WARN };
        let (status, reason) = (response.status(), self.mark.unwrap_or(""));
        self.end(level, outcome, status, reason, hint, sampler);
        response
    }

    /// Ends the entry of a rejected request, and returns its response.
    pub(super) fn reject(self, reject: &Reject, sampler: &Sampler) -> Response<Full<Bytes>> {
        let unauthorized =
            self.route.as_ref().map_or(StatusCode::UNAUTHORIZED, |route| route.unauthorized());
        let id = self.id.to_str().unwrap_or("");
        let response = self.stamp(response::problem(reject, unauthorized, id));
        let (level, outcome, status) = (reject.level(), reject.outcome(), response.status());
        if let Some(reason) = reject.reason() {
            self.metrics.rejections(reason).inc();
            self.end(level, outcome, status, reason.label(), "", sampler);
        } else {
            self.end(level, outcome, status, "", &reject.to_string(), sampler);
        }
        response
    }

    fn end(
        &self,
        level: Level,
        outcome: Outcome,
        status: StatusCode,
        reason: &str,
        detail: &str,
        sampler: &Sampler,
    ) {
        let took = self.started.elapsed();
        self.metrics.requests(outcome).inc();
        self.metrics.request_duration.observe(took.as_secs_f64());
        if self.authentic.is_some() {
            self.count_consecutive_failures(outcome, status);
        }
        if self.can_be_caused_by_anybody(outcome) && !sampler.admits(self.client) {
            return;
        }
        /// tracing needs the level of an event at compile time.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    route = self.route.as_ref().map_or(NO_ROUTE, |route| &route.name),
                    outcome = outcome.label(),
                    status = status.as_u16(),
                    reason,
                    event_id = self
                        .authentic
                        .as_ref()
                        .and_then(|authentic| authentic.event_id.as_ref()?.to_str().ok())
                        .unwrap_or(""),
                    key = self.authentic.as_ref().map_or("", |authentic| &authentic.key),
                    secret = self
                        .authentic
                        .as_ref()
                        .map(|authentic| authentic.secret)
                        .filter(|secret| *secret > 0),
                    request_id = self.id.to_str().unwrap_or(""),
                    trace_id = self.trace.as_ref().map(TraceId::as_str),
                    client = %self.client,
                    subject = self.subject.as_deref(),
                    ms = took.as_micros() as f64 / 1000.0,
                    detail,
                    "request"
                )
            };
        }
        match level {
            Level::ERROR => line!(Level::ERROR),
            Level::WARN => line!(Level::WARN),
            _ => line!(Level::INFO),
        }
    }

    /// Returns whether a client without a key can cause this line again and again.
    fn can_be_caused_by_anybody(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Forwarded | Outcome::Joined | Outcome::Duplicate | Outcome::Queued => false,
            Outcome::Replay | Outcome::Rejected | Outcome::Challenge => true,
            Outcome::Unavailable | Outcome::Error => self.authentic.is_none(),
        }
    }

    /// Counts toward the five consecutive failures after which the sender disables the webhook. A
    /// request that the sender did not send itself (a replay, a copy with another context) neither
    /// counts nor resets the count.
    fn count_consecutive_failures(&self, outcome: Outcome, status: StatusCode) {
        match outcome {
            Outcome::Replay | Outcome::Rejected => {}
            _ if status.is_success() => self.metrics.consecutive_failures.set(0),
            _ => self.metrics.consecutive_failures.inc(),
        }
    }
}
