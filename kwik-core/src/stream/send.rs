//! The primary's half of a split stream: who owns which range, what may be sent, where it ends. Spec: PROTOCOL §4, §5.

use super::ranges::RangeSet;
use crate::{
    error::ErrorCode,
    id::{ByteRange, OFFSET_MAX},
    limits,
};

/// The range was written or given away before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap;

/// One split stream as the primary sees it.
#[derive(Debug)]
pub(crate) struct SplitSend {
    base: u64,
    /// Ranges that are leased, filled or being written; what a lost lease is missing leaves again.
    owned: RangeSet,
    /// Everything ever claimed by others or written: sequential writing never goes there, lost or not, because what
    /// it writes next is meant for behind it.
    taken: RangeSet,
    /// The highest end ever owned: the stream cannot end before it.
    claimed_end: u64,
    /// Offset of the next sequential write, before owned ranges are skipped.
    position: u64,
    max_offset: u64,
    run_credit: u64,
    run_above: u64,
    final_size: Option<u64>,
    complete: bool,
    stopped: Option<ErrorCode>,
    /// Offset that the reader waits for, where the client has asked about it and nobody was to bring it.
    hole: Option<u64>,
}

impl SplitSend {
    /// A stream of which QUIC has taken `base` bytes. Until `SplitAck` a little may be sent unasked. Spec: PROTOCOL §4.
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            owned: RangeSet::default(),
            taken: RangeSet::default(),
            claimed_end: base,
            position: base,
            max_offset: base.saturating_add(limits::GUARANTEED_CREDIT),
            run_credit: 0,
            run_above: 0,
            final_size: None,
            complete: false,
            stopped: None,
            hole: None,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn stopped(&self) -> Option<ErrorCode> {
        self.stopped
    }

    /// Returns whether anything may still be sent or leased.
    pub(crate) fn is_open(&self) -> bool {
        !self.complete && self.stopped.is_none()
    }

    /// Takes `range` for one owner.
    pub(crate) fn claim(&mut self, range: ByteRange) -> Result<(), Overlap> {
        let beyond = self.final_size.is_some_and(|size| range.end() > size);
        if range.start() < self.base || beyond || self.owned.overlaps(range) {
            return Err(Overlap);
        }
        self.owned.insert(range);
        self.taken.insert(range);
        self.claimed_end = self.claimed_end.max(range.end());
        Ok(())
    }

    /// Returns whether all of `range` is leased, filled or being written.
    #[cfg(any(test, fuzzing, feature = "audit"))]
    pub(crate) fn owns(&self, range: ByteRange) -> bool {
        self.owned.contains(range)
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The highest end ever owned.
    pub(crate) fn claimed_end(&self) -> u64 {
        self.claimed_end
    }

    /// The parts of `range` that somebody fills, or has filled.
    pub(crate) fn owned(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> {
        self.owned.present(range)
    }

    /// The parts of `range` that nobody fills, or has filled.
    pub(crate) fn unowned(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> {
        self.owned.missing(range)
    }

    /// The reader waits for the byte at `offset`, and nobody is to bring it.
    pub(crate) fn on_hole(&mut self, offset: u64) {
        self.hole = Some(offset);
    }

    /// The range that the reader waits for and still nobody is to bring, up to the next byte that somebody is.
    pub(crate) fn hole(&self) -> Option<ByteRange> {
        let hole = ByteRange::between(self.hole?, self.claimed_end)?;
        self.unowned(hole).next().filter(|unowned| unowned.start() == hole.start())
    }

    /// Gives `range` back: nobody fills it any more.
    pub(crate) fn release(&mut self, range: ByteRange) {
        self.owned.remove(range);
    }

    /// Range in which sequential writing goes on, up to an owned one.
    pub(crate) fn next_gap(&self) -> Option<ByteRange> {
        let end = self.final_size.unwrap_or(OFFSET_MAX);
        self.taken.missing(ByteRange::between(self.position, end)?).next()
    }

    /// Takes the first `len` bytes of what `next_gap` gave for a sequential write.
    pub(crate) fn advance(&mut self, gap: ByteRange, len: u64) {
        if let Some(range) = ByteRange::new(gap.start(), len) {
            self.owned.insert(range);
            self.taken.insert(range);
            self.position = range.end();
            self.claimed_end = self.claimed_end.max(range.end());
        }
    }

    /// Number of the `want` bytes at `offset` that the primary's own runs may send now.
    pub(crate) fn allowance(&self, offset: u64, want: u64) -> u64 {
        let below = self.max_offset.saturating_sub(offset);
        want.min(below.saturating_add(self.run_credit.saturating_sub(self.run_above)))
    }

    /// Counts `len` bytes sent at `offset` against credit.
    pub(crate) fn on_sent(&mut self, offset: u64, len: u64) {
        let above = offset.saturating_add(len).saturating_sub(self.max_offset.max(offset));
        self.run_above = self.run_above.saturating_add(above);
    }

    /// Takes credit by offset, which never shrinks. Returns whether it has risen.
    pub(crate) fn on_offset_credit(&mut self, offset: u64) -> bool {
        let risen = offset > self.max_offset;
        self.max_offset = self.max_offset.max(offset);
        risen
    }

    /// Takes credit by amount, which never shrinks. Returns whether it has risen.
    pub(crate) fn on_run_credit(&mut self, bytes: u64) -> bool {
        let risen = bytes > self.run_credit;
        self.run_credit = self.run_credit.max(bytes);
        risen
    }

    /// Fixes the size of the stream: the highest end that anybody owns or owned. `None` if it was fixed before.
    pub(crate) fn finish(&mut self) -> Option<u64> {
        if self.final_size.is_some() {
            return None;
        }
        self.final_size = Some(self.claimed_end);
        self.final_size
    }

    /// The client has every byte. Returns whether that is possible: only a finished stream completes.
    pub(crate) fn on_complete(&mut self) -> bool {
        self.complete = self.final_size.is_some();
        self.complete
    }

    /// The client wants no more, or the stream was reset.
    pub(crate) fn on_stopped(&mut self, code: ErrorCode) {
        self.stopped.get_or_insert(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[test]
    fn sequential_writing_skips_what_others_own() {
        let mut stream = SplitSend::new(100);
        stream.claim(range(150, 200)).unwrap();
        assert_eq!(stream.next_gap(), Some(range(100, 150)));
        stream.advance(range(100, 150), 50);
        assert_eq!(stream.next_gap(), Some(range(200, OFFSET_MAX)));
        stream.advance(range(200, OFFSET_MAX), 10);
        assert_eq!(stream.claim(range(205, 300)), Err(Overlap));
        assert_eq!(stream.claim(range(90, 110)), Err(Overlap));
        assert_eq!(stream.finish(), Some(210));
        assert_eq!(stream.finish(), None);
        assert_eq!(stream.next_gap(), None);
        assert_eq!(stream.claim(range(210, 220)), Err(Overlap));
    }

    /// The next write was meant for behind the lease, whatever became of it meanwhile.
    #[test]
    fn sequential_writing_never_falls_into_a_lost_lease() {
        let mut stream = SplitSend::new(0);
        stream.claim(range(0, 100)).unwrap();
        stream.release(range(0, 100));
        assert_eq!(stream.next_gap(), Some(range(100, OFFSET_MAX)));
    }

    #[test]
    fn what_is_lost_can_be_given_again_after_the_end_is_known() {
        let mut stream = SplitSend::new(0);
        stream.claim(range(0, 100)).unwrap();
        assert_eq!(stream.finish(), Some(100));
        stream.release(range(40, 100));
        assert_eq!(stream.claim(range(30, 50)), Err(Overlap));
        stream.claim(range(40, 100)).unwrap();
    }

    #[test]
    fn a_little_credit_before_the_ack_and_never_less_after() {
        let mut stream = SplitSend::new(1_000);
        assert_eq!((stream.base(), stream.claimed_end()), (1_000, 1_000));
        assert_eq!(stream.allowance(1_000, u64::MAX), limits::GUARANTEED_CREDIT);
        assert!(!stream.on_offset_credit(0) && !stream.on_offset_credit(1_000 + limits::GUARANTEED_CREDIT));
        assert_eq!(stream.allowance(1_000, u64::MAX), limits::GUARANTEED_CREDIT);
        assert!(stream.on_run_credit(10) && !stream.on_run_credit(10) && !stream.on_run_credit(9));
        let beyond = 1_000 + limits::GUARANTEED_CREDIT;
        assert_eq!(stream.allowance(beyond + 5, 100), 10);
        stream.on_sent(beyond - 5, 8);
        assert_eq!(stream.allowance(beyond + 5, 100), 7);
        assert!(stream.on_offset_credit(beyond + 100));
        assert_eq!(stream.allowance(beyond + 5, 1_000), 95 + 7);
    }
}
