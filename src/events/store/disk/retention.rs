//! Which events are removed: those that are kept for longer than configured, and, when the store
//! is full, the oldest that need not be kept.

use std::{collections::VecDeque, fmt, time::Duration};

use super::{
    DiskStore,
    command::{EventRemoval, StoreCommand},
    files::EventFiles,
    format::RouteDigest,
    soon,
};
use crate::{
    events::{
        model::{EventId, EventState},
        store::StoreError,
    },
    replay::Millis,
};

/// The states whose events are removed to free space for new ones.
const EVICTABLE: [EventState; 3] = [EventState::Delivered, EventState::Refused, EventState::Failed];

/// The events that are read ahead.
const AHEAD: usize = 256;

/// Finds the oldest events that need not be kept.
#[derive(Debug)]
pub(super) struct Eviction {
    found: VecDeque<EventId>,
    /// Events before this one were found already.
    from: EventId,
    /// Whether there may be events before `from`.
    older: bool,
    /// Whether there may be events at all.
    any: bool,
}

impl Default for Eviction {
    fn default() -> Self {
        Eviction { found: VecDeque::new(), from: EventId(0), older: false, any: true }
    }
}

impl Eviction {
    /// Returns whether an event in this state can be removed to free space.
    pub(super) fn may_evict(state: EventState) -> bool {
        EVICTABLE.contains(&state)
    }

    /// Notes that an event reached such a state.
    pub(super) fn added(&mut self) {
        self.older = true;
        self.any = true;
    }

    /// Returns the next event to be removed, if there is one. Its state must be checked.
    pub(super) fn next(&mut self, files: &EventFiles) -> fjall::Result<Option<EventId>> {
        while self.found.is_empty() && self.any {
            self.read_ahead(files)?;
            if self.found.is_empty() {
                self.any = std::mem::take(&mut self.older);
                self.from = EventId(0);
            }
        }
        Ok(self.found.pop_front())
    }

    fn read_ahead(&mut self, files: &EventFiles) -> fjall::Result<()> {
        let mut found = Vec::new();
        for state in EVICTABLE {
            for route in files.route_digests() {
                let all = files.in_state(state, route, self.from, EventId(u128::MAX));
                for id in all.take(AHEAD) {
                    found.push(id?);
                }
            }
        }
        found.sort_unstable();
        found.truncate(AHEAD);
        if let Some(last) = found.last() {
            self.from = EventId(last.0 + 1);
        }
        self.found = found.into();
        Ok(())
    }
}

/// The events that are removed together: removing more would delay the requests that wait for the
/// same batch.
pub(super) const REMOVED_TOGETHER: usize = 64;

/// Where a search for expired events continues.
type Position = (RouteDigest, EventId);

/// Returns some events that have been in a state since before a time, and where the next ones are.
fn expired(
    files: &EventFiles,
    state: EventState,
    before: Millis,
    from: Option<Position>,
) -> fjall::Result<(Vec<EventId>, Option<Position>)> {
    let mut routes = files.route_digests();
    routes.sort_unstable();
    // No event is in a state earlier than it is received.
    let end = EventId::first_at(before);
    let mut ids = Vec::new();
    for route in routes {
        let first = match from {
            Some((reached, _)) if route < reached => continue,
            Some((reached, first)) if route == reached => first,
            _ => EventId(0),
        };
        if first >= end {
            continue;
        }
        for id in files.in_state_since(state, route, first, end) {
            let (id, since) = id?;
            if since >= before {
                continue;
            }
            if ids.len() == REMOVED_TOGETHER {
                return Ok((ids, Some((route, id))));
            }
            ids.push(id);
        }
    }
    Ok((ids, None))
}

impl DiskStore {
    /// Removes what is kept for longer than configured, and drops removed events from the files.
    pub(super) async fn remove_expired(&self, now: Millis) -> Result<(), StoreError> {
        let keep = |keep: Duration| {
            now.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX))
        };
        let (keep, keep_dead) = (keep(self.retention.keep), keep(self.retention.keep_dead));
        for (state, before) in [
            (EventState::Delivered, keep),
            (EventState::Failed, keep),
            (EventState::Refused, keep),
            (EventState::Dead, keep_dead),
        ] {
            let mut from = None;
            loop {
                let (ids, next) =
                    self.read(move |files| expired(files, state, before, from)).await?;
                if !ids.is_empty() {
                    let removal = EventRemoval { ids, state, before };
                    self.run(soon(), |reply| StoreCommand::Remove(removal, reply)).await?;
                }
                let Some(next) = next else { break };
                from = Some(next);
            }
        }
        if let Some(files) = self.view.to_be_compacted() {
            let compacted = tokio::task::spawn_blocking(move || files.compact()).await;
            let failed = |error: &dyn fmt::Display| {
                StoreError::Unavailable(format!("its files cannot be compacted: {error}").into())
            };
            compacted
                .map_err(|error| failed(&error))?
                .map_err(|error| failed(&crate::database::reason(&error)))?;
        }
        Ok(())
    }
}
