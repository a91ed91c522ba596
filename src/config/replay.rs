//! `[replay]`: where events are kept on record, and for how long.

use std::time::Duration;

use super::{Surroundings, secret};
use crate::{
    document::Section,
    replay::{OnStoreFailure, Options, Store},
};

/// Less than a day forgets events whose retries may still come.
const SHORTEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// The section as read.
pub(super) struct Replay {
    pub(super) options: Options,
    pub(super) acknowledge: bool,
    /// Replaces the schemes' own.
    pub(super) ttl: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Disk,
    Redis,
}

pub(super) fn read(
    section: Option<Section<'_>>,
    surroundings: &Surroundings<'_>,
) -> Option<Replay> {
    let Some(section) = section else {
        let options = Options {
            store: Store::Memory,
            max_entries: 1_000_000,
            on_store_failure: OnStoreFailure::Refuse,
        };
        return Some(Replay { options, acknowledge: false, ttl: None });
    };
    let kinds = [("memory", Kind::Memory), ("disk", Kind::Disk), ("redis", Kind::Redis)];
    let kind = match section.get("store") {
        Some(field) => field.one_of(&kinds),
        None => Some(Kind::Memory),
    };
    let (path, url, prefix) = (section.get("path"), section.get("url"), section.get("prefix"));
    let foreign = |field: &Option<crate::document::Field<'_>>, of: Kind, word: &str| {
        if let (Some(field), Some(kind)) = (field, kind)
            && kind != of
        {
            field.error(format!("`{}` belongs to store = \"{word}\"", field.path()), None);
        }
    };
    foreign(&path, Kind::Disk, "disk");
    foreign(&url, Kind::Redis, "redis");
    foreign(&prefix, Kind::Redis, "redis");
    let store = match kind {
        Some(Kind::Memory) => Some(Store::Memory),
        Some(Kind::Disk) => match path.map(|field| field.text()) {
            Some(path) => path.map(|path| Store::Disk { path: surroundings.base.join(path) }),
            None => {
                let help = "path = \"data/replay\"".to_owned();
                section.error("store = \"disk\" needs `path`", Some(help));
                None
            }
        },
        Some(Kind::Redis) => match url {
            Some(field) => secret::read(&field, surroundings).map(|url| Store::Redis {
                url,
                prefix: prefix
                    .and_then(|field| field.text())
                    .unwrap_or_else(|| "sealgate:".to_owned()),
            }),
            None => {
                let help = "url = { env = \"REDIS_URL\" }".to_owned();
                section.error("store = \"redis\" needs `url`", Some(help));
                None
            }
        },
        None => None,
    };
    let ttl = section.get("ttl").and_then(|field| {
        let ttl = field.duration()?;
        if ttl < SHORTEST_TTL {
            let help = "an event forgotten before its last retry is forwarded twice".to_owned();
            field.warning("`ttl` is shorter than 24h", Some(help));
        }
        Some(ttl)
    });
    let max_entries = section
        .get("max_entries")
        .and_then(|field| field.integer(1..=1_000_000_000))
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1_000_000);
    let on_replay = section
        .get("on_replay")
        .and_then(|field| field.one_of(&[("reject", false), ("acknowledge", true)]));
    let on_store_failure = section.get("on_store_failure").and_then(|field| {
        field.one_of(&[("refuse", OnStoreFailure::Refuse), ("local", OnStoreFailure::Local)])
    });
    section.finish();
    let options = Options {
        store: store?,
        max_entries,
        on_store_failure: on_store_failure.unwrap_or(OnStoreFailure::Refuse),
    };
    Some(Replay { options, acknowledge: on_replay.unwrap_or(false), ttl })
}
