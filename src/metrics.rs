//! The metrics registry. Every handle is resolved when the gateway starts: counting is one atomic
//! addition, and a label never holds anything that came with a request.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::reject::{Outcome, Reason};

/// The `route` label of requests that no route took. Route names begin with a letter or a digit.
pub const NO_ROUTE: &str = "-";

const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];
const SKEW: [f64; 11] = [-300.0, -60.0, -5.0, -1.0, 0.0, 1.0, 5.0, 60.0, 180.0, 300.0, 3600.0];

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
    const ALL: [(UpstreamCode, &str); 7] = [
        (UpstreamCode::Success, "2xx"),
        (UpstreamCode::Redirect, "3xx"),
        (UpstreamCode::ClientError, "4xx"),
        (UpstreamCode::ServerError, "5xx"),
        (UpstreamCode::Timeout, "timeout"),
        (UpstreamCode::Connect, "connect"),
        (UpstreamCode::Reset, "reset"),
    ];
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    rejections: IntCounterVec,
    request_duration: HistogramVec,
    upstream_requests: IntCounterVec,
    upstream_duration: HistogramVec,
    upstream_in_flight: IntGaugeVec,
    upstream_waiting: IntGaugeVec,
    skew: HistogramVec,
    consecutive_failures: IntGaugeVec,
    last_verified: IntGaugeVec,
    connections: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    store_up: IntGaugeVec,
    /// Events on record, by state.
    pub replay: ReplayMetrics,
    reloads: [IntCounter; 2],
    last_reload: LastReload,
}

/// How the configuration was taken last.
struct LastReload {
    successful: IntGauge,
    success: IntGauge,
}

/// Gauges of the replay guard.
#[derive(Clone)]
pub struct ReplayMetrics {
    /// Claims held now.
    pub in_flight: IntGauge,
    /// Events that are done and on record.
    pub done: IntGauge,
    /// Events whose last attempt failed and whose pin is on record.
    pub failed: IntGauge,
    /// The most events that may be on record.
    pub capacity: IntGauge,
}

/// The handles of one route.
pub struct RouteMetrics {
    requests: [IntCounter; Outcome::ALL.len()],
    rejections: [IntCounter; Reason::ALL.len()],
    upstream: [IntCounter; UpstreamCode::ALL.len()],
    /// From the request's head to its answer.
    pub request_duration: Histogram,
    /// From the first byte to the upstream to the last byte of its answer.
    pub upstream_duration: Histogram,
    /// Requests at the upstream now, or on their way there.
    pub upstream_in_flight: IntGauge,
    /// Requests that wait for a slot at the upstream.
    pub upstream_waiting: IntGauge,
    /// Now minus the timestamp of an authentic request; positive is old.
    pub skew: Histogram,
    /// Non-2xx answers in a row to authentic requests.
    pub consecutive_failures: IntGauge,
    /// When the last authentic request came.
    pub last_verified: IntGauge,
}

impl RouteMetrics {
    /// The counter of requests that ended so.
    pub fn requests(&self, outcome: Outcome) -> &IntCounter {
        &self.requests[outcome as usize]
    }

    /// The counter of requests refused so.
    pub fn rejections(&self, reason: Reason) -> &IntCounter {
        &self.rejections[reason as usize]
    }

    /// The counter of upstream requests that ended so.
    pub fn upstream(&self, code: UpstreamCode) -> &IntCounter {
        &self.upstream[code as usize]
    }
}

impl Metrics {
    /// A registry with every metric of the gateway and of its process.
    ///
    /// # Errors
    /// Never in practice: names and labels are constants, and each is registered once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let histograms = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let vec = HistogramVec::new(options, &["route"])?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };

        let entries = gauges(
            "sealgate_replay_entries",
            "Events on record in the replay guard, by state.",
            &["state"],
        )?;
        let reloads = counters(
            "sealgate_config_reloads_total",
            "Configuration reloads, by result.",
            &["result"],
        )?;
        let single = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let last_reload = LastReload {
            successful: single(
                "sealgate_config_last_reload_successful",
                "Whether the configuration was taken when it was last read: 1 or 0.",
            )?,
            success: single(
                "sealgate_config_last_reload_success_timestamp_seconds",
                "When the configuration was last taken, in Unix time.",
            )?,
        };
        let build =
            gauges("sealgate_build_info", "Always 1; the labels tell the build.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        Ok(Metrics {
            requests: counters(
                "sealgate_requests_total",
                "Requests, by route and how they ended.",
                &["route", "outcome"],
            )?,
            rejections: counters(
                "sealgate_rejections_total",
                "Requests not accepted as authentic, by route and reason.",
                &["route", "reason"],
            )?,
            request_duration: histograms(
                "sealgate_request_duration_seconds",
                "Time from the head of a request to its answer.",
                &SECONDS,
            )?,
            upstream_requests: counters(
                "sealgate_upstream_requests_total",
                "Requests sent to the upstream, by route and how they ended.",
                &["route", "code"],
            )?,
            upstream_duration: histograms(
                "sealgate_upstream_duration_seconds",
                "Time that the upstream took to answer.",
                &SECONDS,
            )?,
            upstream_in_flight: gauges(
                "sealgate_upstream_in_flight",
                "Requests at the upstream now.",
                &["route"],
            )?,
            upstream_waiting: gauges(
                "sealgate_upstream_waiting",
                "Requests that wait for a slot at the upstream (upstream_concurrency).",
                &["route"],
            )?,
            skew: histograms(
                "sealgate_timestamp_skew_seconds",
                "Our clock minus the timestamp of authentic requests; positive is old.",
                &SKEW,
            )?,
            consecutive_failures: gauges(
                "sealgate_consecutive_failures",
                "Non-2xx answers in a row to authentic requests.",
                &["route"],
            )?,
            last_verified: gauges(
                "sealgate_last_verified_timestamp_seconds",
                "When the last authentic request came, in Unix time.",
                &["route"],
            )?,
            connections: gauges(
                "sealgate_connections",
                "Connections open now, by listener.",
                &["listener"],
            )?,
            certificate_expiry: gauges(
                "sealgate_tls_certificate_expiry_timestamp_seconds",
                "When the certificate ends, in Unix time.",
                &["name"],
            )?,
            store_up: gauges(
                "sealgate_store_up",
                "Whether the replay store answers: 1 or 0.",
                &["store"],
            )?,
            replay: ReplayMetrics {
                in_flight: entries.with_label_values(&["in_flight"]),
                done: entries.with_label_values(&["done"]),
                failed: entries.with_label_values(&["failed"]),
                capacity: single(
                    "sealgate_replay_capacity",
                    "The most events that the replay guard keeps on record.",
                )?,
            },
            reloads: ["ok", "refused"].map(|result| reloads.with_label_values(&[result])),
            last_reload,
            registry,
        })
    }

    /// The handles of the route called `name` (from the configuration, or [`NO_ROUTE`]).
    pub fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics {
            requests: Outcome::ALL
                .map(|outcome| self.requests.with_label_values(&[name, outcome.label()])),
            rejections: Reason::ALL
                .map(|reason| self.rejections.with_label_values(&[name, reason.label()])),
            upstream: UpstreamCode::ALL
                .map(|(_, label)| self.upstream_requests.with_label_values(&[name, label])),
            request_duration: self.request_duration.with_label_values(&[name]),
            upstream_duration: self.upstream_duration.with_label_values(&[name]),
            upstream_in_flight: self.upstream_in_flight.with_label_values(&[name]),
            upstream_waiting: self.upstream_waiting.with_label_values(&[name]),
            skew: self.skew.with_label_values(&[name]),
            consecutive_failures: self.consecutive_failures.with_label_values(&[name]),
            last_verified: self.last_verified.with_label_values(&[name]),
        }
    }

    /// Notes that the configuration was taken, at the start or anew, at `now` in Unix seconds.
    pub fn configuration_taken(&self, now: i64) {
        self.last_reload.successful.set(1);
        self.last_reload.success.set(now);
    }

    /// Counts a reload; `took_effect` says whether the configuration was taken.
    pub fn count_reload(&self, took_effect: bool) {
        let [ok, refused] = &self.reloads;
        if took_effect {
            ok.inc();
        } else {
            refused.inc();
            self.last_reload.successful.set(0);
        }
    }

    /// Ends the gauges of a route that is gone: they would tell of failures and silence for ever.
    pub fn forget_route(&self, name: &str) {
        // An error means that the route had none.
        let _ = self.consecutive_failures.remove_label_values(&[name]);
        let _ = self.last_verified.remove_label_values(&[name]);
    }

    /// Ends the gauge of a certificate that is gone.
    pub fn forget_certificate(&self, name: &str) {
        // An error means that it had none.
        let _ = self.certificate_expiry.remove_label_values(&[name]);
    }

    /// The gauge of open connections on a listener: `https`, `http` or `admin`.
    pub fn connections(&self, listener: &'static str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// The gauge that tells when the certificate called `name` ends.
    pub fn certificate_expiry(&self, name: &str) -> IntGauge {
        self.certificate_expiry.with_label_values(&[name])
    }

    /// The gauge that tells whether the replay store answers.
    pub fn store_up(&self, store: &'static str) -> IntGauge {
        self.store_up.with_label_values(&[store])
    }

    /// Everything, in the Prometheus text format.
    ///
    /// # Errors
    /// Never in practice: the encoder fails only on metrics without a name or a value.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_stand_under_the_labels_of_their_index() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, (code, _)) in UpstreamCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
    }
}
