//! `[events]`: where events are stored, and for how long.

use std::{ops::RangeInclusive, time::Duration};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::{Surroundings, database, not_empty, secret};
use crate::{
    document::{Field, Section},
    events::{EventStoreOptions, EventsOptions, Retention},
    secret::Secret,
};

const DAY: u64 = 86_400;
const KEPT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3660 * DAY);
const BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventStoreKind {
    Disk,
    Postgres,
}

/// Reads the section; `None` if a problem was recorded.
pub(super) fn read(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<EventsOptions> {
    let store = store(&section, surroundings);
    let kept = |key: &'static str, usual: u64| match section.get(key) {
        Some(field) => field.duration_within(KEPT),
        None => Some(Duration::from_secs(usual * DAY)),
    };
    let number = |key: &'static str, range: RangeInclusive<u64>, usual: u64| match section.get(key)
    {
        Some(field) => field.integer(range),
        None => Some(usual),
    };
    let (keep, keep_dead) = (kept("keep", 7), kept("keep_dead", 30));
    let keep_refused = number("keep_refused", 0..=1_000_000, 1000);
    let max_pending = number("max_pending", 1..=1_000_000_000, 1_000_000);
    let max_bytes = match section.get("max_bytes") {
        Some(field) => field.size_within(BYTES),
        None => Some(4 << 30),
    };
    let key = match section.get("key") {
        Some(field) => key(&field, surroundings).map(Some),
        None => Some(None),
    };
    section.finish();
    Some(EventsOptions {
        store: store?,
        retention: Retention {
            keep: keep?,
            keep_dead: keep_dead?,
            keep_refused: keep_refused?,
            max_bytes: max_bytes?,
            max_pending: max_pending?,
        },
        key: key?,
    })
}

/// Reads `store`, with the keys that belong to it and to no other.
fn store(section: &Section<'_>, surroundings: &Surroundings<'_>) -> Option<EventStoreOptions> {
    let (path, url, ca) = (section.get("path"), section.get("url"), section.get("ca"));
    let kind = match section.get("store") {
        Some(field) => field
            .one_of(&[("disk", EventStoreKind::Disk), ("postgres", EventStoreKind::Postgres)])?,
        None => EventStoreKind::Disk,
    };
    let owners = [
        (&path, EventStoreKind::Disk, "disk"),
        (&url, EventStoreKind::Postgres, "postgres"),
        (&ca, EventStoreKind::Postgres, "postgres"),
    ];
    for (field, owner, word) in owners {
        if let Some(field) = field
            && kind != owner
        {
            field.conceal();
            let help = format!("remove it, or set store = \"{word}\"");
            field.error(format!("`{}` belongs to store = \"{word}\"", field.path()), Some(help));
        }
    }
    match kind {
        EventStoreKind::Disk => {
            let Some(path) = path else {
                let help = "path = \"data/events\"".to_owned();
                section.error("store = \"disk\" needs `path`", Some(help));
                return None;
            };
            let directory = surroundings.base.join(not_empty(&path)?);
            if directory.exists() && !directory.is_dir() {
                path.error(format!("{} is no directory", directory.display()), None);
                return None;
            }
            Some(EventStoreOptions::Disk { path: directory })
        }
        EventStoreKind::Postgres => {
            let Some(url) = url else {
                let help = "url = { env = \"DATABASE_URL\" }".to_owned();
                section.error("store = \"postgres\" needs `url`", Some(help));
                return None;
            };
            database::read(&url, ca.as_ref(), surroundings).map(EventStoreOptions::Postgres)
        }
    }
}

/// Reads the encryption key: 32 bytes, as base64 or hex.
fn key(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<Secret> {
    let text = secret::read(field, secret::Use::Encryption, surroundings)?;
    let text = text.expose().trim_ascii();
    let decoded = HEXLOWER_PERMISSIVE.decode(text).or_else(|_| BASE64.decode(text));
    match decoded {
        Ok(bytes) if bytes.len() == 32 => Some(Secret::new(bytes)),
        Ok(_) | Err(_) => {
            let help = "create one: openssl rand -base64 32".to_owned();
            field.error("`events.key` is not 32 bytes in base64 or hex", Some(help));
            None
        }
    }
}
