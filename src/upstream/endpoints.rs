//! The origins of a route with their connections: which of them serves a request, and the
//! connection on which it does.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use http::HeaderValue;
use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    backoff::{Backoff, Probe},
    dial::Dialer,
    exchange::UpstreamConnection,
    options::UpstreamOptions,
    origin::Origin,
    pool::ConnectionPool,
};
use crate::{reject::Reject, tls};

/// One origin with its connections.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Its position in the configuration.
    pub(super) position: usize,
    pub(super) origin: Origin,
    /// The `Host` by which the origin knows itself.
    pub(super) authority: HeaderValue,
    dialer: Dialer,
    pool: Arc<ConnectionPool>,
    backoff: Backoff,
    /// Notified when an origin of the route can be reached again.
    recovered: Arc<Notify>,
    /// Whether a faulty response has been logged.
    has_logged_fault: AtomicBool,
}

/// The origins of a route. Requests take them in turn; an origin in backoff is passed over.
#[derive(Debug)]
pub(super) struct Endpoints {
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    recovered: Arc<Notify>,
    /// Notified when a probe was given up, so that a waiting request claims it.
    unclaimed: Notify,
}

/// A connection that serves a request.
pub(super) struct EndpointConnection<'e> {
    pub(super) endpoint: &'e Endpoint,
    pub(super) connection: UpstreamConnection,
    /// Whether it has served no other request.
    pub(super) is_new: bool,
}

/// The origin that a request may dial.
enum Choice<'e> {
    Available(&'e Endpoint),
    /// A failing origin, once its backoff has passed.
    Failing(&'e Endpoint, Probe<'e>),
    /// None: other requests probe all of them.
    Wait,
}

impl Endpoints {
    pub(super) fn new(options: &UpstreamOptions) -> Self {
        let recovered = Arc::<Notify>::default();
        let endpoint = |(position, origin): (usize, &Origin)| Endpoint {
            position,
            authority: HeaderValue::from_str(&origin.authority())
                .unwrap_or_else(|_| HeaderValue::from_static("upstream")),
            dialer: Dialer::new(origin.address.clone(), options.tls.clone()),
            origin: origin.clone(),
            pool: ConnectionPool::new(options.idle),
            backoff: Backoff::default(),
            recovered: Arc::clone(&recovered),
            has_logged_fault: AtomicBool::new(false),
        };
        let endpoints = options.origins.iter().enumerate().map(endpoint).collect();
        Endpoints { endpoints, next: AtomicUsize::new(0), recovered, unclaimed: Notify::new() }
    }

    /// Returns whether an origin is not in backoff.
    pub(super) fn is_reachable(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.backoff.is_available())
    }

    /// Waits until an origin can be reached again.
    pub(super) fn recovered(&self) -> Notified<'_> {
        self.recovered.notified()
    }

    /// Returns a connection to an origin: an idle one, or a new one before `connect_by`.
    ///
    /// # Errors
    /// [`Reject::UpstreamConnect`].
    pub(super) async fn connect(
        &self,
        now: Instant,
        connect_by: Instant,
    ) -> Result<EndpointConnection<'_>, Reject> {
        let choice = self.choose();
        let idle = match &choice {
            Choice::Available(endpoint) => endpoint.take_idle(now).await,
            // An idle connection may work although new ones fail.
            Choice::Failing(endpoint, _) => endpoint.take_idle(now).await,
            Choice::Wait => self.take_any_idle(now).await,
        };
        match idle {
            Some(lease) => Ok(lease),
            // Boxed to keep the future of a request small that uses an idle connection.
            None => Box::pin(self.dial(choice, connect_by)).await,
        }
    }

    /// Chooses the next origin in turn.
    fn choose(&self) -> Choice<'_> {
        let start = match self.endpoints.as_slice() {
            [only] if only.backoff.is_available() => return Choice::Available(only),
            [_] => 0,
            _ => self.next.fetch_add(1, Ordering::Relaxed),
        };
        let in_turn = || {
            let count = self.endpoints.len();
            (0..count).map(move |offset| &self.endpoints[start.wrapping_add(offset) % count])
        };
        let has_alternative = in_turn().any(|endpoint| endpoint.backoff.is_available());
        let now = Instant::now();
        for endpoint in in_turn() {
            if endpoint.backoff.is_available() {
                return Choice::Available(endpoint);
            }
            let backoff = &endpoint.backoff;
            if let Some(probe) = backoff.claim_probe(now, has_alternative, &self.unclaimed) {
                return Choice::Failing(endpoint, probe);
            }
        }
        Choice::Wait
    }

    async fn take_any_idle(&self, now: Instant) -> Option<EndpointConnection<'_>> {
        for endpoint in &self.endpoints {
            if let Some(lease) = endpoint.take_idle(now).await {
                return Some(lease);
            }
        }
        None
    }

    /// Dials until a connection succeeds or `connect_by` passes. Requests that may not dial wait
    /// until another one's probe succeeds or ends.
    async fn dial<'e>(
        &'e self,
        mut choice: Choice<'e>,
        connect_by: Instant,
    ) -> Result<EndpointConnection<'e>, Reject> {
        loop {
            // Before the choice, so that no recovery after it is missed.
            let recovered = self.recovered.notified();
            if let Choice::Wait = choice {
                choice = self.choose();
            }
            let (endpoint, probe) = match choice {
                Choice::Available(endpoint) => (endpoint, None),
                Choice::Failing(_, probe) if probe.at >= connect_by => {
                    return Err(Reject::UpstreamConnect);
                }
                Choice::Failing(endpoint, probe) => tokio::select! {
                    () = sleep_until(probe.at) => (endpoint, Some(probe)),
                    () = recovered => {
                        choice = Choice::Wait;
                        continue;
                    }
                },
                Choice::Wait => {
                    tokio::select! {
                        () = recovered => {}
                        () = self.unclaimed.notified() => {}
                        () = sleep_until(connect_by) => return Err(Reject::UpstreamConnect),
                    }
                    continue;
                }
            };
            match endpoint.dial(connect_by).await {
                Ok(connection) => {
                    return Ok(EndpointConnection { endpoint, connection, is_new: true });
                }
                Err(error) => endpoint.record_failure(&error),
            }
            drop(probe);
            if Instant::now() >= connect_by {
                return Err(Reject::UpstreamConnect);
            }
            choice = self.choose();
        }
    }
}

impl Endpoint {
    async fn take_idle(&self, now: Instant) -> Option<EndpointConnection<'_>> {
        let connection = self.pool.take(now).await?;
        Some(EndpointConnection { endpoint: self, connection, is_new: false })
    }

    async fn dial(&self, connect_by: Instant) -> io::Result<UpstreamConnection> {
        let stream = timeout_at(connect_by, self.dialer.dial())
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let mut connection = UpstreamConnection::new(stream);
        poll_fn(|context| Poll::Ready(connection.check(context))).await?;
        self.record_success();
        Ok(connection)
    }

    /// Records that the origin cannot be reached, and logs the reason.
    pub(super) fn record_failure(&self, error: &io::Error) {
        let (upstream, advice) = (&self.origin, tls::advice(error));
        if self.backoff.record_failure(Instant::now()) {
            tracing::warn!(%upstream, %error, advice, "cannot connect to the upstream");
        } else {
            tracing::debug!(%upstream, %error, advice, "still cannot connect to the upstream");
        }
    }

    fn record_success(&self) {
        if self.backoff.record_success() {
            tracing::info!(upstream = %self.origin, "the upstream can be reached again");
            self.recovered.notify_waiters();
        }
    }

    /// Keeps a connection that can serve another request.
    pub(super) fn put_back(&self, connection: UpstreamConnection, now: Instant) {
        self.record_success();
        self.pool.put_back(connection, now);
    }

    /// Logs faults of a response that was used in spite of them: the first time as a warning.
    pub(super) fn log_faults(&self, faults: &[&'static str]) {
        let (upstream, faults) = (&self.origin, faults.join("; "));
        if self.has_logged_fault.swap(true, Ordering::Relaxed) {
            tracing::debug!(%upstream, faults, "the upstream's response is not valid HTTP");
        } else {
            tracing::warn!(
                %upstream,
                faults,
                "the upstream's response is not valid HTTP; it is used without the invalid parts"
            );
        }
    }
}
