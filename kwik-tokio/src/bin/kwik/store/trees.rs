//! Digests of the objects that are served: each computed once, and kept while the process lives.

use std::{
    collections::BTreeMap,
    io,
    num::NonZero,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{Object, Stamp};
use crate::protocol::{LeafHasher, ObjectPath, Tree, leaf_len, leaves};

/// Leaves of all objects together that are kept: 32 bytes each.
const LEAVES_KEPT: usize = 512 * 1024;
/// Objects that are kept.
const OBJECTS_KEPT: usize = 64 * 1024;
/// Bytes read and hashed at a time.
const PIECE: u64 = 256 * 1024;

/// The digests of objects, by name and state.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    trees: BTreeMap<(ObjectPath, Stamp), Kept>,
    leaves: usize,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    cell: Arc<OnceLock<Arc<Tree>>>,
    /// One computes at a time: others wait for it.
    work: Arc<Mutex<()>>,
    used: u64,
    leaves: usize,
}

/// The count of bytes hashed so far, for whoever waits.
#[derive(Debug, Default)]
pub(crate) struct Hashed(AtomicU64);

impl Hashed {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Trees {
    /// Returns an object's digests, which are computed if they are not known. Blocks.
    ///
    /// # Errors
    /// - Those of reading the object; nothing is kept then.
    pub(crate) fn of(
        &self,
        path: &ObjectPath,
        object: &dyn Object,
        hashed: &Hashed,
    ) -> io::Result<Arc<Tree>> {
        let key = (path.clone(), object.stamp());
        let (cell, work) = self.entry(&key, usize::try_from(leaves(object.len())).unwrap_or(usize::MAX));
        if let Some(tree) = cell.get() {
            hashed.add(object.len());
            return Ok(tree.clone());
        }
        let _one = work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = cell.get() {
            hashed.add(object.len());
            return Ok(tree.clone());
        }
        let tree = Arc::new(compute(object, hashed)?);
        Ok(cell.get_or_init(|| tree).clone())
    }

    fn entry(&self, key: &(ObjectPath, Stamp), leaves: usize) -> (Arc<OnceLock<Arc<Tree>>>, Arc<Mutex<()>>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.clock += 1;
        let used = table.clock;
        if let Some(kept) = table.trees.get_mut(key) {
            kept.used = used;
            return (kept.cell.clone(), kept.work.clone());
        }
        table.leaves += leaves;
        let kept = Kept { cell: Arc::default(), work: Arc::default(), used, leaves };
        let found = (kept.cell.clone(), kept.work.clone());
        table.trees.insert(key.clone(), kept);
        table.trim();
        found
    }
}

impl Table {
    /// Forgets what was not used for longest, if there is too much: half of it at once, so that this is rare.
    fn trim(&mut self) {
        if self.leaves <= LEAVES_KEPT && self.trees.len() <= OBJECTS_KEPT {
            return;
        }
        let mut ages: Vec<u64> = self.trees.values().map(|kept| kept.used).collect();
        ages.sort_unstable();
        let middle = ages.get(ages.len() / 2).copied().unwrap_or_default();
        // The one just asked for stays.
        let newest = self.clock;
        self.trees.retain(|_, kept| kept.used > middle || kept.used == newest);
        self.leaves = self.trees.values().map(|kept| kept.leaves).sum();
    }
}

/// Digests of leaves, by number.
type Leaves = Vec<(u64, [u8; 32])>;

/// Reads and hashes an object, on some threads if it is long.
fn compute(object: &dyn Object, hashed: &Hashed) -> io::Result<Tree> {
    let len = object.len();
    let (leaf, count) = (leaf_len(len), leaves(len));
    let next = AtomicU64::new(0);
    let work = || {
        let mut digests = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(digests);
            }
            let start = index.saturating_mul(leaf);
            let end = len.min(start.saturating_add(leaf));
            let digest = digest(object, start, end, hashed).inspect_err(|_error| {
                next.store(count, Ordering::Relaxed); // nobody needs the rest
            })?;
            digests.push((index, digest));
        }
    };
    let helpers = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(4)
        .min(usize::try_from(count).unwrap_or(1))
        - 1;
    let all: io::Result<Vec<Leaves>> = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut all = vec![work()];
        for helper in helpers {
            all.push(helper.join().unwrap_or_else(|_panic| Err(io::Error::other("a thread failed"))));
        }
        all.into_iter().collect()
    });
    let mut all: Vec<_> = all?.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(index, _)| *index);
    Tree::new(len, all.into_iter().map(|(_, digest)| digest).collect()).map_err(io::Error::other)
}

/// Hashes one leaf.
fn digest(object: &dyn Object, start: u64, end: u64, hashed: &Hashed) -> io::Result<[u8; 32]> {
    let mut hasher = LeafHasher::new(object.len(), start);
    let mut at = start;
    while at < end {
        let piece = PIECE.min(end - at);
        let bytes = object.read_at(at, usize::try_from(piece).map_err(io::Error::other)?)?;
        hasher.update(&bytes);
        at += piece;
        hashed.add(piece);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bytes::Bytes;
    use kwik_tokio::ReadAt;

    use super::*;

    struct Counted {
        bytes: Bytes,
        reads: AtomicUsize,
        stamp: &'static str,
        fails: bool,
    }

    impl ReadAt for Counted {
        fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.fails { Err(io::Error::other("no")) } else { self.bytes.read_at(offset, len) }
        }
    }

    impl Object for Counted {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn stamp(&self) -> Stamp {
            Stamp::new(self.stamp.to_owned())
        }
    }

    fn object(len: usize, stamp: &'static str) -> Counted {
        let bytes: Vec<u8> = (0_u8..253).cycle().take(len).collect();
        Counted { bytes: bytes.into(), reads: AtomicUsize::new(0), stamp, fails: false }
    }

    #[test]
    fn digests_are_computed_once_for_each_state() {
        let (trees, path) = (Trees::default(), ObjectPath::parse("x").unwrap());
        let first = object((5 << 20) + 3, "1");
        let hashed = Hashed::default();
        let tree = trees.of(&path, &first, &hashed).unwrap();
        assert_eq!(tree.version().as_bytes(), blake3::hash(&first.bytes).as_bytes());
        assert_eq!(hashed.get(), first.len());
        let reads = first.reads.load(Ordering::Relaxed);
        assert_eq!(trees.of(&path, &first, &hashed).unwrap(), tree);
        assert_eq!((first.reads.load(Ordering::Relaxed), hashed.get()), (reads, 2 * first.len()));
        let second = object(100, "2");
        assert_ne!(trees.of(&path, &second, &hashed).unwrap().version(), tree.version());
    }

    #[test]
    fn an_error_is_not_kept() {
        let (trees, path) = (Trees::default(), ObjectPath::parse("x").unwrap());
        let mut object = object(3 << 20, "1");
        object.fails = true;
        assert!(trees.of(&path, &object, &Hashed::default()).is_err());
        object.fails = false;
        trees.of(&path, &object, &Hashed::default()).unwrap();
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut table = Table::default();
        for number in 0..3 * OBJECTS_KEPT as u64 {
            table.clock += 1;
            table.leaves += 10;
            let path = ObjectPath::parse(&number.to_string()).unwrap();
            let kept = Kept { cell: Arc::default(), work: Arc::default(), used: table.clock, leaves: 10 };
            table.trees.insert((path.clone(), Stamp::new(String::new())), kept);
            table.trim();
            assert!(table.leaves <= LEAVES_KEPT && table.trees.len() <= OBJECTS_KEPT);
            assert!(table.trees.contains_key(&(path, Stamp::new(String::new()))));
        }
    }
}
