//! The calls that show and change stored events.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_DISPOSITION, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    query::{InvalidParameter, Query, instant, now, state},
    view::{EventDetails, EventView, RequestView, SecretHeaders, SignedView, raw},
};
use crate::{
    admin::{
        auth::Caller,
        reply::{CallError, CallResult, content, empty, json},
    },
    events::{
        Events,
        model::{EventEntry, EventFilter, EventId, EventState, StoredRequest},
        store::{Redelivery, StoreError},
    },
    gate::Gate,
    reject::Reject,
    scheme::Scheme,
};

/// How many entries are read at once where all that match are needed.
const PAGE: usize = 1000;
/// How many events with one sender's ID are looked at.
const NAMESAKES: usize = 100;
/// The time within which a replay record must be forgotten: an attempt may be in flight.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

/// Access to the stored events.
#[derive(Clone, Copy)]
pub(super) struct EventCalls<'a> {
    pub(super) events: &'a Events,
    pub(super) gate: &'a Gate,
}

/// The body of a redelivery in bulk. The state is required, so that nothing is repeated by mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkRedelivery {
    state: String,
    route: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl From<InvalidParameter> for CallError {
    fn from(error: InvalidParameter) -> Self {
        CallError::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        let unavailable = CallError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        unavailable.with(RETRY_AFTER, HeaderValue::from_static("1"))
    }
}

impl EventCalls<'_> {
    /// `GET /api/v1/events`
    pub(super) async fn list(self, query: Option<&str>) -> CallResult {
        let known = ["route", "state", "event", "since", "until", "limit", "cursor"];
        let query = Query::parse(query, &known)?;
        let filter = query.filter(now())?;
        let page = self.events.store().list(&filter, query.cursor()?, query.limit()?).await?;
        let events: Vec<_> = page.entries.iter().map(EventView::from).collect();
        let next = page.next.map(|id| id.to_string());
        Ok(json(StatusCode::OK, &json!({ "events": events, "next": next })))
    }

    /// `GET /api/v1/events/{id}`. With `body=false`, the body is omitted; with the body, the view
    /// is logged.
    pub(super) async fn show(self, id: &str, query: Option<&str>, caller: &Caller) -> CallResult {
        let query = Query::parse(query, &["route", "body"])?;
        let entry = self.find(id, &query).await?;
        let with_body = query.flag("body", true)?;
        let request = match entry.has_request {
            true => self.events.store().request(entry.id).await?,
            false => None,
        };
        let secret = self.secret_headers(&entry);
        let shown = request.as_ref().map(|request| RequestView::new(request, &secret, with_body));
        if shown.is_some() && with_body {
            caller.audit("view_body", &entry.id.to_string(), &entry.route);
        }
        let signed = request.as_ref().map(|request| self.signed(&entry, request, &secret));
        let signed = signed.unwrap_or_default();
        Ok(json(StatusCode::OK, &EventDetails::new(&entry, signed, shown)))
    }

    /// `GET /api/v1/events/{id}/export`: the request as `sealgate verify` reads it, with its
    /// credentials.
    pub(super) async fn export(self, id: &str, query: Option<&str>, caller: &Caller) -> CallResult {
        caller.must_be_operator()?;
        let entry = self.find(id, &Query::parse(query, &["route"])?).await?;
        let request = self.events.store().request(entry.id).await?.ok_or_else(not_kept)?;
        caller.audit("export", &entry.id.to_string(), &entry.route);
        let body = Bytes::from(raw(&request)).into();
        let mut response = content(StatusCode::OK, "application/octet-stream", body);
        let name = format!("attachment; filename=\"{}.http\"", entry.id);
        // The ID consists of letters and digits.
        if let Ok(name) = HeaderValue::try_from(name) {
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
        }
        Ok(response)
    }

    /// `POST /api/v1/events/{id}/redeliver`
    pub(super) async fn redeliver(
        self,
        id: &str,
        query: Option<&str>,
        caller: &Caller,
    ) -> CallResult {
        let entry = self.find(id, &Query::parse(query, &["route"])?).await?;
        match self.events.redeliver(entry.id).await? {
            Redelivery::Started => {
                caller.audit("redeliver", &entry.id.to_string(), &entry.route);
                Ok(json(StatusCode::ACCEPTED, &json!({ "id": entry.id.to_string() })))
            }
            Redelivery::Unknown => Err(unknown(id)),
            Redelivery::NotKept => Err(not_kept()),
        }
    }

    /// `POST /api/v1/events/{id}/forget`
    pub(super) async fn forget(self, id: &str, query: Option<&str>, caller: &Caller) -> CallResult {
        let entry = self.find(id, &Query::parse(query, &["route"])?).await?;
        // The replay guard first: if it does not forget the event, the event stays as it is.
        if let Some(record) = &entry.record {
            let until = Instant::now() + FORGET_TIMEOUT;
            self.gate.replay().forget(record, until).await.map_err(not_forgotten)?;
        }
        if self.events.forget(entry.id).await?.is_none() {
            return Err(unknown(id));
        }
        caller.audit("forget", &entry.id.to_string(), &entry.route);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// `POST /api/v1/redeliver`: begins an attempt of every event that matches and was kept, those
    /// received first first.
    pub(super) async fn redeliver_all(self, body: &[u8], caller: &Caller) -> CallResult {
        let bulk: BulkRedelivery = serde_json::from_slice(body).map_err(|error| {
            let message = format!(
                "the body must be {{\"state\", \"route\", \"since\", \"until\"}} with at least the \
                 state: {error}"
            );
            CallError::new(StatusCode::BAD_REQUEST, message)
        })?;
        let now = now();
        let time = |name, text: &Option<String>| {
            text.as_deref().map(|text| instant(name, text, now)).transpose()
        };
        let filter = EventFilter {
            route: bulk.route.as_deref().map(Into::into),
            state: Some(state(&bulk.state)?),
            event_id: None,
            since: time("since", &bulk.since)?,
            until: time("until", &bulk.until)?,
        };
        let mut ids = self.matching(&filter).await?;
        ids.reverse();
        let mut redelivered = 0_u64;
        for id in ids {
            redelivered += u64::from(self.events.redeliver(id).await? == Redelivery::Started);
        }
        let route = filter.route.as_deref().unwrap_or("*");
        caller.audit("redeliver", &format!("{redelivered} {} events", bulk.state), route);
        Ok(json(StatusCode::OK, &json!({ "redelivered": redelivered })))
    }

    /// Returns the IDs of all events that match and whose requests are kept, newest first.
    async fn matching(self, filter: &EventFilter) -> Result<Vec<EventId>, StoreError> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.events.store().list(filter, cursor, PAGE).await?;
            ids.extend(page.entries.iter().filter(|entry| entry.has_request).map(|entry| entry.id));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(ids);
            }
        }
    }

    /// Returns the event with this ID: the store's own, or the sender's if one event has it. A
    /// rejected request can claim any ID, so it counts only if no authentic event has it.
    async fn find(self, id: &str, query: &Query) -> Result<EventEntry, CallError> {
        let store = self.events.store();
        if let Ok(id) = id.parse::<EventId>()
            && let Some(entry) = store.entry(id).await?
        {
            return Ok(entry);
        }
        let filter = EventFilter {
            event_id: Some(id.into()),
            route: query.get("route").map(Into::into),
            ..EventFilter::default()
        };
        let page = store.list(&filter, None, NAMESAKES).await?;
        let is_refused = |entry: &EventEntry| entry.state == EventState::Refused;
        let (refused, authentic): (Vec<_>, Vec<_>) = page.entries.into_iter().partition(is_refused);
        let mut found = if authentic.is_empty() { refused } else { authentic };
        match (found.pop(), found.len()) {
            (None, _) => Err(unknown(id)),
            (Some(entry), 0) => Ok(entry),
            (Some(_), others) => {
                let message = format!(
                    "{} events have this ID: use an ID of the store, or `route`",
                    others + 1
                );
                Err(CallError::new(StatusCode::CONFLICT, message))
            }
        }
    }

    /// Returns what the signature of an event's request covers, if its route has the same scheme
    /// still.
    fn signed(
        self,
        entry: &EventEntry,
        request: &StoredRequest,
        secret: &SecretHeaders,
    ) -> SignedView {
        let site = self.gate.site.load();
        let own = site.routes.iter().find(|route| {
            route.name == entry.route && route.verifier.scheme().id() == &*entry.scheme
        });
        own.map_or_else(SignedView::default, |own| SignedView::new(&own.verifier, request, secret))
    }

    /// Returns the headers of an event's request that must not be shown.
    fn secret_headers(self, entry: &EventEntry) -> SecretHeaders {
        let site = self.gate.site.load();
        let configured = site.routes.iter().map(|route| route.verifier.scheme());
        let own = configured.into_iter().find(|scheme| scheme.id() == &*entry.scheme);
        match own {
            Some(scheme) => SecretHeaders::of(Some(scheme)),
            None => SecretHeaders::of(Scheme::builtin(&entry.scheme).as_deref()),
        }
    }
}

/// Returns the error for an ID from the address, which anyone may have made up: what is special in
/// a page or a terminal is not repeated.
fn unknown(id: &str) -> CallError {
    let is_plain = |c: &char| c.is_ascii_graphic() && !"<>&'\"\\".contains(*c);
    let shown: String = id.chars().filter(is_plain).collect();
    CallError::not_found(format!("no event has the ID {shown}"))
}

fn not_kept() -> CallError {
    let message = "the request was not kept: see `history` in the route's configuration";
    CallError::new(StatusCode::CONFLICT, message)
}

/// Returns the error of a replay guard that cannot forget an event.
fn not_forgotten(reject: Reject) -> CallError {
    let status = match reject {
        Reject::InFlight => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    CallError::new(status, reject.to_string())
}
