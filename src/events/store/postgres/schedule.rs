//! When the database should be queried for due events: regularly, when another process sends a
//! notification, and when this process knows of an event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use super::PostgresEvents;
use crate::replay::Millis;

/// How often the database is asked for the events of a route, in milliseconds, if there are at most
/// [`ROUTES`] routes; with more, less often. Notifications usually come earlier.
const POLL: Millis = 1_000;
const ROUTES: u64 = 50;

/// The pause before the listener connects again.
const RECONNECT: Duration = Duration::from_secs(1);

/// What this process knows about the events of all routes.
#[derive(Debug, Default)]
pub(super) struct DueTimes {
    routes: Mutex<HashMap<Arc<str>, RouteDueTimes>>,
    /// Notified when an event may be due earlier.
    pub(super) changed: Notify,
}

/// What this process knows about the events of a route.
#[derive(Clone, Copy, Debug, Default)]
struct RouteDueTimes {
    /// When the database was last queried.
    asked: Option<Millis>,
    /// When an event that this process knows of is due.
    due: Option<Millis>,
}

impl DueTimes {
    fn routes(&self) -> MutexGuard<'_, HashMap<Arc<str>, RouteDueTimes>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the database should be queried.
    pub(super) fn next_due(&self, route: &Arc<str>) -> Millis {
        let routes = self.routes();
        let RouteDueTimes { asked, due } = routes.get(route).copied().unwrap_or_default();
        let interval = POLL * (routes.len() as u64).div_ceil(ROUTES);
        let next = asked.map_or(0, |asked| asked.saturating_add(interval));
        due.map_or(next, |due| due.min(next))
    }

    /// Notes that an event of the route is due at a time.
    pub(super) fn note(&self, route: &Arc<str>, at: Millis) {
        let mut routes = self.routes();
        let due = &mut routes.entry(Arc::clone(route)).or_default().due;
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            self.changed.notify_waiters();
        }
    }

    /// Notes that the database is about to be queried.
    pub(super) fn ask(&self, route: &Arc<str>, now: Millis) {
        self.routes().insert(Arc::clone(route), RouteDueTimes { asked: Some(now), due: None });
    }

    /// Notes that an event of any route may be due.
    pub(super) fn look_again(&self) {
        self.routes().values_mut().for_each(|route| route.due = Some(0));
        self.changed.notify_waiters();
    }
}

/// Queries the database again whenever another process sends a notification, as long as the store
/// exists.
pub(super) async fn listen(inner: Weak<PostgresEvents>) {
    loop {
        let Some(database) = inner.upgrade().map(|inner| Arc::clone(&inner.database)) else {
            return;
        };
        let notified = || {
            if let Some(inner) = inner.upgrade() {
                inner.schedule.look_again();
            }
        };
        let closed = async {
            while inner.strong_count() > 0 {
                sleep(RECONNECT).await;
            }
        };
        tokio::select! {
            _ = database.listen("sealgate_events", notified) => {}
            () = closed => return,
        }
        sleep(RECONNECT).await;
    }
}
