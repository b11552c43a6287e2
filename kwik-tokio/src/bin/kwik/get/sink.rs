//! Puts an object together from bytes that come in any order, verifies each leaf, and writes it where it belongs.
//!
//! All of it happens on a thread of its own, beside the network. A leaf is gathered in memory, hashed, and written in one
//! piece once it is right. If more leaves are begun at once than memory is for, the oldest is written as far as it is, and read
//! back when it is complete: what is on the disk counts only once it is verified.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use kwik_tokio::ByteRange;
use rangemap::RangeSet;

use super::partial::{Note, Partial};
use crate::{
    positioned,
    protocol::{LeafHasher, Tree},
};

/// Bytes of leaves that are begun, in memory, of one object.
const GATHERED_MAX: u64 = 24 * 1024 * 1024;
/// Time between two notes of what is there: what a crash may cost.
const NOTE_EVERY: Duration = Duration::from_secs(3);

/// An object on its way to the disk.
#[derive(Debug)]
pub(super) struct Sink {
    partial: Partial,
    tree: Tree,
    from: String,
    verified: RangeSet<u64>,
    /// Leaves that are begun, by offset.
    begun: BTreeMap<u64, Leaf>,
    /// Memory that they take.
    gathered: u64,
    spare: Vec<Vec<u8>>,
    /// Leaves that turned out wrong.
    wrong: u64,
    noted: Instant,
    /// Bytes verified since the last note.
    unnoted: u64,
    clock: u64,
}

#[derive(Debug)]
struct Leaf {
    range: ByteRange,
    digest: [u8; 32],
    /// Offsets of the object that are here, in memory or on the disk.
    have: RangeSet<u64>,
    /// Those that are in memory; the memory is as long as the leaf, or there is none.
    memory: RangeSet<u64>,
    bytes: Vec<u8>,
    /// Order in which leaves were begun.
    since: u64,
}

/// Ranges that are left to get of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) missing: Vec<ByteRange>,
    /// Leaves that came and were not right.
    pub(super) wrong: u64,
}

impl Sink {
    /// Creates the sink for what `tree` describes; `from` is for people who read the note.
    pub(super) fn new(partial: Partial, tree: Tree, from: String) -> Self {
        Self {
            partial,
            tree,
            from,
            verified: RangeSet::new(),
            begun: BTreeMap::new(),
            gathered: 0,
            spare: Vec::new(),
            wrong: 0,
            noted: Instant::now(),
            unnoted: 0,
            clock: 0,
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Looks at what a note says is on the disk, and counts the leaves that are right. Returns their bytes.
    pub(super) fn resume(&mut self, ranges: &[ByteRange]) -> io::Result<u64> {
        let noted: RangeSet<u64> = ranges.iter().map(|range| range.start()..range.end()).collect();
        let leaves: Vec<_> = self.tree.leaves().collect();
        let mut bytes = 0;
        for (range, digest) in leaves {
            let whole = noted.gaps(&span(range)).next().is_none();
            if whole && self.hash_on_disk(range)? == digest {
                self.verified.insert(span(range));
                bytes += range.len();
            }
        }
        Ok(bytes)
    }

    /// Takes bytes of the object, each once. Returns how many were verified by it.
    pub(super) fn take(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<u64> {
        let mut verified = 0;
        while !bytes.is_empty() {
            let Some((range, digest)) = self.tree.leaf_at(offset) else {
                return Err(io::Error::other("bytes beyond the object's end"));
            };
            let room = usize::try_from(range.end() - offset).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            verified += self.put(range, digest, offset, now)?;
            offset += now.len() as u64;
            bytes = later;
        }
        Ok(verified)
    }

    /// Writes a note of what is there, if it is time; or in any case.
    pub(super) fn note(&mut self, now: bool) -> io::Result<()> {
        if self.unnoted == 0 || !(now || self.noted.elapsed() >= NOTE_EVERY) {
            return Ok(());
        }
        let verified: Vec<_> =
            self.verified.iter().filter_map(|range| ByteRange::between(range.start, range.end)).collect();
        let note = Note::new(self.from.clone(), self.tree.len(), self.tree.version(), &verified);
        self.partial.note(&note)?;
        self.unnoted = 0;
        self.noted = Instant::now();
        Ok(())
    }

    /// Returns what is left to get, leaf by leaf, and forgets what there is of leaves that are not complete.
    pub(super) fn rest(&mut self) -> Rest {
        self.begun.clear();
        self.gathered = 0;
        let all = 0..self.tree.len();
        let missing = if all.is_empty() {
            Vec::new()
        } else {
            self.verified.gaps(&all).filter_map(|gap| ByteRange::between(gap.start, gap.end)).collect()
        };
        Rest { missing, wrong: std::mem::take(&mut self.wrong) }
    }

    /// Returns whether every byte is here and right.
    pub(super) fn is_complete(&self) -> bool {
        let all = 0..self.tree.len();
        all.is_empty() || self.verified.gaps(&all).next().is_none()
    }

    /// Returns the partial file, which is complete.
    pub(super) fn into_partial(self) -> Partial {
        self.partial
    }

    fn put(&mut self, range: ByteRange, digest: [u8; 32], offset: u64, bytes: &[u8]) -> io::Result<u64> {
        if self.verified.contains(&range.start()) {
            return Ok(0); // asked for again, by another request
        }
        self.clock += 1;
        let since = self.clock;
        let leaf = self.begun.entry(range.start()).or_insert_with(|| Leaf {
            range,
            digest,
            have: RangeSet::new(),
            memory: RangeSet::new(),
            bytes: Vec::new(),
            since,
        });
        if leaf.bytes.is_empty() {
            let mut memory = self.spare.pop().unwrap_or_default();
            memory.resize(index(range.len()), 0);
            leaf.bytes = memory;
            self.gathered += range.len();
        }
        let at = index(offset - range.start());
        let end = offset + bytes.len() as u64;
        if let Some(place) = leaf.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        leaf.have.insert(offset..end);
        leaf.memory.insert(offset..end);
        if leaf.have.gaps(&span(range)).next().is_some() {
            return self.make_room(range.start()).map(|()| 0);
        }
        match self.begun.remove(&range.start()) {
            Some(leaf) => self.complete(leaf),
            None => Ok(0),
        }
    }

    /// All bytes of a leaf have come.
    fn complete(&mut self, leaf: Leaf) -> io::Result<u64> {
        let Leaf { range, digest, memory, bytes, .. } = leaf;
        let right = if memory.gaps(&span(range)).next().is_none() {
            let mut hasher = LeafHasher::new(self.tree.len(), range.start());
            hasher.update(&bytes);
            let right = hasher.finish() == digest;
            if right {
                positioned::write_all(self.partial.file(), &bytes, range.start())?;
            }
            right
        } else {
            self.write(range, &memory, &bytes)?;
            self.hash_on_disk(range)? == digest
        };
        self.recycle(range, bytes);
        if !right {
            self.wrong += 1;
            return Ok(0);
        }
        self.verified.insert(span(range));
        self.unnoted += range.len();
        Ok(range.len())
    }

    /// Writes the oldest leaves but `kept` as far as they are, until memory is within its bounds.
    fn make_room(&mut self, kept: u64) -> io::Result<()> {
        while self.gathered > GATHERED_MAX {
            let oldest = self
                .begun
                .values_mut()
                .filter(|leaf| leaf.range.start() != kept && !leaf.bytes.is_empty())
                .min_by_key(|leaf| leaf.since);
            let Some(leaf) = oldest else {
                return Ok(());
            };
            let (range, bytes) = (leaf.range, std::mem::take(&mut leaf.bytes));
            let memory = std::mem::take(&mut leaf.memory);
            self.write(range, &memory, &bytes)?;
            self.recycle(range, bytes);
        }
        Ok(())
    }

    /// Writes the parts of a leaf that are in memory.
    fn write(&self, range: ByteRange, memory: &RangeSet<u64>, bytes: &[u8]) -> io::Result<()> {
        memory.iter().try_for_each(|part| {
            let (from, to) = (index(part.start - range.start()), index(part.end - range.start()));
            let bytes = bytes.get(from..to).unwrap_or_default();
            positioned::write_all(self.partial.file(), bytes, part.start)
        })
    }

    fn recycle(&mut self, range: ByteRange, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.gathered -= range.len();
        if self.spare.len() < 4 {
            self.spare.push(bytes);
        }
    }

    /// Hashes a leaf as it is on the disk.
    fn hash_on_disk(&mut self, range: ByteRange) -> io::Result<[u8; 32]> {
        let mut hasher = LeafHasher::new(self.tree.len(), range.start());
        let mut piece = self.spare.pop().unwrap_or_default();
        piece.resize(index(range.len()).min(1024 * 1024), 0);
        let mut at = range.start();
        while at < range.end() {
            let len = index(range.end() - at).min(piece.len());
            let part = piece.get_mut(..len).unwrap_or_default();
            positioned::read_exact(self.partial.file(), part, at)?;
            hasher.update(part);
            at += len as u64;
        }
        self.spare.push(piece);
        Ok(hasher.finish())
    }
}

/// Computes the tree of bytes that a file has, and so the version; for targets that may be what is wanted.
pub(super) fn is_object(file: &std::fs::File, tree: &Tree) -> io::Result<bool> {
    if file.metadata()?.len() != tree.len() {
        return Ok(false);
    }
    let mut piece = vec![0; 1024 * 1024];
    for (range, digest) in tree.leaves() {
        let mut hasher = LeafHasher::new(tree.len(), range.start());
        let mut at = range.start();
        while at < range.end() {
            let len = index(range.end() - at).min(piece.len());
            let part = piece.get_mut(..len).unwrap_or_default();
            positioned::read_exact(file, part, at)?;
            hasher.update(part);
            at += len as u64;
        }
        if hasher.finish() != digest {
            return Ok(false);
        }
    }
    Ok(true)
}

fn span(range: ByteRange) -> std::ops::Range<u64> {
    range.start()..range.end()
}

/// A number of bytes that is in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::partial::{Existing, Names},
        *,
    };
    use crate::protocol::leaf_len;

    fn object(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }

    fn tree(bytes: &[u8]) -> Tree {
        let len = bytes.len() as u64;
        let leaf = index(leaf_len(len));
        let digest = |(number, part): (usize, &[u8])| {
            let mut hasher = LeafHasher::new(len, (number * leaf) as u64);
            hasher.update(part);
            hasher.finish()
        };
        Tree::new(len, bytes.chunks(leaf).enumerate().map(digest).collect()).unwrap()
    }

    fn sink(folder: &tempfile::TempDir, bytes: &[u8], keep: bool) -> Sink {
        let names = Names::new(folder.path().join("object"));
        let partial = Partial::open(names, bytes.len() as u64, keep, false).unwrap();
        Sink::new(partial, tree(bytes), "kwik://a/object".into())
    }

    fn check(mut sink: Sink, bytes: &[u8]) {
        assert_eq!(sink.rest(), Rest { missing: vec![], wrong: 0 });
        let path = sink.partial.names().target.clone();
        sink.into_partial().finish(false).unwrap();
        assert!(fs::read(path).unwrap() == bytes);
    }

    #[test]
    fn any_order_is_put_together() {
        let bytes = object(3 * 1024 * 1024 + 77);
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(&folder, &bytes, false);
        let pieces = bytes.len().div_ceil(1000);
        let mut verified = 0;
        for n in 0..pieces {
            let at = n * 1013 % pieces * 1000;
            let piece = &bytes[at..bytes.len().min(at + 1000)];
            verified += sink.take(at as u64, piece).unwrap();
        }
        assert_eq!(verified, bytes.len() as u64);
        check(sink, &bytes);
    }

    #[test]
    fn more_leaves_begun_than_memory_is_for() {
        let leaves = index(GATHERED_MAX) / (1024 * 1024) + 8;
        let bytes = object(leaves * 1024 * 1024);
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(&folder, &bytes, false);
        let half = 512 * 1024;
        for first in [half, 0] {
            for leaf in 0..leaves {
                let at = leaf * 1024 * 1024 + first;
                sink.take(at as u64, &bytes[at..at + half]).unwrap();
                assert!(sink.gathered <= GATHERED_MAX);
            }
        }
        check(sink, &bytes);
    }

    #[test]
    fn a_wrong_leaf_is_missing_still_and_never_noted() {
        let bytes = object(2 * 1024 * 1024);
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(&folder, &bytes, false);
        let mut wrong = bytes.clone();
        wrong[5] ^= 1;
        assert_eq!(sink.take(0, &wrong).unwrap(), 1024 * 1024);
        let first = ByteRange::between(0, 1024 * 1024).unwrap();
        sink.note(true).unwrap();
        let note = sink.partial.names().look(Existing::Refuse).unwrap().note.unwrap();
        assert_eq!(note.missing().unwrap().iter().collect::<Vec<_>>(), [first]);
        assert_eq!(sink.rest(), Rest { missing: vec![first], wrong: 1 });
        sink.take(0, &bytes[..1024 * 1024]).unwrap();
        check(sink, &bytes);
    }

    #[test]
    fn what_is_on_the_disk_is_looked_at_before_it_counts() {
        let bytes = object(3 * 1024 * 1024);
        let folder = tempfile::tempdir().unwrap();
        let mut first = sink(&folder, &bytes, false);
        first.take(0, &bytes[..2 * 1024 * 1024]).unwrap();
        first.take(2 * 1024 * 1024, &bytes[2 * 1024 * 1024..][..100]).unwrap();
        first.note(true).unwrap();
        positioned::write_all(first.partial.file(), b"xx", 1024 * 1024 + 9).unwrap();
        let note = first.partial.names().look(Existing::Refuse).unwrap().note.unwrap();
        drop(first);
        let mut again = sink(&folder, &bytes, true);
        assert_eq!(again.resume(&note.verified().unwrap()).unwrap(), 1024 * 1024);
        let rest = again.rest();
        assert_eq!(rest.missing, [ByteRange::between(1024 * 1024, 3 * 1024 * 1024).unwrap()]);
        again.take(1024 * 1024, &bytes[1024 * 1024..]).unwrap();
        check(again, &bytes);
    }

    #[test]
    fn nothing_is_an_object_too() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(Names::new(folder.path().join("empty")), 0, false, false).unwrap();
        let tree = Tree::new(0, vec![LeafHasher::new(0, 0).finish()]).unwrap();
        let mut sink = Sink::new(partial, tree, String::new());
        assert_eq!(sink.rest().missing, []);
        sink.into_partial().finish(false).unwrap();
        assert_eq!(fs::read(folder.path().join("empty")).unwrap(), b"");
    }
}
