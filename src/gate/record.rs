//! What is known of one request: its id, its times, its route, its event. Written once, when it is
//! answered, as one line of the log and in the metrics. Never a secret, a signature or a body, and
//! nothing that an unauthentic request chose but the 32 hex digits of its trace.

use std::{
    net::IpAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use tracing::Level;

use super::trace::TraceId;
use crate::{
    metrics::{NO_ROUTE, RouteMetrics},
    reject::{Outcome, Reject},
    replay::{Claim, Claimed, Repeat},
    response::{self, REQUEST_ID},
    route::Route,
    scheme::{UnixMillis, Verified},
    upstream::{ClientAddr, Context, Owner},
};

/// The record of one request.
pub(super) struct Record {
    id: HeaderValue,
    trace: Option<TraceId>,
    client: IpAddr,
    started: Instant,
    clock: UnixMillis,
    route: Option<Arc<Route>>,
    metrics: Arc<RouteMetrics>,
    proof: Option<Proof>,
    mark: Option<&'static str>,
    subject: Option<String>,
}

/// What an authentic request said of itself.
struct Proof {
    event_id: Option<HeaderValue>,
    key: Arc<str>,
}

/// A request id: 16 hex digits of this process, 16 of the request.
fn next_id() -> HeaderValue {
    static PROCESS: LazyLock<[u8; 8]> = LazyLock::new(|| {
        getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())).to_be_bytes()
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut digits = [0; 32];
    let (of_process, of_request) = digits.split_at_mut(16);
    HEXLOWER.encode_mut(&*PROCESS, of_process);
    HEXLOWER.encode_mut(&number, of_request);
    HeaderValue::from_bytes(&digits).expect("hex digits are a header value")
}

fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Record {
    /// Begins the record of a request that no route has taken yet.
    pub(super) fn begin(
        headers: &HeaderMap,
        client: &ClientAddr,
        unrouted: &Arc<RouteMetrics>,
    ) -> Self {
        Record {
            id: next_id(),
            trace: TraceId::of(headers),
            client: client.address,
            started: Instant::now(),
            clock: wall_clock(),
            route: None,
            metrics: Arc::clone(unrouted),
            proof: None,
            mark: None,
            subject: None,
        }
    }

    /// When the request came, by our clock.
    pub(super) fn now(&self) -> UnixMillis {
        self.clock
    }

    /// The request id.
    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Notes the route.
    pub(super) fn enter(&mut self, route: &Arc<Route>) -> Arc<Route> {
        self.route = Some(Arc::clone(route));
        self.metrics = Arc::clone(&route.metrics);
        Arc::clone(route)
    }

    /// What the forward needs to know.
    pub(super) fn context(&self, route: &Route, client: ClientAddr) -> Context {
        Context {
            client,
            request_id: self.id.clone(),
            answer_by: self.started + route.answer_within,
            owner: Owner::default(),
            matched: route.matched(),
            metrics: Arc::clone(&route.metrics),
        }
    }

    /// Notes who was authentic.
    pub(super) fn verified(
        &mut self,
        judged: Result<Verified, Reject>,
    ) -> Result<Verified, Reject> {
        let verified = judged?;
        self.proof =
            Some(Proof { event_id: verified.event_id().cloned(), key: Arc::clone(verified.key()) });
        if let Some(age) = verified.age() {
            self.metrics.skew.observe(age as f64 / 1000.0);
        }
        self.metrics.last_verified.set(self.clock.0 / 1000);
        Ok(verified)
    }

    /// Notes whom a token is about that the operator has not pinned.
    pub(super) fn about(&mut self, subject: Option<String>) {
        self.subject = subject;
    }

    /// On a route that only observes: the claim to forward with, and the word for what would have
    /// been refused.
    pub(super) fn observed(
        &mut self,
        judged: Result<Claimed, Reject>,
    ) -> (Claim, Option<&'static str>) {
        let (claim, mark) = match judged {
            Ok(Claimed::Won(claim)) => (claim, None),
            Ok(Claimed::InFlight(_)) => (Claim::unrecorded(), Some(Outcome::Joined.label())),
            Ok(Claimed::Done(Repeat::Retry(_))) => {
                (Claim::unrecorded(), Some(Outcome::Duplicate.label()))
            }
            Ok(Claimed::Done(Repeat::Replay)) => {
                (Claim::unrecorded(), Some(Outcome::Replay.label()))
            }
            Err(reject) => {
                let label = match reject.reason() {
                    Some(reason) => {
                        self.metrics.rejections(reason).inc();
                        reason.label()
                    }
                    None => reject.outcome().label(),
                };
                (Claim::unrecorded(), Some(label))
            }
        };
        self.mark = mark;
        (claim, mark)
    }

    /// Puts the request id on an answer, which is bare if the sender wants it so.
    pub(super) fn stamped(&self, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        if self.route.as_ref().is_some_and(|route| route.verifier.scheme().wants_bare_answers()) {
            response::bare(&mut response);
        }
        response.headers_mut().insert(REQUEST_ID, self.id.clone());
        response
    }

    /// Ends the record of a request that was not rejected.
    pub(super) fn passed(
        self,
        outcome: Outcome,
        response: Response<Full<Bytes>>,
    ) -> Response<Full<Bytes>> {
        let response = self.stamped(response);
        let hint = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "the upstream refused what was verified here; its own check may be at fault \
                 (the sender's samples compare milliseconds with seconds)"
            }
            _ => "",
        };
        let level = if hint.is_empty() { Level::INFO } else { Level::WARN };
        self.end(level, outcome, response.status(), self.mark.unwrap_or(""), hint);
        response
    }

    /// Ends the record of a rejected request, and makes its answer.
    pub(super) fn rejected(self, reject: &Reject) -> Response<Full<Bytes>> {
        let refusal = self.route.as_ref().map_or(StatusCode::UNAUTHORIZED, |r| r.refusal());
        let id = self.id.to_str().unwrap_or("");
        let response = self.stamped(response::problem(reject, refusal, id));
        let outcome = reject.outcome();
        if let Some(reason) = reject.reason() {
            self.metrics.rejections(reason).inc();
            self.end(reject.level(), outcome, response.status(), reason.label(), "");
        } else {
            self.end(reject.level(), outcome, response.status(), "", &reject.to_string());
        }
        response
    }

    fn end(&self, level: Level, outcome: Outcome, status: StatusCode, reason: &str, detail: &str) {
        let took = self.started.elapsed();
        self.metrics.requests(outcome).inc();
        self.metrics.request_duration.observe(took.as_secs_f64());
        if self.proof.is_some() {
            self.count_failures_in_a_row(outcome, status);
        }
        /// The level of an event must be known when it is compiled.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    route = self.route.as_ref().map_or(NO_ROUTE, |route| &route.name),
                    outcome = outcome.label(),
                    status = status.as_u16(),
                    reason,
                    event_id = self
                        .proof
                        .as_ref()
                        .and_then(|proof| proof.event_id.as_ref()?.to_str().ok())
                        .unwrap_or(""),
                    key = self.proof.as_ref().map_or("", |proof| &proof.key),
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

    /// The sender switches the webhook off after five failures in a row. What it did not send itself
    /// (a replay, a copy with another context) neither counts nor ends the row.
    fn count_failures_in_a_row(&self, outcome: Outcome, status: StatusCode) {
        match outcome {
            Outcome::Replay | Outcome::Rejected => {}
            _ if status.is_success() => self.metrics.consecutive_failures.set(0),
            _ => self.metrics.consecutive_failures.inc(),
        }
    }
}
