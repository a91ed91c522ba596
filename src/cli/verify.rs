use std::{fmt::Write, path::PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use http::request::Parts;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Status, capture, invalid, now};
use crate::{
    body::Payload,
    config::{self, Config},
    diagnose::{NearMiss, RejectedRequest, WorkBudget, diagnose},
    reject::{Reason, Reject},
    route::RouteOptions,
    scheme::{UnixMillis, UnverifiedDetails, Verified, Verifier},
};

/// Options of `sealgate verify`.
#[derive(Args)]
pub(super) struct VerifyArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
    /// The route of the request.
    #[arg(long, value_name = "NAME")]
    route: String,
    /// The verification time in Unix seconds; default: now.
    #[arg(long, value_name = "UNIX_SECONDS")]
    at: Option<i64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The file with the captured request, or `-` for standard input.
    request: PathBuf,
}

/// `sealgate verify`: verifies one captured request with the code that verifies live requests. For
/// a rejected one, it also reports what would have verified.
pub(super) fn verify(arguments: &VerifyArguments) -> anyhow::Result<Status> {
    let inputs = config::load(&arguments.config)
        .map_err(anyhow::Error::from)
        .and_then(|(config, _)| split(config, &arguments.route))
        .and_then(|routes| Ok((routes, capture::read(&arguments.request)?)));
    let ((route, others), (head, body)) = match inputs {
        Ok(inputs) => inputs,
        Err(error) => return Ok(invalid(&error)),
    };
    fetch_keys(&route)?;
    let now = arguments.at.map_or_else(now, |at| UnixMillis(at.saturating_mul(1000)));
    let payload = Payload::from(body);
    let judged = match route.verifier.verify(&head, &payload, now) {
        Ok(verified) if verified.is_stale() => Err(Reason::Stale.into()),
        judged => judged,
    };
    let found = match &judged {
        Ok(_) => Vec::new(),
        Err(reject) => near_misses(&route, &others, &head, &payload, now, reject),
    };
    let reading = route.verifier.unverified_details(&head, &payload);
    if arguments.json {
        println!("{}", object(&judged, &reading, &found));
    } else {
        print!("{}", text(&judged, &reading, &found, &route.verifier, &payload, now));
    }
    Ok(if judged.is_ok() { Status::Success } else { Status::Failed })
}

/// Fetches the published keys of the route's sender, if it has any.
fn fetch_keys(route: &RouteOptions) -> anyhow::Result<()> {
    let Some(set) = route.verifier.key_set() else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let fetched = runtime.context("cannot start the runtime")?.block_on(set.load());
    fetched.map_err(|problem| anyhow!("the key set cannot be fetched: {problem}"))
}

/// Removes a route from a configuration by its name.
pub(super) fn route(config: Config, name: &str) -> anyhow::Result<RouteOptions> {
    split(config, name).map(|(route, _)| route)
}

/// Removes a route from a configuration by its name, and also returns the other routes.
fn split(config: Config, name: &str) -> anyhow::Result<(RouteOptions, Vec<RouteOptions>)> {
    let names: Vec<_> = config.routes.iter().map(|route| route.name.clone()).collect();
    let (mut wanted, others): (Vec<_>, Vec<_>) =
        config.routes.into_iter().partition(|route| route.name == name);
    let route = wanted.pop().ok_or_else(|| anyhow!("unknown route `{name}`"));
    Ok((route.with_context(|| format!("the routes are: {}", names.join(", ")))?, others))
}

fn near_misses(
    route: &RouteOptions,
    others: &[RouteOptions],
    head: &Parts,
    payload: &Payload,
    now: UnixMillis,
    reject: &Reject,
) -> Vec<NearMiss> {
    let Some(reason) = reject.reason() else { return Vec::new() };
    let others: Vec<_> =
        others.iter().map(|other| (other.name.as_str(), other.verifier.hypothesis())).collect();
    let route = &route.verifier.hypothesis();
    let case = RejectedRequest { head, payload, now, reason, route, others: &others };
    diagnose(case, WorkBudget::OFFLINE)
}

/// Returns the reason why a request was rejected, as a word.
fn word(reject: &Reject) -> &'static str {
    reject.reason().map_or(reject.outcome().label(), |reason| reason.label())
}

fn object(
    judged: &Result<Verified, Reject>,
    reading: &UnverifiedDetails,
    found: &[NearMiss],
) -> serde_json::Value {
    let timestamp = reading.timestamp.and_then(instant);
    match judged {
        Ok(verified) => json!({
            "verdict": "accept",
            "scheme": &**verified.scheme(),
            "key": &**verified.key(),
            "event_id": verified.event_id().and_then(|id| id.to_str().ok()),
            "timestamp": timestamp,
            "age_ms": verified.age(),
        }),
        Err(reject) => {
            let diagnosis: Vec<_> = found
                .iter()
                .map(|near_miss| json!({ "code": near_miss.code(), "text": near_miss.text() }))
                .collect();
            json!({
                "verdict": "reject",
                "reason": word(reject),
                "key": reading.key,
                "event_id": reading.event_id,
                "timestamp": timestamp,
                "diagnosis": diagnosis,
            })
        }
    }
}

fn text(
    judged: &Result<Verified, Reject>,
    reading: &UnverifiedDetails,
    found: &[NearMiss],
    verifier: &Verifier,
    payload: &Payload,
    now: UnixMillis,
) -> String {
    let mut text = match judged {
        Ok(_) => "authentic\n".to_owned(),
        Err(reject) => format!("rejected: {}\n", word(reject)),
    };
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<11}{value}");
    };
    if let Err(reject) = judged
        && let Some(reason) = reject.reason()
    {
        line("reason", reason.meaning());
    }
    line("scheme", verifier.scheme().id());
    let key = judged.as_ref().map_or(reading.key.as_deref(), |verified| Some(&**verified.key()));
    line("key", &known(key.unwrap_or("none is named"), verifier, key));
    line("event id", reading.event_id.as_deref().unwrap_or("none"));
    if let Some(sent) = reading.timestamp
        && let Some(instant) = instant(sent)
    {
        let age = now.0.saturating_sub(sent.0) as f64 / 1000.0;
        let relation = if age < 0.0 { "ahead" } else { "old" };
        line("timestamp", &format!("{instant}, {:.1} s {relation}", age.abs()));
    } else {
        line("timestamp", "none");
    }
    if let Some(message) = verifier.scheme().message_notation() {
        line("signed", &message);
    }
    let digest = data_encoding::HEXLOWER.encode(payload.sha256());
    line("body", &format!("{} bytes, SHA-256 {digest}", payload.len()));
    if judged.is_err() {
        text.push('\n');
        for near_miss in found {
            let _ = writeln!(text, "diagnosis: {}\n  {}", near_miss.code(), near_miss.text());
        }
        if found.is_empty() {
            text.push_str(NO_NEAR_MISS);
        }
    }
    text
}

const NO_NEAR_MISS: &str = "diagnosis: none\n  Nothing that was tried would have verified. Usual then: \
    another secret than the sender's (an old one, one of another webhook or of the test mode), or a \
    stranger's request.\n";

fn known(text: &str, verifier: &Verifier, key: Option<&str>) -> String {
    let configured = key.is_none_or(|key| verifier.keys().any(|known| known == key));
    if configured { text.to_owned() } else { format!("{text} (not configured)") }
}

/// Formats an instant in RFC 3339; `None` if its year is out of range.
fn instant(at: UnixMillis) -> Option<String> {
    let nanos = i128::from(at.0).checked_mul(1_000_000)?;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}
