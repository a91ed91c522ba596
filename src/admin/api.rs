//! The admin API: JSON below `/api/v1`.

mod events;
mod query;
mod routes;
mod stream;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use http_body::Body;

use self::{
    events::EventCalls,
    query::path_part,
    stream::{Disconnect, Streams},
};
use super::{
    auth::{BoxError, Caller, read},
    last_hour::LastHour,
    reply::{CallError, CallResult},
};
use crate::{events::Events, gate::Gate};

/// The API with what it shows and changes.
pub(super) struct Api {
    gate: Arc<Gate>,
    streams: Streams,
    last_hour: LastHour,
}

impl Api {
    /// Returns the API of a gateway.
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Api { gate, streams: Streams::default(), last_hour: LastHour::default() }
    }

    /// Begins a slot of the last hour's counts.
    pub(super) fn begin_slot(&self) {
        let site = self.gate.site.load();
        self.last_hour.begin_slot(site.routes.iter().map(|route| (&route.name, &*route.metrics)));
    }

    /// Responds to an authorized call of a path below `/api/v1/`.
    ///
    /// # Errors
    /// Those of the calls; 404 for an unknown path; 405.
    pub(super) async fn call<B>(
        &self,
        head: &Parts,
        path: &str,
        body: B,
        caller: &Caller,
        disconnect: Disconnect,
    ) -> CallResult
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let parts: Vec<&str> = path.split('/').collect();
        let (is_read, is_post) = (head.method.is_safe(), head.method == Method::POST);
        let query = head.uri.query();
        match (parts.as_slice(), is_read, is_post) {
            (["session"], true, _) => Ok(caller.describe()),
            (["routes"], true, _) => routes::list(&self.gate, &self.last_hour).await,
            (["stream"], true, _) => {
                self.streams.open(self.events()?, query, head.method == Method::HEAD, disconnect)
            }
            (["events"], true, _) => self.calls()?.list(query).await,
            (["redeliver"], _, true) => {
                let body = read(body).await?;
                self.calls()?.redeliver_all(&body, caller).await
            }
            (["events", id, action @ ..], ..) => {
                let Some(id) = path_part(id) else { return Err(unknown_path()) };
                match (action, is_read, is_post) {
                    ([], true, _) => self.calls()?.show(&id, query, caller).await,
                    (["export"], true, _) => self.calls()?.export(&id, query, caller).await,
                    (["redeliver"], _, true) => self.calls()?.redeliver(&id, query, caller).await,
                    (["forget"], _, true) => self.calls()?.forget(&id, query, caller).await,
                    ([] | ["export"], ..) => Err(CallError::method("GET, HEAD")),
                    (["redeliver" | "forget"], ..) => Err(CallError::method("POST")),
                    _ => Err(unknown_path()),
                }
            }
            (["session" | "routes" | "events" | "stream"], ..) => {
                Err(CallError::method("GET, HEAD"))
            }
            (["redeliver"], ..) => Err(CallError::method("POST")),
            _ => Err(unknown_path()),
        }
    }

    fn events(&self) -> Result<&Events, CallError> {
        self.gate.events().ok_or_else(|| {
            CallError::not_found("no events are kept: the configuration has no [events]")
        })
    }

    fn calls(&self) -> Result<EventCalls<'_>, CallError> {
        Ok(EventCalls { events: self.events()?, gate: &self.gate })
    }
}

fn unknown_path() -> CallError {
    CallError::new(StatusCode::NOT_FOUND, "not found")
}
