//! The set of offsets against one flag per offset.

use super::source::ops;
use crate::{id::ByteRange, stream::ranges::RangeSet};

/// Bound of where ranges start and of how long they are.
const SPACE: u64 = 96;

/// Inserts, removes and asks as `data` says, and expects what a list of flags would give.
///
/// # Panics
/// If the set says anything else.
pub fn ranges_ops(data: &[u8]) {
    let mut set = RangeSet::default();
    let mut model = [false; 2 * 96];
    for mut op in ops(data) {
        let insert = !op.rarely(3);
        let quick = op.rarely(2);
        let range = ByteRange::new(op.below(SPACE), 1 + op.below(SPACE)).expect("within");
        if !insert {
            set.remove(range);
            fill(&mut model, range, false);
        } else if !quick {
            let new = holes(&model, range).iter().map(|hole| hole.len()).sum::<u64>();
            assert_eq!(set.insert(range), new);
            fill(&mut model, range, true);
        } else if set.insert_apart(range) {
            assert_eq!(holes(&model, range), [range], "quick only if all of it is new");
            fill(&mut model, range, true);
        }
        let probe = ByteRange::new(op.below(SPACE), 1 + op.below(SPACE)).expect("within");
        agree(&set, &model, probe);
    }
}

/// Asks everything there is to ask.
fn agree(set: &RangeSet, model: &[bool], probe: ByteRange) {
    let all = ByteRange::between(0, model.len() as u64).expect("not empty");
    let extents = runs(model, all, true);
    assert_eq!(set.iter().collect::<Vec<_>>(), extents);
    assert_eq!(set.len(), extents.len());
    assert_eq!(set.total(), extents.iter().map(|extent| extent.len()).sum::<u64>());
    assert_eq!(set.max_end(), extents.last().map(|extent| extent.end()));
    let (missing, present) = (holes(model, probe), runs(model, probe, true));
    assert_eq!(set.contains(probe), missing.is_empty());
    assert_eq!(set.overlaps(probe), !present.is_empty());
    assert_eq!(set.missing(probe).collect::<Vec<_>>(), missing);
    assert_eq!(set.present(probe).collect::<Vec<_>>(), present);
    let from = probe.start();
    let prefix = extents.iter().find(|extent| extent.start() <= from && from < extent.end());
    assert_eq!(set.end_of_prefix(from), prefix.map_or(from, |extent| extent.end()));
}

/// The parts of `within` that are not set.
pub(crate) fn holes(model: &[bool], within: ByteRange) -> Vec<ByteRange> {
    runs(model, within, false)
}

/// The parts of `within` whose flag is `value`, one offset at a time.
pub(crate) fn runs(model: &[bool], within: ByteRange, value: bool) -> Vec<ByteRange> {
    let mut runs = Vec::new();
    let mut start = None;
    let flags = model.get(indices(within)).expect("within the model").iter().map(|&is| is == value);
    for (at, is) in (within.start()..).zip(flags.chain([false])) {
        if is {
            start.get_or_insert(at);
        } else {
            runs.extend(start.take().and_then(|start| ByteRange::between(start, at)));
        }
    }
    runs
}

/// Sets the flags of a range.
pub(crate) fn fill(model: &mut [bool], range: ByteRange, value: bool) {
    model.get_mut(indices(range)).expect("within the model").fill(value);
}

fn indices(range: ByteRange) -> std::ops::Range<usize> {
    let index = |at| usize::try_from(at).expect("small");
    index(range.start())..index(range.end())
}
