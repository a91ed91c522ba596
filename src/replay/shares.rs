//! How the capacity of the guard is divided among routes and their keys.
//!
//! Half of `max_entries` is guaranteed to the routes in equal shares, and half of each route's
//! share to its keys. Everything else is shared: an event that does not fit into its key's share
//! competes for its route's remainder, and then for the remainder of the whole guard. So one key
//! can use most of an idle guard, but can never take what is guaranteed to another.
//!
//! The shares form a tree (guard, routes, keys). The usage of a share counts its own events and
//! those that did not fit into the shares below it.

use std::collections::HashMap;

use super::sync::{Mutex, lock};
use crate::replay::record::ShareId;

#[derive(Debug, Default)]
struct Share {
    parent: Option<ShareId>,
    guaranteed: usize,
    used: usize,
    /// The events that are charged to this share and not to one below it.
    own: usize,
}

/// The tree of shares.
#[derive(Debug)]
pub(crate) struct Shares {
    max_entries: usize,
    tree: Mutex<Tree>,
}

#[derive(Debug)]
struct Tree {
    shares: HashMap<ShareId, Share>,
    total: usize,
}

/// The names that shares are computed from: a route and its keys.
pub(crate) type RouteKeys = (ShareId, Vec<ShareId>);

impl Shares {
    pub(crate) fn new(max_entries: usize) -> Self {
        let guard = Share { guaranteed: max_entries, ..Share::default() };
        let shares = HashMap::from([(ShareId::GUARD, guard)]);
        Shares { max_entries, tree: Mutex::new(Tree { shares, total: 0 }) }
    }

    /// Replaces the shares by those of `routes`. Events keep the share that they are charged to.
    pub(crate) fn assign(&self, routes: &[RouteKeys]) {
        let per_route = self.max_entries / 2 / routes.len().max(1);
        let mut shares = HashMap::new();
        for (route, keys) in routes {
            let per_key = per_route / 2 / keys.len().max(1);
            let guaranteed = per_route - per_key * keys.len();
            let parent = Some(ShareId::GUARD);
            shares.insert(*route, Share { parent, guaranteed, ..Share::default() });
            for key in keys {
                let key_share =
                    Share { parent: Some(*route), guaranteed: per_key, ..Share::default() };
                shares.insert(*key, key_share);
            }
        }
        let guaranteed = self.max_entries - per_route * routes.len();
        shares.insert(ShareId::GUARD, Share { guaranteed, ..Share::default() });
        let mut tree = lock(&self.tree);
        let old = std::mem::replace(&mut tree.shares, shares);
        tree.total = 0;
        for (id, share) in old {
            for _ in 0..share.own {
                tree.charge(id);
            }
        }
    }

    /// Charges one event to `share`, or to `route` if there is no such share; returns the share
    /// that was charged, or `None` if there is no capacity.
    pub(crate) fn acquire(&self, share: ShareId, route: ShareId) -> Option<ShareId> {
        let mut tree = lock(&self.tree);
        let charged = tree.find(share, route);
        let mut level = Some(charged);
        while let Some(share) = level.and_then(|id| tree.shares.get(&id)) {
            if share.used < share.guaranteed {
                tree.charge(charged);
                return Some(charged);
            }
            level = share.parent;
        }
        None
    }

    /// Charges one event whatever the capacity: a restored record.
    pub(crate) fn restore(&self, share: ShareId) {
        lock(&self.tree).charge(share);
    }

    /// Returns the capacity of one event to the share that was charged.
    pub(crate) fn release(&self, charged: ShareId) {
        let mut tree = lock(&self.tree);
        let Tree { shares, total } = &mut *tree;
        *total -= 1;
        if let Some(share) = shares.get_mut(&charged) {
            share.own -= 1;
        }
        let mut level = Some(charged);
        while let Some(share) = level.and_then(|id| shares.get_mut(&id)) {
            let exceeded = share.used > share.guaranteed;
            share.used -= 1;
            level = share.parent.filter(|_| exceeded);
        }
    }

    /// Returns whether the release of an event charged to `evicted` gives capacity to `share` (or
    /// `route` if there is no such share): on the way up from `evicted`, every share up to a common
    /// one uses more than it is guaranteed.
    pub(crate) fn frees(&self, evicted: ShareId, share: ShareId, route: ShareId) -> bool {
        let tree = lock(&self.tree);
        let needed = tree.find(share, route);
        let mut level = evicted;
        loop {
            if tree.is_above(level, needed) {
                return true;
            }
            match tree.shares.get(&level) {
                Some(share) if share.used > share.guaranteed => match share.parent {
                    Some(parent) => level = parent,
                    None => return true,
                },
                _ => return false,
            }
        }
    }

    /// Returns the number of events.
    pub(crate) fn used(&self) -> usize {
        lock(&self.tree).total
    }

    /// Returns the largest number of events.
    pub(crate) fn max_entries(&self) -> usize {
        self.max_entries
    }
}

impl Tree {
    fn find(&self, share: ShareId, route: ShareId) -> ShareId {
        let known = |id: &ShareId| self.shares.contains_key(id);
        [share, route].into_iter().find(known).unwrap_or(ShareId::GUARD)
    }

    /// Returns whether `above` is `below` or one of the shares above it.
    fn is_above(&self, above: ShareId, below: ShareId) -> bool {
        let parent = |id: &ShareId| self.shares.get(id).and_then(|share| share.parent);
        std::iter::successors(Some(below), parent).any(|id| id == above)
    }

    fn charge(&mut self, charged: ShareId) {
        self.total += 1;
        // A share that is not configured has no guarantee.
        let unknown = || Share { parent: Some(ShareId::GUARD), ..Share::default() };
        self.shares.entry(charged).or_insert_with(unknown).own += 1;
        let mut level = Some(charged);
        while let Some(share) = level.and_then(|id| self.shares.get_mut(&id)) {
            share.used += 1;
            level = share.parent.filter(|_| share.used > share.guaranteed);
        }
    }
}
