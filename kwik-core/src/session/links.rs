//! The connections that a session has taken: the one to its peer, and on clients those to further servers.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use super::{HOME, link::Link};
use crate::id::PathId;

/// The connections of a session by path.
///
/// The one to the primary on a client, and the only one on a server, is there from the beginning to the end; the others
/// come and go.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) home: Box<Link>,
    /// Boxed: a map of few keeps room for eleven, and a connection is many kilobytes.
    others: BTreeMap<PathId, Box<Link>>,
}

impl Links {
    pub(super) fn new(home: Link) -> Self {
        Self { home: Box::new(home), others: BTreeMap::new() }
    }

    pub(super) fn get(&self, path: PathId) -> Option<&Link> {
        if path == HOME {
            return Some(&self.home);
        }
        self.others.get(&path).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, path: PathId) -> Option<&mut Link> {
        if path == HOME {
            return Some(&mut self.home);
        }
        self.others.get_mut(&path).map(Box::as_mut)
    }

    /// Adds the connection of a further path.
    pub(super) fn insert(&mut self, path: PathId, link: Box<Link>) {
        debug_assert_ne!(path, HOME, "the path to the peer is there from the beginning");
        self.others.insert(path, link);
    }

    /// Forgets the connection of a further path.
    pub(super) fn remove(&mut self, path: PathId) {
        self.others.remove(&path);
    }

    /// The path after `path`, in the order of their numbers.
    pub(super) fn after(&self, path: PathId) -> Option<PathId> {
        if self.others.is_empty() {
            return None; // as in most sessions
        }
        let after = (Bound::Excluded(path), Bound::Unbounded);
        self.others.range(after).next().map(|(&path, _)| path)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, &Link)> {
        let others = self.others.iter().map(|(&path, link)| (path, link.as_ref()));
        std::iter::once((HOME, self.home.as_ref())).chain(others)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PathId, &mut Link)> {
        let others = self.others.iter_mut().map(|(&path, link)| (path, link.as_mut()));
        std::iter::once((HOME, self.home.as_mut())).chain(others)
    }

    /// The connections to further servers.
    pub(super) fn others_mut(&mut self) -> btree_map::ValuesMut<'_, PathId, Box<Link>> {
        self.others.values_mut()
    }

    /// How many there are, the one to the peer included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        1 + self.others.len()
    }
}
