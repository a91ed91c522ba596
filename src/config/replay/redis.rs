//! The keys of `store = "redis"`.

use super::super::{Surroundings, not_empty, secret};
use crate::{
    document::{Field, Section},
    replay::{RedisOptions, Topology, UrlError, check_urls},
    tls,
};

const PREFIX: &str = "sealgate:";

/// The keys, as far as they are present.
pub(super) struct Keys<'r> {
    url: Option<Field<'r>>,
    sentinel: Option<Field<'r>>,
    cluster: Option<Field<'r>>,
    prefix: Option<Field<'r>>,
    ca: Option<Field<'r>>,
}

impl<'r> Keys<'r> {
    pub(super) fn of(section: &Section<'r>) -> Self {
        Keys {
            url: section.get("url"),
            sentinel: section.get("sentinel"),
            cluster: section.get("cluster"),
            prefix: section.get("prefix"),
            ca: section.get("ca"),
        }
    }

    /// Returns the keys that belong to this store alone.
    pub(super) fn own(&self) -> [&Option<Field<'r>>; 3] {
        [&self.sentinel, &self.cluster, &self.prefix]
    }

    /// Returns `url` and `ca`, which other stores have, too.
    pub(super) fn shared(&self) -> [&Option<Field<'r>>; 2] {
        [&self.url, &self.ca]
    }

    /// Reads the keys; `None` if a problem was recorded.
    pub(super) fn read(
        self,
        section: &Section<'_>,
        surroundings: &Surroundings<'_>,
    ) -> Option<RedisOptions> {
        let Some(url) = &self.url else {
            let help = "url = { env = \"REDIS_URL\" }".to_owned();
            section.error("store = \"redis\" needs `url`", Some(help));
            return None;
        };
        let topology = self.topology();
        let prefix = match &self.prefix {
            Some(field) => key_prefix(field, topology == Some(Topology::Cluster)),
            None => Some(PREFIX.to_owned()),
        };
        let fields = url.items();
        if fields.is_empty() {
            url.error("`replay.url` has no URL", None);
            return None;
        }
        if fields.len() > 1 && topology == Some(Topology::Single) {
            let help = "the sentinels of a primary need sentinel = \"its name\", the servers of a \
                        cluster need cluster = true; a single server has one URL";
            url.error("`replay.url` is a list of servers of an unknown kind", Some(help.into()));
            fields.iter().for_each(Field::conceal);
            return None;
        }
        let read = |field: &Field<'_>| secret::read(field, secret::Use::Address, surroundings);
        let urls: Vec<_> = fields.iter().map(read).collect();
        let urls: Option<Vec<_>> = urls.into_iter().collect();
        let tls = urls
            .as_ref()
            .is_none_or(|urls| !urls.iter().all(|url| url.expose().starts_with(b"redis://")));
        let ca = match &self.ca {
            Some(field) => authorities(field, tls, surroundings).map(Some),
            None => Some(None),
        };
        let (urls, topology) = (urls?, topology?);
        let options = RedisOptions { urls, topology, prefix: prefix?, ca: ca? };
        match check_urls(&options) {
            Ok(()) => Some(options),
            Err((at, error)) => {
                report(&fields[at], error);
                None
            }
        }
    }

    fn topology(&self) -> Option<Topology> {
        let name = self.sentinel.as_ref().map(|field| {
            let name = not_empty(field)?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_name {
                field.error("`replay.sentinel` must be ASCII without white space", None);
            }
            is_name.then_some(name)
        });
        let cluster = self.cluster.as_ref().map(Field::boolean);
        match (name, cluster) {
            (Some(_), Some(Some(true))) => {
                let help = "sentinels name one primary, a cluster has several: remove one of them";
                let field = self.cluster.as_ref()?;
                field.error("`replay.cluster` excludes `replay.sentinel`", Some(help.to_owned()));
                None
            }
            (_, Some(None)) | (Some(None), _) => None,
            (Some(Some(name)), _) => Some(Topology::Sentinel(name)),
            (None, Some(Some(true))) => Some(Topology::Cluster),
            (None, Some(Some(false)) | None) => Some(Topology::Single),
        }
    }
}

fn report(field: &Field<'_>, error: UrlError) {
    let (message, help) = match error {
        UrlError::Malformed => (
            "`replay.url` is not the URL of a Redis or Valkey server",
            "redis://host:6379/0, or rediss://… for TLS",
        ),
        UrlError::Different => (
            "the URLs of `replay.url` differ in more than host and port",
            "use the same scheme, user, password and database in all of them",
        ),
        UrlError::Database => (
            "`replay.url` names a database of a cluster",
            "a cluster has database 0 only: remove it",
        ),
    };
    field.error(message, Some(help.to_owned()));
}

/// Reads the PEM text of `ca`. `tls`: a server is called by `rediss://`, or a URL is wrong.
fn authorities(field: &Field<'_>, tls: bool, surroundings: &Surroundings<'_>) -> Option<Vec<u8>> {
    if !tls {
        let help = "it verifies servers at rediss://…".to_owned();
        field.error("`replay.ca` requires TLS", Some(help));
        return None;
    }
    match tls::authorities_pem(&surroundings.base.join(not_empty(field)?)) {
        Ok(pem) => Some(pem),
        Err(problem) => {
            field.error(problem.to_string(), None);
            None
        }
    }
}

fn key_prefix(field: &Field<'_>, cluster: bool) -> Option<String> {
    let prefix = not_empty(field)?;
    if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        field.error("`replay.prefix` must be ASCII without white space", None);
        return None;
    }
    if cluster && prefix.contains(['{', '}']) {
        let help = "braces in it would put every event into the same slot".to_owned();
        field.error("`replay.prefix` of a cluster must not contain braces", Some(help));
        return None;
    }
    Some(prefix)
}
