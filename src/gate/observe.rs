//! The way of a request on a route that only observes: judged, recorded as far as it is authentic and
//! new, and forwarded in any case.

use std::sync::Arc;

use http::request::Parts;
use tokio::time::timeout_at;

use super::{Gate, passed::Passed, record::Record};
use crate::{
    body::Payload,
    reject::{Outcome, Reason, Reject},
    replay::Claimed,
    route::Route,
    scheme::Verified,
    upstream::{self, Context, Detached, HeaderCase},
};

impl Gate {
    /// Forwards a request; `judged` is what an enforcing route would have gone by.
    pub(super) async fn observe(
        &self,
        route: &Arc<Route>,
        head: (&Parts, &HeaderCase),
        payload: Payload,
        judged: Result<(Verified, Claimed), Reject>,
        context: Context,
        record: &mut Record,
    ) -> Result<Passed, Reject> {
        if judged.as_ref().err().and_then(Reject::reason) == Some(Reason::Claim) {
            record.about(route.verifier.subject(head.0, &payload));
        }
        let (claim, mark) = record.observed(judged.map(|(_, claimed)| claimed));
        let (answer_by, owner) = (context.answer_by, context.owner.clone());
        let upstream = Arc::clone(&route.upstream);
        let flight = upstream::observe(upstream, head, payload, claim, mark, context);
        let flight = Detached::new(self.flights.track_future(flight), owner);
        let settled = timeout_at(answer_by, flight).await.map_err(|_| Reject::Deadline)?;
        Passed::answered(settled, route, Outcome::Forwarded)
    }
}
