//! The metrics of routes, and their text format.
//!
//! A route has about a hundred series, and there can be a thousand routes. The numbers of a route
//! are in one block of memory, and their names are formatted only for a scrape.

mod families;

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::StatusCode;

use self::families::Series;
pub(super) use self::families::{FAMILIES, Family};
use super::{
    deliveries::{DeliveryMetrics, EVENT_STATES, SecretUse},
    number::{Counter, Gauge, Histogram, SECONDS, SKEW},
};
use crate::reject::{Outcome, Reason};

/// The result of an upstream request, as counted in `sealgate_upstream_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamCode {
    /// 200–299.
    Success,
    /// 300–399.
    Redirect,
    /// 400–499.
    ClientError,
    /// 500–599.
    ServerError,
    /// No response within `upstream_timeout`.
    Timeout,
    /// No connection.
    Connect,
    /// A connection that was reset, or a response that is not HTTP or over the limits.
    Reset,
}

impl UpstreamCode {
    pub(super) const ALL: [(UpstreamCode, &str); 7] = [
        (UpstreamCode::Success, "2xx"),
        (UpstreamCode::Redirect, "3xx"),
        (UpstreamCode::ClientError, "4xx"),
        (UpstreamCode::ServerError, "5xx"),
        (UpstreamCode::Timeout, "timeout"),
        (UpstreamCode::Connect, "connect"),
        (UpstreamCode::Reset, "reset"),
    ];
}

/// The classes of statuses that senders get. The gateway sends neither 1xx nor 3xx.
const STATUS_CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// The marks of a route that only observes, other than reasons.
pub const OBSERVED: [&str; 6] =
    ["content_encoding", "duplicate", "joined", "method", "replay", "unavailable"];

/// The metrics of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    requests: [Counter; Outcome::ALL.len()],
    rejections: [Counter; Reason::ALL.len()],
    upstream: [Counter; UpstreamCode::ALL.len()],
    responses: [Counter; STATUS_CLASSES.len()],
    observed: [Counter; OBSERVED.len()],
    /// From the head of a request to its response.
    pub request_duration: Histogram,
    /// From the first byte sent to the upstream to the last byte of its response.
    pub upstream_duration: Histogram,
    /// Requests that are being sent or wait for the response of the upstream.
    pub upstream_in_flight: Gauge,
    /// Requests queued for a slot at the upstream.
    pub upstream_waiting: Gauge,
    /// The system clock minus the timestamp of an authentic request; positive is old.
    pub skew: Histogram,
    /// Consecutive non-2xx responses to authentic requests.
    pub consecutive_failures: Gauge,
    /// When the last authentic request arrived.
    pub last_verified: Gauge,
    /// Events of the store.
    pub deliveries: DeliveryMetrics,
    /// When each secret was last used.
    pub(super) secrets: Mutex<Arc<SecretUse>>,
}

impl RouteMetrics {
    fn new() -> Self {
        RouteMetrics {
            requests: Default::default(),
            rejections: Default::default(),
            upstream: Default::default(),
            responses: Default::default(),
            observed: Default::default(),
            request_duration: Histogram::new(&SECONDS),
            upstream_duration: Histogram::new(&SECONDS),
            upstream_in_flight: Gauge::default(),
            upstream_waiting: Gauge::default(),
            skew: Histogram::new(&SKEW),
            consecutive_failures: Gauge::default(),
            last_verified: Gauge::default(),
            deliveries: DeliveryMetrics::new(),
            secrets: Mutex::default(),
        }
    }

    /// Returns the counter of requests with an outcome.
    pub fn requests(&self, outcome: Outcome) -> &Counter {
        &self.requests[outcome as usize]
    }

    /// Returns the counter of requests rejected for a reason.
    pub fn rejections(&self, reason: Reason) -> &Counter {
        &self.rejections[reason as usize]
    }

    /// Returns the counter of responses to the sender with a status of this class.
    pub fn responses(&self, status: StatusCode) -> &Counter {
        &self.responses[match status.as_u16() {
            ..400 => 0,
            400..500 => 1,
            500.. => 2,
        }]
    }

    /// Counts a request that was forwarded with a mark that is not a [`Reason`].
    pub fn count_observed(&self, mark: &str) {
        if let Some(index) = OBSERVED.iter().position(|known| *known == mark) {
            self.observed[index].inc();
        }
    }

    /// Returns the gauges for these keys, each with its number of secrets. The values of a key are
    /// kept from before if it has as many secrets as before.
    pub fn secrets(&self, keys: impl Iterator<Item = (Arc<str>, usize)>) -> Arc<SecretUse> {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Arc::new(SecretUse::new(keys, &known));
        Arc::clone(&known)
    }

    /// Returns when each secret was last used.
    pub fn secret_use(&self) -> Arc<SecretUse> {
        Arc::clone(&self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the counter of upstream requests with a result.
    pub fn upstream(&self, code: UpstreamCode) -> &Counter {
        &self.upstream[code as usize]
    }
}

/// The metrics of a route, and whether the running configuration has it.
struct RouteEntry {
    metrics: Arc<RouteMetrics>,
    served: bool,
}

/// The metrics of all current and former routes, by name.
#[derive(Default)]
pub(super) struct RouteTable {
    routes: Mutex<BTreeMap<String, RouteEntry>>,
    /// Whether there is an event store.
    pub(super) has_events: AtomicBool,
}

impl RouteTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RouteEntry>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the metrics of the route `name`, with their values from before if it existed before.
    pub(super) fn route(&self, name: &str) -> Arc<RouteMetrics> {
        let mut routes = self.lock();
        if let Some(known) = routes.get_mut(name) {
            known.served = true;
            return Arc::clone(&known.metrics);
        }
        let metrics = Arc::new(RouteMetrics::new());
        let known = RouteEntry { metrics: Arc::clone(&metrics), served: true };
        routes.insert(name.to_owned(), known);
        metrics
    }

    /// Removes the gauges of a route that no longer exists.
    pub(super) fn forget(&self, name: &str) {
        if let Some(known) = self.lock().get_mut(name) {
            known.served = false;
            known.metrics.consecutive_failures.set(0);
            known.metrics.last_verified.set(0);
            known.metrics.deliveries.reset();
        }
    }

    /// Writes a family in the Prometheus text format, sorted by label values like
    /// [`prometheus::Registry::gather`]. No route name needs escaping.
    pub(super) fn write(&self, family: &Family, text: &mut String) {
        let routes = self.lock();
        let Family { name, help, of_events, series } = *family;
        if routes.is_empty() || (of_events && !self.has_events.load(Ordering::Relaxed)) {
            return;
        }
        let kind = match series {
            Series::Counters(..) => "counter",
            Series::Gauge(_) | Series::GaugeOfServed(_) | Series::States(_) | Series::Secrets => {
                "gauge"
            }
            Series::Histogram(..) => "histogram",
        };
        sample(text, &["# HELP ", name], help);
        sample(text, &["# TYPE ", name], kind);
        match series {
            Series::Counters(label, values, of) => {
                let mut values: Vec<_> = values().into_iter().enumerate().collect();
                values.sort_unstable_by_key(|(_, value)| *value);
                for (index, value) in values {
                    let start = format!("{name}{{{label}=\"{value}\",route=\"");
                    for (route, known) in &*routes {
                        sample(text, &[&start, route, "\"}"], of(&known.metrics)[index].get());
                    }
                }
            }
            Series::Gauge(of) => {
                for (route, known) in &*routes {
                    sample(text, &[name, "{route=\"", route, "\"}"], of(&known.metrics).get());
                }
            }
            Series::GaugeOfServed(of) => {
                for (route, known) in routes.iter().filter(|(_, known)| known.served) {
                    sample(text, &[name, "{route=\"", route, "\"}"], of(&known.metrics).get());
                }
            }
            Series::States(of) => {
                for (route, known) in routes.iter().filter(|(_, known)| known.served) {
                    for (state, gauge) in EVENT_STATES.iter().zip(of(&known.metrics)) {
                        let labels = ["{route=\"", route, "\",state=\"", state, "\"}"];
                        sample(text, &[&[name], &labels[..]].concat(), gauge.get());
                    }
                }
            }
            Series::Secrets => {
                for (route, known) in routes.iter().filter(|(_, known)| known.served) {
                    let secrets = known.metrics.secret_use();
                    for (key, secret, at) in secrets.all().filter(|(.., at)| *at > 0) {
                        let secret = secret.to_string();
                        let labels =
                            ["{key=\"", key, "\",route=\"", route, "\",secret=\"", &secret, "\"}"];
                        sample(text, &[&[name], &labels[..]].concat(), at);
                    }
                }
            }
            Series::Histogram(of, bounds) => {
                let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
                let bounds = || bounds.iter().map(String::as_str).chain(["+Inf"]);
                for (route, known) in &*routes {
                    let (histogram, mut count) = (of(&known.metrics), 0);
                    for (bound, number) in bounds().zip(histogram.cumulative()) {
                        let labels = ["_bucket{route=\"", route, "\",le=\"", bound, "\"}"];
                        sample(text, &[&[name], &labels[..]].concat(), number);
                        count = number;
                    }
                    sample(text, &[name, "_sum{route=\"", route, "\"}"], histogram.sum());
                    sample(text, &[name, "_count{route=\"", route, "\"}"], count);
                }
            }
        }
    }
}

/// Writes a line: the parts of a name, a space and a value.
fn sample(text: &mut String, name: &[&str], value: impl Display) {
    name.iter().for_each(|part| text.push_str(part));
    writeln!(text, " {value}").expect("writing to a string succeeds");
}

#[cfg(test)]
mod tests;
