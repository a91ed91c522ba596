//! Who may leave: for every record the time from which it protects nothing any more, in order.
//!
//! Records that share their times stand in one line, oldest first, so that finding one that may
//! leave looks at the head of each line only. There are as many lines as different times in the
//! configuration. A record that was touched again stands in its line once more; its older place
//! is recognised by its time and skipped.

use std::collections::VecDeque;

use super::sync::{Mutex, lock};
use crate::replay::{clock::Millis, record::Key};

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Key,
    /// When the record was touched.
    pub(crate) at: Millis,
}

/// The times that the records of a line share, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// A record that was touched longer ago may be given up when the guard is full.
    pub(crate) protects: Millis,
    /// A record that was touched so long ago is over.
    pub(crate) lives: Millis,
}

/// Which places are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Records that are over.
    Over,
    /// Also records that may be given up.
    Spare,
}

#[derive(Debug)]
struct Line {
    times: Times,
    places: VecDeque<Place>,
}

impl Line {
    fn take_due(&mut self, wanted: Wanted, now: Millis) -> Option<Place> {
        let at = self.places.front()?.at;
        let over = at.saturating_add(self.times.lives) <= now;
        let spare = wanted == Wanted::Spare && at.saturating_add(self.times.protects) < now;
        if over || spare { self.places.pop_front() } else { None }
    }
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Vec<Line>>);

impl Lines {
    /// Puts a record at the end of its line, and takes from the line's head what is over.
    pub(crate) fn push(&self, times: Times, place: Place) -> Option<Place> {
        let mut lines = lock(&self.0);
        let index = match lines.iter().position(|line| line.times == times) {
            Some(index) => index,
            None => {
                lines.retain(|line| !line.places.is_empty());
                lines.push(Line { times, places: VecDeque::new() });
                lines.len() - 1
            }
        };
        let line = &mut lines[index];
        line.places.push_back(place);
        line.take_due(Wanted::Over, place.at)
    }

    /// Takes the place of one record that is over or, if wanted so, may be given up.
    pub(crate) fn take(&self, wanted: Wanted, now: Millis) -> Option<(Times, Place)> {
        lock(&self.0)
            .iter_mut()
            .find_map(|line| line.take_due(wanted, now).map(|place| (line.times, place)))
    }

    /// Puts a place back to the head of its line.
    pub(crate) fn put_back(&self, times: Times, place: Place) {
        let mut lines = lock(&self.0);
        match lines.iter_mut().find(|line| line.times == times) {
            Some(line) => line.places.push_front(place),
            None => lines.push(Line { times, places: VecDeque::from([place]) }),
        }
    }

    /// How many places there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).iter().map(|line| line.places.len()).sum()
    }

    /// Drops the places for which `is_current` says no. The lines are not locked meanwhile.
    pub(crate) fn compact(&self, is_current: impl Fn(&Place) -> bool) {
        let taken: Vec<_> = lock(&self.0)
            .iter_mut()
            .map(|line| (line.times, std::mem::take(&mut line.places)))
            .collect();
        for (times, mut places) in taken {
            places.retain(&is_current);
            places.shrink_to_fit();
            let mut lines = lock(&self.0);
            match lines.iter_mut().find(|line| line.times == times) {
                Some(line) => {
                    places.append(&mut line.places);
                    line.places = places;
                }
                None => lines.push(Line { times, places }),
            }
        }
    }
}
