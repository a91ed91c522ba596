//! Events whose time (`for`) is over without a last attempt: while the handler cannot be reached,
//! only one event at a time is attempted, and `Retry-After` can defer an attempt beyond that time.

use std::{collections::HashMap, sync::Arc};

use super::{
    Events,
    delivery::DeliveryRoute,
    millis,
    model::{Backlog, EventEntry, EventFilter, EventId, EventState},
    rfc3339,
    store::StoreError,
};
use crate::metrics::AttemptOutcome;

/// The number of events that are read at once, and how often per route and round.
const PAGE: usize = 500;
const PAGES: usize = 10;

/// Where the search for overdue events continues in the next round, by route.
#[derive(Debug, Default)]
pub(super) struct OverdueSearch(HashMap<Arc<str>, EventId>);

impl Events {
    /// Makes overdue events of a route with this backlog dead, except those that the next free slot
    /// attempts a last time.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn give_up(
        &self,
        route: &DeliveryRoute,
        backlog: Backlog,
        search: &mut OverdueSearch,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let received_by = now.saturating_sub(millis(route.options.retry.lasts));
        let mut cursor = search.0.remove(&route.name);
        if backlog.pending == 0 || backlog.oldest.is_none_or(|oldest| oldest > received_by) {
            return Ok(());
        }
        let filter = EventFilter {
            route: Some(Arc::clone(&route.name)),
            state: Some(EventState::Pending),
            since: backlog.oldest,
            until: Some(received_by + 1),
            ..EventFilter::default()
        };
        for _ in 0..PAGES {
            let page = self.store().list(&filter, cursor, PAGE).await?;
            let mut overdue = page.entries;
            overdue.retain(|entry| {
                let is_attempted = entry.next_attempt <= Some(now) && route.is_reachable();
                entry.is_overdue(now) && !is_attempted
            });
            if !overdue.is_empty() {
                for entry in self.store().give_up(overdue, now).await? {
                    self.note_given_up(route, &entry);
                }
                // Successors in the same order may be due now.
                route.wake();
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
        search.0.extend(cursor.map(|cursor| (Arc::clone(&route.name), cursor)));
        Ok(())
    }

    fn note_given_up(&self, route: &DeliveryRoute, entry: &EventEntry) {
        route.metrics.deliveries.attempts(AttemptOutcome::Dead).inc();
        tracing::error!(
            route = %route.name,
            result = AttemptOutcome::Dead.label(),
            id = %entry.id,
            event_id = entry.event_id.as_deref(),
            key = %entry.key,
            attempts = entry.attempts,
            expired = rfc3339(entry.expires),
            "the time of an event is over"
        );
        self.0.service.publish(entry);
    }
}
