//! The parts of a configuration by name, so that a reload can report what changes and what cannot
//! change. Sections are kept as digests only, and secrets stay concealed.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Sources;
use crate::{
    events::EventsOptions, replay, secret::Secret, server::ServerOptions, traces::TracesOptions,
};

/// The parts of a configuration.
#[derive(Debug)]
pub struct Inventory {
    /// The files from which it was read.
    pub sources: Sources,
    /// A digest of each route's section.
    pub(super) routes: BTreeMap<String, [u8; 32]>,
    /// A digest of each other section.
    pub(super) sections: BTreeMap<String, [u8; 32]>,
    /// The secrets by owner, such as `global of vivoldi`.
    pub(super) secrets: BTreeMap<String, Vec<Secret>>,
    pub(super) fixed: Fixed,
}

/// Values that only a restart can change.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) server: ServerOptions,
    pub(super) admin: Vec<SocketAddr>,
    pub(super) replay: replay::Options,
    pub(super) events: Option<EventsOptions>,
    pub(super) memory: u64,
    pub(super) traces: Option<TracesOptions>,
}

/// The changes that a reload made, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Routes that are new.
    pub routes_added: Vec<String>,
    /// Routes that were removed.
    pub routes_removed: Vec<String>,
    /// Routes whose section changed.
    pub routes_changed: Vec<String>,
    /// Other sections that changed.
    pub sections: Vec<String>,
    /// Owners whose secrets were changed, added or removed.
    pub secrets: Vec<String>,
    /// Files whose content changed: certificates, secrets, key sets, schemes.
    pub files: Vec<String>,
    /// Keys that changed but need a restart.
    pub not_taken: Vec<&'static str>,
}

impl Fixed {
    /// Returns the keys in which `newer` differs.
    fn differences(&self, newer: &Fixed) -> Vec<&'static str> {
        let (old, new) = (&self.server, &newer.server);
        let (limits, new_limits) = (&old.limits, &new.limits);
        let (replay, new_replay) = (&self.replay, &newer.replay);
        [
            ("server.listen", addresses(old) == addresses(new)),
            ("server.http_listen", old.http_listen == new.http_listen),
            ("server.proxy_protocol", old.proxy_protocol == new.proxy_protocol),
            ("server.drain_delay", old.drain_delay == new.drain_delay),
            ("server.drain", old.drain == new.drain),
            ("server.workers", old.workers == new.workers),
            ("admin.listen", self.admin == newer.admin),
            ("replay.store", replay.store == new_replay.store),
            ("replay.max_entries", replay.max_entries == new_replay.max_entries),
            ("replay.on_store_failure", replay.on_store_failure == new_replay.on_store_failure),
            ("events", self.events == newer.events),
            ("traces", self.traces == newer.traces),
            ("limits.memory", self.memory == newer.memory),
            ("limits.connections", limits.connections == new_limits.connections),
            ("limits.requests", limits.requests == new_limits.requests),
            ("limits.address_share", limits.address_share == new_limits.address_share),
            ("limits.first_request", limits.first_request == new_limits.first_request),
            ("limits.head", limits.head == new_limits.head),
            ("limits.idle", limits.idle == new_limits.idle),
            ("limits.response", limits.write == new_limits.write),
            ("limits.queue_time", limits.queue_time == new_limits.queue_time),
            ("limits.head_bytes", limits.head_bytes == new_limits.head_bytes),
            ("limits.headers", limits.headers == new_limits.headers),
            ("limits.streams", limits.streams == new_limits.streams),
            ("limits.resets", limits.resets == new_limits.resets),
        ]
        .into_iter()
        .filter_map(|(key, same)| (!same).then_some(key))
        .collect()
    }
}

fn addresses(server: &ServerOptions) -> Vec<SocketAddr> {
    server.listen.iter().map(|listener| listener.address).collect()
}

/// Returns the names whose value was changed, added or removed in `newer`.
fn differences<V: PartialEq>(
    older: &BTreeMap<String, V>,
    newer: &BTreeMap<String, V>,
) -> Vec<String> {
    let changed = newer.iter().filter(|(name, value)| older.get(*name) != Some(value));
    let gone = older.iter().filter(|(name, _)| !newer.contains_key(*name));
    changed.chain(gone).map(|(name, _)| name.clone()).collect()
}

impl Inventory {
    /// Returns what the configuration `newer` changes.
    pub fn changes(&self, newer: &Inventory) -> Changes {
        let (mut added, mut removed, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for name in differences(&self.routes, &newer.routes) {
            match (self.routes.contains_key(&name), newer.routes.contains_key(&name)) {
                (true, true) => changed.push(name),
                (true, false) => removed.push(name),
                (false, _) => added.push(name),
            }
        }
        Changes {
            routes_added: added,
            routes_removed: removed,
            routes_changed: changed,
            sections: differences(&self.sections, &newer.sections),
            secrets: differences(&self.secrets, &newer.secrets),
            files: newer.sources.changes(&self.sources),
            not_taken: self.fixed.differences(&newer.fixed),
        }
    }

    /// Replaces everything except the values that only a restart can change.
    pub fn take(&mut self, newer: Inventory) {
        let Inventory { sources, routes, sections, secrets, fixed: _ } = newer;
        (self.sources, self.routes, self.sections, self.secrets) =
            (sources, routes, sections, secrets);
    }
}
