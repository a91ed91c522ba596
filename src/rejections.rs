//! What happens to rejected requests after the response: a diagnosis in the log and a copy in a
//! file. Both run on their own threads.
//!
//! Limits: one diagnosis per second and route, with [`WorkBudget::LIVE`]; all diagnoses together
//! use at most one part in [`CPU_SHARE`] of a core, after a quiet period up to [`CPU_BURST`] at
//! once. One request waits for a diagnosis and at most [`MAX_CAPTURES`] wait to be captured; each
//! holds its share of the memory for bodies. Requests beyond a limit are not diagnosed, which is
//! counted, or not captured. The worker only reads a clock, however many requests are rejected.

mod capture;

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderValue, request::Parts};
use ipnet::IpNet;

pub use self::capture::CaptureOptions;
use crate::{
    body::Payload,
    diagnose::{NearMiss, RejectedRequest, WorkBudget, diagnose, is_useful},
    events::{Events, Refusal, Refused},
    metrics::DiagnosisMetrics,
    reject::{Reason, Reject},
    route::Route,
    scheme::UnixMillis,
};

/// The time between two diagnoses of a route.
const PACE: Duration = Duration::from_secs(1);
/// How many requests wait to be written to files.
const MAX_CAPTURES: usize = 32;
/// All diagnoses together use one part in so many of a core.
const CPU_SHARE: u32 = 20;
/// How much CPU time diagnoses may use at once after a quiet period.
const CPU_BURST: Duration = Duration::from_millis(100);

/// A request that is rejected, as the log describes it.
pub struct RejectedEntry<'r> {
    /// Why it is rejected.
    pub reject: &'r Reject,
    /// Its ID.
    pub request_id: &'r HeaderValue,
    /// When it arrived.
    pub at: UnixMillis,
    /// The client address.
    pub client: IpAddr,
    /// Which part of it is at fault, if that is known. Contains nothing from the request.
    pub cause: Option<&'r str>,
}

impl RejectedEntry<'_> {
    /// Returns the reason, unless the request was rejected before it was verified.
    fn reason(&self) -> Option<Reason> {
        self.reject.reason().filter(|reason| *reason > Reason::RateLimited)
    }
}

/// A rejected request that waits for its diagnosis or for being captured.
struct Rejection {
    route: Arc<Route>,
    reason: Reason,
    request_id: HeaderValue,
    at: UnixMillis,
    client: IpAddr,
    /// Whether it is kept in the event store, with the diagnosis.
    is_kept: bool,
    cause: Option<Box<str>>,
    head: Parts,
    payload: Payload,
}

/// A bound on the CPU time of all diagnoses: a token bucket, kept as the time until which the CPU
/// time used so far is accounted for.
struct CpuBudget {
    began: Instant,
    /// Nanoseconds since `began`.
    accounted: AtomicU64,
}

impl CpuBudget {
    fn new() -> Self {
        CpuBudget { began: Instant::now(), accounted: AtomicU64::new(0) }
    }

    /// Returns whether CPU time is left.
    fn has_time(&self) -> bool {
        let ahead = nanos(self.began.elapsed()).saturating_add(nanos(CPU_BURST * CPU_SHARE));
        self.accounted.load(Ordering::Relaxed) <= ahead
    }

    /// Accounts for CPU time that was used.
    fn charge(&self, used: Duration) {
        let now = nanos(self.began.elapsed());
        let cost = nanos(used.saturating_mul(CPU_SHARE));
        // Only the diagnosing thread writes.
        let accounted = self.accounted.load(Ordering::Relaxed).max(now).saturating_add(cost);
        self.accounted.store(accounted, Ordering::Relaxed);
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Receives rejected requests. Its threads end when it is dropped and their work is done.
pub struct Rejections {
    began: Instant,
    /// The routes, each with the time of its next diagnosis: milliseconds since `began`.
    due: Vec<(Arc<Route>, AtomicU64)>,
    cpu: Arc<CpuBudget>,
    metrics: DiagnosisMetrics,
    events: Option<Events>,
    diagnosing: SyncSender<Arc<Rejection>>,
    capturing: Option<SyncSender<Arc<Rejection>>>,
}

impl Rejections {
    /// Starts the threads. With `capture`, rejected requests are written to files; with `events`,
    /// they are kept there as metadata.
    pub fn start<'r>(
        routes: impl Iterator<Item = &'r Arc<Route>>,
        capture: Option<CaptureOptions>,
        events: Option<Events>,
        metrics: DiagnosisMetrics,
    ) -> Rejections {
        let routes: Vec<_> = routes.cloned().collect();
        let cpu = Arc::new(CpuBudget::new());
        let (diagnosing, rejections) = sync_channel(1);
        let (all, budget, counters) = (routes.clone(), Arc::clone(&cpu), metrics.clone());
        let kept = events.clone();
        spawn("diagnose", move || {
            diagnose_all(&rejections, &all, &budget, (&counters, kept.as_ref()));
        });
        let capturing = capture.map(|options| {
            let (capturing, rejections) = sync_channel(MAX_CAPTURES);
            spawn("capture", move || capture::write_all(&rejections, &options));
            capturing
        });
        let due = routes.into_iter().map(|route| (route, AtomicU64::new(0))).collect();
        Rejections { began: Instant::now(), due, cpu, metrics, events, diagnosing, capturing }
    }

    /// Receives a request that `route` rejected, or would have rejected if it did not only observe.
    /// Requests that were not verified are ignored.
    pub fn note(
        &self,
        route: &Arc<Route>,
        entry: &RejectedEntry<'_>,
        (head, payload): (&Parts, &Payload),
    ) {
        let Some(reason) = entry.reason() else { return };
        let is_kept = self.events.as_ref().is_some_and(Events::admits_refusal);
        let diagnosed = is_useful(reason) && self.takes_turn(route);
        if is_kept && !diagnosed {
            self.keep(route, entry, payload.len());
        }
        if !diagnosed && self.capturing.is_none() {
            return;
        }
        let Some(payload) = payload.shared() else { return };
        let length = payload.len();
        let rejection = Arc::new(Rejection {
            route: Arc::clone(route),
            reason,
            request_id: entry.request_id.clone(),
            at: entry.at,
            client: entry.client,
            is_kept,
            cause: entry.cause.map(Into::into),
            head: head.clone(),
            payload,
        });
        if let Some(capturing) = &self.capturing {
            // Full: requests are rejected faster than the disk writes. Nothing waits for it.
            let _ = capturing.try_send(Arc::clone(&rejection));
        }
        if diagnosed && self.diagnosing.try_send(rejection).is_err() {
            // Full: a request of another route is being diagnosed.
            self.metrics.skipped.inc();
            if is_kept {
                self.keep(route, entry, length);
            }
        }
    }

    /// Receives a request that its head has rejected and whose body was not read.
    pub fn note_head(&self, route: &Arc<Route>, entry: &RejectedEntry<'_>) {
        if entry.reason().is_some() && self.events.as_ref().is_some_and(Events::admits_refusal) {
            self.keep(route, entry, 0);
        }
    }

    /// Keeps the metadata of a rejected request that is not diagnosed.
    fn keep(&self, route: &Route, entry: &RejectedEntry<'_>, bytes: usize) {
        if let (Some(events), Some(reason)) = (&self.events, entry.reason()) {
            let refused = (route, reason, entry.at, entry.client, bytes);
            keep(events, refused, entry.cause.map(str::to_owned));
        }
    }

    /// Whether [`Rejections::note`] would do anything with a request that `route` rejected.
    pub fn wants(&self, route: &Arc<Route>, entry: &RejectedEntry<'_>) -> bool {
        entry.reason().is_some_and(|reason| {
            self.capturing.is_some() || (is_useful(reason) && self.is_due(route))
        })
    }

    /// Returns whether a diagnosis of this route may start now.
    fn is_due(&self, route: &Arc<Route>) -> bool {
        let due = self.due.iter().find(|(known, _)| Arc::ptr_eq(known, route));
        let now = millis(self.began.elapsed());
        due.is_some_and(|(_, due)| now >= due.load(Ordering::Relaxed)) && self.cpu.has_time()
    }

    /// Reserves the diagnosis of this route that is due; the next one is due after [`PACE`]. If
    /// none is, the request is counted as skipped.
    fn takes_turn(&self, route: &Arc<Route>) -> bool {
        let Some((_, due)) = self.due.iter().find(|(known, _)| Arc::ptr_eq(known, route)) else {
            return false;
        };
        let (now, at) = (millis(self.began.elapsed()), due.load(Ordering::Relaxed));
        let next = now.saturating_add(millis(PACE));
        let takes_turn = now >= at
            && self.cpu.has_time()
            && due.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !takes_turn {
            self.metrics.skipped.inc();
        }
        takes_turn
    }
}

/// Keeps the metadata of a rejected request in the event store.
fn keep(
    events: &Events,
    (route, reason, at, client, bytes): (&Route, Reason, UnixMillis, IpAddr, usize),
    diagnosis: Option<String>,
) {
    let length = if client.is_ipv4() { 24 } else { 48 };
    let network = IpNet::new(client, length).map(|network| network.trunc().to_string());
    let refused = Refused {
        scheme: route.verifier.scheme().id().into(),
        bytes: bytes as u64,
        refusal: Refusal {
            reason: reason.label().into(),
            diagnosis: diagnosis.map(Into::into),
            network: network.unwrap_or_default().into(),
        },
    };
    events.record_refusal(u64::try_from(at.0).unwrap_or(0), &route.name, refused);
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::warn!(%error, thread = name, "cannot start a thread for rejected requests");
    }
}

/// Diagnoses what arrives and logs the result.
fn diagnose_all(
    rejections: &Receiver<Arc<Rejection>>,
    routes: &[Arc<Route>],
    cpu: &CpuBudget,
    (metrics, events): (&DiagnosisMetrics, Option<&Events>),
) {
    for rejection in rejections {
        let started = Instant::now();
        let others: Vec<_> = routes
            .iter()
            .filter(|route| !Arc::ptr_eq(route, &rejection.route))
            .map(|route| (&*route.name, route.verifier.hypothesis()))
            .collect();
        let request = RejectedRequest {
            head: &rejection.head,
            payload: &rejection.payload,
            now: rejection.at,
            reason: rejection.reason,
            route: &rejection.route.verifier.hypothesis(),
            others: &others,
        };
        // A defect in the diagnosis must not end the diagnoses of all later requests.
        let diagnosis = || diagnose(request, WorkBudget::LIVE);
        let Ok(found) = std::panic::catch_unwind(AssertUnwindSafe(diagnosis)) else {
            tracing::error!(route = %rejection.route.name, "a diagnosis failed");
            cpu.charge(started.elapsed());
            continue;
        };
        // Never less than the CPU time, and more of it when the machine is busy.
        cpu.charge(started.elapsed());
        metrics.made.inc();
        let joined =
            |part: fn(&NearMiss) -> String| found.iter().map(part).collect::<Vec<_>>().join(" ");
        let codes = joined(|near_miss| near_miss.code().to_owned());
        let detail = joined(NearMiss::text);
        if let Some(events) = events.filter(|_| rejection.is_kept) {
            let Rejection { route, reason, at, client, payload, cause, .. } = &*rejection;
            let refused = (&**route, *reason, *at, *client, payload.len());
            let texts = [cause.as_deref(), Some(&*detail).filter(|text| !text.is_empty())];
            let texts: Vec<_> = texts.into_iter().flatten().collect();
            keep(events, refused, (!texts.is_empty()).then(|| texts.join(". ")));
        }
        tracing::info!(
            route = %rejection.route.name,
            request_id = rejection.request_id.to_str().unwrap_or(""),
            reason = rejection.reason.label(),
            diagnosis = if codes.is_empty() { "none" } else { &codes },
            detail,
            "diagnosis of a rejected request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_beyond_the_burst_has_to_be_earned() {
        let cpu = CpuBudget::new();
        assert!(cpu.has_time());
        cpu.charge(CPU_BURST / 2);
        assert!(cpu.has_time(), "half of the burst is left");
        cpu.charge(CPU_BURST);
        assert!(!cpu.has_time(), "more than the burst was used");
        let accounted = cpu.accounted.load(Ordering::Relaxed);
        assert!(accounted >= nanos(CPU_BURST * CPU_SHARE), "each use is paid {CPU_SHARE} times");
    }
}
