//! Which records leave the claim map, and when: those that are over, and, when it is full, those that
//! protect nothing any more.

use super::{
    lines::{Place, Times, Wanted},
    local::Local,
    sync::Ordering,
};
use crate::replay::{
    clock::{Millis, millis},
    disk::Note,
    record::{Key, Record, State, Terms},
};

impl Local {
    /// Takes up a record that a store kept over a restart, even where that makes more of them than
    /// there may be: what is known is not forgotten. Its place in line is the caller's.
    pub(crate) fn restore(&self, key: Key, record: Record, terms: Terms) -> (Times, Place) {
        self.used.fetch_add(1, Ordering::Relaxed);
        match record.state {
            State::Done { .. } => self.metrics.done.inc(),
            State::Failed { .. } => self.metrics.failed.inc(),
        }
        let place = (self.times(&record, terms), Place { key, at: record.touched });
        self.records.insert(key, record);
        place
    }

    /// Puts restored records into their lines.
    pub(crate) fn line_up(&self, mut places: Vec<(Times, Place)>) {
        places.sort_unstable_by_key(|(_, place)| place.at);
        for (times, place) in places {
            self.enqueue(times, place);
        }
    }

    /// The times that decide when a record may leave.
    pub(super) fn times(&self, record: &Record, terms: Terms) -> Times {
        let lives = millis(terms.ttl);
        let protects = match record.state {
            State::Done { .. } | State::Failed { .. } if self.spare_all => 0,
            State::Done { .. } => {
                terms.window.map_or(lives, |window| millis(window).saturating_mul(2).min(lives))
            }
            State::Failed { .. } => lives,
        };
        Times { protects, lives }
    }

    /// Puts a record at the end of its line.
    pub(super) fn enqueue(&self, times: Times, place: Place) {
        if let Some(over) = self.lines.push(times, place) {
            self.let_go(&over, Wanted::Over, place.at);
        }
    }

    /// Takes a slot for one more event; `false` if there is none.
    pub(super) fn reserve(&self) -> bool {
        let room = |used| (used < self.max_entries).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Gives a slot back.
    pub(super) fn release_slot(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a record out; the caller holds the lock of its shard.
    pub(super) fn remove(&self, key: &Key, record: &Record) {
        self.records.invalidate(key);
        if let Some(departures) = &self.departures {
            // An error means that the thread is gone, and the process about to end.
            let _ = departures.send(Note::Forget(*key));
        }
        match record.state {
            State::Done { .. } => self.metrics.done.dec(),
            State::Failed { .. } => self.metrics.failed.dec(),
        }
        self.release_slot();
    }

    /// Gives up one record that protects nothing any more; `false` if there is none.
    pub(super) fn make_room(&self, now: Millis) -> bool {
        while let Some((times, place)) = self.lines.take(Wanted::Spare, now) {
            match self.let_go(&place, Wanted::Spare, now) {
                Left::Gone => return true,
                Left::Superseded => {}
                Left::Needed => {
                    self.lines.put_back(times, place);
                    return false;
                }
            }
        }
        false
    }

    fn let_go(&self, place: &Place, wanted: Wanted, now: Millis) -> Left {
        let shard = self.shard(&place.key);
        if shard.contains_key(&place.key) {
            return Left::Superseded;
        }
        let Some(record) = self.records.get(&place.key) else { return Left::Superseded };
        if record.is_live(now) {
            if record.touched != place.at {
                return Left::Superseded;
            }
            if wanted == Wanted::Over || record.behind {
                return Left::Needed;
            }
        }
        self.remove(&place.key, &record);
        Left::Gone
    }

    /// Lets all records go that are over, and the places in line that no record has any more.
    pub(crate) fn tidy(&self, now: Millis) {
        while let Some((_, place)) = self.lines.take(Wanted::Over, now) {
            self.let_go(&place, Wanted::Over, now);
        }
        if self.lines.len() > 2 * self.used() + 4096 {
            self.lines.compact(|place| {
                self.records.get(&place.key).is_some_and(|record| record.touched == place.at)
            });
        }
        self.records.run_pending_tasks();
    }
}

/// Whether a record left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Gone,
    /// The record is gone already, or stands in line elsewhere.
    Superseded,
    Needed,
}
