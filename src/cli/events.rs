//! `sealgate events`: lists, shows and changes the events of the running gateway.

mod secrets;
mod show;
mod tail;

use std::path::Path;

use anyhow::Context;
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::{
    Status,
    admin_client::{AdminAddress, AdminClient, CallFailed, event_target, with_query},
    err, invalid, now, out,
    text::{span, table, visible, visible_json},
};
use crate::{document::parse_duration, events::model::EventState, scheme::UnixMillis};

/// Options of `sealgate events`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct EventsArguments {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Subcommand)]
enum EventsCommand {
    /// List events, newest first (default).
    List(ListArguments),
    /// Show one event with its attempts.
    Show {
        /// The ID of the store, or the sender's event ID.
        id: String,
        /// Show the body too; the gateway logs this.
        #[arg(long)]
        body: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the raw request with its credentials, as `verify` reads it; the gateway logs this.
    Export {
        /// The ID of the store, or the sender's event ID.
        id: String,
    },
    /// Deliver events again.
    Redeliver(RedeliverArguments),
    /// Forget events: the next copy from the sender counts as new. Deletes pending and dead events.
    Forget {
        /// IDs of the store, or the sender's event IDs.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Print every change as it happens.
    Tail {
        /// Only of this route.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show when each secret was last used, to know when an old one can be removed.
    Secrets {
        /// Only of this route.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct ListArguments {
    /// Only of this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only in this state.
    #[arg(long, value_parser = states())]
    state: Option<String>,
    /// Only with this event ID of the sender.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only received since this time: a duration before now (1h) or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<String>,
    /// Only received before this time.
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<String>,
    /// The most events.
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RedeliverArguments {
    /// IDs of the store, or the sender's event IDs.
    #[arg(required_unless_present = "state", conflicts_with_all = ["state", "route", "since", "until"])]
    ids: Vec<String>,
    /// All events in this state.
    #[arg(long, value_parser = states())]
    state: Option<String>,
    /// With --state: only of this route.
    #[arg(long, value_name = "NAME", requires = "state")]
    route: Option<String>,
    /// With --state: only received since this time: a duration before now (1h) or RFC 3339.
    #[arg(long, value_name = "TIME", requires = "state", value_parser = since)]
    since: Option<String>,
    /// With --state: only received before this time.
    #[arg(long, value_name = "TIME", requires = "state", value_parser = since)]
    until: Option<String>,
}

fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(EventState::ALL.map(EventState::label))
}

/// Checks a time, which the gateway interprets.
fn since(text: &str) -> Result<String, String> {
    if parse_duration(text).is_none() {
        let expected = "write a duration before now (1h) or RFC 3339 (2025-09-18T08:33:11Z)";
        super::rfc3339(text).ok_or(expected)?;
    }
    Ok(text.to_owned())
}

/// Runs a command against the gateway that runs with a configuration.
pub(super) fn events(config: &Path, arguments: EventsArguments) -> anyhow::Result<Status> {
    let address = match AdminAddress::of(config) {
        Ok(address) => address,
        Err(error) => return Ok(invalid(&error)),
    };
    let command = arguments.command.unwrap_or(EventsCommand::List(arguments.list));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let mut client = AdminClient::connect(&address).await?;
        match command {
            EventsCommand::List(arguments) => list(&mut client, &arguments).await,
            EventsCommand::Show { id, body, json } => {
                show::show(&mut client, &id, body, json).await
            }
            EventsCommand::Export { id } => show::export(&mut client, &id).await,
            EventsCommand::Redeliver(arguments) => redeliver(&mut client, &arguments).await,
            EventsCommand::Forget { ids } => each(&mut client, &ids, "/forget", "forgotten").await,
            EventsCommand::Tail { route, json } => {
                tail::tail(&mut client, route.as_deref(), json).await
            }
            EventsCommand::Secrets { route, json } => {
                secrets::secrets(&mut client, route.as_deref(), json).await
            }
        }
    })
}

async fn list(client: &mut AdminClient, arguments: &ListArguments) -> anyhow::Result<Status> {
    let (mut rows, now) = (Vec::new(), now());
    let mut missing = arguments.limit;
    let mut cursor: Option<String> = None;
    while missing > 0 {
        let target = with_query(
            "/api/v1/events",
            &[
                ("route", arguments.route.as_deref()),
                ("state", arguments.state.as_deref()),
                ("event", arguments.event.as_deref()),
                ("since", arguments.since.as_deref()),
                ("until", arguments.until.as_deref()),
                ("limit", Some(&missing.min(1000).to_string())),
                ("cursor", cursor.as_deref()),
            ],
        );
        let page = client.json(&target).await?;
        let found = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        for event in found {
            match arguments.json {
                true => out!("{}\n", visible_json(&event.to_string()))?,
                false => rows.push(row(event, now)),
            }
        }
        missing = missing.saturating_sub(found.len() as u64);
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if !rows.is_empty() {
        let heading = ["ID", "AGE", "STATE", "TRY", "LAST", "ROUTE", "EVENT"];
        out!("{}", table(&heading, &rows, &[4, 5, 6]))?;
    } else if !arguments.json {
        err!("no events\n");
    }
    Ok(Status::Success)
}

/// Returns an event as a row of the table.
fn row(event: &Value, now: UnixMillis) -> Vec<String> {
    let text = |name: &str| event[name].as_str().unwrap_or("").to_owned();
    let age = super::rfc3339(&text("received")).map(|at| span((now.0 - at.0) / 1000));
    let next = super::rfc3339(&text("next_attempt")).map(|at| span((at.0 - now.0) / 1000));
    let state = match next {
        Some(next) => format!("{} {next}", text("state")),
        None => text("state"),
    };
    let attempts = event["attempts"].as_u64().unwrap_or(0).to_string();
    let age = age.unwrap_or_default();
    vec![text("id"), age, state, attempts, last(event), text("route"), text("event_id")]
}

/// Returns the result of the last attempt, or why the request was rejected.
fn last(event: &Value) -> String {
    let status = event["last_status"].as_u64().map(|status| status.to_string());
    let word = |name: &str| event[name].as_str().map(str::to_owned);
    word("reason").or(word("last_error")).or(status).unwrap_or_else(|| "-".to_owned())
}

async fn redeliver(
    client: &mut AdminClient,
    arguments: &RedeliverArguments,
) -> anyhow::Result<Status> {
    let Some(state) = &arguments.state else {
        return each(client, &arguments.ids, "/redeliver", "redelivered").await;
    };
    let body = json!({
        "state": state,
        "route": arguments.route,
        "since": arguments.since,
        "until": arguments.until,
    });
    let response = client.post("/api/v1/redeliver", Some(&body)).await?;
    let response: Value = serde_json::from_slice(&response)?;
    out!("{} redelivered\n", response["redelivered"])?;
    Ok(Status::Success)
}

/// Changes each event, and continues after one that cannot be changed.
async fn each(
    client: &mut AdminClient,
    ids: &[String],
    action: &str,
    done: &str,
) -> anyhow::Result<Status> {
    let mut status = Status::Success;
    for id in ids {
        match client.post(&event_target(id, action), None).await {
            Ok(_) => out!("{} {done}\n", visible(id))?,
            Err(error) if error.is::<CallFailed>() => {
                err!("error: {}: {error}\n", visible(id));
                status = Status::Failed;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(status)
}
