//! The way to the upstream and back.
//!
//! A forward belongs to the event and not to the sender's connection: it goes on when the sender
//! hangs up or its deadline passes, and its outcome is recorded before anybody is answered. What may
//! have reached the upstream is never sent again from here: only a request of which no byte was sent,
//! or a connection that could not be opened, is tried once more.

mod client_addr;
mod connection;
mod detached;
mod headers;
mod origin;
mod patience;
mod permits;
mod pool;
mod request_head;
mod response_head;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Uri, request::Parts};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

pub use self::{
    client_addr::{ClientAddr, Networks, Peer},
    detached::{Detached, Owner},
    headers::{is_twin, reserved},
    origin::{Address, Origin},
    request_head::{HeaderCase, Verdict},
    response_head::{Bounds, Malformed, ResponseHead, Whole},
};
use self::{
    connection::{Connection, NoAnswer, Sending},
    permits::{Counted, Slots},
    pool::Pool,
    request_head::Extra,
};
use crate::{
    body::Payload,
    metrics::{RouteMetrics, UpstreamCode},
    reject::Reject,
    replay::{Claim, Failure, Settled},
    response::SanitizedResponse,
};

/// The first wait between attempts to connect; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// Connecting ends so long before `answer_within` does, to leave time for the 502 itself.
const ANSWER_RESERVE: Duration = Duration::from_millis(500);

/// Which `Host` the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// The one that the sender called.
    Preserve,
    /// The upstream's own host and port.
    Upstream,
    /// A fixed name.
    Name(HeaderValue),
}

/// How an upstream is spoken to over TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Whom it is trusted to be, and the certificate to show.
    pub client: Arc<ClientConfig>,
    /// The name that its certificate must have, instead of the address's host.
    pub name: Option<ServerName<'static>>,
    /// The file of the certificate to show, if there is one, and its end in Unix seconds.
    pub shown: Option<(String, i64)>,
}

/// The upstreams of one route, as configured.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// One or more; tried in turns.
    pub origins: Vec<Origin>,
    /// How the `https://` ones are spoken to; there if there is one.
    pub tls: Option<Secure>,
    /// Which `Host` they see.
    pub host: HostPolicy,
    /// Headers that they get with every request, marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The most requests at one time; 0 is any number.
    pub concurrency: usize,
    /// How many more may wait.
    pub queue: usize,
    /// The whole exchange with the upstream.
    pub timeout: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// The longest body of an answer that is passed on.
    pub answer_bytes: u64,
    /// The longest head of an answer.
    pub answer_head_bytes: usize,
}

/// The upstreams of one route, with their connections.
#[derive(Debug)]
pub struct Upstream {
    options: UpstreamOptions,
    pools: Vec<(Arc<Pool>, HeaderValue)>,
    slots: Option<Slots>,
    next: AtomicUsize,
}

/// What a forward needs besides the request and the proofs.
pub struct Context {
    /// Who called.
    pub client: ClientAddr,
    /// The request id.
    pub request_id: HeaderValue,
    /// When the sender must have its answer.
    pub answer_by: Instant,
    /// Whether the sender still waits.
    pub owner: Owner,
    /// How many bytes of the path the route's pattern took; what follows is kept on a wildcard.
    pub matched: Option<usize>,
    /// The route's metrics.
    pub metrics: Arc<RouteMetrics>,
}

/// A request on its way to an upstream.
struct Request {
    method: Method,
    uri: Uri,
    /// The header lines, and the empty one behind them.
    lines: Vec<u8>,
    /// The body, until it was sent.
    body: Option<Payload>,
}

/// Sends a request to an upstream, and settles its claim by the outcome. Takes the verdict and the
/// claim by value: a request that a route enforces cannot reach the upstream without both proofs.
pub fn send(
    upstream: Arc<Upstream>,
    head: (&Parts, &HeaderCase),
    payload: Payload,
    verdict: Verdict,
    claim: Claim,
    context: Context,
) -> impl Future<Output = Settled> + Send + use<> {
    let request = upstream.request(head, payload, &context, &verdict, claim.possible_duplicate());
    async move {
        let outcome = upstream.exchange(request, &context).await;
        settle(claim, outcome, &context.owner).await
    }
}

/// Settles a claim: `done` is recorded before the outcome is told, a failure releases it.
pub async fn settle(
    claim: Claim,
    outcome: Result<SanitizedResponse, Reject>,
    owner: &Owner,
) -> Settled {
    let receipt = match &outcome {
        Ok(answer) if answer.status.is_success() => Some(claim.done(answer, owner.waits()).await),
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
    /// Upstreams without connections.
    pub fn new(options: UpstreamOptions) -> Arc<Self> {
        let pool = |origin: &Origin| {
            let authority = HeaderValue::from_str(&origin.authority())
                .unwrap_or_else(|_| HeaderValue::from_static("upstream"));
            (Pool::new(origin.clone(), &options), authority)
        };
        let pools = options.origins.iter().map(pool).collect();
        let slots = Slots::new(options.concurrency, options.queue);
        Arc::new(Upstream { options, pools, slots, next: AtomicUsize::new(0) })
    }

    /// The file of the certificate that is shown to the upstream, and its end in Unix seconds.
    pub fn certificate(&self) -> Option<&(String, i64)> {
        self.options.tls.as_ref()?.shown.as_ref()
    }

    fn request(
        &self,
        head: (&Parts, &HeaderCase),
        payload: Payload,
        context: &Context,
        verdict: &Verdict,
        possible_duplicate: bool,
    ) -> Request {
        let extra = Extra {
            request_id: &context.request_id,
            verdict,
            possible_duplicate,
            keeps_host: self.options.host == HostPolicy::Preserve,
            headers: &self.options.headers,
        };
        let lines = request_head::lines(head, payload.len(), &context.client, &extra);
        let (method, uri) = (head.0.method.clone(), head.0.uri.clone());
        Request { method, uri, lines, body: Some(payload) }
    }

    async fn exchange(
        &self,
        mut request: Request,
        context: &Context,
    ) -> Result<SanitizedResponse, Reject> {
        let came = Instant::now();
        let left = context.answer_by.saturating_duration_since(came);
        let connect_by = came + left.saturating_sub(ANSWER_RESERVE).max(left / 2);
        let (metrics, mut started) = (&context.metrics, came);
        let _slot = match &self.slots {
            Some(slots) => {
                let slot = slots.enter(connect_by, &metrics.upstream_waiting).await?;
                started = Instant::now();
                Some(slot)
            }
            None => None,
        };
        let _counted = Counted::among(&metrics.upstream_in_flight);
        // What the upstream's own patience ends before a connection is there was never sent.
        let ends = started + self.options.timeout;
        let call = self.call(&mut request, started, connect_by.min(ends), context.matched);
        let called =
            patience::until(ends, context, call).await.unwrap_or(Err(Reject::UpstreamTimeout));
        let ended = Instant::now();
        let outcome = called.and_then(|called| called.end(ended));
        let code = match &outcome {
            Ok(answer) if answer.status.is_success() => UpstreamCode::Success,
            Ok(answer) if answer.status.is_client_error() => UpstreamCode::ClientError,
            Ok(_) => UpstreamCode::ServerError,
            Err(Reject::UpstreamRedirect) => UpstreamCode::Redirect,
            Err(Reject::UpstreamConnect) => UpstreamCode::Connect,
            Err(Reject::UpstreamTimeout) => UpstreamCode::Timeout,
            Err(_) => UpstreamCode::Reset,
        };
        metrics.upstream(code).inc();
        if code != UpstreamCode::Connect {
            let took = ended.saturating_duration_since(started);
            metrics.upstream_duration.observe(took.as_secs_f64());
        }
        outcome
    }

    async fn call(
        &self,
        request: &mut Request,
        started: Instant,
        connect_by: Instant,
        matched: Option<usize>,
    ) -> Result<Called<'_>, Reject> {
        let bounds = Bounds {
            head_bytes: self.options.answer_head_bytes,
            body_bytes: self.options.answer_bytes,
        };
        let mut wait = FIRST_WAIT;
        patience::after_others().await;
        loop {
            let (pool, authority) = self.choose();
            let kept = pool.reuse(started).await;
            let is_new = kept.is_none();
            let connection = match kept {
                Some(connection) => Some(connection),
                // In a box, so that a request for which there is a connection is small.
                None => Box::pin(pool.connect(connect_by)).await.ok(),
            };
            if let Some(mut connection) = connection {
                let target = pool.origin().target(&request.uri, matched)?;
                let host = match &self.options.host {
                    HostPolicy::Preserve => None,
                    HostPolicy::Upstream => Some(authority),
                    HostPolicy::Name(name) => Some(name),
                };
                let start = request_head::start(&request.method, target.as_bytes(), host);
                let sending = Sending::new(&start, &request.lines, &mut request.body);
                let reading = ResponseHead::new(bounds, request.method == Method::HEAD);
                match connection.exchange(sending, reading).await {
                    Ok((whole, keeps)) => {
                        return Ok(Called { whole, pool, keeps: keeps.then_some(connection) });
                    }
                    Err(NoAnswer::Unknown) => return Err(Reject::UpstreamReset),
                    Err(NoAnswer::Refused(error)) => {
                        pool.rest(&error);
                        return Err(Reject::UpstreamConnect);
                    }
                    Err(NoAnswer::Unsent(_)) if !is_new && Instant::now() < connect_by => continue,
                    Err(NoAnswer::Unsent(error)) => pool.rest(&error),
                }
            }
            if Instant::now() + wait >= connect_by {
                return Err(Reject::UpstreamConnect);
            }
            if self.pools.iter().all(|(pool, _)| pool.rests()) {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    /// The next origin in turn that does not rest; if all rest, the next one.
    fn choose(&self) -> &(Arc<Pool>, HeaderValue) {
        if let [only] = self.pools.as_slice() {
            return only;
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |offset: usize| &self.pools[(start.wrapping_add(offset)) % self.pools.len()];
        (0..self.pools.len()).map(turn).find(|(pool, _)| pool.takes()).unwrap_or_else(|| turn(0))
    }
}

/// What came of a request, with its connection if that can take another one.
struct Called<'u> {
    whole: Whole,
    pool: &'u Arc<Pool>,
    keeps: Option<Connection>,
}

impl Called<'_> {
    /// The answer. A body over the limit was left out: the status is what the sender acts on, and a 2xx whose
    /// body is too long is still a 2xx.
    fn end(self, now: Instant) -> Result<SanitizedResponse, Reject> {
        let Called { whole: Whole { answer, left_out, .. }, pool, keeps } = self;
        if let Some(connection) = keeps {
            pool.put_back(connection, now);
        }
        if left_out {
            tracing::warn!(upstream = %pool.origin(), "an answer's body is over the limit and left out");
        }
        if answer.status.is_redirection() { Err(Reject::UpstreamRedirect) } else { Ok(answer) }
    }
}
