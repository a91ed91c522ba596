//! Lists of events, newest first.

use std::sync::Arc;

use super::{
    files::EventFiles,
    format::{event_id, event_id_key, unreadable},
};
use crate::events::{
    model::{EventEntry, EventFilter, EventId, EventState},
    store::EventPage,
};

/// IDs, newest first.
type Ids = Box<dyn Iterator<Item = fjall::Result<EventId>>>;

/// Lists at most `limit` entries that are older than `cursor`.
pub(super) fn list(
    files: &EventFiles,
    filter: &EventFilter,
    cursor: Option<EventId>,
    limit: usize,
) -> fjall::Result<EventPage> {
    let first = filter.since.map_or(EventId(0), EventId::first_at);
    let end = filter.until.map_or(EventId(u128::MAX), EventId::first_at);
    let end = cursor.map_or(end, |cursor| cursor.min(end));
    let mut page = EventPage::default();
    if first >= end {
        return Ok(page);
    }
    for id in ids(files, filter, first, end)? {
        let id = id?;
        // It may have been removed since its ID was read.
        let Some(stored) = files.entry(id)? else { continue };
        if !matches(&stored.entry, filter) {
            continue;
        }
        if page.entries.len() == limit {
            page.next = page.entries.last().map(|entry| entry.id);
            break;
        }
        page.entries.push(stored.entry);
    }
    Ok(page)
}

fn matches(entry: &EventEntry, filter: &EventFilter) -> bool {
    filter.route.as_ref().is_none_or(|route| *route == entry.route)
        && filter.state.is_none_or(|state| state == entry.state)
        && (filter.event_id.is_none() || filter.event_id == entry.event_id)
}

/// Returns the IDs of the events that the best index selects.
fn ids(
    files: &EventFiles,
    filter: &EventFilter,
    first: EventId,
    end: EventId,
) -> fjall::Result<Ids> {
    if let Some(event_id) = &filter.event_id {
        return Ok(with_event_id(files, event_id, first, end));
    }
    let states = filter.state.as_ref().map_or(&EventState::ALL[..], std::slice::from_ref);
    let routes = match &filter.route {
        Some(route) => vec![files.route_digest(route)],
        None if filter.state.is_some() => files.route_digests(),
        None => {
            let range = first.0.to_be_bytes()..end.0.to_be_bytes();
            let found = files.entries.range(range).rev();
            return Ok(Box::new(found.map(|found| event_id(&found.key()?).ok_or_else(unreadable))));
        }
    };
    let mut lists = Vec::new();
    for state in states {
        for route in &routes {
            lists.push(Box::new(files.in_state(*state, *route, first, end).rev()) as Ids);
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
