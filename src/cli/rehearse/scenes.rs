//! The situations of a rehearsal, and what a handler should do in each.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::handler::{Handler, HandlerRequest};
use crate::{
    body::Payload,
    cli::{
        now,
        sign::{SignArguments, path_of, signed_with},
    },
    route::RouteOptions,
    scheme::{UnixMillis, Verifier},
};

const POSSIBLE_DUPLICATE: HeaderName = HeaderName::from_static("sealgate-possible-duplicate");

/// One of the situations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    One,
    ConcurrentCopy,
    LateSuccess,
    Crash,
    OutOfOrder,
    UnknownFields,
    SlowSender,
}

impl Scene {
    pub(super) const ALL: [Scene; 7] = [
        Scene::One,
        Scene::ConcurrentCopy,
        Scene::LateSuccess,
        Scene::Crash,
        Scene::OutOfOrder,
        Scene::UnknownFields,
        Scene::SlowSender,
    ];

    pub(super) fn code(self) -> &'static str {
        match self {
            Scene::One => "one_event",
            Scene::ConcurrentCopy => "concurrent_copy",
            Scene::LateSuccess => "retry_after_late_success",
            Scene::Crash => "crash_after_commit",
            Scene::OutOfOrder => "out_of_order",
            Scene::UnknownFields => "unknown_fields",
            Scene::SlowSender => "slow_sender",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Scene::One => "one event",
            Scene::ConcurrentCopy => "a concurrent copy",
            Scene::LateSuccess => "a retry after a late success",
            Scene::Crash => "a crash after the commit, a retry",
            Scene::OutOfOrder => "two events out of order",
            Scene::UnknownFields => "a body with an unknown field",
            Scene::SlowSender => "a slow sender",
        }
    }

    /// Returns when it happens, and what the handler should do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Scene::One => "an ordinary event",
            Scene::ConcurrentCopy => {
                "two replicas forward the same event while their store is unreachable. Insert \
                 Sealgate-Event-Id into a table with a unique key, in the transaction that does the \
                 work. Send both at the same time:"
            }
            Scene::LateSuccess => {
                "the gateway stops waiting, the handler finishes anyway, and the sender retries. \
                 Check Sealgate-Event-Id before the work, and finish when the client is gone:"
            }
            Scene::Crash => {
                "the handler has committed and its response is lost. The retry is marked \
                 Sealgate-Possible-Duplicate: 1. Look the event up before you repeat its work:"
            }
            Scene::OutOfOrder => {
                "a retry overtakes an older event. Do not reject an event because a newer one was \
                 processed, or set delivery = \"async\" and order_by:"
            }
            Scene::UnknownFields => "the sender adds a field. Ignore fields that you do not know:",
            Scene::SlowSender => {
                "the body arrives in pieces. Read it to its end (Content-Length) before you parse \
                 it:"
            }
        }
    }

    /// Returns how many events the scene has.
    fn events(self) -> i64 {
        if self == Scene::OutOfOrder { 2 } else { 1 }
    }
}

/// What the handler did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SceneVerdict {
    Once,
    Repeated,
    Lost,
    /// The handler responded, and nobody counts its effects.
    Unknown,
}

impl SceneVerdict {
    pub(super) fn is_good(self) -> bool {
        matches!(self, SceneVerdict::Once | SceneVerdict::Unknown)
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            SceneVerdict::Once => "once",
            SceneVerdict::Repeated => "twice",
            SceneVerdict::Lost => "lost",
            SceneVerdict::Unknown => "unknown",
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            SceneVerdict::Once => "processed once",
            SceneVerdict::Repeated => "PROCESSED TWICE",
            SceneVerdict::Lost => "LOST",
            SceneVerdict::Unknown => "accepted",
        }
    }
}

/// The result of a scene.
pub(super) struct SceneResult {
    pub(super) scene: Scene,
    /// 0 where there was no response.
    pub(super) statuses: Vec<u16>,
    /// How many effects the scene had.
    pub(super) effects: Option<i64>,
    pub(super) verdict: SceneVerdict,
    pub(super) requests: Vec<HandlerRequest>,
    pub(super) took: Duration,
}

/// What the scenes send.
pub(super) struct SceneContext<'s> {
    pub(super) arguments: &'s SignArguments,
    pub(super) route: &'s RouteOptions,
    pub(super) body: &'s Bytes,
}

impl SceneContext<'_> {
    /// Plays a scene. `unit` is the number of effects of one event, once it is known.
    pub(super) async fn play(
        &self,
        scene: Scene,
        handler: &Handler,
        unit: Option<i64>,
    ) -> anyhow::Result<SceneResult> {
        let before = handler.effects().await?;
        let began = Instant::now();
        let first = self.event(self.body, now())?;
        let (statuses, requests) = match scene {
            Scene::One => (vec![handler.call(&first).await?], vec![first]),
            Scene::ConcurrentCopy => {
                let copy = self.retry(&first)?;
                let (one, two) = tokio::join!(handler.call(&first), handler.call(&copy));
                (vec![one?, two?], vec![first, copy])
            }
            Scene::LateSuccess => {
                handler.call_and_leave(&first).await?;
                let expected = before.zip(unit).map(|(before, unit)| before + unit - 1);
                handler.settled(expected).await?;
                let retry = self.retry(&first)?;
                (vec![0, handler.call(&retry).await?], vec![first, retry])
            }
            Scene::Crash => {
                // The handler has committed when it responds, and nobody reads the response.
                handler.call(&first).await?;
                let mut retry = self.retry(&first)?;
                retry.headers.insert(POSSIBLE_DUPLICATE, HeaderValue::from_static("1"));
                (vec![0, handler.call(&retry).await?], vec![first, retry])
            }
            Scene::OutOfOrder => {
                let newer = self.event(self.body, UnixMillis(now().0 + 1000))?;
                let (late, early) = (handler.call(&newer).await?, handler.call(&first).await?);
                (vec![late, early], vec![newer, first])
            }
            Scene::UnknownFields => {
                let other = self.event(&with_unknown_field(self.body), now())?;
                (vec![handler.call(&other).await?], vec![other])
            }
            Scene::SlowSender => (vec![handler.call_slowly(&first).await?], vec![first]),
        };
        let took = began.elapsed();
        let wanted = unit.unwrap_or(1) * scene.events();
        // One more than expected ends the wait early: the scene has failed then.
        let after = handler.settled(before.map(|before| before + wanted)).await?;
        let effects = after.zip(before).map(|(after, before)| after - before);
        let last = statuses.last().copied().unwrap_or(0);
        let accepted = (200..300).contains(&last);
        let verdict = match effects {
            Some(effects) if unit.is_some() && effects > wanted => SceneVerdict::Repeated,
            Some(effects) if unit.is_some() && effects < wanted => SceneVerdict::Lost,
            Some(_) if accepted => SceneVerdict::Once,
            None if accepted => SceneVerdict::Unknown,
            // A copy may be answered with an error, as long as the event was processed.
            Some(_) if scene == Scene::ConcurrentCopy => SceneVerdict::Once,
            _ => SceneVerdict::Lost,
        };
        Ok(SceneResult { scene, statuses, effects, verdict, requests, took })
    }

    /// Returns a new event as the gateway forwards it.
    fn event(&self, body: &[u8], at: UnixMillis) -> anyhow::Result<HandlerRequest> {
        let body = self.route.verifier.fresh_body(body, at).map_err(|problem| anyhow!(problem))?;
        let given = self.arguments.headers.iter().cloned().collect();
        self.forwarded(given, body.into(), at)
    }

    /// Returns the sender's retry of a request: the same event, signed again.
    fn retry(&self, first: &HandlerRequest) -> anyhow::Result<HandlerRequest> {
        let own = |name: &HeaderName| !is_of_gateway(name);
        let kept: HeaderMap = first
            .headers
            .iter()
            .filter(|(name, _)| own(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let kept = self.route.verifier.retry_headers(&kept);
        self.forwarded(kept, first.body.clone(), now())
    }

    fn forwarded(
        &self,
        given: HeaderMap,
        body: Bytes,
        at: UnixMillis,
    ) -> anyhow::Result<HandlerRequest> {
        let path = path_of(self.route);
        let mut signed = signed_with(self.arguments, self.route, path, given, body, at)?;
        add_gateway_headers(&self.route.verifier, &mut signed.headers, &signed.body, path, at);
        let mut headers = signed.headers;
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("127.0.0.1"));
        Ok(HandlerRequest { method: signed.method, headers, body: signed.body })
    }
}

fn is_of_gateway(name: &HeaderName) -> bool {
    name.as_str().starts_with("sealgate-") || name.as_str().starts_with("x-forwarded-")
}

/// Adds the headers that the gateway adds to a verified request.
fn add_gateway_headers(
    verifier: &Verifier,
    headers: &mut HeaderMap,
    body: &Bytes,
    path: &str,
    at: UnixMillis,
) {
    let request = http::Request::post(path).body(());
    let Ok((mut head, ())) = request.map(http::Request::into_parts) else { return };
    head.headers = headers.clone();
    let Ok(verified) = verifier.verify(&head, &Payload::from(body.clone()), at) else { return };
    if let Ok(scheme) = HeaderValue::from_str(verified.scheme()) {
        headers.insert("sealgate-verified", scheme);
    }
    if let Ok(key) = HeaderValue::from_str(verified.key()) {
        headers.insert("sealgate-key", key);
    }
    if let Some(id) = verified.event_id() {
        headers.insert("sealgate-event-id", id.clone());
    }
}

/// Returns a body with a field that its sender does not send yet.
fn with_unknown_field(body: &[u8]) -> Vec<u8> {
    let field: &[u8] = b"\"sealgateRehearsal\": {\"unknown\": [1, null]}";
    match body.iter().position(|byte| *byte == b'{') {
        Some(open) if body.trim_ascii_start().starts_with(b"{") => {
            let rest = &body[open + 1..];
            let comma: &[u8] = if rest.trim_ascii_start().starts_with(b"}") { b"" } else { b", " };
            [&body[..=open], field, comma, rest].concat()
        }
        _ => [body.trim_ascii_end(), b"&sealgateRehearsal=1"].concat(),
    }
}
