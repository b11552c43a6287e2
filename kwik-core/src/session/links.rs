//! The connections that a session has taken: the one to its peer, and on clients those to further servers.

use super::{HOME, link::Link};
use crate::id::PathId;

/// The connections of a session by path.
///
/// The one to the primary on a client, and the only one on a server, is there from the beginning to the end; the others
/// come and go.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) home: Box<Link>,
    /// In the order of their numbers. They are few, and looked up several times for each datagram.
    others: Vec<(PathId, Box<Link>)>,
}

impl Links {
    pub(super) fn new(home: Link) -> Self {
        Self { home: Box::new(home), others: Vec::new() }
    }

    pub(super) fn get(&self, path: PathId) -> Option<&Link> {
        if path == HOME {
            return Some(&self.home);
        }
        self.others.get(self.place(path).ok()?).map(|(_, link)| link.as_ref())
    }

    pub(super) fn get_mut(&mut self, path: PathId) -> Option<&mut Link> {
        if path == HOME {
            return Some(&mut self.home);
        }
        let at = self.place(path).ok()?;
        self.others.get_mut(at).map(|(_, link)| link.as_mut())
    }

    /// Adds the connection of a further path.
    pub(super) fn insert(&mut self, path: PathId, link: Box<Link>) {
        debug_assert_ne!(path, HOME, "the path to the peer is there from the beginning");
        match self.place(path) {
            Ok(_) => debug_assert!(false, "one connection of a path is taken"),
            Err(at) => self.others.insert(at, (path, link)),
        }
    }

    /// Forgets the connection of a further path.
    pub(super) fn remove(&mut self, path: PathId) {
        if let Ok(at) = self.place(path) {
            self.others.remove(at);
        }
    }

    /// The path after `path`, in the order of their numbers.
    pub(super) fn after(&self, path: PathId) -> Option<PathId> {
        let at = match self.place(path) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        self.others.get(at).map(|(path, _)| *path)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, &Link)> {
        let others = self.others.iter().map(|(path, link)| (*path, link.as_ref()));
        std::iter::once((HOME, self.home.as_ref())).chain(others)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PathId, &mut Link)> {
        let others = self.others.iter_mut().map(|(path, link)| (*path, link.as_mut()));
        std::iter::once((HOME, self.home.as_mut())).chain(others)
    }

    /// The connections to further servers.
    pub(super) fn others_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.others.iter_mut().map(|(_, link)| link.as_mut())
    }

    /// Number of connections, the one to the peer included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// Index of a path's connection among the others, or the one that it would have.
    fn place(&self, path: PathId) -> Result<usize, usize> {
        self.others.binary_search_by_key(&path, |(path, _)| *path)
    }
}
