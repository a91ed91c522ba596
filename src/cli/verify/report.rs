//! What `verify` prints, for people and as JSON.

use std::fmt::Write;

use http::request::Parts;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::LiveResult;
use crate::{
    body::Payload,
    diagnose::NearMiss,
    reject::Reject,
    route::{Mode, Route, Routes},
    scheme::{UnixMillis, UnverifiedDetails, Verifier},
};

/// What is known about a captured request.
pub(super) struct Findings<'f> {
    /// What the rules of HTTP and the route say, apart from the signature.
    pub(super) rules: Result<(), Reject>,
    pub(super) verdict: Result<LiveResult, Reject>,
    /// Which part of a request that is not authentic is at fault.
    pub(super) explanation: Option<String>,
    pub(super) details: UnverifiedDetails,
    pub(super) near_misses: Vec<NearMiss>,
    pub(super) notes: Vec<String>,
    pub(super) route: &'f Route,
    pub(super) payload: &'f Payload,
    pub(super) method: &'f str,
    pub(super) path: &'f str,
    pub(super) now: UnixMillis,
}

const NO_NEAR_MISS: &str = "diagnosis: none\n  Nothing that was tried would have verified. Usual \
    causes: another secret than the sender's (an old one, one of another webhook or of the test \
    mode), or a forged request.\n";

impl Findings<'_> {
    /// Returns why the request is rejected. That it is not authentic comes first.
    pub(super) fn rejection(&self) -> Option<&Reject> {
        self.verdict.as_ref().err().or(self.rules.as_ref().err())
    }

    /// Returns one JSON object.
    pub(super) fn object(&self) -> Value {
        let mut object = match (&self.verdict, self.rejection()) {
            (_, Some(reject)) => json!({
                "verdict": "reject",
                "reason": word(reject),
                "key": self.details.key,
                "event_id": self.details.event_id,
                "diagnosis": self.near_misses.iter()
                    .map(|near| json!({ "code": near.code(), "text": near.text() }))
                    .collect::<Vec<_>>(),
            }),
            (Ok(LiveResult::Event(verified)), None) => json!({
                "verdict": "accept",
                "scheme": &**verified.scheme(),
                "key": &**verified.key(),
                "event_id": verified.event_id().and_then(|id| id.to_str().ok()),
                "age_ms": verified.age(),
            }),
            (_, None) => json!({ "verdict": "accept", "challenge": true }),
        };
        object["route"] = json!(&*self.route.name);
        object["timestamp"] = json!(self.details.timestamp.and_then(instant));
        if let Some((status, cause)) = self.live() {
            object["status"] = json!(status);
            object["cause"] = json!(cause);
        }
        if !self.notes.is_empty() {
            object["notes"] = json!(self.notes);
        }
        object
    }

    /// Returns several lines of text.
    pub(super) fn text(&self) -> String {
        let mut text = match (self.rejection(), &self.verdict) {
            (Some(reject), _) => format!("rejected: {}\n", word(reject)),
            (None, Ok(LiveResult::Challenge)) => {
                "authentic\n  kind       a challenge, to which the gateway responds\n".to_owned()
            }
            (None, _) => "authentic\n".to_owned(),
        };
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<11}{value}");
        };
        for note in &self.notes {
            line("note", note);
        }
        if let Some(reason) = self.verdict.as_ref().err().and_then(Reject::reason) {
            line("reason", reason.meaning());
        }
        if let Some(explanation) = &self.explanation {
            line("cause", explanation);
        }
        if let Some((status, cause)) = self.live() {
            line("live", &format!("{status}: {cause}"));
        }
        if self.route.mode == Mode::Observe {
            line("mode", "observe: live traffic is forwarded, whatever the verdict");
        }
        let verifier = &self.route.verifier;
        line("route", &self.route.name);
        line("scheme", verifier.scheme().id());
        let key = match &self.verdict {
            Ok(LiveResult::Event(verified)) => Some(&**verified.key()),
            _ => self.details.key.as_deref(),
        };
        line("key", &known(key.unwrap_or("none is named"), verifier, key));
        line("event id", self.details.event_id.as_deref().unwrap_or("none"));
        if let Some(sent) = self.details.timestamp
            && let Some(instant) = instant(sent)
        {
            let age = self.now.0.saturating_sub(sent.0) as f64 / 1000.0;
            let relation = if age < 0.0 { "ahead" } else { "old" };
            line("timestamp", &format!("{instant}, {:.1} s {relation}", age.abs()));
        } else {
            line("timestamp", "none");
        }
        if let Some(message) = verifier.scheme().message_notation() {
            line("signed", &message);
        }
        let digest = data_encoding::HEXLOWER.encode(self.payload.sha256());
        line("body", &format!("{} bytes, SHA-256 {digest}", self.payload.len()));
        if self.verdict.is_ok() && self.rules.is_err() {
            line("signature", "verifies: the request is authentic");
        }
        if self.verdict.is_err() {
            text.push('\n');
            for near_miss in &self.near_misses {
                let _ = writeln!(text, "diagnosis: {}\n  {}", near_miss.code(), near_miss.text());
            }
            if self.near_misses.is_empty() {
                text.push_str(NO_NEAR_MISS);
            }
        }
        text
    }

    /// Returns the status that live traffic would get, and why, if the request is rejected.
    fn live(&self) -> Option<(u16, String)> {
        let reject = self.rules.as_ref().err().or(self.verdict.as_ref().err())?;
        let status = reject.status(self.route.unauthorized()).as_u16();
        let cause = match reject {
            Reject::NoRoute => {
                format!("the path {} does not lead to the route `{}`", self.path, self.route.name)
            }
            Reject::Method(allowed) => {
                format!("the method is {}, but the route accepts {allowed}", self.method)
            }
            Reject::BodyTooLarge => format!(
                "the body has {} bytes, but the route accepts at most {}",
                self.payload.len(),
                self.route.body.bytes
            ),
            other => match (&self.explanation, other.reason()) {
                (Some(explanation), Some(_)) => explanation.clone(),
                (None, Some(reason)) => reason.meaning().to_owned(),
                (_, None) => other.to_string(),
            },
        };
        Some((status, cause))
    }
}

/// Formats the verdict about a request that leads to no route.
pub(super) fn without_route(reject: &Reject, routes: &Routes, head: &Parts, json: bool) -> String {
    let status = reject.status(http::StatusCode::UNAUTHORIZED).as_u16();
    let cause = match reject {
        Reject::NoRoute => {
            let names: Vec<_> = routes.iter().map(|route| &*route.name).collect();
            let path = head.uri.path();
            format!("no route serves {path}; --route names one of: {}", names.join(", "))
        }
        other => other.to_string(),
    };
    let word = word(reject);
    if json {
        let object =
            json!({ "verdict": "reject", "reason": word, "status": status, "cause": cause });
        return format!("{object}\n");
    }
    format!("rejected: {word}\n  {:<11}{status}: {cause}\n", "live")
}

/// Returns the reason why a request was rejected, as a word.
pub(crate) fn word(reject: &Reject) -> &'static str {
    match reject {
        Reject::NoRoute => "no_route",
        Reject::Method(_) => "method",
        Reject::ContentEncoding => "content_encoding",
        Reject::BodyTooLarge => "body_too_large",
        Reject::HeadTooLarge => "head_too_large",
        Reject::BadRequest(_) => "bad_request",
        other => other.reason().map_or(other.outcome().label(), |reason| reason.label()),
    }
}

fn known(text: &str, verifier: &Verifier, key: Option<&str>) -> String {
    let configured = key.is_none_or(|key| verifier.keys().any(|known| known == key));
    if configured { text.to_owned() } else { format!("{text} (not configured)") }
}

/// Formats an instant in RFC 3339; `None` if its year is out of range.
fn instant(at: UnixMillis) -> Option<String> {
    let nanos = i128::from(at.0).checked_mul(1_000_000)?;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}
