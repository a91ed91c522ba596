//! `sealgate events tail`: prints every change of an event as it happens.

use anyhow::Context;
use http_body_util::BodyExt;
use serde_json::Value;

use super::last;
use crate::cli::{
    Status,
    admin_client::{AdminClient, with_query},
    err, out,
    text::{visible, visible_json},
};

/// The most bytes of one change; more is not a stream of events.
const MAX_CHANGE: usize = 1 << 20;

/// Prints changes until the stream ends.
pub(super) async fn tail(
    client: &mut AdminClient,
    route: Option<&str>,
    json: bool,
) -> anyhow::Result<Status> {
    let target = with_query("/api/v1/stream", &[("route", route)]);
    let mut stream = client.stream(&target).await?;
    let mut buffer = Vec::new();
    while let Some(frame) = stream.frame().await {
        let frame = frame.context("the stream ended")?;
        buffer.extend_from_slice(frame.data_ref().map_or(&b""[..], AsRef::as_ref));
        anyhow::ensure!(buffer.len() <= MAX_CHANGE, "the stream has no line ends");
        while let Some(end) = memchr::memchr(b'\n', &buffer) {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data: ") {
                print(&serde_json::from_slice(data)?, json)?;
            }
        }
    }
    err!("error: the gateway ended the stream: it stopped, or the output is read too slowly\n");
    Ok(Status::Failed)
}

fn print(event: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return out!("{}\n", visible_json(&event.to_string()));
    }
    let word = |name: &str| event[name].as_str().map(visible).unwrap_or_default();
    let attempts = event["attempts"].as_u64().unwrap_or(0);
    let (id, state, route, event_id) = (word("id"), word("state"), word("route"), word("event_id"));
    let last = visible(&last(event));
    out!("{id}  {state:<10}  {last:<4}  {attempts:<2}  {route}  {event_id}\n")
}
