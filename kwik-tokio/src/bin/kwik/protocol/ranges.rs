//! Sets of ranges, as a request has them.

use kwik_tokio::ByteRange;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Ranges in one set: what is missing of an object that was broken off is far less.
const MAX: usize = 256;

/// Ranges that rise and neither overlap nor touch. On the wire each is the gap before it and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(crate) struct Ranges(Vec<ByteRange>);

/// Reasons that numbers are no [`Ranges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadRanges {
    #[error("more than {MAX} ranges")]
    TooMany,
    #[error("ranges are empty, touch, or end beyond what a stream can carry")]
    NotNormal,
}

impl Ranges {
    /// Takes ranges that rise and do not overlap; those that touch become one.
    pub(crate) fn new(ranges: impl IntoIterator<Item = ByteRange>) -> Result<Self, BadRanges> {
        let mut all: Vec<ByteRange> = Vec::new();
        for range in ranges {
            let full = all.len() == MAX;
            match all.last_mut() {
                Some(last) if range.start() < last.end() => return Err(BadRanges::NotNormal),
                Some(last) if range.start() == last.end() => {
                    *last = ByteRange::between(last.start(), range.end()).ok_or(BadRanges::NotNormal)?;
                }
                _ if full => return Err(BadRanges::TooMany),
                _ => all.push(range),
            }
        }
        Ok(Self(all))
    }

    /// Takes the first ranges of a long list, as many as fit, and returns how many these were.
    pub(crate) fn first(ranges: &[ByteRange]) -> (Self, usize) {
        let count = ranges.len().min(MAX);
        match ranges.get(..count).map(|first| Self::new(first.iter().copied())) {
            Some(Ok(first)) => (first, count),
            _ => (Self::default(), 0),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = ByteRange> + '_ {
        self.0.iter().copied()
    }

    /// Returns the number of bytes in them.
    pub(crate) fn total(&self) -> u64 {
        self.iter().map(ByteRange::len).sum()
    }

    /// Returns where the last of them ends; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |last| last.end())
    }
}

impl TryFrom<Vec<(u64, u64)>> for Ranges {
    type Error = BadRanges;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, BadRanges> {
        if pairs.len() > MAX {
            return Err(BadRanges::TooMany);
        }
        let mut all: Vec<ByteRange> = Vec::with_capacity(pairs.len());
        for (gap, len) in pairs {
            let before = all.last().map(|last| last.end());
            if len == 0 || (gap == 0 && before.is_some()) {
                return Err(BadRanges::NotNormal);
            }
            let start = before.unwrap_or_default().checked_add(gap);
            let range = start.and_then(|start| ByteRange::new(start, len)).ok_or(BadRanges::NotNormal)?;
            all.push(range);
        }
        Ok(Self(all))
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        let mut end = 0;
        let pair = |range: ByteRange| {
            let gap = range.start().saturating_sub(end);
            end = range.end();
            (gap, range.len())
        };
        ranges.0.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let ranges = Ranges::new([range(0, 5), range(5, 7), range(9, 10)]).unwrap();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [range(0, 7), range(9, 10)]);
        assert_eq!((ranges.total(), ranges.end()), (8, 10));
        assert_eq!(Ranges::new([range(3, 5), range(4, 7)]), Err(BadRanges::NotNormal));
        assert_eq!(Ranges::new([range(3, 5), range(1, 2)]), Err(BadRanges::NotNormal));
        let many: Vec<_> = (0..300).map(|n| range(2 * n, 2 * n + 1)).collect();
        assert_eq!(Ranges::new(many.iter().copied()), Err(BadRanges::TooMany));
        let (first, count) = Ranges::first(&many);
        assert_eq!((first.end(), count), (511, 256));
        assert_eq!(Ranges::first(&[]), (Ranges::default(), 0));
    }

    #[test]
    fn ranges_come_back_from_the_wire() {
        for ranges in [vec![], vec![range(0, 1)], vec![range(7, 9), range(10, 1 << 40)]] {
            let ranges = Ranges::new(ranges).unwrap();
            let bytes = postcard::to_allocvec(&ranges).unwrap();
            assert_eq!(postcard::from_bytes::<Ranges>(&bytes).unwrap(), ranges);
        }
    }

    #[test]
    fn the_wire_cannot_make_others() {
        for pairs in
            [vec![(0, 0)], vec![(0, 5), (0, 5)], vec![(u64::MAX, 1)], vec![(5, u64::MAX)], vec![(1, 1); 257]]
        {
            let bytes = postcard::to_allocvec(&pairs).unwrap();
            assert!(postcard::from_bytes::<Ranges>(&bytes).is_err(), "{pairs:?}");
        }
    }
}
