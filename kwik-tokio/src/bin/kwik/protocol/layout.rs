//! Places of an object's bytes in a stream.

use std::collections::BTreeMap;

use kwik_tokio::ByteRange;

/// The data of an answer: ranges of parts, one after another, from a base on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    base: u64,
    end: u64,
    /// By the stream's offset: the number of the part, and the range of its object.
    segments: BTreeMap<u64, (usize, ByteRange)>,
}

/// A run of bytes that is contiguous in the stream and in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the part, from 0 on in the order of the request.
    pub(crate) part: usize,
    /// The bytes of its object.
    pub(crate) range: ByteRange,
    /// The stream's offset of the first of them.
    pub(crate) at: u64,
}

impl Layout {
    /// Lays ranges of parts out, from the stream's offset `base` on. `None` if a stream cannot carry as much.
    pub(crate) fn new(base: u64, ranges: impl IntoIterator<Item = (usize, ByteRange)>) -> Option<Self> {
        let mut segments = BTreeMap::new();
        let mut end = base;
        for (part, range) in ranges {
            segments.insert(end, (part, range));
            end = ByteRange::new(end, range.len())?.end();
        }
        Some(Self { base, end, segments })
    }

    /// Returns the stream's offset at which data begin.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Returns the stream's offset at which they end, which is the stream's length.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns what the bytes of the stream in `range` are, by offset. Those outside of the data are left out.
    pub(crate) fn places(&self, range: ByteRange) -> impl Iterator<Item = Place> + '_ {
        let first =
            self.segments.range(..=range.start()).next_back().map_or_else(|| range.start(), |(at, _)| *at);
        self.segments.range(first..range.end()).filter_map(move |(&at, &(part, of))| {
            let start = range.start().max(at);
            let end = range.end().min(at + of.len());
            let range = ByteRange::between(
                (of.start() + start).checked_sub(at)?,
                (of.start() + end).checked_sub(at)?,
            )?;
            Some(Place { part, range, at: start })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[test]
    fn every_range_is_found() {
        let parts = [(0, range(3, 7)), (0, range(9, 10)), (2, range(0, 5))];
        let layout = Layout::new(100, parts).unwrap();
        assert_eq!((layout.base(), layout.end()), (100, 110));
        let flat: Vec<(usize, u64)> =
            parts.iter().flat_map(|(part, of)| (of.start()..of.end()).map(|byte| (*part, byte))).collect();
        for start in 95..115 {
            for end in start + 1..=115 {
                let mut found = Vec::new();
                for place in layout.places(range(start, end)) {
                    assert_eq!(place.at, start.max(100) + found.len() as u64);
                    found.extend((place.range.start()..place.range.end()).map(|byte| (place.part, byte)));
                }
                let (from, to) = (start.clamp(100, 110) - 100, end.clamp(100, 110) - 100);
                assert_eq!(
                    found,
                    flat[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()],
                    "{start}..{end}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_laid_out_where_nothing_is_wanted() {
        let layout = Layout::new(7, []).unwrap();
        assert_eq!((layout.base(), layout.end()), (7, 7));
        assert_eq!(layout.places(range(0, 100)).count(), 0);
    }

    #[test]
    fn more_than_a_stream_carries_is_refused() {
        let most = range(0, (1 << 62) - 1);
        assert!(Layout::new(0, [(0, most)]).is_some());
        assert!(Layout::new(1, [(0, most)]).is_none());
        assert!(Layout::new(0, [(0, most), (1, range(0, 1))]).is_none());
    }
}
