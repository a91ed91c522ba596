//! Scheme and replay: the two questions that a request must answer, and the wait for its turn.

use http::request::Parts;
use tokio::time::{Instant, timeout_at};

use super::{Gate, record::Record};
use crate::{
    body::Payload,
    reject::Reject,
    replay::{Claim, Claimed, Ended, Repeat, Settled},
    route::Route,
    scheme::Verified,
    upstream::Context,
};

/// What is left to do for an authentic request.
pub(super) enum Turn {
    /// To forward it: it is the only one of its event.
    Forward(Claim),
    /// To answer as the request that was before it.
    Join(Settled),
    /// To answer that the event is done.
    Repeat(Repeat),
}

/// Waits while another request for the event is under way; what that one gives back unsettled is this one's.
pub(super) async fn turn(mut claimed: Claimed, by: Instant) -> Result<Turn, Reject> {
    loop {
        let joined = match claimed {
            Claimed::Won(claim) => return Ok(Turn::Forward(claim)),
            Claimed::Done(repeat) => return Ok(Turn::Repeat(repeat)),
            Claimed::InFlight(joined) => joined,
        };
        let ended = timeout_at(by, joined.outcome()).await.map_err(|_| Reject::InFlight)?;
        claimed = match ended? {
            Ended::Settled(settled) => return Ok(Turn::Join(settled)),
            Ended::Released(claimed) => claimed,
        };
    }
}

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
