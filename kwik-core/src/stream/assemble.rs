//! The reassembly of one split stream: bytes from many sources, each offset delivered once.
//!
//! It holds what came early and hands it out in order, or lowest offset first. It never decides who may write where,
//! how much may be held or when to give up: leases, credit and caps are its callers'. Spec: RATIONALE §6.

#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fmt, iter, mem,
};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    conflict::{ConflictPolicy, Difference},
    ranges::RangeSet,
};
use crate::{
    id::{ByteRange, OFFSET_MAX, PathId},
    limits::COPY_BELOW,
};

/// Longest buffer that copied fragments are gathered into, in bytes.
const GATHER_MAX: usize = 4096;
/// Slots of an emptied chunk queue that is kept for the next run.
const SPARE_SLOTS_MAX: usize = 256;

/// Bytes that follow each other, in the buffers that they came in: what one batch brings of one stream.
pub(crate) type Pieces = SmallVec<[Bytes; 8]>;

/// Effect of one insert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Bytes that were not there before.
    pub(crate) new: u64,
    /// Bytes that were held or delivered already, or lie before the split; none of them took room.
    pub(crate) overlap: u64,
    /// Set if a byte differs from the one held at its offset. Delivered bytes are gone and cannot be compared.
    pub(crate) differed: bool,
}

impl Inserted {
    /// The two together.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            new: self.new + other.new,
            overlap: self.overlap + other.overlap,
            differed: self.differed || other.differed,
        }
    }
}

/// The bytes of one split stream from the split offset on; where they were there before, its policy says which stay.
///
/// Chunks are kept as they came, without copying, except slivers below [`COPY_BELOW`]: those are gathered, so that
/// memory stays proportional to the bytes held however small the pieces are.
#[derive(Default)]
pub(crate) struct Assembler {
    /// Offset of the split.
    base: u64,
    policy: ConflictPolicy,
    /// Every offset delivered or held.
    received: RangeSet,
    /// Runs of held bytes, apart from each other. A run keeps its key while its front is read, so the key is at or
    /// below the run's start, with delivered bytes between the two.
    runs: BTreeMap<u64, Run>,
    held: u64,
    consumed: u64,
    /// Place where the last insert found a byte that differs from the one held, until it is taken.
    difference: Option<Difference>,
    /// The queue of a run that was read empty, for the next run.
    spare: VecDeque<Chunk>,
}

impl Assembler {
    /// Returns an empty assembler for a stream split at `base`.
    pub(crate) fn new(base: u64, policy: ConflictPolicy) -> Self {
        Self { base, policy, ..Self::default() }
    }

    /// Places `bytes` from `source` at `offset`, counted from the start of the stream, and returns how many were new.
    ///
    /// Nothing is placed if the range leaves what QUIC can name. The cost is O(log n), plus the extents and held
    /// chunks that the range overlaps.
    pub(crate) fn insert(&mut self, source: PathId, offset: u64, bytes: Bytes) -> Inserted {
        self.insert_by(self.policy.replaces(source), source, offset, bytes)
    }

    /// As [`Self::insert`], for bytes that are known to be right: they take the place of others whatever the policy.
    pub(crate) fn insert_right(&mut self, source: PathId, offset: u64, bytes: Bytes) -> Inserted {
        self.insert_by(true, source, offset, bytes)
    }

    fn insert_by(&mut self, replaces: bool, source: PathId, offset: u64, bytes: Bytes) -> Inserted {
        let Some(range) = ByteRange::new(offset, length(&bytes)) else {
            return Inserted::default();
        };
        if offset >= self.base && self.received.insert_apart(range) {
            self.held += range.len();
            self.place(range, iter::once(bytes), source);
            return Inserted { new: range.len(), ..Inserted::default() };
        }
        self.insert_around(replaces, source, range, &bytes)
    }

    /// As [`Self::insert`], for pieces that follow each other, of which the caller knows that nothing is here and that what is
    /// lies further on: one look-up for all of them.
    pub(crate) fn insert_apart(&mut self, source: PathId, offset: u64, pieces: Pieces) -> Inserted {
        let len = pieces.iter().map(|piece| length(piece)).sum();
        let mut sum = Inserted::default();
        match ByteRange::new(offset, len) {
            Some(range) if offset >= self.base && self.received.insert_apart(range) => {
                self.held += len;
                self.place(range, pieces, source);
                sum.new = len;
            }
            Some(_) | None => {
                let mut at = offset;
                for piece in pieces {
                    let next = at + length(&piece);
                    sum = sum.plus(self.insert(source, at, piece));
                    at = next;
                }
            }
        }
        sum
    }

    /// Number of bytes from `offset` on that are neither here nor beside what is.
    pub(crate) fn apart_from(&self, offset: u64) -> u64 {
        let rest = ByteRange::between(offset, OFFSET_MAX);
        let next = rest.and_then(|rest| self.received.present(rest).next());
        next.map_or(OFFSET_MAX, ByteRange::start).saturating_sub(offset).saturating_sub(1)
    }

    /// Sets the policy for differing bytes from now on.
    pub(crate) fn set_policy(&mut self, policy: ConflictPolicy) {
        self.policy = policy;
    }

    /// Returns what becomes of differing bytes.
    pub(crate) const fn policy(&self) -> ConflictPolicy {
        self.policy
    }

    /// Takes where the last insert that differed did so.
    pub(crate) fn take_difference(&mut self) -> Option<Difference> {
        self.difference.take()
    }

    /// Takes held bytes, at most `max_len` and not copied if they need not be, with the offset of the first.
    ///
    /// `ordered` takes them at [`Self::read_position`] only; otherwise at the lowest offset held.
    pub(crate) fn read(&mut self, max_len: usize, ordered: bool) -> Option<(u64, Bytes)> {
        if max_len == 0 || !self.is_readable(ordered) {
            return None;
        }
        let mut front = self.runs.first_entry()?;
        let run = front.get_mut();
        let offset = run.start;
        let bytes = run.read(max_len);
        if run.start == run.end {
            let chunks = front.remove().chunks;
            if chunks.capacity() <= SPARE_SLOTS_MAX {
                self.spare = chunks;
            }
        }
        self.held -= length(&bytes);
        self.consumed += length(&bytes);
        Some((offset, bytes))
    }

    /// Returns the end of the delivered prefix: where an ordered reader goes on.
    pub(crate) fn read_position(&self) -> u64 {
        let prefix = self.received.end_of_prefix(self.base);
        self.runs.first_key_value().map_or(prefix, |(_, run)| run.start.min(prefix))
    }

    /// Returns the offsets delivered or held.
    pub(crate) const fn received(&self) -> &RangeSet {
        &self.received
    }

    /// Returns how many bytes are held and not yet delivered.
    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    /// Returns how many bytes were delivered.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns how many disjoint runs are held.
    pub(crate) fn extents(&self) -> usize {
        self.runs.len()
    }

    /// Returns whether [`Self::read`] has bytes to give.
    pub(crate) fn is_readable(&self, ordered: bool) -> bool {
        self.readable_at(ordered).is_some()
    }

    /// Returns where the bytes begin that [`Self::read`] has to give.
    pub(crate) fn readable_at(&self, ordered: bool) -> Option<u64> {
        let (_, run) = self.runs.first_key_value()?;
        (!ordered || run.start <= self.received.end_of_prefix(self.base)).then_some(run.start)
    }

    /// Returns the source of the bytes at the lowest offset held: of all that the next [`Self::read`] takes.
    pub(crate) fn next_source(&self) -> Option<PathId> {
        let (_, run) = self.runs.first_key_value()?;
        run.chunks.front().map_or(run.tail_source, |chunk| chunk.source)
    }

    /// Returns whether placing `len` bytes at `offset` would raise the number of runs to more than `cap`.
    ///
    /// Counts the runs held and, since unordered reads leave delivered islands that must be remembered, those of
    /// [`Self::received`] beyond the first. What fills or extends is never refused.
    pub(crate) fn would_exceed(&self, offset: u64, len: u64, cap: usize) -> bool {
        let skip = self.base.saturating_sub(offset).min(len);
        let Some(range) = ByteRange::new(offset.saturating_add(skip), len - skip) else {
            return false;
        };
        let (mut opened, mut joined) = (0, 0);
        for hole in self.received.missing(range) {
            opened += 1;
            joined += usize::from(self.run_ending_at(hole.start()).is_some());
            joined += usize::from(self.runs.get(&hole.end()).is_some_and(|run| run.start == hole.end()));
        }
        let raises_held = opened > joined && self.runs.len() + opened - joined > cap;
        let beside = ByteRange::between(range.start().saturating_sub(1), range.end() + 1).unwrap_or(range);
        raises_held || (self.received.len() > cap && !self.received.overlaps(beside))
    }

    /// Places a range of which some bytes may be there already.
    fn insert_around(&mut self, replaces: bool, source: PathId, range: ByteRange, bytes: &Bytes) -> Inserted {
        let start = range.start().max(self.base);
        let Some(wanted) = ByteRange::between(start, range.end()) else {
            return Inserted { overlap: range.len(), ..Inserted::default() };
        };
        let holes: SmallVec<[ByteRange; 4]> = self.received.missing(wanted).collect();
        let new = self.received.insert(wanted);
        let overlap = range.len() - new;
        // Compared before anything is placed: a byte does not overlap itself.
        let difference = if overlap > 0 { self.first_difference(range, bytes) } else { None };
        let differed = difference.is_some();
        if let Some(Difference { range: at, held }) = difference {
            tracing::debug!(%source, ?held, %at, "overlapping bytes differ");
            self.difference = difference;
            if replaces {
                self.replace(range, bytes, source);
            }
        }
        self.held += new;
        for hole in holes {
            let from = index(hole.start() - range.start());
            let to = index(hole.end() - range.start());
            self.place(hole, iter::once(bytes.slice(from..to)), source);
        }
        Inserted { new, overlap, differed }
    }

    /// Puts `bytes` in the place of what is held of `range`.
    fn replace(&mut self, range: ByteRange, bytes: &[u8], source: PathId) {
        let first =
            self.runs.range(..range.start()).next_back().map_or_else(|| range.start(), |(&key, _)| key);
        for run in self.runs.range_mut(first..range.end()).map(|(_, run)| run) {
            run.replace(range, bytes, source);
        }
    }

    /// Holds `pieces`, which fill `range`, all of which is new, and merges with the runs it touches.
    fn place(&mut self, range: ByteRange, pieces: impl IntoIterator<Item = Bytes>, source: PathId) {
        let (start, end) = (range.start(), range.end());
        if let Some((_, run)) = self.runs.range_mut(..=end).next_back() {
            if run.end == start {
                pieces.into_iter().for_each(|bytes| run.append(bytes, Some(source)));
                return;
            }
        }
        // A run that starts at the end of new bytes has its start for a key: the byte before it was never delivered.
        let right = match self.runs.entry(end) {
            Entry::Occupied(run) if run.get().start == end => Some(run.remove()),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        };
        let key = self.run_ending_at(start).unwrap_or(start);
        let run = self.runs.entry(key).or_insert_with(|| Run::new(start, mem::take(&mut self.spare)));
        pieces.into_iter().for_each(|bytes| run.append(bytes, Some(source)));
        if let Some(right) = right {
            run.join(right);
        }
    }

    /// Returns the key of the run that ends at `offset`.
    fn run_ending_at(&self, offset: u64) -> Option<u64> {
        let (&key, run) = self.runs.range(..offset).next_back()?;
        (run.end == offset).then_some(key)
    }

    /// Returns where `bytes` at `range` first disagree with a held byte, if they do.
    fn first_difference(&self, range: ByteRange, bytes: &[u8]) -> Option<Difference> {
        let before = self.runs.range(..range.start()).next_back();
        let within = self.runs.range(range.start()..range.end());
        before.into_iter().chain(within).find_map(|(_, run)| run.first_difference(range, bytes))
    }
}

impl fmt::Debug for Assembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembler")
            .field("base", &self.base)
            .field("held", &self.held)
            .field("consumed", &self.consumed)
            .field("extents", &self.extents())
            .finish_non_exhaustive()
    }
}

/// A stretch of held bytes without a hole.
struct Run {
    start: u64,
    end: u64,
    /// Rising and contiguous from `start`; the tail follows.
    chunks: VecDeque<Chunk>,
    /// The last bytes, copied, while more slivers may follow them; at most [`GATHER_MAX`].
    tail: BytesMut,
    /// Source of the bytes; `None` if several.
    tail_source: Option<PathId>,
}

impl Run {
    /// Returns an empty run at `start` that uses the empty queue `chunks`.
    fn new(start: u64, chunks: VecDeque<Chunk>) -> Self {
        Self { start, end: start, chunks, tail: BytesMut::new(), tail_source: None }
    }

    /// Adds `bytes` at the end; a sliver is copied.
    fn append(&mut self, bytes: Bytes, source: Option<PathId>) {
        let sliver = bytes.len() < COPY_BELOW;
        if !sliver || self.tail.len() + bytes.len() > GATHER_MAX {
            self.close_tail();
        }
        let at = self.end;
        self.end += length(&bytes);
        if sliver {
            self.tail_source = source.filter(|_| self.tail.is_empty() || self.tail_source == source);
            self.tail.extend_from_slice(&bytes);
        } else {
            self.chunks.push_back(Chunk { at, bytes, source });
        }
    }

    /// Adds `right`, which starts where this run ends. The cost is the shorter of the two queues.
    fn join(&mut self, mut right: Self) {
        if right.chunks.is_empty() {
            self.append(right.tail.freeze(), right.tail_source);
            return;
        }
        self.close_tail();
        self.join_seam(&mut right);
        if self.chunks.len() >= right.chunks.len() {
            self.chunks.append(&mut right.chunks);
        } else {
            while let Some(chunk) = self.chunks.pop_back() {
                right.chunks.push_front(chunk);
            }
            self.chunks = right.chunks;
        }
        (self.tail, self.tail_source) = (right.tail, right.tail_source);
        self.end = right.end;
    }

    /// Gathers the two chunks where `right` meets this run if one is a sliver: without it, slivers that come in
    /// falling order would each stay a chunk of their own.
    fn join_seam(&mut self, right: &mut Self) {
        let (Some(last), Some(first)) = (self.chunks.back_mut(), right.chunks.front()) else {
            return;
        };
        let (left_len, right_len) = (last.bytes.len(), first.bytes.len());
        if left_len.min(right_len) < COPY_BELOW && left_len + right_len <= GATHER_MAX {
            let mut gathered = BytesMut::with_capacity(left_len + right_len);
            gathered.extend_from_slice(&last.bytes);
            gathered.extend_from_slice(&first.bytes);
            last.bytes = gathered.freeze();
            last.source = last.source.filter(|_| last.source == first.source);
            right.chunks.pop_front();
        }
    }

    /// Takes at most `max_len` bytes from the front.
    fn read(&mut self, max_len: usize) -> Bytes {
        let bytes = match self.chunks.front_mut() {
            Some(chunk) if chunk.bytes.len() > max_len => {
                let bytes = chunk.bytes.split_to(max_len);
                chunk.at += length(&bytes);
                bytes
            }
            Some(_) => self.chunks.pop_front().map(|chunk| chunk.bytes).unwrap_or_default(),
            // What stays of the tail goes on gathering, so the part that leaves is a copy.
            None if self.tail.len() > max_len => Bytes::copy_from_slice(&self.tail.split_to(max_len)),
            None => mem::take(&mut self.tail).freeze(),
        };
        self.start += length(&bytes);
        bytes
    }

    /// Makes the tail a chunk.
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = mem::take(&mut self.tail).freeze();
            let (at, source) = (self.end - length(&bytes), self.tail_source);
            self.chunks.push_back(Chunk { at, bytes, source });
        }
    }

    /// Puts `bytes` in the place of what this run holds of `range`. The pieces stay as they are, so that however often it
    /// is done, there are not more of them.
    fn replace(&mut self, range: ByteRange, bytes: &[u8], source: PathId) {
        let mixed = |at: u64, len: u64, held: Option<PathId>| {
            let whole = range.start() <= at && at + len <= range.end();
            if whole { Some(source) } else { held.filter(|held| *held == source) }
        };
        let first = self.chunks.partition_point(|chunk| chunk.end() <= range.start());
        for chunk in self.chunks.range_mut(first..).take_while(|chunk| chunk.at < range.end()) {
            let mut copy = BytesMut::from(&*chunk.bytes);
            overwrite((chunk.at, &mut copy), (range.start(), bytes));
            chunk.bytes = copy.freeze();
            chunk.source = mixed(chunk.at, length(&chunk.bytes), chunk.source);
        }
        let tail = self.end - length(&self.tail);
        if tail < range.end() && range.start() < self.end {
            overwrite((tail, &mut self.tail), (range.start(), bytes));
            self.tail_source = mixed(tail, length(&self.tail), self.tail_source);
        }
    }

    /// Returns where `bytes` at `range` first disagree with a byte of this run, if they do.
    fn first_difference(&self, range: ByteRange, bytes: &[u8]) -> Option<Difference> {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= range.start());
        let chunks = self.chunks.range(first..).map(|chunk| (chunk.at, &*chunk.bytes, chunk.source));
        let tail = (self.end - length(&self.tail), &*self.tail, self.tail_source);
        chunks.chain(iter::once(tail)).take_while(|&(at, ..)| at < range.end()).find_map(
            |(at, held, source)| {
                let range = disagreement((at, held), (range.start(), bytes))?;
                Some(Difference { range, held: source })
            },
        )
    }
}

/// Held bytes in one buffer.
struct Chunk {
    at: u64,
    bytes: Bytes,
    /// Source of the bytes; `None` if they were gathered from several.
    source: Option<PathId>,
}

impl Chunk {
    /// One past the last byte's offset.
    fn end(&self) -> u64 {
        self.at + length(&self.bytes)
    }
}

/// Returns from where to where two pieces of a stream, each with its offset, differ: from the first byte that does to the
/// end of what they share.
fn disagreement(a: (u64, &[u8]), b: (u64, &[u8])) -> Option<ByteRange> {
    let start = a.0.max(b.0);
    let [a, b] = [a, b].map(|(at, bytes)| bytes.get(index(start - at)..).unwrap_or_default());
    let common = a.len().min(b.len());
    if a.get(..common) == b.get(..common) {
        return None;
    }
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    ByteRange::between(start + same as u64, start + common as u64)
}

/// Copies a piece of a stream onto another, each with its offset, where they overlap.
fn overwrite(onto: (u64, &mut [u8]), from: (u64, &[u8])) {
    let start = onto.0.max(from.0);
    let onto = onto.1.get_mut(index(start - onto.0)..).unwrap_or_default();
    let from = from.1.get(index(start - from.0)..).unwrap_or_default();
    onto.iter_mut().zip(from).for_each(|(onto, from)| *onto = *from);
}

/// Returns the length of `bytes` as a count of stream bytes.
const fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// Returns a distance within one buffer as an index.
fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OFFSET_MAX;

    const A: PathId = PathId::PRIMARY;
    const B: PathId = PathId::new(1);

    fn inserted(new: u64, overlap: u64, differed: bool) -> Inserted {
        Inserted { new, overlap, differed }
    }

    /// Chunks and tails held, and the bytes of their buffers.
    fn footprint(assembler: &Assembler) -> (usize, usize) {
        let chunks = assembler.runs.values().map(|run| run.chunks.len() + 1).sum();
        let bytes = assembler
            .runs
            .values()
            .map(|run| run.tail.capacity() + run.chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>())
            .sum();
        (chunks, bytes)
    }

    #[test]
    fn in_order_bytes_pass_through_uncopied() {
        let mut assembler = Assembler::new(100, ConflictPolicy::FirstWins);
        let bytes = Bytes::from(vec![7; 1400]);
        let shortest = bytes.slice(..COPY_BELOW);
        let mut short = Assembler::new(0, ConflictPolicy::FirstWins);
        short.insert(A, 0, shortest.clone());
        assert_eq!(short.read(usize::MAX, true).unwrap().1.as_ptr(), shortest.as_ptr());
        assert_eq!(assembler.insert(A, 100, bytes.clone()), inserted(1400, 0, false));
        assert_eq!(assembler.insert(A, 1500, bytes.clone()), inserted(1400, 0, false));
        assert_eq!((assembler.held(), assembler.extents(), assembler.read_position()), (2800, 1, 100));
        let (offset, read) = assembler.read(usize::MAX, true).unwrap();
        assert_eq!((offset, read.as_ptr()), (100, bytes.as_ptr()));
        assert_eq!(assembler.read(400, true).map(|(at, read)| (at, read.len())), Some((1500, 400)));
        assert_eq!(assembler.read(0, true), None);
        assert_eq!(assembler.read(9999, true).map(|(at, read)| (at, read.len())), Some((1900, 1000)));
        assert_eq!(assembler.read(usize::MAX, true), None);
        assert_eq!((assembler.held(), assembler.consumed(), assembler.read_position()), (0, 2800, 2900));
    }

    #[test]
    fn pieces_placed_as_one_are_as_if_placed_one_by_one() {
        let piece = |len: usize| Bytes::from((0..=250).cycle().take(len).collect::<Vec<u8>>());
        // Slivers are gathered, long pieces are not; what was here before lies behind, beside, or in the way.
        for lens in [&[1400, 1400, 1400][..], &[10, 20, 700, 30, 40], &[600], &[]] {
            for before in [&[][..], &[(0, 100)], &[(90, 10), (9000, 10)], &[(150, 10)], &[(100, 5000)]] {
                let mut two = [(); 2].map(|()| Assembler::new(0, ConflictPolicy::FirstWins));
                for assembler in &mut two {
                    for &(at, len) in before {
                        assembler.insert(A, at, piece(len));
                    }
                }
                let [one, each] = &mut two;
                let mut sum = Inserted::default();
                let mut at = 100;
                for &len in lens {
                    sum = sum.plus(each.insert(B, at, piece(len)));
                    at += len as u64;
                }
                let pieces: Pieces = lens.iter().map(|&len| piece(len)).collect();
                assert_eq!(one.insert_apart(B, 100, pieces), sum, "{lens:?} after {before:?}");
                assert_eq!((one.held(), one.received()), (each.held(), each.received()));
                assert_eq!(footprint(one), footprint(each));
                loop {
                    let source = one.next_source();
                    assert_eq!(source, each.next_source());
                    let read = one.read(usize::MAX, false);
                    assert_eq!(read, each.read(usize::MAX, false), "{lens:?} after {before:?}");
                    if read.is_none() {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_apart_neither_meets_nor_touches_what_is_here() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        assert_eq!(assembler.apart_from(5), OFFSET_MAX - 6, "nothing is here");
        assembler.insert(A, 100, Bytes::from_static(&[0; 50]));
        assert_eq!(assembler.apart_from(0), 99, "the byte before it would touch");
        assert_eq!(assembler.apart_from(99), 0);
        assert_eq!(assembler.apart_from(120), 0, "is here");
        assert_eq!(assembler.apart_from(150), OFFSET_MAX - 151, "behind it, as what follows in order is");
    }

    #[test]
    fn effects_add_up() {
        let (one, other) = (inserted(1, 2, false), inserted(10, 20, true));
        assert_eq!((one.plus(other), other.plus(one)), (inserted(11, 22, true), inserted(11, 22, true)));
        assert_eq!(one.plus(one), inserted(2, 4, false));
    }

    #[test]
    fn first_bytes_win_and_differences_show() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        assembler.insert(A, 2, Bytes::from_static(b"cd"));
        assert_eq!(assembler.insert(B, 0, Bytes::from_static(b"abcdef")), inserted(4, 2, false));
        assert_eq!(assembler.insert(B, 1, Bytes::from_static(b"bXd")), inserted(0, 3, true));
        assert_eq!(assembler.read(3, true), Some((0, Bytes::from_static(b"abc"))));
        assert_eq!(assembler.insert(B, 0, Bytes::from_static(b"XXX")), inserted(0, 3, false), "delivered");
        assert_eq!(assembler.insert(B, 2, Bytes::from_static(b"XdeX")), inserted(0, 4, true));
        assert_eq!(assembler.read(9, true), Some((3, Bytes::from_static(b"def"))));
    }

    #[test]
    fn the_last_or_the_primarys_bytes_may_win_until_they_are_read() {
        let read_all = |assembler: &mut Assembler| {
            iter::from_fn(|| assembler.read(9999, true)).flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>()
        };
        for (policy, source, expected) in [
            (ConflictPolicy::LastWins, B, &b"aaaXXXXcd"[..]),
            (ConflictPolicy::PrimaryWins, B, b"aaabbbbcd"),
            (ConflictPolicy::PrimaryWins, A, b"aaaXXXXcd"),
        ] {
            let mut assembler = Assembler::new(0, policy);
            for (at, bytes) in [(0, &b"aaa"[..]), (3, b"bbbb"), (7, b"cd")] {
                assembler.insert(B, at, Bytes::copy_from_slice(bytes));
            }
            assert_eq!(assembler.insert(source, 3, Bytes::from_static(b"XXXX")), inserted(0, 4, true));
            assert_eq!(read_all(&mut assembler), expected);
            assert_eq!(
                assembler.insert(source, 3, Bytes::from_static(b"ZZZZ")),
                inserted(0, 4, false),
                "read"
            );
            // Chunks that were never copied, and their neighbours.
            let (one, two) = (Bytes::from(vec![1; 600]), Bytes::from(vec![2; 600]));
            assembler.insert(B, 9, one.clone());
            assembler.insert(B, 609, two);
            let before = footprint(&assembler).0;
            assembler.insert(source, 600, Bytes::from(vec![3; 20]));
            assert_eq!(footprint(&assembler).0, before, "no more pieces than before");
            let read = read_all(&mut assembler);
            let replaced = read.iter().filter(|byte| **byte == 3).count();
            assert_eq!(replaced, if policy.replaces(source) { 20 } else { 0 });
            assert_eq!(read.len(), 1200);
            assert!(one.iter().all(|byte| *byte == 1), "somebody else's buffer is not touched");
        }
    }

    /// The source of a held byte is known whatever was merged around it, but for slivers of several that were gathered.
    #[test]
    fn a_difference_names_its_place_and_whose_bytes_were_there() {
        let c = PathId::new(2);
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        assembler.insert(A, 0, vec![1; 1000].into());
        assembler.insert(B, 2000, vec![2; 1000].into());
        assembler.insert(B, 1000, vec![2; 1000].into());
        let mut other = vec![2; 600];
        other[100] = 9;
        assert!(assembler.insert(c, 1500, other.clone().into()).differed);
        let difference = assembler.take_difference().unwrap();
        assert_eq!(difference, Difference { range: ByteRange::between(1600, 2000).unwrap(), held: Some(B) });
        assert_eq!(assembler.take_difference(), None, "taken");
        other[100] = 1;
        assert!(assembler.insert(c, 900, other.into()).differed);
        assert_eq!(assembler.take_difference().unwrap().held, Some(A));
        let mut sources = Vec::new();
        while let Some(source) = assembler.next_source() {
            let (at, bytes) = assembler.read(usize::MAX, true).unwrap();
            sources.push((at, bytes.len(), source));
        }
        assert_eq!(sources, [(0, 1000, A), (1000, 1000, B), (2000, 1000, B)]);

        let mut slivers = Assembler::new(0, ConflictPolicy::FirstWins);
        slivers.insert(A, 0, Bytes::from_static(b"aa"));
        slivers.insert(A, 2, Bytes::from_static(b"aa"));
        slivers.insert(c, 1, Bytes::from_static(b"x"));
        assert_eq!(slivers.take_difference().unwrap().held, Some(A));
        slivers.insert(B, 4, Bytes::from_static(b"bb"));
        slivers.insert(c, 5, Bytes::from_static(b"x"));
        assert_eq!(slivers.take_difference().unwrap().held, None, "gathered from both");
        assert_eq!(slivers.next_source(), None);
    }

    /// In a chunk as in a tail that still gathers.
    #[test]
    fn it_is_known_whose_bytes_are_held_after_some_were_replaced() {
        for held in [600, 100] {
            for (at, len, source, whose) in [
                (0, held, B, Some(B)),
                (0, held - 1, B, None),
                (1, held - 1, B, None),
                (1, held - 2, A, Some(A)),
            ] {
                let mut assembler = Assembler::new(0, ConflictPolicy::LastWins);
                assembler.insert(A, 0, vec![1; held].into());
                assert!(assembler.insert(source, at as u64, vec![2; len].into()).differed);
                assert_eq!(assembler.next_source(), whose, "{len} bytes at {at} of {held}");
                let mut expected = vec![1; held];
                expected[at..at + len].fill(2);
                assert_eq!(assembler.read(usize::MAX, true), Some((0, expected.into())));
            }
        }
        // What only touches the replaced bytes stays what it was.
        for next in [600, 100] {
            let mut assembler = Assembler::new(0, ConflictPolicy::LastWins);
            assembler.insert(A, 0, vec![1; 600].into());
            assembler.insert(A, 600, vec![1; next].into());
            assert!(assembler.insert(B, 0, vec![2; 600].into()).differed);
            assert_eq!(assembler.next_source(), Some(B));
            assembler.read(usize::MAX, true);
            assert_eq!(assembler.next_source(), Some(A));
        }
        let mut assembler = Assembler::new(0, ConflictPolicy::LastWins);
        assembler.insert(A, 0, vec![1; 100].into());
        assembler.insert(A, 1000, vec![1; 100].into());
        assert!(assembler.insert(B, 100, vec![2; 1000].into()).differed);
        assert_eq!(assembler.next_source(), Some(A));
    }

    #[test]
    fn bytes_outside_the_stream_are_not_placed() {
        let mut assembler = Assembler::new(10, ConflictPolicy::FirstWins);
        assert_eq!(assembler.insert(A, 0, Bytes::from_static(&[0; 10])), inserted(0, 10, false));
        assert_eq!(assembler.insert(A, 8, Bytes::from_static(&[0; 4])), inserted(2, 2, false));
        assert_eq!(assembler.insert(A, 50, Bytes::new()), Inserted::default());
        assert_eq!(assembler.insert(A, OFFSET_MAX, Bytes::from_static(b"x")), Inserted::default());
        assert_eq!(assembler.insert(A, u64::MAX, Bytes::from_static(b"x")), Inserted::default());
        assert_eq!(assembler.insert(A, OFFSET_MAX - 1, Bytes::from_static(b"x")), inserted(1, 0, false));
        assert!(!assembler.would_exceed(OFFSET_MAX - 1, 1, 0));
        assert!(!assembler.would_exceed(u64::MAX, u64::MAX, 0));
        assert_eq!(assembler.received().total(), 3);
    }

    #[test]
    fn ordered_reads_wait_and_skip_what_unordered_reads_took() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        assembler.insert(A, 4, Bytes::from_static(b"ef"));
        assert!(!assembler.is_readable(true));
        assert_eq!(assembler.read(9, true), None);
        assert_eq!(assembler.read(1, false), Some((4, Bytes::from_static(b"e"))));
        assert_eq!(assembler.read(9, false), Some((5, Bytes::from_static(b"f"))));
        assert_eq!(assembler.read_position(), 0);
        assembler.insert(A, 0, Bytes::from_static(b"abcdefg"));
        assert_eq!(assembler.read(9, true), Some((0, Bytes::from_static(b"abcd"))));
        assert_eq!(assembler.read_position(), 6);
        assert_eq!(assembler.read(9, true), Some((6, Bytes::from_static(b"g"))));
        assert_eq!(assembler.read_position(), 7);
    }

    #[test]
    fn a_sliver_does_not_pin_its_buffer() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        let batch = Bytes::from(vec![1; 64 * 1024]);
        assembler.insert(A, 0, batch.slice(0..COPY_BELOW - 1));
        assembler.insert(A, 4000, batch.slice(0..1400));
        let kept = batch.slice(0..1);
        drop(batch);
        assert!(!kept.is_unique(), "the long chunk is shared");
        while assembler.read(9999, false).is_some_and(|(at, _)| at < 4000) {}
        assert!(kept.is_unique());
    }

    #[test]
    fn slivers_gather_in_any_order() {
        const LEN: u64 = 1000;
        let byte = Bytes::from_static(b"x");
        let rising: Vec<u64> = (0..LEN).collect();
        let falling: Vec<u64> = (0..LEN).rev().collect();
        let split: Vec<u64> = (0..LEN).step_by(2).chain((1..LEN).step_by(2)).collect();
        let shuffled: Vec<u64> = (0..LEN).map(|i| i * 387 % LEN).collect();
        for order in [rising, falling, split, shuffled] {
            let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
            for block in 0..100 {
                for at in &order {
                    assert_eq!(assembler.insert(A, block * LEN + at, byte.clone()).new, 1);
                }
            }
            let (chunks, bytes) = footprint(&assembler);
            assert_eq!((assembler.extents(), assembler.held()), (1, 100 * LEN));
            assert!(chunks < 400, "{chunks} chunks");
            assert!(bytes < 120_000, "{bytes} bytes");
        }
    }

    #[test]
    fn slivers_gather_in_buffers_of_a_fixed_size() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        for n in 0..200 {
            assembler.insert(A, n * 64, vec![7; 64].into());
        }
        let read: Vec<usize> =
            iter::from_fn(|| assembler.read(usize::MAX, true)).map(|(_, read)| read.len()).collect();
        assert_eq!(read, [GATHER_MAX, GATHER_MAX, GATHER_MAX, 512]);
    }

    #[test]
    fn a_sliver_before_a_chunk_becomes_a_part_of_it() {
        for (source, whole) in [(A, Some(A)), (B, None)] {
            let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
            assembler.insert(A, 100, vec![7; 600].into());
            assembler.insert(source, 0, vec![7; 100].into());
            assert_eq!(assembler.next_source(), whole);
            assert_eq!(assembler.read(usize::MAX, true).unwrap().1.len(), 700);
        }
        // Not of one that is long enough, nor by copying one that is too long.
        for (before, after) in [(COPY_BELOW, 600), (100, GATHER_MAX)] {
            let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
            assembler.insert(A, before as u64, vec![7; after].into());
            assembler.insert(A, 0, vec![7; before].into());
            assert_eq!(assembler.read(usize::MAX, true).unwrap().1.len(), before);
            assert_eq!(assembler.read(usize::MAX, true).unwrap().1.len(), after);
        }
    }

    #[test]
    fn chunks_are_read_whole_or_in_parts() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        for at in [0, 600, 1200] {
            assembler.insert(A, at, vec![7; 600].into());
        }
        for (max, expected) in [(600, (0, 600)), (599, (600, 599)), (600, (1199, 1)), (601, (1200, 600))] {
            assert_eq!(assembler.read(max, true).map(|(at, read)| (at, read.len())), Some(expected));
        }
        assert_eq!(assembler.read(1, true), None);
    }

    /// Heap that stays taken after `pieces` slices of `len` bytes were inserted, `step` apart, each out of a buffer of
    /// its own that nobody else holds any more; per byte held.
    fn heap_per_byte(pieces: u64, len: usize, step: u64) -> f64 {
        const BATCH: usize = 64 * 1024;
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        let heap = allocation_counter::measure(|| {
            for n in 0..pieces {
                let batch = Bytes::from(vec![7; BATCH]);
                let at = usize::try_from(n).unwrap() * 97 % (BATCH - len);
                assembler.insert(A, n * step, batch.slice(at..at + len));
            }
        });
        assert_eq!(assembler.held(), pieces * len as u64);
        heap.bytes_current as f64 / assembler.held() as f64
    }

    /// Spec: RATIONALE §6.
    #[test]
    fn slivers_do_not_pin_the_buffers_they_came_in() {
        // One after the other they share buffers, whatever their length.
        for len in [1, 2, 100, COPY_BELOW - 1] {
            let heap = heap_per_byte(10_000, len, len as u64);
            assert!(heap < 2.5, "{heap} bytes of heap for each byte of slices of {len}");
        }
        // Apart, each is a run of its own, which costs what it costs to remember one; their number is capped.
        for len in [1, 2, 100, COPY_BELOW - 1] {
            let heap = heap_per_byte(1000, len, 2 * len as u64);
            let each = heap * len as f64 - len as f64;
            assert!(each < 300.0, "{each} bytes of heap for each run of {len} beside its bytes");
        }
    }

    #[test]
    fn small_reads_of_slivers_do_not_leave_small_chunks() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        for at in 0..20_000 {
            assembler.insert(A, at * 2, Bytes::from_static(b"xy"));
            assert_eq!(assembler.read(1, true).map(|(offset, bytes)| (offset, bytes.len())), Some((at, 1)));
        }
        assert!(footprint(&assembler).0 < 12);
        assert!(footprint(&assembler).1 < 25_000);
    }

    #[test]
    fn the_cap_refuses_only_what_opens_a_run() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        for at in [10, 20, 30] {
            assert!(!assembler.would_exceed(at, 2, 3));
            assembler.insert(A, at, Bytes::from_static(b"xy"));
        }
        assert!(assembler.would_exceed(15, 1, 3));
        assert!(!assembler.would_exceed(15, 1, 4));
        for (offset, len) in [(12, 1), (19, 1), (12, 8), (10, 2), (9, 20), (0, 0)] {
            assert!(!assembler.would_exceed(offset, len, 3), "{offset}+{len}");
        }
        while assembler.read(9, false).is_some() {}
        assert_eq!(assembler.extents(), 0);
        assert!(assembler.would_exceed(15, 1, 2), "delivered islands count");
        for (offset, len) in [(12, 1), (19, 1), (9, 1), (32, 1)] {
            assert!(!assembler.would_exceed(offset, len, 2), "{offset}+{len} beside an island");
        }
    }

    #[test]
    fn the_queue_of_a_run_is_used_again_unless_it_was_long() {
        let mut assembler = Assembler::new(0, ConflictPolicy::FirstWins);
        let chunk = Bytes::from(vec![7; COPY_BELOW]);
        for (chunks, kept) in [(2, true), (SPARE_SLOTS_MAX + 1, false), (3, true)] {
            let at = assembler.read_position();
            for n in 0..chunks {
                assembler.insert(A, at + (n * COPY_BELOW) as u64, chunk.clone());
            }
            while assembler.read(usize::MAX, true).is_some() {}
            let slots = assembler.spare.capacity();
            assert_eq!((1..=SPARE_SLOTS_MAX).contains(&slots), kept, "{slots} slots after {chunks} chunks");
        }
    }
}
