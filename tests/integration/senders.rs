//! Built-in senders through a running gateway: their requests are accepted, retried and rejected as
//! their documents describe.

mod catalogue;
mod copies;
mod govalid;
mod most_used;
pub(crate) mod pitchpoint;
mod vivreal;

use crate::kit::{Call, Gateway};

/// Sends requests that must be rejected, each for its reason; all get `status` and the same
/// response.
async fn all_refused(gateway: &Gateway, status: u16, cases: Vec<(&str, Call, &str)>) {
    assert!(!cases.is_empty());
    let mut answers = std::collections::BTreeSet::new();
    for (name, call, expected) in cases {
        let (reply, reason) = gateway.refused(&call).await;
        assert_eq!((reply.status, reason.as_str()), (status, expected), "{name}: {}", reply.head);
        assert_eq!(reply.header("sealgate-answer"), Some("rejected"), "{name}");
        let id = reply.header("sealgate-request-id").expect("an id").to_owned();
        answers.insert(reply.text().replace(&id, "ID"));
    }
    assert_eq!(answers.len(), 1, "one answer for every refusal: {answers:?}");
}
