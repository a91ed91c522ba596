//! `sealgate rehearse`: sends a handler copies, retries after crashes and other rare situations,
//! and reports which events it processes twice or loses.

mod handler;
mod scenes;

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http::Uri;
use serde_json::json;

use self::{
    handler::Handler,
    scenes::{Scene, SceneResult},
};
use super::{
    Status, err, invalid, out,
    sign::{self, SignArguments, inputs, path_of},
};
use crate::{route::RouteOptions, upstream::OriginAddress};

/// Options of `sealgate rehearse`.
#[derive(Args)]
pub(super) struct RehearseArguments {
    /// A shell command that prints how many effects the handler has had so far, such as
    /// `wc -l < events.log` or `sqlite3 shop.db 'SELECT count(*) FROM orders'`.
    #[arg(long, value_name = "COMMAND")]
    count: Option<String>,
    /// The URL of the handler; default: the route's first upstream.
    #[arg(long, value_name = "URL")]
    handler: Option<Uri>,
    /// How long an effect may take to become visible after the response.
    #[arg(long, value_name = "MILLISECONDS", default_value = "500")]
    settle: u64,
    /// Print one JSON object per scene.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sign: SignArguments,
}

/// Plays all scenes with the handler of a route, one after the other. Fails if the handler
/// processes an event twice or loses one.
pub(super) fn rehearse(config: &Path, arguments: &RehearseArguments) -> anyhow::Result<Status> {
    let prepared = inputs(config, &arguments.sign).and_then(|(config, body)| {
        let route = sign::route(config, &arguments.sign.route)?;
        let url = match &arguments.handler {
            Some(url) => url.clone(),
            None => handler_url(&route)?,
        };
        if body.is_empty() {
            bail!("give the file with the body of an event");
        }
        Ok((route, url, body))
    });
    let (route, url, body) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(invalid(&error)),
    };
    let settle = Duration::from_millis(arguments.settle);
    let handler = Handler::new(url.clone(), arguments.count.clone(), settle);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if !arguments.json {
            out!("rehearsing the handler at {url}\n\n")?;
        }
        let stage = scenes::SceneContext { arguments: &arguments.sign, route: &route, body: &body };
        let mut unit = None;
        let mut results = Vec::new();
        for scene in Scene::ALL {
            let result = stage.play(scene, &handler, unit).await?;
            if scene == Scene::One {
                unit = check_first(&result)?;
            }
            if arguments.json {
                out!("{}\n", object(&result))?;
            } else {
                out!("{}", line(&result))?;
            }
            results.push(result);
        }
        let failed: Vec<_> = results.iter().filter(|result| !result.verdict.is_good()).collect();
        if arguments.json {
            return Ok(if failed.is_empty() { Status::Success } else { Status::Failed });
        }
        for result in &failed {
            out!("\n{}: {}\n", result.scene.name(), result.scene.advice())?;
            for request in &result.requests {
                out!("{}\n", request.curl(&url)?)?;
            }
        }
        if arguments.count.is_none() {
            err!(
                "\nnote: without --count, only the responses are known, so an event that was \
                 processed twice is not detected\n"
            );
        }
        if results[0].took > route.answer_within {
            err!(
                "\nnote: the handler took {} ms, longer than `answer_within`: the sender gets 504 \
                 and retries\n",
                results[0].took.as_millis()
            );
        }
        Ok(if failed.is_empty() { Status::Success } else { Status::Failed })
    })
}

/// Returns the effects of one event, which the other scenes are compared with.
fn check_first(result: &SceneResult) -> anyhow::Result<Option<i64>> {
    if !result.statuses.iter().all(|status| (200..300).contains(status)) {
        bail!(
            "the handler responds {} to one ordinary event: fix this first, with the body that its \
             sender sends",
            result.statuses.first().map_or("nothing".to_owned(), ToString::to_string)
        );
    }
    match result.effects {
        Some(effects) if effects <= 0 => Err(anyhow!(
            "--count prints the same number before and after an event: it does not count what the \
             handler does, or the effect takes longer than --settle"
        )),
        effects => Ok(effects),
    }
}

/// Returns the URL at which the gateway calls the handler.
fn handler_url(route: &RouteOptions) -> anyhow::Result<Uri> {
    let origin = route.upstream.origins.first().context("the route has no upstream")?;
    let scheme = match &origin.address {
        OriginAddress::Http { .. } => "http",
        OriginAddress::Https { .. } => "https",
        OriginAddress::Unix(_) => {
            bail!("the upstream is a socket: give the handler's URL with --handler")
        }
    };
    let path = origin.path.as_deref().unwrap_or(path_of(route));
    let url = format!("{scheme}://{}{path}", origin.authority());
    url.parse().with_context(|| format!("`{url}` is not a URL; use --handler"))
}

fn line(result: &SceneResult) -> String {
    let mark = if result.verdict.is_good() { "✓" } else { "✗" };
    let statuses: Vec<_> = result.statuses.iter().map(statuses_text).collect();
    let effects = result.effects.map_or("–".to_owned(), |effects| effects.to_string());
    format!(
        "{mark} {:<34} {:<12} {effects:>3}  {}\n",
        result.scene.name(),
        statuses.join(" "),
        result.verdict.text()
    )
}

/// Formats a status; 0 means that there was no response.
fn statuses_text(status: &u16) -> String {
    if *status == 0 { "–".to_owned() } else { status.to_string() }
}

fn object(result: &SceneResult) -> serde_json::Value {
    json!({
        "scene": result.scene.code(),
        "statuses": result.statuses,
        "effects": result.effects,
        "result": result.verdict.code(),
        "ok": result.verdict.is_good(),
    })
}
