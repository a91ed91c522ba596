//! The keys that are fetched for the routes of a site.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::{
    gate::Site,
    metrics::Metrics,
    scheme::{KeySet, NamedKeys},
};

/// Returns the key sets of a site. Routes with equal key sets share one.
pub(super) fn key_sets(site: &Site) -> Vec<&Arc<KeySet>> {
    let mut sets: Vec<_> =
        site.routes.iter().filter_map(|route| route.verifier.key_set()).collect();
    sets.sort_unstable_by_key(|set| Arc::as_ptr(set));
    sets.dedup_by(|one, other| Arc::ptr_eq(one, other));
    sets
}

/// Counts the fetches of the key sets of a site.
pub(super) fn export_key_sets(site: &Site, metrics: &Metrics) {
    key_sets(site).into_iter().for_each(|set| set.count_in(metrics.key_set(&set.name())));
}

/// Returns the keys of a site that requests name. Routes with equal ones share them.
pub(super) fn named_keys(site: &Site) -> Vec<&Arc<NamedKeys>> {
    let mut keys: Vec<_> =
        site.routes.iter().filter_map(|route| route.verifier.named_keys()).collect();
    keys.sort_unstable_by_key(|keys| Arc::as_ptr(keys));
    keys.dedup_by(|one, other| Arc::ptr_eq(one, other));
    keys
}

/// Fetches the keys of a site until the returned tasks are dropped.
pub(super) fn fetch_keys(site: &Site) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for set in key_sets(site) {
        tasks.spawn(Arc::clone(set).maintain());
    }
    for keys in named_keys(site) {
        tasks.spawn(Arc::clone(keys).maintain());
    }
    tasks
}
