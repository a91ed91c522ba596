//! `[replay]`: where events are kept on record, and for how long.

mod redis;

use std::{ops::RangeInclusive, time::Duration};

use super::{Surroundings, database};
use crate::{
    document::{Field, Section},
    events::{EventStoreOptions, EventsOptions},
    postgres::DatabaseOptions,
    replay::{OnStoreFailure, Options, StoreOptions},
};

/// With less than a day, records expire while retries may still arrive.
const SHORTEST_TTL: Duration = Duration::from_secs(24 * 3600);
const TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3660 * 86_400);
const MAX_ENTRIES: usize = 1_000_000;

/// The section as read.
pub(super) struct ReplaySection {
    pub(super) options: Options,
    pub(super) acknowledge: bool,
    /// Replaces the schemes' own.
    pub(super) ttl: Option<Ttl>,
}

/// The configured lifetime of records, and where it is configured.
#[derive(Clone, Copy)]
pub(super) struct Ttl {
    pub(super) span: Duration,
    pub(super) line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplayStoreKind {
    Memory,
    Disk,
    Redis,
    Postgres,
}

/// Reads the section; `None` if there is no usable store in it. `events` is the section `[events]`,
/// `None` inside if a problem in it was recorded.
pub(super) fn read(
    section: Option<Section<'_>>,
    events: Option<&Option<EventsOptions>>,
    surroundings: &Surroundings<'_>,
) -> Option<ReplaySection> {
    let Some(section) = section else {
        let options = Options {
            store: StoreOptions::Memory,
            max_entries: MAX_ENTRIES,
            on_store_failure: OnStoreFailure::Refuse,
        };
        return Some(ReplaySection { options, acknowledge: false, ttl: None });
    };
    let store = store(&section, events, surroundings);
    let ttl = section.get("ttl").and_then(|field| {
        let span = field.duration_within(TTLS)?;
        if span < SHORTEST_TTL {
            let help = "an event that is forgotten before its last retry is forwarded twice";
            field.warning("`replay.ttl` is shorter than 24h", Some(help.to_owned()));
        }
        Some(Ttl { span, line: field.line() })
    });
    let max_entries = section
        .get("max_entries")
        .and_then(|field| field.integer(1..=1_000_000_000))
        .and_then(|number| usize::try_from(number).ok());
    let on_replay = section
        .get("on_replay")
        .and_then(|field| field.one_of(&[("reject", false), ("acknowledge", true)]));
    let on_store_failure = section.get("on_store_failure").and_then(|field| {
        field.one_of(&[("refuse", OnStoreFailure::Refuse), ("local", OnStoreFailure::Local)])
    });
    section.finish();
    let options = Options {
        store: store?,
        max_entries: max_entries.unwrap_or(MAX_ENTRIES),
        on_store_failure: on_store_failure.unwrap_or(OnStoreFailure::Refuse),
    };
    Some(ReplaySection { options, acknowledge: on_replay.unwrap_or(false), ttl })
}

/// Reads `store`, with the keys that belong to it and to no other.
fn store(
    section: &Section<'_>,
    events: Option<&Option<EventsOptions>>,
    surroundings: &Surroundings<'_>,
) -> Option<StoreOptions> {
    let path = section.get("path");
    let redis = redis::Keys::of(section);
    let kinds = [
        ("memory", ReplayStoreKind::Memory),
        ("disk", ReplayStoreKind::Disk),
        ("redis", ReplayStoreKind::Redis),
        ("postgres", ReplayStoreKind::Postgres),
    ];
    let kind = match section.get("store") {
        Some(field) => field.one_of(&kinds)?,
        None => ReplayStoreKind::Memory,
    };
    let of_disk = [(&path, [ReplayStoreKind::Disk].as_slice(), "\"disk\"")];
    let of_redis =
        redis.own().map(|field| (field, [ReplayStoreKind::Redis].as_slice(), "\"redis\""));
    let of_servers = redis.shared().map(|field| {
        (
            field,
            [ReplayStoreKind::Redis, ReplayStoreKind::Postgres].as_slice(),
            "\"redis\" or \"postgres\"",
        )
    });
    for (field, owners, words) in of_disk.into_iter().chain(of_redis).chain(of_servers) {
        if let Some(field) = field
            && !owners.contains(&kind)
        {
            field.conceal();
            let help = format!("remove it, or set store = {words}");
            field.error(format!("`{}` belongs to store = {words}", field.path()), Some(help));
        }
    }
    match (kind, path) {
        (ReplayStoreKind::Memory, _) => Some(StoreOptions::Memory),
        (ReplayStoreKind::Disk, Some(path)) => directory(&path, surroundings),
        (ReplayStoreKind::Disk, None) => {
            let help = "path = \"data/replay\"".to_owned();
            section.error("store = \"disk\" needs `path`", Some(help));
            None
        }
        (ReplayStoreKind::Redis, _) => redis.read(section, surroundings).map(StoreOptions::Redis),
        (ReplayStoreKind::Postgres, _) => {
            let [url, ca] = redis.shared();
            match url {
                Some(url) => database::read(url, ca.as_ref(), surroundings),
                None => database_of_events(section, ca.as_ref(), events),
            }
            .map(StoreOptions::Postgres)
        }
    }
}

/// Returns the database of `[events]`, which the records share without a URL of their own.
fn database_of_events(
    section: &Section<'_>,
    ca: Option<&Field<'_>>,
    events: Option<&Option<EventsOptions>>,
) -> Option<DatabaseOptions> {
    let help = "url = { env = \"DATABASE_URL\" }".to_owned();
    match events {
        // The problem was recorded.
        Some(None) => None,
        Some(Some(EventsOptions { store: EventStoreOptions::Postgres(database), .. })) => {
            if let Some(ca) = ca {
                ca.error("`replay.ca` needs `replay.url`", Some(help));
                return None;
            }
            Some(database.clone())
        }
        Some(Some(_)) | None => {
            section.error("store = \"postgres\" needs `url`", Some(help));
            None
        }
    }
}

fn directory(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<StoreOptions> {
    let path = surroundings.base.join(super::not_empty(field)?);
    if path.exists() && !path.is_dir() {
        field.error(format!("{} is no directory", path.display()), None);
        return None;
    }
    Some(StoreOptions::Disk { path })
}
