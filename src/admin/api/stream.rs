//! `GET /api/v1/stream`: one server-sent event for each change of a stored event.
//!
//! Each stream has a bounded buffer. A reader that does not keep up is disconnected, and nothing
//! else waits for it; it has to list the events again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    time::MissedTickBehavior,
};

use super::{query::Query, view::EventView};
use crate::{
    admin::reply::{AdminBody, CallError, CallResult, content},
    events::{
        Events,
        model::{EventEntry, EventFilter},
    },
};

/// The most concurrent streams: fewer than connections, so that other calls are served.
const MAX_STREAMS: usize = 32;
/// The number of changes that are buffered for a reader, in addition to those that the event store
/// keeps for all readers.
const BUFFER: usize = 256;
/// How long a reader may leave its buffer full.
const STALL: Duration = Duration::from_secs(5);
/// The interval of comments that keep proxies from closing the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Closes the connection of a call, whatever is being written to it.
pub(super) type Disconnect = Box<dyn FnOnce() + Send>;

/// The open streams.
#[derive(Debug)]
pub(super) struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Streams(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

impl Streams {
    /// Opens a stream of the changes that match `route` and `state`.
    ///
    /// # Errors
    /// 400 for a wrong parameter; 503 if there are too many streams.
    pub(super) fn open(
        &self,
        events: &Events,
        query: Option<&str>,
        is_head: bool,
        disconnect: Disconnect,
    ) -> CallResult {
        let filter = Query::parse(query, &["route", "state", "event"])?.filter(0)?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        if !is_head {
            let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
                CallError::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open")
            })?;
            let changes = events.changes();
            tokio::spawn(async move {
                if forward(changes, &filter, sender).await == StreamEnd::TooSlow {
                    tracing::info!("a reader of the event stream was too slow");
                    disconnect();
                }
                drop::<OwnedSemaphorePermit>(permit);
            });
        }
        Ok(content(StatusCode::OK, "text/event-stream", AdminBody::Stream(receiver)))
    }
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    /// The reader is gone, or the gateway stops.
    Closed,
    /// The reader does not read fast enough.
    TooSlow,
}

/// Writes changes and heartbeats to a stream.
async fn forward(
    mut changes: broadcast::Receiver<Arc<EventEntry>>,
    filter: &EventFilter,
    sender: mpsc::Sender<Bytes>,
) -> StreamEnd {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let chunk = tokio::select! {
            changed = changes.recv() => match changed {
                Ok(entry) if matches(filter, &entry) => message(&entry),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(_)) => return StreamEnd::TooSlow,
                Err(broadcast::error::RecvError::Closed) => return StreamEnd::Closed,
            },
            _ = heartbeat.tick() => Bytes::from_static(b": heartbeat\n\n"),
            () = sender.closed() => return StreamEnd::Closed,
        };
        match sender.send_timeout(chunk, STALL).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return StreamEnd::TooSlow,
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return StreamEnd::Closed,
        }
    }
}

fn matches(filter: &EventFilter, entry: &EventEntry) -> bool {
    filter.route.as_ref().is_none_or(|route| *route == entry.route)
        && filter.state.is_none_or(|state| state == entry.state)
        && filter.event_id.as_ref().is_none_or(|id| entry.event_id.as_ref() == Some(id))
}

/// Returns a server-sent event. JSON contains no line end.
fn message(entry: &EventEntry) -> Bytes {
    let json = serde_json::to_string(&EventView::from(entry)).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}
