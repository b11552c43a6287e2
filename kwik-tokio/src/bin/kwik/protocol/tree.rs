//! The digests of an object: the nodes of its BLAKE3 tree at one level.

use std::fmt;

use blake3::{
    CHUNK_LEN, Hasher,
    hazmat::{HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use kwik_tokio::ByteRange;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Shortest leaf that is not the last of its object, in bytes.
const LEAF_MIN: u64 = 1024 * 1024;
/// Leaves of an object: a longer one has longer leaves.
const LEAVES_MAX: u64 = 8 * 1024;
/// The longest object: what one QUIC stream can carry (RFC 9000 §4.5).
const LEN_MAX: u64 = (1 << 62) - 1;

const _: () =
    assert!(LEAF_MIN.is_power_of_two() && LEAF_MIN >= CHUNK_LEN as u64, "leaves are nodes of the tree");

/// The BLAKE3 hash of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Version([u8; 32]);

impl Version {
    pub(crate) const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns how long the leaves of an object are, but for the last; a power of two.
pub(crate) fn leaf_len(object_len: u64) -> u64 {
    object_len.div_ceil(LEAVES_MAX).max(LEAF_MIN).checked_next_power_of_two().unwrap_or(LEN_MAX)
}

/// Returns the leaves of an object: one, of no bytes, if it is empty.
pub(crate) fn leaves(object_len: u64) -> u64 {
    object_len.div_ceil(leaf_len(object_len)).max(1)
}

/// Computes the digest of the leaf that begins at `offset` of an object, from the leaf's bytes, piece by piece.
///
/// An object of one leaf has its own hash as the leaf's digest.
#[derive(Clone, Debug)]
pub(crate) struct LeafHasher {
    hasher: Hasher,
    whole: bool,
}

impl LeafHasher {
    pub(crate) fn new(object_len: u64, offset: u64) -> Self {
        let mut hasher = Hasher::new();
        let whole = leaves(object_len) == 1;
        if !whole {
            // An offset that is none of a leaf cannot be hashed as one; its digest then fits nothing.
            hasher.set_input_offset(offset - offset % leaf_len(object_len));
        }
        Self { hasher, whole }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        if self.whole { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() }
    }
}

/// An object's length and digests, from which its version follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub(crate) struct Tree {
    len: u64,
    leaves: Vec<[u8; 32]>,
    version: Version,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    len: u64,
    leaves: Vec<[u8; 32]>,
}

/// The digests are not as many as an object of this length has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an object of {len} bytes does not have {leaves} leaves")]
pub(crate) struct BadTree {
    len: u64,
    leaves: usize,
}

impl Tree {
    /// Takes the digests of all leaves of an object.
    pub(crate) fn new(len: u64, digests: Vec<[u8; 32]>) -> Result<Self, BadTree> {
        let bad = BadTree { len, leaves: digests.len() };
        if len > LEN_MAX || leaves(len) != digests.len() as u64 {
            return Err(bad);
        }
        let version = Version(root(len, leaf_len(len), &digests).ok_or(bad)?);
        Ok(Self { len, leaves: digests, version })
    }

    /// Returns the object's length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Returns the ranges of the leaves and their digests, by offset. An empty object has none.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = (ByteRange, [u8; 32])> + '_ {
        let (leaf, len) = (leaf_len(self.len), self.len);
        let starts = (0..).step_by(usize::try_from(leaf).unwrap_or(usize::MAX));
        self.leaves.iter().zip(starts).filter_map(move |(digest, start): (_, u64)| {
            ByteRange::between(start, len.min(start.saturating_add(leaf))).map(|range| (range, *digest))
        })
    }

    /// Returns the range and digest of the leaf that has the byte at `offset`.
    pub(crate) fn leaf_at(&self, offset: u64) -> Option<(ByteRange, [u8; 32])> {
        let leaf = leaf_len(self.len);
        let index = offset / leaf;
        let digest = self.leaves.get(usize::try_from(index).ok()?)?;
        let start = index * leaf;
        Some((ByteRange::between(start, self.len.min(start.saturating_add(leaf)))?, *digest))
    }
}

impl TryFrom<Wire> for Tree {
    type Error = BadTree;

    fn try_from(wire: Wire) -> Result<Self, BadTree> {
        Self::new(wire.len, wire.leaves)
    }
}

impl From<Tree> for Wire {
    fn from(tree: Tree) -> Self {
        Self { len: tree.len, leaves: tree.leaves }
    }
}

/// Computes the hash of an object from its leaves.
fn root(len: u64, leaf: u64, digests: &[[u8; 32]]) -> Option<[u8; 32]> {
    if let [digest] = digests {
        return Some(*digest);
    }
    let (left, right) = split(len, leaf, digests)?;
    Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn node(len: u64, leaf: u64, digests: &[[u8; 32]]) -> Option<[u8; 32]> {
    if let [digest] = digests {
        return Some(*digest);
    }
    let (left, right) = split(len, leaf, digests)?;
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

/// Computes the two halves of a node that has more than one leaf.
fn split(len: u64, leaf: u64, digests: &[[u8; 32]]) -> Option<([u8; 32], [u8; 32])> {
    if len <= leaf {
        return None;
    }
    let left_len = left_subtree_len(len);
    let (left, right) = digests.split_at_checked(usize::try_from(left_len / leaf).ok()?)?;
    Some((node(left_len, leaf, left)?, node(len - left_len, leaf, right)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: u64) -> Vec<u8> {
        (0_u8..251).cycle().take(usize::try_from(len).unwrap()).collect()
    }

    fn tree(bytes: &[u8]) -> Tree {
        let len = bytes.len() as u64;
        let leaf = usize::try_from(leaf_len(len)).unwrap();
        let digest = |(index, part): (usize, &[u8])| {
            let mut hasher = LeafHasher::new(len, (index * leaf) as u64);
            part.chunks(1000).for_each(|piece| hasher.update(piece));
            hasher.finish()
        };
        let mut digests: Vec<_> = bytes.chunks(leaf).enumerate().map(digest).collect();
        if digests.is_empty() {
            digests.push(LeafHasher::new(0, 0).finish());
        }
        Tree::new(len, digests).unwrap()
    }

    #[test]
    fn the_version_is_the_hash_of_the_object() {
        for len in
            [0, 1, 1024, LEAF_MIN, LEAF_MIN + 1, 2 * LEAF_MIN, 3 * LEAF_MIN, 5 * LEAF_MIN + 77, 8 * LEAF_MIN]
        {
            let bytes = bytes(len);
            let tree = tree(&bytes);
            assert_eq!(tree.version().as_bytes(), blake3::hash(&bytes).as_bytes(), "{len}");
            assert_eq!(tree.version().to_string(), blake3::hash(&bytes).to_string());
            let back: Tree = postcard::from_bytes(&postcard::to_allocvec(&tree).unwrap()).unwrap();
            assert_eq!(back, tree);
        }
    }

    #[test]
    fn leaves_make_up_the_object() {
        let len = 3 * LEAF_MIN + 5;
        let tree = tree(&bytes(len));
        let leaves: Vec<_> = tree.leaves().collect();
        assert_eq!(leaves.len(), 4);
        assert_eq!(leaves[3].0, ByteRange::between(3 * LEAF_MIN, len).unwrap());
        for offset in [0, LEAF_MIN - 1, LEAF_MIN, 3 * LEAF_MIN, len - 1] {
            let leaf = leaves.iter().find(|(range, _)| range.start() <= offset && offset < range.end());
            assert_eq!(tree.leaf_at(offset).as_ref(), leaf);
        }
        assert_eq!(tree.leaf_at(4 * LEAF_MIN), None);
        assert_eq!(tree_of_nothing().leaves().count(), 0);
        assert_eq!(tree_of_nothing().leaf_at(0), None);
    }

    fn tree_of_nothing() -> Tree {
        tree(b"")
    }

    #[test]
    fn long_objects_have_long_leaves() {
        for (len, leaf, count) in [
            (0, LEAF_MIN, 1),
            (LEAF_MIN * LEAVES_MAX, LEAF_MIN, LEAVES_MAX),
            (LEAF_MIN * LEAVES_MAX + 1, 2 * LEAF_MIN, LEAVES_MAX / 2 + 1),
            (LEN_MAX, 1 << 49, LEAVES_MAX),
        ] {
            assert_eq!((leaf_len(len), leaves(len)), (leaf, count), "{len}");
        }
    }

    #[test]
    fn other_numbers_of_leaves_make_no_tree() {
        for (len, count) in
            [(0, 0), (1, 2), (LEAF_MIN + 1, 1), (LEN_MAX + 1, 8192), (u64::MAX, 1), (5 * LEAF_MIN, 6)]
        {
            assert!(Tree::new(len, vec![[0; 32]; count]).is_err(), "{len} {count}");
        }
    }

    #[test]
    fn a_changed_leaf_changes_the_version() {
        let bytes = bytes(2 * LEAF_MIN);
        let tree = tree(&bytes);
        let mut digests = tree.leaves.clone();
        digests.swap(0, 1);
        assert_ne!(Tree::new(tree.len(), digests).unwrap().version(), tree.version());
    }
}
