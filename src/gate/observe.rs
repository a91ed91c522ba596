//! The way of a request on a route that only observes: judged, recorded as far as it is authentic and
//! new, and forwarded in any case.

use std::sync::Arc;

use http::request::Parts;
use tokio::time::timeout_at;

use super::{Gate, passed::Passed, record::Record};
use crate::{
    body::Payload,
    forward::{self, Context, Detached},
    reject::{Outcome, Reason, Reject},
    route::Route,
};

impl Gate {
    /// Forwards a request; `entered` is whether the route would have let it in.
    pub(super) async fn observe(
        &self,
        route: &Arc<Route>,
        head: Parts,
        payload: Payload,
        entered: Result<(), Reject>,
        context: Context,
        record: &mut Record,
    ) -> Result<Passed, Reject> {
        let verify = |()| route.verifier.verify(&head, &payload, record.now());
        let judged = match record.verified(entered.and_then(verify)) {
            Ok(verified) => self.replay.claim(&verified, route.terms, context.answer_by).await,
            Err(reject) => Err(reject),
        };
        if judged.as_ref().err().and_then(Reject::reason) == Some(Reason::Claim) {
            record.about(route.verifier.subject(&head, &payload));
        }
        let (claim, mark) = record.observed(judged);
        let answer_by = context.answer_by;
        let upstream = Arc::clone(&route.upstream);
        let flight = forward::observe(upstream, head, payload, claim, mark, context);
        let flight = Detached::new(self.flights.track_future(flight));
        let settled = timeout_at(answer_by, flight).await.map_err(|_| Reject::Deadline)?;
        Passed::answered(settled, route, Outcome::Forwarded)
    }
}
