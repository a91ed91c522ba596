//! `[replay]`: where events are kept on record, and for how long.

use std::{ops::RangeInclusive, time::Duration};

use super::{Surroundings, secret};
use crate::{
    document::{Field, Section},
    replay::{OnStoreFailure, Options, StoreOptions},
    tls,
};

/// Less than a day forgets events whose retries may still come.
const SHORTEST_TTL: Duration = Duration::from_secs(24 * 3600);
const TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3660 * 86_400);
const MAX_ENTRIES: usize = 1_000_000;
const PREFIX: &str = "sealgate:";

/// The section as read.
pub(super) struct Replay {
    pub(super) options: Options,
    pub(super) acknowledge: bool,
    /// Replaces the schemes' own.
    pub(super) ttl: Option<Ttl>,
}

/// How long the file wants events to be kept, and where it says so.
#[derive(Clone, Copy)]
pub(super) struct Ttl {
    pub(super) span: Duration,
    pub(super) line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Disk,
    Redis,
}

/// Reads the section; `None` if there is no usable store in it.
pub(super) fn read(
    section: Option<Section<'_>>,
    surroundings: &Surroundings<'_>,
) -> Option<Replay> {
    let Some(section) = section else {
        let options = Options {
            store: StoreOptions::Memory,
            max_entries: MAX_ENTRIES,
            on_store_failure: OnStoreFailure::Refuse,
        };
        return Some(Replay { options, acknowledge: false, ttl: None });
    };
    let store = store(&section, surroundings);
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
    Some(Replay { options, acknowledge: on_replay.unwrap_or(false), ttl })
}

/// `store`, with the keys that belong to it and to no other.
fn store(section: &Section<'_>, surroundings: &Surroundings<'_>) -> Option<StoreOptions> {
    let (path, url, prefix) = (section.get("path"), section.get("url"), section.get("prefix"));
    let ca = section.get("ca");
    let kinds = [("memory", Kind::Memory), ("disk", Kind::Disk), ("redis", Kind::Redis)];
    let kind = match section.get("store") {
        Some(field) => field.one_of(&kinds)?,
        None => Kind::Memory,
    };
    let of = [(&path, Kind::Disk, "disk"), (&url, Kind::Redis, "redis")];
    let more = [(&prefix, Kind::Redis, "redis"), (&ca, Kind::Redis, "redis")];
    for (field, owner, word) in of.into_iter().chain(more) {
        if let Some(field) = field
            && kind != owner
        {
            field.conceal();
            let help = format!("remove it, or say store = \"{word}\"");
            field.error(format!("`{}` belongs to store = \"{word}\"", field.path()), Some(help));
        }
    }
    match (kind, path, url) {
        (Kind::Memory, ..) => Some(StoreOptions::Memory),
        (Kind::Disk, Some(path), _) => directory(&path, surroundings),
        (Kind::Disk, None, _) => {
            let help = "path = \"data/replay\"".to_owned();
            section.error("store = \"disk\" needs `path`", Some(help));
            None
        }
        (Kind::Redis, _, Some(url)) => {
            let prefix = prefix.map(|field| key_prefix(&field));
            let url = secret::read(&url, secret::Use::Address, surroundings)
                .filter(|secret| is_redis(&url, secret.expose()));
            let tls = url.as_ref().is_none_or(|url| url.expose().starts_with(b"rediss://"));
            let ca = ca.map(|field| authorities(&field, tls, surroundings));
            let prefix = prefix.unwrap_or(Some(PREFIX.to_owned()));
            Some(StoreOptions::Redis { url: url?, prefix: prefix?, ca: ca.unwrap_or(Some(None))? })
        }
        (Kind::Redis, _, None) => {
            let help = "url = { env = \"REDIS_URL\" }".to_owned();
            section.error("store = \"redis\" needs `url`", Some(help));
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

fn is_redis(field: &Field<'_>, url: &[u8]) -> bool {
    let known = url.starts_with(b"redis://") || url.starts_with(b"rediss://");
    if !known {
        let help = "redis://host:6379/0, or rediss://… for TLS".to_owned();
        field.error("`replay.url` is no address of a Redis or Valkey", Some(help));
    }
    known
}

/// `ca`: the PEM text of its file. `tls`: the server is called by `rediss://`, or the URL is wrong.
fn authorities(
    field: &Field<'_>,
    tls: bool,
    surroundings: &Surroundings<'_>,
) -> Option<Option<Vec<u8>>> {
    if !tls {
        let help = "it vouches for a server at rediss://…".to_owned();
        field.error("`replay.ca` without TLS", Some(help));
        return None;
    }
    let path = surroundings.base.join(super::not_empty(field)?);
    match tls::authorities_pem(&path) {
        Ok(pem) => Some(Some(pem)),
        Err(problem) => {
            field.error(problem.to_string(), None);
            None
        }
    }
}

fn key_prefix(field: &Field<'_>) -> Option<String> {
    let prefix = super::not_empty(field)?;
    if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        field.error("`replay.prefix` must be ASCII without white space", None);
        return None;
    }
    Some(prefix)
}
