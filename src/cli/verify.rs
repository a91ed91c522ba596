mod keys;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use clap::Args;
use http::request::Parts;

pub(super) use self::report::word;
use self::{keys::KeyArguments, report::Findings};
use super::{
    DEFAULT_CONFIG, Status,
    capture::{self, Captured},
    instant, invalid, load, now, out,
};
use crate::{
    body::Payload,
    diagnose::{NearMiss, RejectedRequest, WorkBudget, diagnose},
    gate,
    metrics::Metrics,
    reject::{Reason, Reject},
    route::{Route, Routes},
    scheme::{Scheme, SchemeGuess, UnixMillis, Verified},
    server::{self, Limits},
};

/// Options of `sealgate verify`.
#[derive(Args)]
pub(super) struct VerifyArguments {
    /// The route of the request; default: the one that its path identifies.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    keys: KeyArguments,
    /// The verification time, in Unix seconds or RFC 3339; default: now.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<UnixMillis>,
    /// Read the body from this file instead of the capture.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The file with the captured request, or `-` for standard input: raw HTTP/1.1, a transcript
    /// of `curl -v`, a curl command or a HAR file.
    request: PathBuf,
}

/// What the gateway would do with a request that it does not reject.
pub(super) enum LiveResult {
    /// Forward it.
    Event(Verified),
    /// Respond to it: the sender tests the URL.
    Challenge,
}

/// `sealgate verify`: decides about one captured request with the code that decides about live
/// ones. For a rejected one, it also reports what would have verified.
pub(super) fn verify(config: &Path, arguments: &VerifyArguments) -> anyhow::Result<Status> {
    let is_bare = arguments.route.is_none() && arguments.keys.scheme.is_none();
    if is_bare && config == Path::new(DEFAULT_CONFIG) && !config.exists() {
        return guess(arguments);
    }
    let inputs = read(config, arguments);
    let (routes, named, limits, mut captured) = match inputs {
        Ok(inputs) => inputs,
        Err(error) => return Ok(invalid(&error)),
    };
    let ruled = server::check_head(&captured.text, &limits)
        .and_then(|()| gate::check_rules(&routes, &captured.head, captured.body.len() as u64));
    let route = match (named, &ruled) {
        (Some(route), _) => Some(route),
        (None, Ok(route)) => Some(Arc::clone(route)),
        (None, Err(_)) => by_path(&routes, &captured.head),
    };
    let Some(route) = route else {
        let reject = ruled.err().unwrap_or(Reject::NoRoute);
        out!("{}", report::without_route(&reject, &routes, &captured.head, arguments.json))?;
        return Ok(Status::Failed);
    };
    let now = arguments.at.unwrap_or_else(now);
    fetch_keys(&route, &captured, now)?;
    let (verdict, payload, is_shortened) = decide_captured(&route, &captured, now);
    if is_shortened {
        let note = "the request is authentic without the newline at the end of the file, which an \
                    editor adds";
        captured.notes.push(note.to_owned());
    }
    let found = match &verdict {
        Ok(_) => Vec::new(),
        Err(reject) => near_misses(&route, &routes, (&captured.head, &payload), now, reject),
    };
    let reason = verdict.as_ref().err().and_then(Reject::reason);
    let explanation =
        reason.and_then(|reason| route.verifier.explain(&captured.head, &payload, reason));
    let findings = Findings {
        rules: ruled.and_then(|live| {
            // Another route than the one that was given.
            if Arc::ptr_eq(&live, &route) { Ok(()) } else { Err(Reject::NoRoute) }
        }),
        verdict,
        explanation,
        details: route.verifier.unverified_details(&captured.head, &payload),
        near_misses: found,
        notes: captured.notes,
        route: &route,
        payload: &payload,
        method: captured.head.method.as_str(),
        path: captured.head.uri.path(),
        now,
    };
    if arguments.json {
        out!("{}\n", findings.object())?;
    } else {
        out!("{}", findings.text())?;
    }
    Ok(if findings.rejection().is_none() { Status::Success } else { Status::Failed })
}

/// Reports which senders' signature headers the request has: there is no configuration to verify it
/// with.
fn guess(arguments: &VerifyArguments) -> anyhow::Result<Status> {
    let captured = match capture::read(&arguments.request, arguments.body.as_deref()) {
        Ok(captured) => captured,
        Err(error) => return Ok(invalid(&error)),
    };
    let guesses = Scheme::guesses(&captured.head.headers);
    for SchemeGuess { scheme, headers } in &guesses {
        let headers: Vec<_> = headers.iter().map(|name| format!("`{name}`")).collect();
        let (name, id) = (scheme.name(), scheme.id());
        out!("this looks like {name} (scheme = \"{id}\"): it has {}\n", headers.join(", "))?;
    }
    let help = match guesses.is_empty() {
        true => "no built-in scheme reads a signature in its headers; `sealgate schemes` lists all",
        false => {
            "pass the scheme and its secret to verify the request: --scheme ID --secret-file FILE"
        }
    };
    Ok(invalid(&anyhow!("there is no {DEFAULT_CONFIG} to verify it with; {help}")))
}

/// Reads the configuration and the capture. The second value is the route that the arguments name.
fn read(
    config: &Path,
    arguments: &VerifyArguments,
) -> anyhow::Result<(Routes, Option<Arc<Route>>, Limits, Captured)> {
    let capture = || capture::read(&arguments.request, arguments.body.as_deref());
    let (config, captured) = match &arguments.keys.scheme {
        None => (load(config)?, None),
        // Its only route has the path of the request.
        Some(id) => {
            let captured = capture()?;
            (arguments.keys.configuration(id, &captured.head.uri)?, Some(captured))
        }
    };
    let limits = config.server.limits;
    let routes = Routes::new(config.routes, &Metrics::new()?);
    let named = arguments.route.as_deref().or(arguments.keys.scheme.as_deref());
    let named = named.map(|name| by_name(&routes, name)).transpose()?;
    Ok((routes, named, limits, captured.map_or_else(capture, Ok)?))
}

fn by_name(routes: &Routes, name: &str) -> anyhow::Result<Arc<Route>> {
    let found = routes.iter().find(|route| *route.name == *name).map(Arc::clone);
    found.ok_or_else(|| {
        let names: Vec<_> = routes.iter().map(|route| &*route.name).collect();
        anyhow!("unknown route `{name}`; the routes are: {}", names.join(", "))
    })
}

/// Returns the route of a request that breaks a rule.
pub(super) fn by_path(routes: &Routes, head: &Parts) -> Option<Arc<Route>> {
    let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    routes.find(&head.uri, host).ok().map(Arc::clone)
}

/// Decides about a captured request as the pipeline does after the rules of HTTP. Also returns the
/// body that this is about, and whether it lacks a newline at the end of the capture.
pub(super) fn decide_captured(
    route: &Route,
    captured: &Captured,
    now: UnixMillis,
) -> (Result<LiveResult, Reject>, Payload, bool) {
    let payload = Payload::from(captured.body.clone());
    let verdict = decide(route, &captured.head, &payload, now);
    if let Some(body) = captured.body.strip_suffix(b"\n").filter(|_| captured.is_open_ended)
        && verdict.is_err()
    {
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        let shorter = Payload::from(captured.body.slice_ref(body));
        if let accepted @ Ok(_) = decide(route, &captured.head, &shorter, now) {
            return (accepted, shorter, true);
        }
    }
    (verdict, payload, false)
}

/// Decides about a request as the pipeline does after the rules of HTTP.
fn decide(
    route: &Route,
    head: &Parts,
    payload: &Payload,
    now: UnixMillis,
) -> Result<LiveResult, Reject> {
    if let Some(response) = route.verifier.challenge(head, payload, now) {
        return response.map(|_| LiveResult::Challenge);
    }
    match route.verifier.verify(head, payload, now)? {
        stale if stale.is_stale() => Err(Reason::Stale.into()),
        verified => Ok(LiveResult::Event(verified)),
    }
}

/// Fetches the published keys of the route's sender, or the one that the request names.
pub(super) fn fetch_keys(
    route: &Route,
    captured: &Captured,
    now: UnixMillis,
) -> anyhow::Result<()> {
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start the runtime")
    };
    if let Some(set) = route.verifier.key_set() {
        let fetched = runtime()?.block_on(set.load());
        return fetched.map_err(|problem| anyhow!("the key set cannot be fetched: {problem}"));
    }
    let Some(keys) = route.verifier.named_keys() else { return Ok(()) };
    keys.set_time(now.0 / 1000);
    let payload = Payload::from(captured.body.clone());
    if let Err(Reject::KeyPending(Some(name))) = decide(route, &captured.head, &payload, now) {
        let fetched = runtime()?.block_on(keys.load(&name));
        return fetched.map_err(|problem| anyhow!("the key cannot be fetched: {problem}"));
    }
    Ok(())
}

fn near_misses(
    route: &Arc<Route>,
    routes: &Routes,
    (head, payload): (&Parts, &Payload),
    now: UnixMillis,
    reject: &Reject,
) -> Vec<NearMiss> {
    let Some(reason) = reject.reason() else { return Vec::new() };
    let others = routes.iter().filter(|other| !Arc::ptr_eq(other, route));
    let others: Vec<_> = others.map(|other| (&*other.name, other.verifier.hypothesis())).collect();
    let route = &route.verifier.hypothesis();
    let case = RejectedRequest { head, payload, now, reason, route, others: &others };
    diagnose(case, WorkBudget::OFFLINE)
}
