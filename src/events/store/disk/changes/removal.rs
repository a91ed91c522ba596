//! The removal of events: by an operator, because they expired, or to free space.

use super::EventChanges;
use crate::events::{
    model::{EventEntry, EventId, EventState},
    store::disk::{
        command::EventRemoval,
        retention::{Eviction, REMOVED_TOGETHER},
    },
};

/// The share of `max_bytes` that is kept free for large events, as its inverse.
const RESERVE: u64 = 64;

impl EventChanges {
    pub(super) fn forget(&mut self, id: EventId) -> fjall::Result<Option<EventEntry>> {
        let Some(old) = self.get(id)? else { return Ok(None) };
        match old.entry.state {
            EventState::Pending | EventState::Dead => self.delete(&old),
            _ => {
                if let Some(record) = old.entry.record {
                    self.remove_record(&old.entry.route, record);
                    let mut new = old.clone();
                    new.entry.record = None;
                    self.write(Some(&old), new);
                }
            }
        }
        Ok(Some(old.entry))
    }

    pub(super) fn remove(&mut self, removal: &EventRemoval) -> fjall::Result<()> {
        for id in &removal.ids {
            if let Some(stored) = self.get(*id)?
                && stored.entry.state == removal.state
                && stored.since < removal.before
            {
                self.delete(&stored);
            }
        }
        Ok(())
    }

    /// Removes events that need not be kept, oldest first, until there is enough space.
    pub(super) fn make_room(&mut self, bytes: u64) -> fjall::Result<bool> {
        while self.totals.bytes.saturating_add(bytes) > self.retention.max_bytes {
            if !self.evict()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes a few of these events if the store is nearly full, so that the command of a large
    /// event need not remove many small ones at once.
    pub(in crate::events::store::disk) fn make_reserve(&mut self) -> fjall::Result<()> {
        let max_bytes = self.retention.max_bytes;
        for _ in 0..REMOVED_TOGETHER {
            if self.totals.bytes <= max_bytes - max_bytes / RESERVE || !self.evict()? {
                break;
            }
        }
        Ok(())
    }

    /// Removes the oldest event that need not be kept. Returns whether there may be more.
    fn evict(&mut self) -> fjall::Result<bool> {
        let Some(id) = self.eviction.next(&self.files)? else { return Ok(false) };
        if let Some(stored) = self.get(id)?
            && Eviction::may_evict(stored.entry.state)
        {
            self.delete(&stored);
        }
        Ok(true)
    }
}
