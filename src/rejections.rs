//! What is done about refused requests besides answering them: a diagnosis into the log, and a copy
//! into a file. Both happen on threads of their own, never on the way of a request.
//!
//! Limits: one diagnosis a second for each route, with [`Effort::LIVE`], and at most one that waits; at
//! most 32 copies that wait. What waits holds its share of the memory for bodies; what finds
//! no room is left undone. The way of a request costs one look at a clock, whatever a stranger sends.

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

/// Between two diagnoses of a route.
const PACE: Duration = Duration::from_secs(1);
/// How many requests wait to be written into files.
const WAITING: usize = 32;

/// A refused request.
struct Refusal {
    route: Arc<Route>,
    reason: Reason,
    request_id: HeaderValue,
    at: UnixMillis,
    head: Parts,
    payload: Payload,
}

/// Takes note of refused requests. Its threads end when it is dropped and their work is done.
pub struct Rejections {
    began: Instant,
    /// The routes, each with when its next diagnosis is due: milliseconds since `began`.
    due: Vec<(Arc<Route>, AtomicU64)>,
    diagnosing: SyncSender<Arc<Refusal>>,
    capturing: Option<SyncSender<Arc<Refusal>>>,
}

impl Rejections {
    /// Starts the threads. With `capture`, refused requests are written into files.
    pub fn start<'r>(
        routes: impl Iterator<Item = &'r Arc<Route>>,
        capture: Option<CaptureOptions>,
    ) -> Rejections {
        let routes: Vec<_> = routes.cloned().collect();
        let (diagnosing, rejections) = sync_channel(1);
        let all = routes.clone();
        spawn("diagnose", move || tell(&rejections, &all));
        let capturing = capture.map(|options| {
            let (capturing, rejections) = sync_channel(WAITING);
            spawn("capture", move || capture::write_all(&rejections, &options));
            capturing
        });
        let due = routes.into_iter().map(|route| (route, AtomicU64::new(0))).collect();
        Rejections { began: Instant::now(), due, diagnosing, capturing }
    }

    /// Takes note of a request that `route` refused, or would refuse if it did not only observe. What
    /// was not judged for its authenticity is passed over.
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
        let refusal = Arc::new(Refusal {
            route: Arc::clone(route),
            reason,
            request_id: request_id.clone(),
            at,
            head: head.clone(),
            payload,
        });
        if let Some(capturing) = &self.capturing {
            // Full: the disk is slower than strangers are. Nothing waits for it.
            let _ = capturing.try_send(Arc::clone(&refusal));
        }
        if diagnosed {
            // Full: another route's request is being diagnosed; the next one will be.
            let _ = self.diagnosing.try_send(refusal);
        }
    }

    /// Whether the route's next diagnosis is due; then the one after it is not, for a while.
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
        tracing::warn!(%error, thread = name, "refused requests are not looked into");
    }
}

/// Diagnoses what comes, into the log.
fn tell(rejections: &Receiver<Arc<Refusal>>, routes: &[Arc<Route>]) {
    for refusal in rejections {
        let others: Vec<_> = routes
            .iter()
            .filter(|route| !Arc::ptr_eq(route, &refusal.route))
            .map(|route| (&*route.name, route.verifier.hypothesis()))
            .collect();
        let case = Case {
            head: &refusal.head,
            payload: &refusal.payload,
            now: refusal.at,
            reason: refusal.reason,
            route: &refusal.route.verifier.hypothesis(),
            others: &others,
        };
        let found = diagnose(case, Effort::LIVE);
        let joined =
            |part: fn(&NearMiss) -> String| found.iter().map(part).collect::<Vec<_>>().join(" ");
        let codes = joined(|near_miss| near_miss.code().to_owned());
        tracing::info!(
            route = %refusal.route.name,
            request_id = refusal.request_id.to_str().unwrap_or(""),
            reason = refusal.reason.label(),
            diagnosis = if codes.is_empty() { "none" } else { &codes },
            detail = joined(NearMiss::text),
            "refused request looked into"
        );
    }
}
