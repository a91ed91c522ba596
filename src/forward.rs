//! The way to the upstream and back.
//!
//! A forward belongs to the event and not to the sender's connection: it goes on when the sender
//! hangs up or its deadline passes, and its outcome is recorded before anybody is answered. What may
//! have reached the upstream is never sent again from here: only a request that hyper hands back
//! unsent, or a connection that could not be opened, is tried once more.

mod client;
mod detached;
mod headers;
mod origin;
mod pool;
mod slots;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

pub use self::{
    client::{Client, Networks, Peer},
    detached::{Detached, Owner},
    headers::{is_twin, reserved},
    origin::{Address, Origin},
};
use self::{
    headers::{Extra, Mark},
    pool::Pool,
    slots::{Counted, Slots},
};
use crate::{
    answer::Answer,
    body::{Outgoing, Payload},
    metrics::{RouteMetrics, UpstreamCode},
    reject::Reject,
    replay::{Claim, Failure, Settled},
    scheme::Verified,
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
    pub client: Client,
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

/// Sends an authentic request that holds its event's claim, and settles the claim by what comes
/// back. Takes both proofs by value: there is no other way to the upstream for what is enforced.
pub async fn send(
    upstream: Arc<Upstream>,
    mut head: Parts,
    payload: Payload,
    verified: Verified,
    claim: Claim,
    context: Context,
) -> Settled {
    let mark =
        Mark::Verified { verified: &verified, possible_duplicate: claim.possible_duplicate() };
    let extra = Extra { request_id: &context.request_id, headers: &upstream.options.headers };
    headers::to_upstream(&mut head, payload.len(), &context.client, &extra, &mark);
    let outcome = upstream.exchange(head, payload.into(), &context).await;
    settle(claim, outcome, &context.owner).await
}

/// Settles a claim: `done` is recorded before the outcome is told, a failure releases it.
pub async fn settle(claim: Claim, outcome: Result<Answer, Reject>, owner: &Owner) -> Settled {
    let receipt = match &outcome {
        Ok(answer) if answer.status.is_success() => Some(claim.done(answer, owner.waits()).await),
        Ok(_) => {
            claim.failed(Failure::Known, outcome.clone()).await;
            None
        }
        Err(reject) => {
            let how = if reject.leaves_no_doubt() { Failure::Known } else { Failure::Unknown };
            claim.failed(how, outcome.clone()).await;
            None
        }
    };
    Settled { outcome, receipt }
}

/// Sends what came on a route that only observes, marked with what would have been the reason and
/// never as verified. The claim is settled like any other; for what is not new and authentic it is
/// one that records nothing.
pub async fn observe(
    upstream: Arc<Upstream>,
    mut head: Parts,
    payload: Payload,
    claim: Claim,
    mark: Option<&'static str>,
    context: Context,
) -> Settled {
    let mark = Mark::Observed(mark);
    let extra = Extra { request_id: &context.request_id, headers: &upstream.options.headers };
    headers::to_upstream(&mut head, payload.len(), &context.client, &extra, &mark);
    let outcome = upstream.exchange(head, payload.into(), &context).await;
    settle(claim, outcome, &context.owner).await
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

    async fn exchange(
        &self,
        head: Parts,
        body: Outgoing,
        context: &Context,
    ) -> Result<Answer, Reject> {
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
        let connect_by = connect_by.min(started + self.options.timeout);
        let call = self.call(head, body, connect_by, context.matched);
        let outcome = tokio::time::timeout(self.options.timeout, call)
            .await
            .unwrap_or(Err(Reject::UpstreamTimeout));
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
            metrics.upstream_duration.observe(started.elapsed().as_secs_f64());
        }
        outcome
    }

    async fn call(
        &self,
        head: Parts,
        body: Outgoing,
        connect_by: Instant,
        matched: Option<usize>,
    ) -> Result<Answer, Reject> {
        let mut request = Request::from_parts(head, body);
        let mut wait = FIRST_WAIT;
        let target = request.uri().clone();
        loop {
            let (pool, authority) = self.choose();
            let kept = pool.reuse().await;
            let is_new = kept.is_none();
            let connection = match kept {
                Some(connection) => Some(connection),
                None => pool.connect(connect_by).await.ok(),
            };
            if let Some(mut connection) = connection {
                let (mut head, body) = request.into_parts();
                head.uri = pool.origin().target(&target, matched)?;
                headers::aim(&mut head, authority, &self.options.host);
                let sent = connection.try_send_request(Request::from_parts(head, body)).await;
                let mut error = match sent {
                    Ok(response) => return self.receive(response, pool, connection).await,
                    Err(error) => error,
                };
                let Some(unsent) = error.take_message() else {
                    return Err(pool.broke_off(&error.into_error()));
                };
                request = unsent;
                if !is_new && Instant::now() < connect_by {
                    continue;
                }
                pool.rest(&io::ErrorKind::ConnectionAborted.into());
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

    /// Reads an answer and makes it safe. A body over the limit is left out: the status is what the
    /// sender acts on, and a 2xx whose body is too long is still a 2xx.
    async fn receive(
        &self,
        response: Response<Incoming>,
        pool: &Arc<Pool>,
        connection: SendRequest<Outgoing>,
    ) -> Result<Answer, Reject> {
        let (mut head, body) = response.into_parts();
        if head.status.is_informational() {
            return Err(Reject::UpstreamReset);
        }
        headers::to_sender(&mut head.headers);
        let body = collect(body, self.options.answer_bytes).await?;
        if body.is_some() {
            pool.put_back(connection);
        } else {
            tracing::warn!(upstream = %pool.origin(), "an answer's body is over the limit and left out");
        }
        if head.status.is_redirection() {
            return Err(Reject::UpstreamRedirect);
        }
        Ok(Answer { status: head.status, headers: head.headers, body: body.unwrap_or_default() })
    }
}

/// A body of at most `limit` bytes; `None` if it is longer.
async fn collect(mut body: Incoming, limit: u64) -> Result<Option<Bytes>, Reject> {
    if body.size_hint().lower() > limit {
        return Ok(None);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Reject::UpstreamReset)?;
        let Ok(data) = frame.into_data() else { continue };
        if (first.len() + rest.len() + data.len()) as u64 > limit {
            return Ok(None);
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(Some(first));
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(Some(whole.freeze()))
}
