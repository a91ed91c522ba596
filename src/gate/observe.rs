//! The policy of a route that only observes: every request is forwarded, and marked with the reason
//! for which an enforcing route would have rejected or not forwarded it.

use http::request::Parts;

use super::access_log::LogEntry;
use crate::{
    body::Payload,
    reject::{Outcome, Reason, Reject},
    replay::{Claim, Claimed, Repeat},
    route::Route,
    scheme::Verified,
    upstream::Verdict,
};

/// Permits a request whatever `checked` says, and notes the mark in `entry`. Only a new, authentic
/// event keeps its claim; everything else is forwarded without a record.
pub(super) fn permit(
    checked: Result<(Verified, Claimed), Reject>,
    route: &Route,
    (head, payload): (&Parts, &Payload),
    entry: &mut LogEntry<'_>,
) -> (Verdict, Claimed) {
    let (claim, mark) = match checked {
        Ok((_, Claimed::Won(claim))) => (claim, None),
        Ok((_, Claimed::InFlight(_))) => (Claim::unrecorded(), Some(Outcome::Joined.label())),
        Ok((_, Claimed::Done(Repeat::Retry(_)))) => {
            (Claim::unrecorded(), Some(Outcome::Duplicate.label()))
        }
        Ok((_, Claimed::Done(Repeat::Replay))) => {
            (Claim::unrecorded(), Some(Outcome::Replay.label()))
        }
        Err(reject) => {
            if reject.reason() == Some(Reason::Claim) {
                entry.set_subject(route.verifier.subject(head, payload));
            }
            let mark = match reject.reason() {
                Some(reason) => {
                    route.metrics.rejections(reason).inc();
                    reason.label()
                }
                None => match reject {
                    Reject::Method(_) => "method",
                    Reject::ContentEncoding => "content_encoding",
                    _ => reject.outcome().label(),
                },
            };
            (Claim::unrecorded(), Some(mark))
        }
    };
    if let Some(mark) = mark {
        route.metrics.count_observed(mark);
    }
    entry.set_mark(mark);
    (Verdict::Observed(mark), Claimed::Won(claim))
}
