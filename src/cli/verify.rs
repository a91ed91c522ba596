use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::json;

use super::{Status, capture, now, wrong};
use crate::{
    body::Payload,
    config::{self, Config},
    reject::{Reason, Reject},
    route::RouteOptions,
    scheme::{UnixMillis, Verified},
};

/// What to judge.
#[derive(Args)]
pub(super) struct VerifyArguments {
    /// The configuration file.
    #[arg(long, short, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
    /// The route that the request was meant for.
    #[arg(long, value_name = "NAME")]
    route: String,
    /// Judge as of this time (Unix seconds) instead of now.
    #[arg(long, value_name = "UNIX_SECONDS")]
    at: Option<i64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The captured request, `-` for standard input.
    request: PathBuf,
}

/// `sealgate verify`: judges one captured request by the code that judges live ones.
pub(super) fn verify(arguments: &VerifyArguments) -> anyhow::Result<Status> {
    let inputs = config::load(&arguments.config)
        .map_err(anyhow::Error::from)
        .and_then(|(config, _)| route(config, &arguments.route))
        .and_then(|route| Ok((route, capture::read(&arguments.request)?)));
    let (route, (head, body)) = match inputs {
        Ok(inputs) => inputs,
        Err(error) => return Ok(wrong(&error)),
    };
    let now = arguments.at.map_or_else(now, |at| UnixMillis(at.saturating_mul(1000)));
    let payload = Payload::from(body);
    let judged = route.verifier.verify(&head, &payload, now);
    let judged = match judged {
        Ok(verified) if verified.is_stale() => Err(Reason::Stale.into()),
        judged => judged,
    };
    match judged {
        Ok(verified) => {
            accepted(&verified, arguments.json);
            Ok(Status::Done)
        }
        Err(reject) => {
            refused(&reject, arguments.json);
            Ok(Status::Failed)
        }
    }
}

/// Takes a route out of a configuration by its name.
pub(super) fn route(config: Config, name: &str) -> anyhow::Result<RouteOptions> {
    let names: Vec<_> = config.routes.iter().map(|route| route.name.clone()).collect();
    config
        .routes
        .into_iter()
        .find(|route| route.name == name)
        .ok_or_else(|| anyhow!("no route is called {name}"))
        .with_context(|| format!("the routes are: {}", names.join(", ")))
}

fn accepted(verified: &Verified, json: bool) {
    let event = verified.event_id().and_then(|id| id.to_str().ok());
    if json {
        let object = json!({
            "verdict": "accept",
            "scheme": &**verified.scheme(),
            "key": &**verified.key(),
            "event_id": event,
            "age_ms": verified.age(),
        });
        println!("{object}");
    } else {
        println!("authentic: signed with the key {}", verified.key());
        if let Some(event) = event {
            println!("event:     {event}");
        }
        if let Some(age) = verified.age() {
            println!("age:       {:.1} s", age as f64 / 1000.0);
        }
    }
}

fn refused(reject: &Reject, json: bool) {
    let reason = reject.reason().map_or(reject.outcome().label(), |reason| reason.label());
    if json {
        println!("{}", json!({ "verdict": "reject", "reason": reason }));
    } else {
        println!("refused: {reason}");
    }
}
