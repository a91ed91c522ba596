//! Diagnosis and capture of rejected requests: a diagnosis in the log, and a copy in a file. Both run
//! on separate threads, never on the path of a request.
//!
//! Limits: one diagnosis per second and route, with [`Effort::LIVE`], and at most one in the queue; at
//! most 32 copies in the queue. A queued request holds its share of the memory for bodies, and a
//! request that finds a full queue is skipped. The path of a request costs one clock reading.

mod capture;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderValue, request::Parts};

pub use self::capture::CaptureOptions;
use crate::{
    body::Payload,
    diagnose::{Case, Effort, NearMiss, diagnose, makes_sense},
    reject::{Reason, Reject},
    route::Route,
    scheme::UnixMillis,
};

/// The time between two diagnoses of a route.
const PACE: Duration = Duration::from_secs(1);
/// How many requests can be queued for a file.
const QUEUED: usize = 32;

/// A rejected request.
struct Rejection {
    route: Arc<Route>,
    reason: Reason,
    request_id: HeaderValue,
    at: UnixMillis,
    head: Parts,
    payload: Payload,
}

/// Queues rejected requests for its threads, which end after it is dropped and the queues are empty.
pub struct Rejections {
    began: Instant,
    /// The routes, each with the time of its next diagnosis, in milliseconds since `began`.
    due: Vec<(Arc<Route>, AtomicU64)>,
    diagnosing: SyncSender<Arc<Rejection>>,
    capturing: Option<SyncSender<Arc<Rejection>>>,
}

impl Rejections {
    /// Starts the threads. With `capture`, rejected requests are written to files.
    pub fn start<'r>(
        routes: impl Iterator<Item = &'r Arc<Route>>,
        capture: Option<CaptureOptions>,
    ) -> Rejections {
        let routes: Vec<_> = routes.cloned().collect();
        let (diagnosing, rejections) = sync_channel(1);
        let all = routes.clone();
        spawn("diagnose", move || diagnose_all(&rejections, &all));
        let capturing = capture.map(|options| {
            let (capturing, rejections) = sync_channel(QUEUED);
            spawn("capture", move || capture::write_all(&rejections, &options));
            capturing
        });
        let due = routes.into_iter().map(|route| (route, AtomicU64::new(0))).collect();
        Rejections { began: Instant::now(), due, diagnosing, capturing }
    }

    /// Queues a request that `route` rejected, or would reject if it enforced. Requests whose
    /// authenticity was not checked are skipped.
    pub fn note(
        &self,
        route: &Arc<Route>,
        reject: &Reject,
        request_id: &HeaderValue,
        at: UnixMillis,
        (head, payload): (&Parts, &Payload),
    ) {
        let Some(reason) = reject.reason().filter(|reason| *reason > Reason::RateLimited) else {
            return;
        };
        let diagnosed = makes_sense(reason) && self.is_due(route);
        if !diagnosed && self.capturing.is_none() {
            return;
        }
        let Some(payload) = payload.shared() else { return };
        let rejection = Arc::new(Rejection {
            route: Arc::clone(route),
            reason,
            request_id: request_id.clone(),
            at,
            head: head.clone(),
            payload,
        });
        if let Some(capturing) = &self.capturing {
            // Full: the disk is slower than the requests arrive. Nothing waits for it.
            let _ = capturing.try_send(Arc::clone(&rejection));
        }
        if diagnosed {
            // Full: a request of another route is being diagnosed.
            let _ = self.diagnosing.try_send(rejection);
        }
    }

    /// Returns whether the next diagnosis of a route is due, and if so, delays the one after it.
    fn is_due(&self, route: &Arc<Route>) -> bool {
        let Some((_, due)) = self.due.iter().find(|(known, _)| Arc::ptr_eq(known, route)) else {
            return false;
        };
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (now, at) = (millis(self.began.elapsed()), due.load(Ordering::Relaxed));
        let next = now.saturating_add(millis(PACE));
        now >= at && due.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::warn!(%error, thread = name, "rejected requests are neither diagnosed nor captured");
    }
}

/// Diagnoses queued requests, and logs the results.
fn diagnose_all(rejections: &Receiver<Arc<Rejection>>, routes: &[Arc<Route>]) {
    for rejection in rejections {
        let others: Vec<_> = routes
            .iter()
            .filter(|route| !Arc::ptr_eq(route, &rejection.route))
            .map(|route| (&*route.name, route.verifier.hypothesis()))
            .collect();
        let case = Case {
            head: &rejection.head,
            payload: &rejection.payload,
            now: rejection.at,
            reason: rejection.reason,
            route: &rejection.route.verifier.hypothesis(),
            others: &others,
        };
        let found = diagnose(case, Effort::LIVE);
        let joined =
            |part: fn(&NearMiss) -> String| found.iter().map(part).collect::<Vec<_>>().join(" ");
        let codes = joined(|near_miss| near_miss.code().to_owned());
        tracing::info!(
            route = %rejection.route.name,
            request_id = rejection.request_id.to_str().unwrap_or(""),
            reason = rejection.reason.label(),
            diagnosis = if codes.is_empty() { "none" } else { &codes },
            detail = joined(NearMiss::text),
            "diagnosis of a rejected request"
        );
    }
}
