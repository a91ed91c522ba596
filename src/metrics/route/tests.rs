use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::*;
use crate::metrics::{Metrics, NO_ROUTE};

/// The families of routes, counted and written by the `prometheus` crate.
struct Reference {
    registry: Registry,
    counters: [IntCounterVec; 3],
    gauges: [IntGaugeVec; 4],
    histograms: [HistogramVec; 3],
}

fn reference() -> Reference {
    let registry = Registry::new();
    let options = |index: usize| Opts::new(FAMILIES[index].name, FAMILIES[index].help);
    let counters = [(2, "reason"), (4, "outcome"), (8, "code")].map(|(index, label)| {
        IntCounterVec::new(options(index), &["route", label]).expect("a counter")
    });
    let gauges =
        [0, 1, 7, 9].map(|index| IntGaugeVec::new(options(index), &["route"]).expect("a gauge"));
    let histograms = [(3, &SECONDS[..]), (6, &SECONDS), (5, &SKEW)].map(|(index, bounds)| {
        let options = HistogramOpts::from(options(index)).buckets(bounds.to_vec());
        HistogramVec::new(options, &["route"]).expect("a histogram")
    });
    counters.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    gauges.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    histograms.iter().for_each(|vec| registry.register(Box::new(vec.clone())).expect("new"));
    Reference { registry, counters, gauges, histograms }
}

impl Reference {
    /// Counts the same for `name` in `route` and here; `seed` makes the numbers others.
    fn count(&self, name: &str, route: &RouteMetrics, seed: usize) {
        let [rejections, requests, upstream] = &self.counters;
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
        let own = [
            &route.consecutive_failures,
            &route.last_verified,
            &route.upstream_in_flight,
            &route.upstream_waiting,
        ];
        for (number, (gauge, own)) in self.gauges.iter().zip(own).enumerate() {
            let number = i64::try_from(number * seed).expect("a small number") * 600_000_000 - 7;
            gauge.with_label_values(&[name]).set(number);
            own.set(number);
        }
        let own = [&route.request_duration, &route.upstream_duration, &route.skew];
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
    assert_eq!(text.matches("route=\"orders\"").count(), 33 + 4 + 2 * (14 + 3) + 11 + 3);
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
