//! Live leases, looked up by name, by path, by stream and by place.
//!
//! It knows that a byte has one owner, or two while a lease is hedged; why a lease is given or ends is its callers'
//! business. Client and primary keep one each, with their own state per lease. Spec: PROTOCOL §5, RATIONALE §12.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{ByteRange, LeaseId, PathId, StreamId};

/// Live leases that may share a byte: one, and the one that hedges it.
const LAYERS: usize = 2;

/// Some byte of the range has as many owners as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken;

/// A live lease: who fills what, and what else its keeper remembers.
#[derive(Debug)]
pub(crate) struct Live<T> {
    path: PathId,
    stream: StreamId,
    range: ByteRange,
    layer: usize,
    pub(crate) state: T,
}

impl<T> Live<T> {
    pub(crate) const fn path(&self) -> PathId {
        self.path
    }

    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    pub(crate) const fn range(&self) -> ByteRange {
        self.range
    }
}

/// All live leases of a session.
///
/// Finding a lease costs O(log n) in any of the ways, and listing those of a path, stream or range nothing for others.
#[derive(Debug)]
pub(crate) struct LeaseTable<T> {
    leases: BTreeMap<LeaseId, Live<T>>,
    of_path: BTreeMap<PathId, BTreeSet<LeaseId>>,
    /// By where they start. No two leases of a layer share a byte, so the one before a place is the only one that can
    /// reach it.
    layers: [BTreeMap<(StreamId, u64), LeaseId>; LAYERS],
    /// Number of leases per stream.
    of_stream: BTreeMap<StreamId, usize>,
}

impl<T> Default for LeaseTable<T> {
    fn default() -> Self {
        Self {
            leases: BTreeMap::new(),
            of_path: BTreeMap::new(),
            layers: [BTreeMap::new(), BTreeMap::new()],
            of_stream: BTreeMap::new(),
        }
    }
}

impl<T> LeaseTable<T> {
    /// Adds a lease that is not in the table.
    ///
    /// # Errors
    /// [`Taken`] if a byte of `range` would have more owners than may be; nothing was done.
    pub(crate) fn insert(
        &mut self,
        id: LeaseId,
        path: PathId,
        stream: StreamId,
        range: ByteRange,
        state: T,
    ) -> Result<(), Taken> {
        debug_assert!(!self.leases.contains_key(&id), "ids are never used twice");
        let free = |layer: &usize| self.in_layer(*layer, stream, range).next().is_none();
        let layer = (0..LAYERS).find(free).ok_or(Taken)?;
        if let Some(layer) = self.layers.get_mut(layer) {
            layer.insert((stream, range.start()), id);
        }
        self.of_path.entry(path).or_default().insert(id);
        *self.of_stream.entry(stream).or_default() += 1;
        self.leases.insert(id, Live { path, stream, range, layer, state });
        Ok(())
    }

    /// Takes a lease out.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Live<T>> {
        let lease = self.leases.remove(&id)?;
        if let Some(layer) = self.layers.get_mut(lease.layer) {
            layer.remove(&(lease.stream, lease.range.start()));
        }
        if let Some(of_path) = self.of_path.get_mut(&lease.path) {
            of_path.remove(&id);
            if of_path.is_empty() {
                self.of_path.remove(&lease.path);
            }
        }
        if let Some(count) = self.of_stream.get_mut(&lease.stream) {
            *count -= 1;
            if *count == 0 {
                self.of_stream.remove(&lease.stream);
            }
        }
        Some(lease)
    }

    /// Takes away what a lease has at and beyond `end`; returns that, or `None` if there is no such part or nothing
    /// would stay.
    pub(crate) fn cut(&mut self, id: LeaseId, end: u64) -> Option<ByteRange> {
        let lease = self.leases.get_mut(&id)?;
        let kept = ByteRange::between(lease.range.start(), end)?;
        let gone = ByteRange::between(end, lease.range.end())?;
        lease.range = kept;
        Some(gone)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<&Live<T>> {
        self.leases.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Live<T>> {
        self.leases.get_mut(&id)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// All leases, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Live<T>)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }

    /// Number of leases of a path.
    pub(crate) fn count_of_path(&self, path: PathId) -> usize {
        self.of_path.get(&path).map_or(0, BTreeSet::len)
    }

    /// The leases of a path, in the order of their ids.
    pub(crate) fn of_path(&self, path: PathId) -> impl Iterator<Item = (LeaseId, &Live<T>)> {
        let ids = self.of_path.get(&path).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.leases.get(id)?)))
    }

    /// Number of leases of a stream.
    pub(crate) fn count_of_stream(&self, stream: StreamId) -> usize {
        self.of_stream.get(&stream).copied().unwrap_or_default()
    }

    /// The leases of a stream, lowest offset first but for those that hedge others, which follow.
    pub(crate) fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = (LeaseId, &Live<T>)> {
        let ids = self.layers.iter().flat_map(move |layer| layer.range((stream, 0)..=(stream, u64::MAX)));
        ids.filter_map(|(_, id)| Some((*id, self.leases.get(id)?)))
    }

    /// The leases that share a byte with `range`.
    pub(crate) fn overlapping(
        &self,
        stream: StreamId,
        range: ByteRange,
    ) -> impl Iterator<Item = (LeaseId, &Live<T>)> {
        (0..LAYERS).flat_map(move |layer| self.in_layer(layer, stream, range))
    }

    /// The leases of one layer that share a byte with `range`, from the highest offset down.
    fn in_layer(
        &self,
        layer: usize,
        stream: StreamId,
        range: ByteRange,
    ) -> impl Iterator<Item = (LeaseId, &Live<T>)> {
        let places = self.layers.get(layer).into_iter();
        let before = places.flat_map(move |places| places.range((stream, 0)..(stream, range.end())).rev());
        before
            .filter_map(|(_, id)| Some((*id, self.leases.get(id)?)))
            .take_while(move |(_, lease)| lease.range.end() > range.start())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const A: PathId = PathId::new(1);
    const B: PathId = PathId::new(2);

    fn stream(n: u64) -> StreamId {
        StreamId::from_u64(n).unwrap()
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    fn ids<'a>(found: impl Iterator<Item = (LeaseId, &'a Live<()>)>) -> Vec<u64> {
        found.map(|(id, _)| id.into_inner()).collect()
    }

    fn table(leases: &[(u64, PathId, u64, u64)]) -> LeaseTable<()> {
        let mut table = LeaseTable::default();
        for &(id, path, start, end) in leases {
            table.insert(LeaseId::new(id), path, stream(3), range(start, end), ()).unwrap();
        }
        table
    }

    #[test]
    fn a_lease_is_found_by_name_path_stream_and_place() {
        let mut table = table(&[(0, A, 100, 200), (1, B, 200, 300), (2, A, 0, 100)]);
        table.insert(LeaseId::new(3), B, stream(7), range(0, 100), ()).unwrap();
        assert_eq!(ids(table.of_path(A)), [0, 2]);
        assert_eq!(ids(table.of_path(B)), [1, 3]);
        assert_eq!(ids(table.of_stream(stream(3))), [2, 0, 1]);
        assert_eq!(ids(table.overlapping(stream(3), range(199, 201))), [1, 0]);
        assert_eq!(ids(table.overlapping(stream(11), range(0, 1000))), [0; 0]);
        assert_eq!((table.count_of_path(A), table.count_of_stream(stream(3))), (2, 3));
        assert_eq!(table.get(LeaseId::new(1)).map(Live::range), Some(range(200, 300)));
        table.clear();
        assert_eq!(ids(table.of_path(A)), [0; 0]);
        assert!(table.get(LeaseId::new(1)).is_none());
    }

    #[test]
    fn a_byte_has_one_owner_and_one_that_hedges_it() {
        let mut table = table(&[(0, A, 0, 100), (1, B, 50, 150)]);
        let third = table.insert(LeaseId::new(2), A, stream(3), range(99, 100), ());
        assert_eq!(third, Err(Taken));
        assert!(!table.contains(LeaseId::new(2)));
        table.insert(LeaseId::new(3), A, stream(3), range(150, 160), ()).unwrap();
        table.remove(LeaseId::new(0));
        // The hedge stays where it is, and may be hedged itself.
        table.insert(LeaseId::new(4), A, stream(3), range(60, 70), ()).unwrap();
        assert_eq!(ids(table.overlapping(stream(3), range(69, 151))), [3, 4, 1]);
    }

    #[test]
    fn a_cut_keeps_the_front_and_frees_the_rest() {
        let mut table = table(&[(0, A, 100, 200)]);
        let id = LeaseId::new(0);
        assert_eq!(table.cut(id, 100), None, "nothing would stay");
        assert_eq!(table.cut(id, 200), None, "nothing would go");
        assert_eq!(table.cut(id, 150), Some(range(150, 200)));
        assert_eq!(table.cut(id, 150), None);
        table.insert(LeaseId::new(1), B, stream(3), range(150, 200), ()).unwrap();
        assert_eq!(ids(table.overlapping(stream(3), range(140, 160))), [1, 0]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(bool, bool, u64, u64),
        Remove(usize),
        Cut(usize, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (any::<bool>(), any::<bool>(), 0..60u64, 1..20u64)
                .prop_map(|(path, stream, start, len)| Op::Insert(path, stream, start, len)),
            1 => any::<usize>().prop_map(Op::Remove),
            1 => (any::<usize>(), 0..80u64).prop_map(|(nth, end)| Op::Cut(nth, end)),
        ]
    }

    proptest! {
        /// Against a plain list: every look-up finds what a walk through all leases finds.
        #[test]
        fn agrees_with_a_plain_list(ops in vec(op(), 0..60)) {
            let mut table = LeaseTable::default();
            let mut list: Vec<(LeaseId, PathId, StreamId, ByteRange)> = Vec::new();
            let mut next = 0;
            for op in ops {
                match op {
                    Op::Insert(path, of, start, len) => {
                        let (path, of) = (if path { A } else { B }, stream(if of { 3 } else { 7 }));
                        let range = ByteRange::new(start, len).unwrap();
                        let id = LeaseId::new(next);
                        next += 1;
                        let deepest = (range.start()..range.end())
                            .map(|at| list.iter().filter(|l| l.2 == of && l.3.start() <= at && at < l.3.end()).count())
                            .max();
                        match table.insert(id, path, of, range, ()) {
                            Ok(()) => {
                                list.push((id, path, of, range));
                                prop_assert!(deepest < Some(LAYERS));
                            }
                            // A layer is one place after another: a range across leases of both fits neither.
                            Err(Taken) => prop_assert!(deepest > Some(0)),
                        }
                    }
                    Op::Remove(nth) if !list.is_empty() => {
                        let (id, path, of, range) = list.remove(nth % list.len());
                        let gone = table.remove(id).unwrap();
                        prop_assert_eq!((gone.path(), gone.stream(), gone.range()), (path, of, range));
                        prop_assert!(table.remove(id).is_none());
                    }
                    Op::Cut(nth, end) if !list.is_empty() => {
                        let nth = nth % list.len();
                        let range = list[nth].3;
                        let parts = ByteRange::between(range.start(), end).zip(ByteRange::between(end, range.end()));
                        prop_assert_eq!(table.cut(list[nth].0, end), parts.map(|(_, gone)| gone));
                        list[nth].3 = parts.map_or(range, |(kept, _)| kept);
                    }
                    Op::Remove(_) | Op::Cut(..) => {}
                }
                for of in [stream(3), stream(7)] {
                    let window = ByteRange::between(20, 40).unwrap();
                    let mut found: Vec<_> = table.overlapping(of, window).map(|(id, _)| id).collect();
                    found.sort_unstable();
                    let mut wanted: Vec<_> =
                        list.iter().filter(|l| l.2 == of && l.3.overlaps(window)).map(|l| l.0).collect();
                    wanted.sort_unstable();
                    prop_assert_eq!(found, wanted);
                    prop_assert_eq!(table.of_stream(of).count(), list.iter().filter(|l| l.2 == of).count());
                    prop_assert_eq!(table.count_of_stream(of), table.of_stream(of).count());
                }
                for path in [A, B] {
                    let wanted: Vec<_> = list.iter().filter(|l| l.1 == path).map(|l| l.0).collect();
                    prop_assert_eq!(table.of_path(path).map(|(id, _)| id).collect::<Vec<_>>(), wanted);
                }
                prop_assert_eq!(table.len(), list.len());
            }
        }
    }
}
