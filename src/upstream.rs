//! Exchanges with upstreams.
//!
//! An exchange belongs to the event and not to the sender's connection: it continues when the
//! sender hangs up or its deadline passes, and its outcome is recorded before anyone gets a
//! response. A request that may have reached the upstream is never sent again from here: only
//! connecting is retried, and requests of which nothing was sent.

mod backoff;
mod client_addr;
mod detached;
mod dial;
mod dns;
mod endpoints;
mod exchange;
mod headers;
mod options;
mod origin;
mod permits;
mod pool;
mod request_head;
mod response_head;
mod response_reader;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Uri, request::Parts};
use tokio::{
    sync::{Semaphore, futures::Notified},
    time::Instant,
};

pub use self::{
    client_addr::{ClientAddr, Networks, Peer},
    detached::{Detached, Owner},
    headers::{is_twin, reserved},
    options::{HostPolicy, UpstreamOptions, UpstreamTls},
    origin::{Origin, OriginAddress},
    request_head::{HeaderCase, StoredAttempt, Verdict},
    response_reader::{BodyOmission, ReceivedResponse, ResponseLimits, ResponseReader},
};
use self::{
    endpoints::{Endpoint, EndpointConnection, Endpoints},
    exchange::{ExchangeError, Outgoing, UpstreamConnection},
    permits::{GaugeGuard, UpstreamPermits},
    request_head::Extra,
};
use crate::{
    body::Payload,
    metrics::{RouteMetrics, UpstreamCode},
    reject::{Reject, Shed},
    replay::{Claim, Failure, Settled},
    response::SanitizedResponse,
    tls::Validity,
    traces::UpstreamSpan,
};

/// Connecting ends this long before `answer_by`, to leave time for the 502 itself.
const RESPONSE_RESERVE: Duration = Duration::from_millis(500);

/// The upstreams of one route, with their connections.
#[derive(Debug)]
pub struct Upstream {
    options: UpstreamOptions,
    endpoints: Endpoints,
    permits: Option<UpstreamPermits>,
}

/// What an exchange needs in addition to the request and the proofs.
pub struct ExchangeContext {
    /// The client of the request.
    pub client: ClientAddr,
    /// The request ID.
    pub request_id: HeaderValue,
    /// The sender's deadline for the response.
    pub answer_by: Instant,
    /// For an attempt from the event store, whose slot is held already: when connecting ends.
    /// `None`: early enough for a response by `answer_by`.
    pub connect_by: Option<Instant>,
    /// Whether the sender still waits.
    pub owner: Owner,
    /// On a wildcard route, the length of the path's part that the pattern matched.
    pub matched: Option<usize>,
    /// The route's metrics.
    pub metrics: Arc<RouteMetrics>,
    /// The span of the exchange, if the request is traced.
    pub span: Option<UpstreamSpan>,
}

/// A request for an upstream.
struct UpstreamRequest {
    method: Method,
    uri: Uri,
    /// The header lines and the empty line after them.
    lines: Vec<u8>,
    /// The body; empty once it has been sent.
    body: Payload,
}

/// Sends a request to an upstream, and settles its claim by the outcome. Takes the verdict and the
/// claim by value: a request that a route enforces cannot reach the upstream without both proofs.
pub fn send(
    upstream: Arc<Upstream>,
    head: (&Parts, &HeaderCase),
    payload: Payload,
    verdict: Verdict,
    claim: Claim,
    context: ExchangeContext,
) -> impl Future<Output = Settled> + Send + use<> {
    let owner = context.owner.clone();
    let marked = claim.possible_duplicate();
    let exchange = exchange(upstream, head, payload, &verdict, marked, context);
    async move { settle(claim, exchange.await, &owner).await }
}

/// Sends a request to an upstream and returns its response, sanitized. With `marked`, an earlier
/// attempt may have reached the upstream.
pub fn exchange(
    upstream: Arc<Upstream>,
    head: (&Parts, &HeaderCase),
    payload: Payload,
    verdict: &Verdict,
    marked: bool,
    mut context: ExchangeContext,
) -> impl Future<Output = Result<SanitizedResponse, Reject>> + Send + use<> {
    let request = upstream.request(head, payload, &context, verdict, marked);
    async move {
        let outcome = upstream.exchange(request, &context).await;
        if let Some(span) = context.span.take() {
            let status = outcome.as_ref().map(|response| response.status.as_u16());
            span.end(status.ok(), outcome.as_ref().err().map(Reject::upstream_failure));
        }
        outcome
    }
}

/// Settles a claim: a success is recorded before the outcome is returned, a failure releases it.
pub async fn settle(
    claim: Claim,
    outcome: Result<SanitizedResponse, Reject>,
    owner: &Owner,
) -> Settled {
    let receipt = match &outcome {
        Ok(response) if response.status.is_success() => {
            Some(claim.done(response, owner.is_present()).await)
        }
        Ok(_) => {
            claim.failed(Failure::Known, outcome.clone()).await;
            None
        }
        Err(reject) => {
            let how = if reject.is_known_outcome() { Failure::Known } else { Failure::Unknown };
            claim.failed(how, outcome.clone()).await;
            None
        }
    };
    Settled { outcome, receipt }
}

impl Upstream {
    /// Returns upstreams without connections.
    pub fn new(options: UpstreamOptions) -> Arc<Self> {
        let endpoints = Endpoints::new(&options);
        let permits = UpstreamPermits::new(options.concurrency, options.queue);
        Arc::new(Upstream { options, endpoints, permits })
    }

    /// Returns the origin at a position.
    pub fn origin(&self, position: usize) -> Option<&Origin> {
        self.options.origins.get(position)
    }

    /// Returns the file of the client certificate, and its validity.
    pub fn certificate(&self) -> Option<&(String, Validity)> {
        self.options.tls.as_ref()?.client_certificate.as_ref()
    }

    /// Returns the limit on concurrent requests, if there is one.
    pub fn slots(&self) -> Option<&Arc<Semaphore>> {
        self.permits.as_ref().map(UpstreamPermits::slots)
    }

    /// Returns whether an origin could be connected to at the last attempt. Otherwise the next
    /// request is a probe.
    pub fn is_reachable(&self) -> bool {
        self.endpoints.is_reachable()
    }

    /// Waits until an origin can be reached again.
    pub fn recovered(&self) -> Notified<'_> {
        self.endpoints.recovered()
    }

    fn request(
        &self,
        head: (&Parts, &HeaderCase),
        payload: Payload,
        context: &ExchangeContext,
        verdict: &Verdict,
        possible_duplicate: bool,
    ) -> UpstreamRequest {
        let extra = Extra {
            request_id: &context.request_id,
            verdict,
            possible_duplicate,
            keeps_host: self.options.host == HostPolicy::Preserve,
            headers: &self.options.headers,
            span: context.span.as_ref().filter(|_| !self.options.keeps_trace),
        };
        let lines = request_head::lines(head, payload.len(), &context.client, &extra);
        let (method, uri) = (head.0.method.clone(), head.0.uri.clone());
        UpstreamRequest { method, uri, lines, body: payload }
    }

    async fn exchange(
        &self,
        mut request: UpstreamRequest,
        context: &ExchangeContext,
    ) -> Result<SanitizedResponse, Reject> {
        let arrived = Instant::now();
        let left = context.answer_by.saturating_duration_since(arrived);
        let in_time = || arrived + left.saturating_sub(RESPONSE_RESERVE).max(left / 2);
        let connect_by = context.connect_by.unwrap_or_else(in_time);
        let (metrics, mut started) = (&context.metrics, arrived);
        let _permit = match &self.permits {
            Some(permits) if context.connect_by.is_none() => {
                let permit = permits.acquire(connect_by, &metrics.upstream_waiting).await?;
                started = Instant::now();
                Some(permit)
            }
            Some(_) | None => None,
        };
        let _in_flight = GaugeGuard::increment(&metrics.upstream_in_flight);
        let deadline = started + self.options.timeout;
        // If the timeout ends before there is a connection, nothing was sent.
        let call = self.call(&mut request, started, connect_by.min(deadline), context);
        let called = detached::timeout_at(deadline, context.answer_by, &context.owner, call)
            .await
            .unwrap_or(Err(Reject::UpstreamTimeout));
        let ended = Instant::now();
        let code = match &called {
            Ok(called) => called.code(),
            Err(Reject::UpstreamConnect) => UpstreamCode::Connect,
            Err(Reject::UpstreamTimeout) => UpstreamCode::Timeout,
            Err(_) => UpstreamCode::Reset,
        };
        metrics.upstream(code).inc();
        if code != UpstreamCode::Connect {
            let took = ended.saturating_duration_since(started);
            metrics.upstream_duration.observe(took.as_secs_f64());
        }
        called.and_then(|called| called.finish(ended))
    }

    /// Sends a request on a connection and reads its response. Continues with another connection
    /// only if nothing was sent.
    async fn call(
        &self,
        request: &mut UpstreamRequest,
        started: Instant,
        connect_by: Instant,
        context: &ExchangeContext,
    ) -> Result<Called<'_>, Reject> {
        let limits = ResponseLimits {
            head_bytes: self.options.response_head_bytes,
            body_bytes: self.options.response_body_bytes,
        };
        detached::yield_once().await;
        loop {
            let lease = self.endpoints.connect(started, connect_by).await?;
            let EndpointConnection { endpoint, mut connection, is_new } = lease;
            context.owner.set_origin(endpoint.position);
            let target = endpoint.origin.target(&request.uri, context.matched)?;
            let host = match &self.options.host {
                HostPolicy::Preserve => None,
                HostPolicy::Upstream => Some(&endpoint.authority),
                HostPolicy::Name(name) => Some(name),
            };
            let start = request_head::start(&request.method, target.as_bytes(), host);
            let outgoing = Outgoing::new(&start, &request.lines, &mut request.body);
            let reader = ResponseReader::new(limits, request.method == Method::HEAD);
            let error = match connection.exchange(outgoing, reader).await {
                Ok((received, is_reusable)) => {
                    let reusable = is_reusable.then_some(connection);
                    return Ok(Called { received, endpoint, reusable });
                }
                Err(error) => error,
            };
            match error {
                ExchangeError::Unknown(error) => {
                    let upstream = &endpoint.origin;
                    tracing::warn!(%upstream, %error, "no usable response from the upstream");
                    return Err(Reject::UpstreamReset);
                }
                ExchangeError::Certificate(error) => {
                    endpoint.record_failure(&error);
                    return Err(Reject::UpstreamConnect);
                }
                ExchangeError::Unsent(error) if is_new => endpoint.record_failure(&error),
                // The upstream closed an idle connection; the next one may be fine.
                ExchangeError::Unsent(_) => {}
            }
            if Instant::now() >= connect_by {
                return Err(Reject::UpstreamConnect);
            }
        }
    }
}

/// A response, with its connection if that can serve another request.
struct Called<'u> {
    received: ReceivedResponse,
    endpoint: &'u Endpoint,
    reusable: Option<UpstreamConnection>,
}

impl Called<'_> {
    fn code(&self) -> UpstreamCode {
        let status = self.received.response.status;
        if status.is_success() {
            UpstreamCode::Success
        } else if status.is_redirection() {
            UpstreamCode::Redirect
        } else if status.is_client_error() {
            UpstreamCode::ClientError
        } else {
            UpstreamCode::ServerError
        }
    }

    /// Returns the response. A 2xx whose body is omitted is still a success, because the upstream
    /// has done its work: it has an empty body. Without memory for another response's body, the
    /// result is a 503.
    fn finish(self, now: Instant) -> Result<SanitizedResponse, Reject> {
        let Called { received, endpoint, reusable } = self;
        if let Some(connection) = reusable {
            endpoint.put_back(connection, now);
        }
        if !received.faults.is_empty() {
            endpoint.log_faults(&received.faults);
        }
        let (upstream, response) = (&endpoint.origin, received.response);
        if response.status.is_redirection() {
            return Err(Reject::UpstreamRedirect);
        }
        match received.omission {
            None => {}
            Some(BodyOmission::TooLong) => {
                tracing::warn!(%upstream, "a response body is over the limit and omitted");
            }
            Some(BodyOmission::NoMemory) if response.status.is_success() => {
                tracing::warn!(%upstream, "a response body is omitted: no memory left for bodies");
            }
            Some(BodyOmission::NoMemory) => return Err(Reject::Overloaded(Shed::Memory)),
        }
        Ok(response)
    }
}
