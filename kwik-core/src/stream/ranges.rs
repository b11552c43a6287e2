//! A set of stream offsets, kept as sorted, disjoint, merged byte ranges.
//!
//! It owns numbers, never bytes. Reassembly, leases and reports use it to know what is there and what is missing.

use std::{collections::BTreeMap, iter};

use crate::id::ByteRange;

/// A set of offsets: extents that never overlap or touch, in rising order.
///
/// Every operation costs O(log n) plus the extents it merges, removes or yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start of each extent, and its end.
    extents: BTreeMap<u64, u64>,
    /// The sum of the extents' lengths.
    total: u64,
}

impl RangeSet {
    /// Returns an empty set.
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Self { extents: BTreeMap::new(), total: 0 }
    }

    /// Adds `range` and returns how many of its bytes were not in the set before.
    pub(crate) fn insert(&mut self, range: ByteRange) -> u64 {
        if self.insert_apart(range) {
            return range.len();
        }
        let (mut start, mut end) = (range.start(), range.end());
        let mut known = 0;
        // Touching extents merge as well, so the search includes one that starts at the end.
        while let Some((first, last)) = self.last_before(range.end() + 1) {
            if last < range.start() {
                break;
            }
            self.extents.remove(&first);
            known += last.min(range.end()).saturating_sub(first.max(range.start()));
            start = start.min(first);
            end = end.max(last);
        }
        self.extents.insert(start, end);
        let new = range.len() - known;
        self.total += new;
        new
    }

    /// Adds `range` if that is sure to be all new and needs one look-up only; returns whether it was added.
    ///
    /// Succeeds when `range` extends an extent at its end or stands alone, and does not reach the next extent: the
    /// bulk of all inserts. A refusal changes nothing and says nothing about what is in the set.
    pub(crate) fn insert_apart(&mut self, range: ByteRange) -> bool {
        match self.extents.range_mut(..=range.end()).next_back() {
            Some((_, end)) if *end == range.start() => *end = range.end(),
            Some((_, end)) if *end > range.start() => return false,
            Some(_) | None => {
                self.extents.insert(range.start(), range.end());
            }
        }
        self.total += range.len();
        true
    }

    /// Takes `range` out of the set, whether all, some or none of it is there.
    pub(crate) fn remove(&mut self, range: ByteRange) {
        while let Some((start, end)) = self.last_before(range.end()) {
            if end <= range.start() {
                break;
            }
            self.extents.remove(&start);
            self.total -= end.min(range.end()) - start.max(range.start());
            if end > range.end() {
                self.extents.insert(range.end(), end);
            }
            if start < range.start() {
                self.extents.insert(start, range.start());
                break;
            }
        }
    }

    /// Returns whether every byte of `range` is in the set.
    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub(crate) fn contains(&self, range: ByteRange) -> bool {
        self.end_of_prefix(range.start()) >= range.end()
    }

    /// Returns whether some byte of `range` is in the set.
    pub(crate) fn overlaps(&self, range: ByteRange) -> bool {
        self.last_before(range.end()).is_some_and(|(_, end)| end > range.start())
    }

    /// Returns the parts of `within` that are not in the set, in rising order.
    pub(crate) fn missing(&self, within: ByteRange) -> impl Iterator<Item = ByteRange> {
        let mut from = within.start();
        self.present_bounds(within).chain(iter::once((within.end(), within.end()))).filter_map(
            move |(start, end)| {
                let hole = ByteRange::between(from, start);
                from = end;
                hole
            },
        )
    }

    /// Returns the parts of `within` that are in the set, in rising order.
    pub(crate) fn present(&self, within: ByteRange) -> impl Iterator<Item = ByteRange> {
        self.present_bounds(within).filter_map(|(start, end)| ByteRange::between(start, end))
    }

    /// Returns how many bytes are in the set.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Returns how many extents the set has.
    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    /// Returns the extents in rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ByteRange> {
        self.extents.iter().filter_map(|(&start, &end)| ByteRange::between(start, end))
    }

    /// Returns the end of the contiguous run that `from` lies in, or `from` if it is not in the set.
    pub(crate) fn end_of_prefix(&self, from: u64) -> u64 {
        self.extents.range(..=from).next_back().map_or(from, |(_, &end)| end.max(from))
    }

    /// Returns one past the highest offset in the set.
    pub(crate) fn max_end(&self) -> Option<u64> {
        self.extents.last_key_value().map(|(_, &end)| end)
    }

    /// Returns the last extent that starts below `bound`.
    fn last_before(&self, bound: u64) -> Option<(u64, u64)> {
        self.extents.range(..bound).next_back().map(|(&start, &end)| (start, end))
    }

    /// Returns the bounds of the extents that share a byte with `within`, cut to it.
    fn present_bounds(&self, within: ByteRange) -> impl Iterator<Item = (u64, u64)> {
        let from = match self.extents.range(..=within.start()).next_back() {
            Some((&start, &end)) if end > within.start() => start,
            Some(_) | None => within.start(),
        };
        self.extents
            .range(from..within.end())
            .map(move |(&start, &end)| (start.max(within.start()), end.min(within.end())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OFFSET_MAX;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    fn extents(set: &RangeSet) -> Vec<(u64, u64)> {
        set.iter().map(|range| (range.start(), range.end())).collect()
    }

    #[test]
    fn inserts_merge_with_what_they_touch() {
        let mut set = RangeSet::new();
        assert_eq!(set.insert(range(10, 20)), 10);
        assert_eq!(set.insert(range(20, 30)), 10, "appended");
        assert_eq!(set.insert(range(0, 10)), 10, "prepended");
        assert_eq!(set.insert(range(40, 50)), 10);
        assert_eq!(set.insert(range(25, 45)), 10, "bridged");
        assert_eq!(set.insert(range(5, 6)), 0);
        assert_eq!(extents(&set), [(0, 50)]);
        assert_eq!((set.total(), set.len(), set.max_end()), (50, 1, Some(50)));
    }

    #[test]
    fn removals_cut_and_split() {
        let mut set = RangeSet::new();
        set.insert(range(0, 100));
        set.remove(range(40, 60));
        assert_eq!(extents(&set), [(0, 40), (60, 100)]);
        set.remove(range(30, 70));
        assert_eq!(extents(&set), [(0, 30), (70, 100)]);
        set.remove(range(30, 70));
        assert_eq!(set.total(), 60);
        set.remove(range(0, 200));
        assert_eq!(set, RangeSet::new());
    }

    #[test]
    fn the_largest_offset_fits() {
        let mut set = RangeSet::new();
        assert_eq!(set.insert(range(OFFSET_MAX - 1, OFFSET_MAX)), 1);
        assert_eq!(set.insert(range(0, OFFSET_MAX)), OFFSET_MAX - 1);
        assert_eq!(set.missing(range(0, OFFSET_MAX)).count(), 0);
        set.remove(range(1, 2));
        assert_eq!(extents(&set), [(0, 1), (2, OFFSET_MAX)]);
    }

    /// The bits of a range of the first bytes.
    fn mask(range: ByteRange) -> u64 {
        (1 << range.end()) - (1 << range.start())
    }

    /// The set that has exactly these bytes, put together by inserts of single ones.
    fn set_of(bits: u64) -> RangeSet {
        let mut set = RangeSet::new();
        for at in (0..SPACE).filter(|at| bits >> at & 1 == 1) {
            assert_eq!(set.insert(range(at, at + 1)), 1);
        }
        set
    }

    /// The extents of these bytes.
    fn extents_of(bits: u64) -> Vec<(u64, u64)> {
        let has = |at: u64| bits >> at & 1 == 1;
        let starts = (0..SPACE).filter(|at| has(*at) && (*at == 0 || !has(at - 1)));
        starts.map(|start| (start, (start..).find(|at| !has(*at)).unwrap_or(SPACE))).collect()
    }

    fn bounds(ranges: impl Iterator<Item = ByteRange>) -> Vec<(u64, u64)> {
        ranges.map(|range| (range.start(), range.end())).collect()
    }

    /// Bytes of which all sets are tried.
    const SPACE: u64 = 8;

    /// Each operation on each set of eight bytes with each range of them: whatever a set has been through, it is one of
    /// these, so what holds after one operation holds after any number.
    #[test]
    fn every_operation_on_every_small_set_is_that_on_its_bytes() {
        let ranges = || (0..SPACE).flat_map(|start| (start + 1..=SPACE).map(move |end| range(start, end)));
        for bits in 0..1_u64 << SPACE {
            let set = set_of(bits);
            assert_eq!(extents(&set), extents_of(bits));
            assert_eq!((set.total(), set.len()), (bits.count_ones().into(), extents_of(bits).len()));
            assert_eq!(set.max_end(), extents_of(bits).last().map(|(_, end)| *end));
            for at in 0..=SPACE {
                let end = at + u64::from((!(bits >> at)).trailing_zeros());
                assert_eq!(set.end_of_prefix(at), end, "{bits:b} from {at}");
            }
            for range in ranges() {
                let (mask, case) = (mask(range), (bits, range));
                assert_eq!(set.contains(range), bits & mask == mask, "{case:?}");
                assert_eq!(set.overlaps(range), bits & mask != 0, "{case:?}");
                assert_eq!(bounds(set.present(range)), extents_of(bits & mask), "{case:?}");
                assert_eq!(bounds(set.missing(range)), extents_of(!bits & mask), "{case:?}");

                let mut more = set.clone();
                assert_eq!(more.insert(range), u64::from((!bits & mask).count_ones()), "{case:?}");
                assert_eq!(more, set_of(bits | mask), "{case:?}");
                let mut less = set.clone();
                less.remove(range);
                assert_eq!(less, set_of(bits & !mask), "{case:?}");

                // Apart from the rest: no byte of it is there, nor the one behind it.
                let mut apart = set.clone();
                let free = (mask | mask << 1) & bits == 0;
                assert_eq!(apart.insert_apart(range), free, "{case:?}");
                assert_eq!(apart, if free { set_of(bits | mask) } else { set.clone() }, "{case:?}");
            }
        }
    }
}
