//! Scheme and replay: the two questions that a request must answer.

use http::request::Parts;

use super::{Gate, record::Record};
use crate::{
    body::Payload, forward::Context, reject::Reject, replay::Claimed, route::Route,
    scheme::Verified,
};

impl Gate {
    /// Whether a request is authentic and new; `entered` is whether the route let it in.
    pub(super) async fn judge(
        &self,
        route: &Route,
        (head, payload): (&Parts, &Payload),
        entered: Result<(), Reject>,
        context: &Context,
        record: &mut Record,
    ) -> Result<(Verified, Claimed), Reject> {
        let verify = |()| route.verifier.verify(head, payload, record.now());
        let verified = record.verified(entered.and_then(verify))?;
        let claimed = self.replay.claim(&verified, route.terms, context.answer_by).await?;
        Ok((verified, claimed))
    }
}
