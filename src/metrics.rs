//! The metrics. Every handle is resolved when the gateway starts, so counting is one atomic
//! addition. Label values never come from a request.

mod counters;
mod deliveries;
mod handshakes;
mod number;
mod route;
mod stores;

use std::sync::{Arc, atomic::Ordering};

use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector,
};

use self::route::{FAMILIES, RouteTable};
pub use self::{
    counters::{DroppedLine, ShedCounters, SpanCounters},
    deliveries::{AttemptOutcome, DeliveryMetrics, SecretUse},
    handshakes::{HandshakeFailure, HandshakeFailures},
    number::Gauge,
    route::{RouteMetrics, UpstreamCode},
    stores::{EventStoreDurations, ReplayStoreDurations, timed},
};

/// The `route` label of requests without a route. Route names begin with a letter or a digit.
pub const NO_ROUTE: &str = "-";

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    routes: RouteTable,
    connections: IntGaugeVec,
    certificate_start: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    store_up: IntGaugeVec,
    store_durations: HistogramVec,
    key_set_fetches: IntCounterVec,
    key_set_fetched: IntGaugeVec,
    /// Events on record, by state.
    pub replay: ReplayMetrics,
    /// Diagnoses of rejected requests.
    pub diagnoses: DiagnosisMetrics,
    reloads: [IntCounter; 2],
    acme_renewals: [IntCounter; 2],
    shed: ShedCounters,
    handshake_failures: HandshakeFailures,
    last_reload: LastReload,
    /// Finished spans of traces.
    pub spans: SpanCounters,
}

/// The result of the last reload.
struct LastReload {
    successful: IntGauge,
    success: IntGauge,
}

/// Gauges of the replay guard.
#[derive(Clone)]
pub struct ReplayMetrics {
    /// Claims that are held.
    pub in_flight: IntGauge,
    /// Done events on record.
    pub done: IntGauge,
    /// Events on record whose last attempt failed.
    pub failed: IntGauge,
    /// The most events on record.
    pub capacity: IntGauge,
}

/// Metrics of a key set.
#[derive(Clone, Debug)]
pub struct KeySetMetrics {
    /// When the keys were last fetched or read from their file.
    pub fetched: IntGauge,
    /// Attempts that succeeded.
    pub ok: IntCounter,
    /// Attempts that failed.
    pub failed: IntCounter,
}

/// Metrics of the event store.
#[derive(Clone)]
pub struct EventStoreMetrics {
    /// Whether it works.
    pub up: IntGauge,
    /// The bytes that it takes.
    pub bytes: IntGauge,
    /// The most bytes that it may take.
    pub capacity: IntGauge,
    /// How long its operations take.
    pub durations: EventStoreDurations,
}

/// Counters of diagnoses of rejected requests.
#[derive(Clone)]
pub struct DiagnosisMetrics {
    /// Requests that were diagnosed.
    pub made: IntCounter,
    /// Requests beyond the limits on diagnoses.
    pub skipped: IntCounter,
}

impl Metrics {
    /// Registers every metric of the gateway and of its process.
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

        let entries = gauges(
            "sealgate_replay_entries",
            "Events on record in the replay guard, by state.",
            &["state"],
        )?;
        let diagnoses = counters(
            "sealgate_diagnoses_total",
            "Rejected requests that a diagnosis could help with, by what was done.",
            &["result"],
        )?;
        let reloads = counters(
            "sealgate_config_reloads_total",
            "Configuration reloads, by result.",
            &["result"],
        )?;
        let acme_renewals = counters(
            "sealgate_acme_renewals_total",
            "Attempts to obtain a certificate from the ACME directory, by result.",
            &["result"],
        )?;
        let shed = counters(
            "sealgate_shed_total",
            "Requests and connections shed for lack of capacity, by cause.",
            &["cause"],
        )?;
        let spans = counters(
            "sealgate_trace_spans_total",
            "Finished spans of sampled traces, by result.",
            &["result"],
        )?;
        let handshake_failures = counters(
            "sealgate_tls_handshake_failures_total",
            "TLS handshakes that failed, by cause.",
            &["cause"],
        )?;
        let key_set_fetches = counters(
            "sealgate_key_set_fetches_total",
            "Attempts to fetch a key set or to read its file, by result.",
            &["name", "result"],
        )?;
        let store_durations = stores::histograms(
            "sealgate_store_duration_seconds",
            "Duration of the replay store's operations.",
            &["store", "operation"],
        )?;
        registry.register(Box::new(store_durations.clone()))?;
        let single = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let last_reload = LastReload {
            successful: single(
                "sealgate_config_last_reload_successful",
                "Whether the last reload of the configuration was successful: 1 or 0.",
            )?,
            success: single(
                "sealgate_config_last_reload_success_timestamp_seconds",
                "Unix time of the last successful load of the configuration.",
            )?,
        };
        let build = gauges(
            "sealgate_build_info",
            "Always 1; the labels describe the build.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(DroppedLine::counters()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;

        Ok(Metrics {
            routes: RouteTable::default(),
            connections: gauges(
                "sealgate_connections",
                "Open connections, by listener.",
                &["listener"],
            )?,
            certificate_start: gauges(
                "sealgate_tls_certificate_not_before_timestamp_seconds",
                "Unix time from which the certificate is valid.",
                &["name"],
            )?,
            certificate_expiry: gauges(
                "sealgate_tls_certificate_expiry_timestamp_seconds",
                "Unix time at which the certificate expires.",
                &["name"],
            )?,
            store_up: gauges(
                "sealgate_store_up",
                "Whether the replay store responds: 1 or 0.",
                &["store"],
            )?,
            store_durations,
            key_set_fetches,
            key_set_fetched: gauges(
                "sealgate_key_set_fetched_timestamp_seconds",
                "Unix time at which the key set was last fetched or its file was read.",
                &["name"],
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
            diagnoses: DiagnosisMetrics {
                made: diagnoses.with_label_values(&["made"]),
                skipped: diagnoses.with_label_values(&["skipped"]),
            },
            acme_renewals: ["ok", "failed"]
                .map(|result| acme_renewals.with_label_values(&[result])),
            reloads: ["ok", "refused"].map(|result| reloads.with_label_values(&[result])),
            shed: ShedCounters::of(&shed),
            handshake_failures: HandshakeFailures::of(&handshake_failures),
            last_reload,
            spans: SpanCounters {
                exported: spans.with_label_values(&["exported"]),
                failed: spans.with_label_values(&["failed"]),
                dropped: spans.with_label_values(&["dropped"]),
            },
            registry,
        })
    }

    /// Returns the metrics of the route `name` (from the configuration, or [`NO_ROUTE`]).
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes.route(name)
    }

    /// Registers the metrics of the event store. From now on, the metrics of each route contain
    /// those of its stored events.
    ///
    /// # Errors
    /// If this is called twice.
    pub fn event_store(&self) -> Result<EventStoreMetrics, prometheus::Error> {
        let single = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            self.registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let metrics = EventStoreMetrics {
            up: single("sealgate_events_store_up", "Whether the event store works: 1 or 0.")?,
            bytes: single("sealgate_events_store_bytes", "Bytes that the event store takes.")?,
            capacity: single(
                "sealgate_events_store_capacity_bytes",
                "The most bytes that the event store may take.",
            )?,
            durations: EventStoreDurations::register(&self.registry)?,
        };
        self.routes.has_events.store(true, Ordering::Relaxed);
        Ok(metrics)
    }

    /// Notes that a configuration was loaded at `now`, in Unix seconds.
    pub fn configuration_taken(&self, now: i64) {
        self.last_reload.successful.set(1);
        self.last_reload.success.set(now);
    }

    /// Counts a reload; `took_effect` is whether it was successful.
    pub fn count_reload(&self, took_effect: bool) {
        let [ok, rejected] = &self.reloads;
        if took_effect {
            ok.inc();
        } else {
            rejected.inc();
            self.last_reload.successful.set(0);
        }
    }

    /// Removes the gauges of a route that no longer exists, which would report its last state
    /// forever.
    pub fn forget_route(&self, name: &str) {
        self.routes.forget(name);
    }

    /// Counts an attempt to obtain a certificate from the ACME directory.
    pub fn count_acme_renewal(&self, successful: bool) {
        let [ok, failed] = &self.acme_renewals;
        if successful { ok } else { failed }.inc();
    }

    /// Removes the gauges of a certificate that is no longer used.
    pub fn forget_certificate(&self, name: &str) {
        for gauges in [&self.certificate_start, &self.certificate_expiry] {
            // An error means that there was none.
            let _ = gauges.remove_label_values(&[name]);
        }
    }

    /// Returns the gauge of open connections on a listener: `https`, `http` or `admin`.
    pub fn connections(&self, listener: &'static str) -> IntGauge {
        self.connections.with_label_values(&[listener])
    }

    /// Sets the gauges of the certificate `name`: its first and last second in Unix time.
    pub fn certificate(&self, name: &str, (not_before, not_after): (i64, i64)) {
        self.certificate_start.with_label_values(&[name]).set(not_before);
        self.certificate_expiry.with_label_values(&[name]).set(not_after);
    }

    /// Returns the gauge for whether the replay store responds.
    pub fn store_up(&self, store: &'static str) -> IntGauge {
        self.store_up.with_label_values(&[store])
    }

    /// Returns the durations of the operations of a replay store.
    pub fn store_durations(&self, store: &'static str) -> ReplayStoreDurations {
        ReplayStoreDurations::of(&self.store_durations, store)
    }

    /// Returns the metrics of the key set `name`.
    pub fn key_set(&self, name: &str) -> KeySetMetrics {
        let fetches = |result| self.key_set_fetches.with_label_values(&[name, result]);
        let fetched = self.key_set_fetched.with_label_values(&[name]);
        KeySetMetrics { fetched, ok: fetches("ok"), failed: fetches("failed") }
    }

    /// Removes the metrics of a key set that is no longer used.
    pub fn forget_key_set(&self, name: &str) {
        // An error means that there were none.
        let _ = self.key_set_fetched.remove_label_values(&[name]);
        for result in ["ok", "failed"] {
            let _ = self.key_set_fetches.remove_label_values(&[name, result]);
        }
    }

    /// Returns the counters of what was shed.
    pub fn shed(&self) -> ShedCounters {
        self.shed.clone()
    }

    /// Returns the counters of failed TLS handshakes.
    pub fn handshake_failures(&self) -> HandshakeFailures {
        self.handshake_failures.clone()
    }

    /// Returns all metrics in the Prometheus text format, sorted by name.
    ///
    /// # Errors
    /// Never in practice: the encoder fails only on metrics without a name or a value.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = String::with_capacity(16 * 1024);
        let mut of_routes = FAMILIES.iter().peekable();
        for family in self.registry.gather() {
            while let Some(earlier) = of_routes.next_if(|other| other.name < family.name()) {
                self.routes.write(earlier, &mut text);
            }
            TextEncoder::new().encode_utf8(&[family], &mut text)?;
        }
        of_routes.for_each(|family| self.routes.write(family, &mut text));
        Ok(text)
    }
}
