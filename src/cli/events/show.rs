//! `sealgate events show` and `export`.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
};

use serde_json::Value;

use crate::{
    cli::{
        Status,
        admin_client::{AdminClient, event_target},
        now, out,
        output::print_bytes,
        rfc3339,
        text::{span, visible, visible_json, visible_lines},
    },
    scheme::UnixMillis,
};

/// Prints one event.
pub(super) async fn show(
    client: &mut AdminClient,
    id: &str,
    body: bool,
    json: bool,
) -> anyhow::Result<Status> {
    let event = client.json(&event_target(id, &format!("?body={body}"))).await?;
    if json {
        out!("{}\n", visible_json(&event.to_string()))?;
    } else {
        out!("{}", text(&event, now()))?;
    }
    Ok(Status::Success)
}

/// Prints the raw request of an event. On a terminal, it is escaped.
pub(super) async fn export(client: &mut AdminClient, id: &str) -> anyhow::Result<Status> {
    let raw = client.get(&event_target(id, "/export")).await?;
    if stdout().is_terminal() {
        out!("{}\n", visible_lines(&String::from_utf8_lossy(&raw)))?;
    } else {
        print_bytes(&raw)?;
    }
    Ok(Status::Success)
}

/// Returns an event as text for people.
fn text(event: &Value, now: UnixMillis) -> String {
    let mut text = String::new();
    let word = |value: &Value| value.as_str().map(visible);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<10}{value}");
        }
    };
    line("id", word(&event["id"]));
    line("event id", word(&event["event_id"]));
    line("route", word(&event["route"]));
    line("scheme", word(&event["scheme"]));
    let position = event["secret"].as_u64().map(|secret| format!(", secret {secret}"));
    let key = word(&event["key"]).filter(|key| !key.is_empty());
    line("key", key.map(|key| key + &position.unwrap_or_default()));
    line("state", word(&event["state"]));
    line("received", word(&event["received"]).map(|at| relative(at, now)));
    line("next", word(&event["next_attempt"]).map(|at| relative(at, now)));
    line("body", event["bytes"].as_u64().map(|bytes| format!("{bytes} bytes")));
    let mark = |name: &str, text: &str| {
        event[name].as_bool().is_some_and(|is| is).then(|| text.to_owned())
    };
    line(
        "note",
        mark("possible_duplicate", "an attempt may have reached the handler without a response"),
    );
    line("note", mark("redelivery", "an operator asked for the last attempts"));
    line("rejected", word(&event["reason"]));
    line("diagnosis", word(&event["diagnosis"]));
    line("network", word(&event["network"]));
    attempts(&mut text, event, now);
    request(&mut text, &event["request"]);
    text
}

fn attempts(text: &mut String, event: &Value, now: UnixMillis) {
    let log = event["log"].as_array().map(Vec::as_slice).unwrap_or_default();
    if log.is_empty() {
        return;
    }
    text.push_str("\nattempts\n");
    let total = event["attempts"].as_u64().unwrap_or(0);
    // The log keeps the newest ones; an attempt in flight is not in it yet.
    let in_flight = u64::from(event["state"] == "delivering");
    let first = (total - in_flight.min(total)).saturating_sub(log.len() as u64) + 1;
    for (number, attempt) in (first..).zip(log) {
        let at = attempt["at"].as_str().map(visible).unwrap_or_default();
        let status = attempt["status"].as_u64().map(|status| status.to_string());
        let error = attempt["error"].as_str().map(visible);
        let result = status.into_iter().chain(error).collect::<Vec<_>>().join(" ");
        let duration = attempt["duration_ms"].as_u64().unwrap_or(0);
        let resigned = if attempt["resigned"] == true { ", signed again" } else { "" };
        let at = relative(at, now);
        let _ = writeln!(text, "  {number:<3}{at}: {result} after {duration} ms{resigned}");
    }
}

fn request(text: &mut String, request: &Value) {
    if !request.is_object() {
        return;
    }
    let word = |value: &Value| value.as_str().map(visible).unwrap_or_default();
    let _ = writeln!(text, "\n{} {}", word(&request["method"]), word(&request["path"]));
    for header in request["headers"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let _ = writeln!(text, "{}: {}", word(&header[0]), word(&header[1]));
    }
    let Some(body) = request["body"].as_str() else { return };
    let pretty = serde_json::from_str::<Value>(body).and_then(|v| serde_json::to_string_pretty(&v));
    let shown = match (request["encoding"] == "base64", pretty) {
        (true, _) => format!("(base64) {}", visible(body)),
        (false, Ok(pretty)) => visible_lines(&pretty),
        (false, Err(_)) => visible_lines(body),
    };
    let _ = writeln!(text, "\n{shown}");
}

/// Adds to a time how long ago it was, or when it will be.
fn relative(at: String, now: UnixMillis) -> String {
    match rfc3339(&at) {
        Some(UnixMillis(then)) if then > now.0 => {
            format!("{at} (in {})", span((then - now.0) / 1000))
        }
        Some(UnixMillis(then)) => format!("{at} ({} ago)", span((now.0 - then) / 1000)),
        None => at,
    }
}
