use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::*;
use crate::metrics::{Metrics, NO_ROUTE, deliveries::AttemptOutcome, number::DELAYS};

/// The families of routes, counted and written by the `prometheus` crate.
struct Reference {
    registry: Registry,
    counters: [IntCounterVec; 6],
    gauges: [IntGaugeVec; 5],
    histograms: [HistogramVec; 4],
    events: IntGaugeVec,
    secrets: IntGaugeVec,
}

fn reference() -> Reference {
    let registry = Registry::new();
    let options = |name: &str| {
        let name = format!("sealgate_{name}");
        let family = FAMILIES.iter().find(|family| family.name == name).expect("a family");
        Opts::new(name, family.help)
    };
    let counters = [
        ("rejections_total", "reason"),
        ("requests_total", "outcome"),
        ("upstream_requests_total", "code"),
        ("delivery_attempts_total", "result"),
        ("observed_total", "mark"),
        ("responses_total", "code"),
    ]
    .map(|(name, label)| IntCounterVec::new(options(name), &["route", label]).expect("a counter"));
    let gauge =
        |name: &str, labels: &[&str]| IntGaugeVec::new(options(name), labels).expect("a gauge");
    let gauges = [
        "consecutive_failures",
        "last_verified_timestamp_seconds",
        "upstream_in_flight",
        "upstream_waiting",
        "events_oldest_pending_seconds",
    ]
    .map(|name| gauge(name, &["route"]));
    let histograms = [
        ("request_duration_seconds", &SECONDS[..]),
        ("upstream_duration_seconds", &SECONDS),
        ("timestamp_skew_seconds", &SKEW),
        ("delivery_delay_seconds", &DELAYS),
    ]
    .map(|(name, bounds)| {
        let options = HistogramOpts::from(options(name)).buckets(bounds.to_vec());
        HistogramVec::new(options, &["route"]).expect("a histogram")
    });
    let events = gauge("events", &["route", "state"]);
    let secrets = gauge("secret_last_used_timestamp_seconds", &["route", "key", "secret"]);
    for vec in [&events, &secrets] {
        registry.register(Box::new(vec.clone())).expect("new");
    }
    counters.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    gauges.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    histograms.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    Reference { registry, counters, gauges, histograms, events, secrets }
}

impl Reference {
    /// Counts the same for `name` in `route` and here; `seed` makes the numbers others.
    fn count(&self, name: &str, route: &RouteMetrics, seed: usize) {
        let [rejections, requests, upstream, attempts, observed, responses] = &self.counters;
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            let counter = rejections.with_label_values(&[name, reason.label()]);
            for _ in 0..(index * seed) % 5 {
                counter.inc();
                route.rejections(reason).inc();
            }
        }
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            let counter = requests.with_label_values(&[name, outcome.label()]);
            for _ in 0..(index * seed) % 7 {
                counter.inc();
                route.requests(outcome).inc();
            }
        }
        for (index, (code, label)) in UpstreamCode::ALL.into_iter().enumerate() {
            let counter = upstream.with_label_values(&[name, label]);
            for _ in 0..(index * seed) % 3 {
                counter.inc();
                route.upstream(code).inc();
            }
        }
        for (index, outcome) in AttemptOutcome::ALL.into_iter().enumerate() {
            let counter = attempts.with_label_values(&[name, outcome.label()]);
            for _ in 0..(index * seed) % 4 {
                counter.inc();
                route.deliveries.attempts(outcome).inc();
            }
        }
        for (state, gauge) in EVENT_STATES.iter().zip(&route.deliveries.events) {
            self.events.with_label_values(&[name, state]).set(7);
            gauge.set(7);
        }
        let keys = [("global", 2), ("coupon/1", 1)].map(|(key, count)| (key.into(), count));
        route.secrets(keys.into_iter()).note("global", 2, 99);
        self.secrets.with_label_values(&[name, "global", "2"]).set(99);
        for (index, mark) in OBSERVED.into_iter().enumerate() {
            let counter = observed.with_label_values(&[name, mark]);
            for _ in 0..(index * seed) % 4 {
                counter.inc();
                route.count_observed(mark);
            }
        }
        for (class, status) in [("2xx", 204), ("4xx", 499), ("5xx", 503)] {
            let counter = responses.with_label_values(&[name, class]);
            for _ in 0..seed {
                counter.inc();
                route.responses(StatusCode::from_u16(status).expect("a status")).inc();
            }
        }
        let own = [
            &route.consecutive_failures,
            &route.last_verified,
            &route.upstream_in_flight,
            &route.upstream_waiting,
            &route.deliveries.oldest,
        ];
        for (number, (gauge, own)) in self.gauges.iter().zip(own).enumerate() {
            let number = i64::try_from(number * seed).expect("a small number") * 600_000_000 - 7;
            gauge.with_label_values(&[name]).set(number);
            own.set(number);
        }
        let own = [
            &route.request_duration,
            &route.upstream_duration,
            &route.skew,
            &route.deliveries.delay,
        ];
        for (histogram, own) in self.histograms.iter().zip(own) {
            let histogram = histogram.with_label_values(&[name]);
            for seconds in [-400.0, -60.0, 0.0, 0.000_5, 0.125, 0.25, 1.0, 4.0, 30.0, 31.5, 5000.0]
            {
                let seconds = seconds * if seed.is_multiple_of(2) { 1.0 } else { 0.5 };
                histogram.observe(seconds);
                own.observe(seconds);
            }
        }
    }
}

#[test]
fn writes_families_like_the_prometheus_crate() {
    let (reference, table) = (reference(), RouteTable::default());
    table.has_events.store(true, Ordering::Relaxed);
    for (seed, name) in
        ["vivoldi", NO_ROUTE, "B.2", "a_1", "a-1", "10", "9"].into_iter().enumerate()
    {
        reference.count(name, &table.route(name), seed);
    }
    let mut text = String::new();
    FAMILIES.iter().for_each(|family| table.write(family, &mut text));
    let expected = prometheus::TextEncoder::new().encode_to_string(&reference.registry.gather());
    assert_eq!(text, expected.expect("the same"));
}

#[test]
fn sorts_families_and_exports_every_series_from_the_start() {
    let metrics = Metrics::new().expect("metrics");
    metrics.route("orders");
    let text = metrics.encode().expect("text");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.len() > FAMILIES.len());
    assert!(names.is_sorted());
    assert_eq!(text.matches("route=\"orders\"").count(), 34 + 6 + 3 + 4 + 2 * (17 + 3) + 11 + 3);
    assert!(!text.contains("sealgate_events"));
    metrics.event_store().expect("the first call");
    let text = metrics.encode().expect("text");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted());
    assert_eq!(text.matches("route=\"orders\"").count(), 101 + 4 + 3 + 1 + 12 + 3);
}

#[test]
fn a_route_that_returns_keeps_its_counters_and_resets_its_gauges() {
    let metrics = Metrics::new().expect("metrics");
    let shown = |start: &str| {
        let text = metrics.encode().expect("text");
        text.lines().find_map(|line| line.strip_prefix(start).map(str::to_owned))
    };
    let counter = "sealgate_requests_total{outcome=\"forwarded\",route=\"orders\"} ";
    let gauge = "sealgate_consecutive_failures{route=\"orders\"} ";
    let route = metrics.route("orders");
    route.requests(Outcome::Forwarded).inc();
    route.consecutive_failures.set(3);
    assert_eq!((shown(counter), shown(gauge)), (Some("1".to_owned()), Some("3".to_owned())));
    metrics.forget_route("orders");
    assert_eq!((shown(counter), shown(gauge)), (Some("1".to_owned()), None));
    metrics.route("orders").requests(Outcome::Forwarded).inc();
    assert_eq!((shown(counter), shown(gauge)), (Some("2".to_owned()), Some("0".to_owned())));
}

#[test]
fn numbers_have_the_labels_of_their_index() {
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

#[test]
fn the_last_use_of_a_secret_is_kept_unless_the_list_changes() {
    let route = RouteMetrics::new();
    let keys = |count: usize| [(Arc::<str>::from("global"), count)].into_iter();
    let used = |secrets: &SecretUse| {
        secrets.all().map(|(.., at)| at).filter(|at| *at > 0).collect::<Vec<_>>()
    };
    let secrets = route.secrets(keys(1));
    secrets.note("global", 1, 7);
    secrets.note("global", 2, 8);
    secrets.note("global", 0, 8);
    secrets.note("coupon/1", 1, 8);
    assert_eq!(used(&secrets), [7]);
    assert_eq!(used(&route.secrets(keys(1))), [7]);
    assert_eq!(used(&route.secrets(keys(2))), [] as [i64; 0]);
}
