//! What is counted for each route, and how it is written.
//!
//! A route has some ninety series, and there may be a thousand routes. A route's numbers stand in one
//! piece of memory, and their names are written out when somebody asks for them and not before.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::number::{Counter, Gauge, Histogram, SECONDS, SKEW};
use crate::reject::{Outcome, Reason};

/// How an upstream request ended, as counted in `sealgate_upstream_requests_total`.
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
    /// No answer within `upstream_timeout`.
    Timeout,
    /// No connection.
    Connect,
    /// A connection that broke, or an answer that is not HTTP or over the limits.
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

/// The numbers of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    requests: [Counter; Outcome::ALL.len()],
    rejections: [Counter; Reason::ALL.len()],
    upstream: [Counter; UpstreamCode::ALL.len()],
    /// From the request's head to its answer.
    pub request_duration: Histogram,
    /// From the first byte to the upstream to the last byte of its answer.
    pub upstream_duration: Histogram,
    /// Requests at the upstream now, or on their way there.
    pub upstream_in_flight: Gauge,
    /// Requests that wait for a slot at the upstream.
    pub upstream_waiting: Gauge,
    /// Now minus the timestamp of an authentic request; positive is old.
    pub skew: Histogram,
    /// Non-2xx answers in a row to authentic requests.
    pub consecutive_failures: Gauge,
    /// When the last authentic request came.
    pub last_verified: Gauge,
}

impl RouteMetrics {
    fn new() -> Self {
        RouteMetrics {
            requests: Default::default(),
            rejections: Default::default(),
            upstream: Default::default(),
            request_duration: Histogram::new(&SECONDS),
            upstream_duration: Histogram::new(&SECONDS),
            upstream_in_flight: Gauge::default(),
            upstream_waiting: Gauge::default(),
            skew: Histogram::new(&SKEW),
            consecutive_failures: Gauge::default(),
            last_verified: Gauge::default(),
        }
    }

    /// The counter of requests that ended so.
    pub fn requests(&self, outcome: Outcome) -> &Counter {
        &self.requests[outcome as usize]
    }

    /// The counter of requests refused so.
    pub fn rejections(&self, reason: Reason) -> &Counter {
        &self.rejections[reason as usize]
    }

    /// The counter of upstream requests that ended so.
    pub fn upstream(&self, code: UpstreamCode) -> &Counter {
        &self.upstream[code as usize]
    }
}

/// A route's numbers, and whether the route is in service.
struct Known {
    metrics: Arc<RouteMetrics>,
    served: bool,
}

/// The numbers of all routes that there are or were, by name.
#[derive(Default)]
pub(super) struct RouteTable(Mutex<BTreeMap<String, Known>>);

impl RouteTable {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of the route called `name`: those that it had before, if there are any.
    pub(super) fn route(&self, name: &str) -> Arc<RouteMetrics> {
        let mut routes = self.lock();
        if let Some(known) = routes.get_mut(name) {
            known.served = true;
            return Arc::clone(&known.metrics);
        }
        let metrics = Arc::new(RouteMetrics::new());
        let known = Known { metrics: Arc::clone(&metrics), served: true };
        routes.insert(name.to_owned(), known);
        metrics
    }

    /// Ends the gauges of a route that is gone.
    pub(super) fn forget(&self, name: &str) {
        if let Some(known) = self.lock().get_mut(name) {
            known.served = false;
            known.metrics.consecutive_failures.set(0);
            known.metrics.last_verified.set(0);
        }
    }

    /// Writes a family in the Prometheus text format: sorted by the values of its labels, as
    /// [`prometheus::Registry::gather`] sorts them. No name of a route needs to be escaped.
    pub(super) fn write(&self, family: &Family, text: &mut String) {
        let routes = self.lock();
        if routes.is_empty() {
            return;
        }
        let Family { name, help, series } = *family;
        let kind = match series {
            Series::Counters(..) => "counter",
            Series::Gauge(_) | Series::GaugeOfServed(_) => "gauge",
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

/// Adds a line: a name in parts, a space and a value.
fn sample(text: &mut String, name: &[&str], value: impl Display) {
    name.iter().for_each(|part| text.push_str(part));
    writeln!(text, " {value}").expect("a string takes all that is written to it");
}

/// A family of the metrics of routes.
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    series: Series,
}

/// Where the numbers of a family are found.
#[derive(Clone, Copy)]
enum Series {
    /// One for each value of a label besides `route`: the label, its values, the numbers in their order.
    Counters(&'static str, fn() -> Vec<&'static str>, fn(&RouteMetrics) -> &[Counter]),
    Gauge(fn(&RouteMetrics) -> &Gauge),
    /// It would tell of failures and silence for ever, if it did not end with its route.
    GaugeOfServed(fn(&RouteMetrics) -> &Gauge),
    Histogram(fn(&RouteMetrics) -> &Histogram, &'static [f64]),
}

/// The families, sorted by name.
pub(super) static FAMILIES: [Family; 10] = [
    Family {
        name: "sealgate_consecutive_failures",
        help: "Non-2xx answers in a row to authentic requests.",
        series: Series::GaugeOfServed(|route| &route.consecutive_failures),
    },
    Family {
        name: "sealgate_last_verified_timestamp_seconds",
        help: "When the last authentic request came, in Unix time.",
        series: Series::GaugeOfServed(|route| &route.last_verified),
    },
    Family {
        name: "sealgate_rejections_total",
        help: "Requests not accepted as authentic, by route and reason.",
        series: Series::Counters(
            "reason",
            || Reason::ALL.map(Reason::label).to_vec(),
            |route| &route.rejections,
        ),
    },
    Family {
        name: "sealgate_request_duration_seconds",
        help: "Time from the head of a request to its answer.",
        series: Series::Histogram(|route| &route.request_duration, &SECONDS),
    },
    Family {
        name: "sealgate_requests_total",
        help: "Requests, by route and how they ended.",
        series: Series::Counters(
            "outcome",
            || Outcome::ALL.map(Outcome::label).to_vec(),
            |route| &route.requests,
        ),
    },
    Family {
        name: "sealgate_timestamp_skew_seconds",
        help: "Our clock minus the timestamp of authentic requests; positive is old.",
        series: Series::Histogram(|route| &route.skew, &SKEW),
    },
    Family {
        name: "sealgate_upstream_duration_seconds",
        help: "Time that the upstream took to answer.",
        series: Series::Histogram(|route| &route.upstream_duration, &SECONDS),
    },
    Family {
        name: "sealgate_upstream_in_flight",
        help: "Requests at the upstream now.",
        series: Series::Gauge(|route| &route.upstream_in_flight),
    },
    Family {
        name: "sealgate_upstream_requests_total",
        help: "Requests sent to the upstream, by route and how they ended.",
        series: Series::Counters(
            "code",
            || UpstreamCode::ALL.map(|(_, label)| label).to_vec(),
            |route| &route.upstream,
        ),
    },
    Family {
        name: "sealgate_upstream_waiting",
        help: "Requests that wait for a slot at the upstream (upstream_concurrency).",
        series: Series::Gauge(|route| &route.upstream_waiting),
    },
];

#[cfg(test)]
mod tests;
