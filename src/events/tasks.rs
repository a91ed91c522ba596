//! The background tasks of the event store.

use std::{sync::Arc, time::Duration};

use super::{Events, overdue::OverdueSearch};
use crate::metrics::EventStoreMetrics;

/// How often the gauges are set and overdue events become dead.
const BACKLOGS: Duration = Duration::from_secs(1);
/// How long changes of other processes are collected; those of this one wake their routes at once.
const COALESCING: Duration = Duration::from_millis(20);
/// How often expired events are removed.
const EXPIRY: Duration = Duration::from_secs(30);
/// How often the leases of attempts in flight are renewed.
const RENEWAL: Duration = Duration::from_secs(5);

impl Events {
    /// Starts the background tasks, which end with the store.
    pub(super) fn start_tasks(&self, metrics: EventStoreMetrics) {
        let stop = self.0.closed.clone();
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = task => {}
                }
            });
        };
        let (service, history) = (Arc::clone(&self.0.service), Arc::clone(&self.0.history));
        spawn(Box::pin(async move { history.write_batches(&service).await }));
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                let leases = service.leases_in_flight();
                if let Err(error) = service.store().renew(&leases).await {
                    tracing::warn!(%error, "cannot renew the leases of attempts");
                }
            }
        }));
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            loop {
                if let Err(error) = service.store().expire(service.now()).await {
                    tracing::warn!(%error, "cannot remove expired events");
                }
                tokio::time::sleep(EXPIRY).await;
            }
        }));
        let events = Arc::downgrade(&self.0);
        spawn(Box::pin(async move {
            let mut search = OverdueSearch::default();
            while let Some(inner) = events.upgrade() {
                Events(inner).follow_backlogs(&metrics, &mut search).await;
                tokio::time::sleep(BACKLOGS).await;
            }
        }));
        let events = Arc::downgrade(&self.0);
        let service = Arc::clone(&self.0.service);
        spawn(Box::pin(async move {
            let mut changed = service.store().due_changed();
            loop {
                changed.await;
                // Created before the routes look, so that no later change is missed.
                changed = service.store().due_changed();
                tokio::time::sleep(COALESCING).await;
                let Some(inner) = events.upgrade() else { return };
                Events(inner).routes().values().for_each(|(route, _)| route.wake());
            }
        }));
    }

    /// Sets the gauges of the store and of the routes, and makes overdue events dead.
    async fn follow_backlogs(&self, metrics: &EventStoreMetrics, search: &mut OverdueSearch) {
        metrics.up.set(self.store().is_up().into());
        metrics.bytes.set(i64::try_from(self.store().bytes()).unwrap_or(i64::MAX));
        let Ok(backlogs) = self.store().backlogs().await else { return };
        let now = self.now();
        let routes: Vec<_> = self.routes().values().map(|(route, _)| Arc::clone(route)).collect();
        for route in &routes {
            let backlog = backlogs.get(&route.name).copied().unwrap_or_default();
            let age = backlog.oldest.map_or(0, |oldest| now.saturating_sub(oldest) / 1000);
            route.set_backlog(backlog, age);
            if let Err(error) = self.give_up(route, backlog, search).await {
                tracing::warn!(route = %route.name, %error, "cannot find overdue events");
            }
        }
    }
}
