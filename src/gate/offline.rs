//! The rules of the gate for requests that do not arrive over a connection: captured ones.

use std::sync::Arc;

use http::request::Parts;

use super::http_rules::{self, WireFacts};
use crate::{
    reject::Reject,
    route::{Route, Routes},
};

/// Checks everything that the gate checks before it verifies a request, except who sends it, and
/// returns the request's route. `length` is the length of its body.
///
/// # Errors
/// What the sender of such a request gets.
pub fn check_rules(routes: &Routes, head: &Parts, length: u64) -> Result<Arc<Route>, Reject> {
    let host = http_rules::check(head, &WireFacts::default())?;
    let route = routes.find(&head.uri, host)?;
    route.check_head(head)?;
    if length > route.body.bytes {
        return Err(Reject::BodyTooLarge);
    }
    Ok(Arc::clone(route))
}
