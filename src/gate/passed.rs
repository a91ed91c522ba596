//! Answers to requests that are not rejected.

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;

use crate::{
    reject::{Outcome, Reject},
    replay::{Receipt, Repeat, Settled},
    response::{self, ANSWER, SanitizedResponse},
    route::Route,
};

/// A request that was not rejected: how it ended, its answer, and what is noted once that answer is
/// written out.
pub(super) struct Passed {
    pub(super) outcome: Outcome,
    pub(super) response: Response<Full<Bytes>>,
    pub(super) receipt: Option<Receipt>,
}

impl Passed {
    /// The upstream's answer; a 2xx becomes the status by which the scheme's sender knows success.
    pub(super) fn answered(
        settled: Settled,
        route: &Route,
        outcome: Outcome,
    ) -> Result<Self, Reject> {
        let mut answer = settled.outcome?;
        if answer.status.is_success() {
            answer.status = route.verifier.scheme().success();
        }
        Ok(Passed { outcome, response: answer.into_response(), receipt: settled.receipt })
    }

    /// The answer to a sender that asks whether the address is ours.
    pub(super) fn handshake(answer: SanitizedResponse) -> Self {
        let mut response = answer.into_response();
        let outcome = Outcome::Challenge;
        response.headers_mut().insert(ANSWER, HeaderValue::from_static(outcome.label()));
        Passed { outcome, response, receipt: None }
    }

    /// The answer to a copy of an event that is done.
    pub(super) fn repeated(
        repeat: Repeat,
        route: &Route,
        acknowledge: bool,
    ) -> Result<Self, Reject> {
        let (outcome, receipt) = match repeat {
            Repeat::Retry(receipt) => (Outcome::Duplicate, Some(receipt)),
            Repeat::Replay if acknowledge => (Outcome::Replay, None),
            Repeat::Replay => return Err(Reject::Replay),
        };
        let response = response::made_here(route.verifier.scheme().success(), outcome);
        Ok(Passed { outcome, response, receipt })
    }
}
