//! The line of an outcome that becomes known after the response.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;
use tracing::Level;

use crate::{reject::Reject, response::SanitizedResponse, route::Route};

/// What is logged when the outcome of a request becomes known after its response, because the
/// upstream took too long or the sender has hung up.
#[derive(Clone)]
pub(in crate::gate) struct LateLine {
    pub(super) route: Arc<Route>,
    pub(super) id: HeaderValue,
    pub(super) event_id: Option<HeaderValue>,
    pub(super) started: Instant,
}

impl LateLine {
    /// Logs the outcome. `origin` is the position of the origin that served the request.
    pub(in crate::gate) fn log(&self, outcome: &Result<SanitizedResponse, Reject>, origin: usize) {
        let status = outcome.as_ref().map(|response| response.status.as_u16()).ok();
        let detail = outcome.as_ref().err().map(ToString::to_string);
        let upstream = self.route.upstream.origin(origin).map(tracing::field::display);
        /// tracing needs the level of an event at compile time.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    route = &*self.route.name,
                    status,
                    event_id = self.event_id.as_ref().and_then(|id| id.to_str().ok()),
                    upstream,
                    request_id = self.id.to_str().unwrap_or(""),
                    ms = self.started.elapsed().as_micros() as f64 / 1000.0,
                    detail,
                    "late outcome"
                )
            };
        }
        match outcome {
            Ok(response) if response.status.is_success() => line!(Level::INFO),
            _ => line!(Level::WARN),
        }
    }
}
