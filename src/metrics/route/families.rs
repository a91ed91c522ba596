//! The families of the metrics of routes: their names, their texts and where their numbers are.

use super::{OBSERVED, RouteMetrics, STATUS_CLASSES, UpstreamCode};
use crate::{
    metrics::{
        deliveries::AttemptOutcome,
        number::{Counter, DELAYS, Gauge, Histogram, SECONDS, SKEW},
    },
    reject::{Outcome, Reason},
};

/// A family of the metrics of routes.
pub(in crate::metrics) struct Family {
    pub(in crate::metrics) name: &'static str,
    pub(super) help: &'static str,
    /// Whether it is written only if there is an event store.
    pub(super) of_events: bool,
    pub(super) series: Series,
}

/// The numbers of a family.
#[derive(Clone, Copy)]
pub(super) enum Series {
    /// One per value of a label other than `route`: the label, its values, and the numbers in the
    /// same order.
    Counters(&'static str, fn() -> Vec<&'static str>, fn(&RouteMetrics) -> &[Counter]),
    Gauge(fn(&RouteMetrics) -> &Gauge),
    /// Removed together with its route, because it would report its last state forever.
    GaugeOfServed(fn(&RouteMetrics) -> &Gauge),
    /// One per state of stored events, removed together with the route.
    States(fn(&RouteMetrics) -> &[Gauge]),
    /// One per secret that was used, removed together with the route.
    Secrets,
    Histogram(fn(&RouteMetrics) -> &Histogram, &'static [f64]),
}

/// The families, sorted by name.
pub(in crate::metrics) static FAMILIES: [Family; 17] = [
    Family {
        name: "sealgate_consecutive_failures",
        help: "Consecutive non-2xx responses to authentic requests.",
        of_events: false,
        series: Series::GaugeOfServed(|route| &route.consecutive_failures),
    },
    Family {
        name: "sealgate_delivery_attempts_total",
        help: "Attempts to deliver stored events, by route and result.",
        of_events: true,
        series: Series::Counters(
            "result",
            || AttemptOutcome::ALL.map(AttemptOutcome::label).to_vec(),
            |route| &route.deliveries.attempts,
        ),
    },
    Family {
        name: "sealgate_delivery_delay_seconds",
        help: "Time from the receipt of a stored event to the handler's success.",
        of_events: true,
        series: Series::Histogram(|route| &route.deliveries.delay, &DELAYS),
    },
    Family {
        name: "sealgate_events",
        help: "Stored events that are not delivered, by route and state.",
        of_events: true,
        series: Series::States(|route| &route.deliveries.events),
    },
    Family {
        name: "sealgate_events_oldest_pending_seconds",
        help: "Age of the oldest stored event that is not settled.",
        of_events: true,
        series: Series::GaugeOfServed(|route| &route.deliveries.oldest),
    },
    Family {
        name: "sealgate_last_verified_timestamp_seconds",
        help: "Unix time of the last authentic request.",
        of_events: false,
        series: Series::GaugeOfServed(|route| &route.last_verified),
    },
    Family {
        name: "sealgate_observed_total",
        help: "Requests of an observing route that an enforcing one would not have forwarded.",
        of_events: false,
        series: Series::Counters("mark", || OBSERVED.to_vec(), |route| &route.observed),
    },
    Family {
        name: "sealgate_rejections_total",
        help: "Requests not admitted or not accepted as authentic, by route and reason.",
        of_events: false,
        series: Series::Counters(
            "reason",
            || Reason::ALL.map(Reason::label).to_vec(),
            |route| &route.rejections,
        ),
    },
    Family {
        name: "sealgate_request_duration_seconds",
        help: "Time from the head of a request to its response.",
        of_events: false,
        series: Series::Histogram(|route| &route.request_duration, &SECONDS),
    },
    Family {
        name: "sealgate_requests_total",
        help: "Requests, by route and outcome.",
        of_events: false,
        series: Series::Counters(
            "outcome",
            || Outcome::ALL.map(Outcome::label).to_vec(),
            |route| &route.requests,
        ),
    },
    Family {
        name: "sealgate_responses_total",
        help: "Responses to the sender, by class of their status.",
        of_events: false,
        series: Series::Counters("code", || STATUS_CLASSES.to_vec(), |route| &route.responses),
    },
    Family {
        name: "sealgate_secret_last_used_timestamp_seconds",
        help: "Unix time of the last request that the secret has verified.",
        of_events: false,
        series: Series::Secrets,
    },
    Family {
        name: "sealgate_timestamp_skew_seconds",
        help: "System clock minus the timestamp of authentic requests; positive is old.",
        of_events: false,
        series: Series::Histogram(|route| &route.skew, &SKEW),
    },
    Family {
        name: "sealgate_upstream_duration_seconds",
        help: "Time until the response of the upstream is complete.",
        of_events: false,
        series: Series::Histogram(|route| &route.upstream_duration, &SECONDS),
    },
    Family {
        name: "sealgate_upstream_in_flight",
        help: "Requests that the upstream is handling.",
        of_events: false,
        series: Series::Gauge(|route| &route.upstream_in_flight),
    },
    Family {
        name: "sealgate_upstream_requests_total",
        help: "Requests to the upstream, by route and result.",
        of_events: false,
        series: Series::Counters(
            "code",
            || UpstreamCode::ALL.map(|(_, label)| label).to_vec(),
            |route| &route.upstream,
        ),
    },
    Family {
        name: "sealgate_upstream_waiting",
        help: "Requests queued for a slot at the upstream (upstream_concurrency).",
        of_events: false,
        series: Series::Gauge(|route| &route.upstream_waiting),
    },
];
