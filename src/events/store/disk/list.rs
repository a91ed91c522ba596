//! Lists of events, newest first.

use std::{ops::Range, sync::Arc};

use super::{
    files::EventFiles,
    format::{event_id, event_id_key, unreadable},
};
use crate::events::{
    model::{EventEntry, EventFilter, EventId, EventState},
    store::EventPage,
};

/// The states of events that are not in the schedule.
const SETTLED: [EventState; 4] =
    [EventState::Delivered, EventState::Dead, EventState::Refused, EventState::Failed];

/// IDs, newest first.
type Ids = Box<dyn Iterator<Item = fjall::Result<EventId>>>;

/// The unsettled events among which a list selects: those of the schedule. In the files, the index
/// of their states is full of gaps that settled events left, and slow to read.
#[derive(Debug, Default)]
pub(super) struct UnsettledIds {
    /// The newest ones, newest first.
    pub(super) ids: Vec<EventId>,
    /// Whether there are older ones.
    pub(super) has_more: bool,
}

/// The part of a list that is requested.
#[derive(Clone, Debug)]
pub(super) struct ListRequest {
    pub(super) filter: EventFilter,
    pub(super) range: Range<EventId>,
    pub(super) limit: usize,
}

impl ListRequest {
    /// Returns a request for entries that are older than `cursor`; `None` if there cannot be any.
    pub(super) fn new(filter: EventFilter, cursor: Option<EventId>, limit: usize) -> Option<Self> {
        let first = filter.since.map_or(EventId(0), EventId::first_at);
        let end = filter.until.map_or(EventId(u128::MAX), EventId::first_at);
        let end = cursor.map_or(end, |cursor| cursor.min(end));
        (first < end).then_some(ListRequest { filter, range: first..end, limit })
    }

    /// Returns whether the index of the states is used, and unsettled events are selected.
    pub(super) fn needs_unsettled(&self) -> bool {
        let EventFilter { route, state, event_id, .. } = &self.filter;
        let may_be_unsettled = state.is_none_or(|state| !SETTLED.contains(&state));
        event_id.is_none() && (route.is_some() || state.is_some()) && may_be_unsettled
    }
}

/// Lists entries.
pub(super) fn list(
    files: &EventFiles,
    request: ListRequest,
    unsettled: UnsettledIds,
) -> fjall::Result<EventPage> {
    let ListRequest { filter, mut range, limit } = request;
    let oldest = unsettled.ids.last().copied().filter(|_| unsettled.has_more);
    if let Some(oldest) = oldest {
        range.start = oldest;
    }
    let mut page = EventPage::default();
    let mut previous = None;
    for id in ids(files, &filter, range, unsettled.ids)? {
        let id = id?;
        // It was settled while the list was read, and is found in both places.
        if previous.replace(id) == Some(id) {
            continue;
        }
        // It may have been removed since its ID was read.
        let Some(stored) = files.entry(id)? else { continue };
        if !matches(&stored.entry, &filter) {
            continue;
        }
        if page.entries.len() == limit {
            page.next = page.entries.last().map(|entry| entry.id);
            return Ok(page);
        }
        page.entries.push(stored.entry);
    }
    page.next = oldest;
    Ok(page)
}

fn matches(entry: &EventEntry, filter: &EventFilter) -> bool {
    filter.route.as_ref().is_none_or(|route| *route == entry.route)
        && filter.state.is_none_or(|state| state == entry.state)
        && (filter.event_id.is_none() || filter.event_id == entry.event_id)
}

/// Returns the IDs of the events that the best index selects, with the unsettled ones.
fn ids(
    files: &EventFiles,
    filter: &EventFilter,
    range: Range<EventId>,
    unsettled: Vec<EventId>,
) -> fjall::Result<Ids> {
    let Range { start: first, end } = range;
    if let Some(event_id) = &filter.event_id {
        return Ok(with_event_id(files, event_id, first, end));
    }
    let routes = match &filter.route {
        Some(route) => vec![files.route_digest(route)],
        None if filter.state.is_some() => files.route_digests(),
        None => {
            let range = first.0.to_be_bytes()..end.0.to_be_bytes();
            let found = files.entries.range(range).rev();
            return Ok(Box::new(found.map(|found| event_id(&found.key()?).ok_or_else(unreadable))));
        }
    };
    let mut lists = vec![Box::new(unsettled.into_iter().map(Ok)) as Ids];
    for state in SETTLED {
        if filter.state.is_none_or(|selected| selected == state) {
            for route in &routes {
                lists.push(Box::new(files.in_state(state, *route, first, end).rev()));
            }
        }
    }
    merge(lists)
}

fn with_event_id(files: &EventFiles, id: &Arc<str>, first: EventId, end: EventId) -> Ids {
    let digest = files.event_id_digest(id);
    let range = event_id_key(digest, first)..event_id_key(digest, end);
    Box::new(files.event_ids.range(range).rev().map(|found| {
        let key = found.key()?;
        key.get(16..).and_then(event_id).ok_or_else(unreadable)
    }))
}

/// Merges lists of IDs, newest first.
fn merge(lists: Vec<Ids>) -> fjall::Result<Ids> {
    let mut heads = Vec::with_capacity(lists.len());
    for mut list in lists {
        if let Some(id) = list.next() {
            heads.push((id?, list));
        }
    }
    Ok(Box::new(std::iter::from_fn(move || {
        let newest = (0..heads.len()).max_by_key(|index| heads[*index].0)?;
        let (id, list) = &mut heads[newest];
        let id = *id;
        match list.next() {
            Some(Ok(next)) => heads[newest].0 = next,
            Some(Err(error)) => return Some(Err(error)),
            None => drop(heads.swap_remove(newest)),
        }
        Some(Ok(id))
    })))
}
