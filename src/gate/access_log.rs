//! The access log: one line per request, written with its metrics when the response is known, and
//! one more when an outcome becomes known after the response. A line never contains a secret, a
//! signature or a body. Of what an unauthentic request chose, it contains the method, the trace ID
//! and, if the configuration does not fix them, the start of host and path. Lines that anybody can
//! cause are sampled.

mod late;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, header::HOST, request::Parts,
    uri::Authority,
};
use http_body_util::Full;
use tokio::time::Instant;
use tracing::Level;

pub(super) use self::late::LateLine;
use super::{request_id, sampler::Sampler};
use crate::{
    body::Payload,
    metrics::{NO_ROUTE, RouteMetrics},
    reject::{Outcome, Reject},
    rejections::RejectedEntry,
    response::{self, REQUEST_ID},
    route::Route,
    scheme::{UnixMillis, Verified},
    traces::{RootSpan, TraceContext, TracedStep, Traces, UpstreamSpan},
    upstream::ClientAddr,
};

/// What is known about one request, for its log line and its metrics.
pub(super) struct LogEntry<'g> {
    id: HeaderValue,
    /// The context that the request came with.
    sent: Option<TraceContext>,
    span: Option<Box<RootSpan>>,
    client: IpAddr,
    started: Instant,
    arrived: UnixMillis,
    route: Option<Arc<Route>>,
    /// The metrics of requests without a route.
    unrouted: &'g RouteMetrics,
    authentic: Option<Authentic>,
    mark: Option<&'static str>,
    subject: Option<String>,
    method: Method,
    /// Host and path, if the route does not determine them.
    target: Option<(Option<String>, String)>,
    /// The length of the body.
    length: Option<usize>,
    /// Which part of a rejected request is at fault.
    cause: Option<String>,
    /// The position of the origin that served the request.
    origin: usize,
}

/// The most characters of a host or a path in a line.
const MAX_SHOWN: usize = 200;
/// The longest body of a rejected request that is read again to name what is at fault.
const MAX_EXPLAINED: usize = 64 << 10;

/// What an authentic request says about itself.
struct Authentic {
    event_id: Option<HeaderValue>,
    key: Arc<str>,
    /// The position of the secret, from 1; 0 for a key of a key set.
    secret: u16,
}

impl<'g> LogEntry<'g> {
    /// Begins the entry of a request whose route is not known yet.
    pub(super) fn begin<B>(
        request: &Request<B>,
        client: &ClientAddr,
        unrouted: &'g RouteMetrics,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        LogEntry {
            id: request_id::next(),
            sent: TraceContext::of(request.headers()),
            span: None,
            client: client.address,
            started: Instant::now(),
            arrived: UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            route: None,
            unrouted,
            authentic: None,
            mark: None,
            subject: None,
            method: request.method().clone(),
            target: None,
            length: None,
            cause: None,
            origin: usize::MAX,
        }
    }

    /// Begins the span of the request.
    pub(super) fn begin_trace(&mut self, traces: &Traces, is_trusted: bool) {
        self.span = traces.request(&self.id, (self.sent, is_trusted)).map(Box::new);
    }

    /// Returns the time at which a step begins, if its span is recorded.
    pub(super) fn begin_step(&self) -> Option<SystemTime> {
        self.span.as_ref().and_then(|span| span.begin_step())
    }

    /// Ends a step that began at `started`.
    pub(super) fn end_step<T, E>(
        &mut self,
        step: TracedStep,
        started: Option<SystemTime>,
        result: &Result<T, E>,
    ) {
        if let (Some(span), Some(started)) = (&mut self.span, started) {
            span.end_step(step, started, result.is_err());
        }
    }

    /// Begins the span of the exchange with the upstream.
    pub(super) fn upstream_span(&self) -> Option<UpstreamSpan> {
        self.span.as_ref().map(|span| span.upstream())
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
        if let Some(span) = &mut self.span {
            span.set_route(Arc::clone(&route.name));
        }
    }

    fn metrics(&self) -> &RouteMetrics {
        self.route.as_ref().map_or(self.unrouted, |route| &route.metrics)
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
            self.metrics().skew.observe(age as f64 / 1000.0);
        }
        self.metrics().last_verified.set(now);
    }

    /// Notes host and path of a request whose route does not determine them.
    pub(super) fn set_target(&mut self, head: &Parts) {
        let shown = |text: &str| -> String {
            let cut = if text.chars().nth(MAX_SHOWN).is_some() { "…" } else { "" };
            text.chars().take(MAX_SHOWN).chain(cut.chars()).collect()
        };
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or(head.uri.authority().map(Authority::as_str)).map(shown);
        self.target = Some((host, shown(head.uri.path())));
    }

    /// Notes the length of the body.
    pub(super) fn set_length(&mut self, length: usize) {
        self.length = Some(length);
    }

    /// Notes the origin that served the request.
    pub(super) fn set_origin(&mut self, position: usize) {
        self.origin = position;
    }

    /// Notes which part of a rejected request is at fault.
    pub(super) fn explain(
        &mut self,
        route: &Route,
        reject: &Reject,
        (head, payload): (&Parts, &Payload),
    ) {
        if let Some(reason) = reject.reason()
            && payload.len() <= MAX_EXPLAINED
        {
            self.cause = route.verifier.explain(head, payload, reason);
        }
    }

    /// Returns what is kept about the request if it is rejected.
    pub(super) fn rejected<'r>(&'r self, reject: &'r Reject) -> RejectedEntry<'r> {
        RejectedEntry {
            reject,
            request_id: &self.id,
            at: self.arrived,
            client: self.client,
            cause: self.cause.as_deref(),
        }
    }

    /// Returns what is logged when the outcome becomes known after the response.
    pub(super) fn late(&self, route: &Arc<Route>) -> LateLine {
        LateLine {
            route: Arc::clone(route),
            id: self.id.clone(),
            event_id: self.authentic.as_ref().and_then(|authentic| authentic.event_id.clone()),
            started: self.started,
        }
    }

    /// Notes the subject of a token that the operator has not pinned yet.
    pub(super) fn set_subject(&mut self, subject: Option<String>) {
        self.subject = subject;
    }

    /// Notes the mark that an observing route put on the request.
    pub(super) fn set_mark(&mut self, mark: Option<&'static str>) {
        self.mark = mark;
    }

    /// Adds the request ID to a response, and empties the response if the scheme requires that.
    pub(super) fn stamp(&self, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        if self.route.as_ref().is_some_and(|route| route.verifier.scheme().wants_bare_answers()) {
            response::strip_content(&mut response);
        }
        response.headers_mut().insert(REQUEST_ID, self.id.clone());
        response
    }

    /// Ends the entry of a request that was not rejected, and returns its response.
    pub(super) fn finish(
        mut self,
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
        let is_from_upstream = matches!(outcome, Outcome::Forwarded | Outcome::Joined);
        let is_failure = is_from_upstream && self.mark.is_none() && !response.status().is_success();
        let level = if is_failure || !hint.is_empty() { Level::WARN } else { Level::INFO };
        self.end(level, outcome, response.status(), self.mark, hint, sampler);
        response
    }

    /// Ends the entry of a rejected request, and returns its response.
    pub(super) fn reject(mut self, reject: &Reject, sampler: &Sampler) -> Response<Full<Bytes>> {
        let unauthorized =
            self.route.as_ref().map_or(StatusCode::UNAUTHORIZED, |route| route.unauthorized());
        let id = self.id.to_str().unwrap_or("");
        let response = self.stamp(response::problem(reject, unauthorized, id));
        let (level, outcome, status) = (reject.level(), reject.outcome(), response.status());
        if let Some(reason) = reject.reason() {
            self.metrics().rejections(reason).inc();
            let cause = self.cause.take().unwrap_or_default();
            self.end(level, outcome, status, Some(reason.label()), &cause, sampler);
        } else {
            self.end(level, outcome, status, None, &reject.to_string(), sampler);
        }
        response
    }

    fn end(
        &mut self,
        level: Level,
        outcome: Outcome,
        status: StatusCode,
        reason: Option<&'static str>,
        detail: &str,
        sampler: &Sampler,
    ) {
        let took = self.started.elapsed();
        let metrics = self.metrics();
        metrics.requests(outcome).inc();
        metrics.responses(status).inc();
        metrics.request_duration.observe(took.as_secs_f64());
        if self.authentic.is_some() {
            self.count_consecutive_failures(outcome, status);
        }
        let span = self.span.take();
        let trace = span.as_ref().map(|span| span.context()).or(self.sent);
        if self.can_be_caused_by_anybody(outcome) && !sampler.admits(self.client) {
            span.into_iter().for_each(|span| span.discard());
            return;
        }
        if let Some(span) = span {
            span.end(Some(status.as_u16()), outcome.label(), reason, status.is_server_error());
        }
        let authentic = self.authentic.as_ref();
        let event_id = authentic.and_then(|authentic| authentic.event_id.as_ref()?.to_str().ok());
        let target = self.target.as_ref();
        let upstream = self.route.as_ref().and_then(|route| route.upstream.origin(self.origin));
        /// tracing needs the level of an event at compile time.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    route = self.route.as_ref().map_or(NO_ROUTE, |route| &route.name),
                    outcome = outcome.label(),
                    status = status.as_u16(),
                    reason,
                    event_id,
                    key = authentic.map(|authentic| &*authentic.key),
                    secret = authentic
                        .map(|authentic| authentic.secret)
                        .filter(|secret| *secret > 0),
                    method = self.method.as_str(),
                    host = target.and_then(|(host, _)| host.as_deref()),
                    path = target.map(|(_, path)| path.as_str()),
                    bytes = self.length,
                    upstream = upstream.map(tracing::field::display),
                    request_id = self.id.to_str().unwrap_or(""),
                    trace_id = trace.map(|context| tracing::field::display(context.trace)),
                    client = %self.client,
                    subject = self.subject.as_deref(),
                    ms = took.as_micros() as f64 / 1000.0,
                    detail = (!detail.is_empty()).then_some(detail),
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
            // A route that only observes forwards what is not authentic.
            Outcome::Forwarded => self.authentic.is_none(),
            Outcome::Joined | Outcome::Duplicate | Outcome::Queued => false,
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
            _ if status.is_success() => self.metrics().consecutive_failures.set(0),
            _ => self.metrics().consecutive_failures.inc(),
        }
    }
}
