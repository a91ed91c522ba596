//! `GET /api/v1/routes`: the routes with their health.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::query::now;
use crate::{
    admin::{
        last_hour::{LastHour, Outcomes},
        reply::{CallResult, json},
    },
    events::{model::Backlog, rfc3339},
    gate::Gate,
    reject::Outcome,
    route::{Mode, Route},
};

/// A route.
#[derive(Serialize)]
struct RouteView<'r> {
    name: &'r str,
    scheme: &'r str,
    mode: &'static str,
    delivery: &'static str,
    history: &'static str,
    pending: u64,
    delivering: u64,
    dead: u64,
    oldest_pending_seconds: u64,
    consecutive_failures: i64,
    last_verified: Option<String>,
    last_hour: BTreeMap<&'static str, u64>,
    /// By outcome, the counts of each minute of the last hour, oldest first. Outcomes without a
    /// request are absent.
    minutes: BTreeMap<&'static str, Vec<u64>>,
    secrets: Vec<SecretView>,
}

/// When a secret was last used.
#[derive(Serialize)]
struct SecretView {
    key: String,
    /// Its position in the list of the key's secrets, from 1.
    secret: usize,
    last_used: Option<String>,
}

/// Returns all routes of the running configuration.
pub(super) async fn list(gate: &Gate, last_hour: &LastHour) -> CallResult {
    let backlogs = match gate.events() {
        Some(events) => events.store().backlogs().await?,
        None => HashMap::new(),
    };
    let site = gate.site.load_full();
    let routes: Vec<_> = site
        .routes
        .iter()
        .map(|route| {
            let backlog = backlogs.get(&route.name).copied().unwrap_or_default();
            view(route, backlog, &last_hour.slots(&route.name, &route.metrics))
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({ "routes": routes })))
}

fn view<'r>(route: &'r Route, backlog: Backlog, slots: &[Outcomes]) -> RouteView<'r> {
    let metrics = &route.metrics;
    let of = |outcome: Outcome| slots.iter().map(move |slot| slot[outcome as usize]);
    let last_hour = Outcome::ALL.map(|outcome| (outcome.label(), of(outcome).sum()));
    let minutes = Outcome::ALL.map(|outcome| (outcome.label(), of(outcome).collect()));
    let has_any = |(_, counts): &(_, Vec<u64>)| counts.iter().any(|count| *count > 0);
    let secrets = metrics.secret_use();
    let secret = |(key, secret, used): (&Arc<str>, usize, i64)| SecretView {
        key: key.to_string(),
        secret,
        last_used: instant(used),
    };
    RouteView {
        name: &route.name,
        scheme: route.verifier.scheme().id(),
        mode: match route.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        },
        delivery: route.delivery.options.mode.label(),
        history: route.delivery.options.history.label(),
        pending: backlog.pending,
        delivering: backlog.delivering,
        dead: backlog.dead,
        oldest_pending_seconds: backlog.oldest.map_or(0, |at| now().saturating_sub(at) / 1000),
        consecutive_failures: metrics.consecutive_failures.get(),
        last_verified: instant(metrics.last_verified.get()),
        last_hour: last_hour.into_iter().collect(),
        minutes: minutes.into_iter().filter(has_any).collect(),
        secrets: secrets.all().map(secret).collect(),
    }
}

/// Returns a time in Unix seconds as RFC 3339; `None` for 0, which is never.
fn instant(seconds: i64) -> Option<String> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(rfc3339(seconds.saturating_mul(1000)))
}
