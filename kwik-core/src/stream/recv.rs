//! The client's half of a split stream: what has come, what may come, where it ends. Spec: PROTOCOL §4, §6.
//!
//! The native bytes `0..base` never pass through here; QUIC keeps them in order by itself.

#[cfg(any(test, fuzzing, feature = "audit"))]
mod audit;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    assemble::{Assembler, Inserted, Pieces},
    conflict::{ConflictPolicy, Difference},
    tally::{Look, Tally},
};
use crate::{
    action::{Chunk, ReaderStatus},
    id::{ByteRange, OFFSET_MAX, PathId},
    limits::GUARANTEED_CREDIT,
};

/// The size contradicts an earlier one, or bytes beyond it are granted or here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FinalSizeError;

/// Kind of writing that brings bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A lease.
    Lease,
    /// A lease of which all bytes are known to be right.
    Verified,
    /// The primary's own writing.
    Run,
}

/// Credit by offset rises by no less than this, or half a window: a frame for less would cost more than it brings.
const CREDIT_STEP_MIN: u64 = 16 * 1024;

/// One split stream as its reader sees it.
#[derive(Debug)]
pub(crate) struct SplitRecv {
    base: u64,
    assembler: Assembler,
    unordered: bool,
    window: u64,
    /// Credit by offset: every source may send what lies below. Rises in ordered reading only.
    max_offset: u64,
    /// The part of it that the primary was told of.
    primary_offset: u64,
    /// Bytes that came from at or beyond `max_offset`, under credit by amount.
    received_above: u64,
    /// Bytes that the primary's own runs may send at or beyond `max_offset`, and have sent.
    run_credit: u64,
    run_above: u64,
    final_size: Option<u64>,
    /// Every byte is here, and the primary was told so.
    complete: bool,
    /// The highest end of any range granted, or of any byte placed.
    claimed_end: u64,
    /// Window growth: when the present round began and what the reader has taken in it.
    round_start: Option<Instant>,
    round_consumed: u64,
    /// Bytes read since credit was last shared.
    unshared: u64,
    /// Boxed: a map of few keeps room for eleven.
    tally: Box<Tally>,
}

impl SplitRecv {
    /// A stream split at `base` that may hold `window` bytes, with the credit that goes with it.
    pub(crate) fn new(base: u64, window: u64, policy: ConflictPolicy) -> Self {
        Self {
            base,
            assembler: Assembler::new(base, policy),
            unordered: false,
            window,
            max_offset: base.saturating_add(window).min(OFFSET_MAX),
            primary_offset: base.saturating_add(window).min(OFFSET_MAX),
            received_above: 0,
            run_credit: 0,
            run_above: 0,
            final_size: None,
            complete: false,
            claimed_end: base,
            round_start: None,
            round_consumed: 0,
            unshared: 0,
            tally: Box::default(),
        }
    }

    /// Sets the policy for differing bytes from now on.
    pub(crate) fn set_policy(&mut self, policy: ConflictPolicy) {
        self.assembler.set_policy(policy);
    }

    /// Returns whether differing bytes fail the stream.
    pub(crate) fn rejects_conflicts(&self) -> bool {
        self.assembler.policy() == ConflictPolicy::Reject
    }

    /// Takes where the last bytes that differed from what is held did so.
    pub(crate) fn take_difference(&mut self) -> Option<Difference> {
        self.assembler.take_difference()
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn max_offset(&self) -> u64 {
        self.max_offset
    }

    /// Credit by offset that the primary was told of.
    pub(crate) fn primary_offset(&self) -> u64 {
        self.primary_offset
    }

    /// The primary is told of all credit by offset.
    pub(crate) fn on_primary_told(&mut self) {
        self.primary_offset = self.max_offset;
    }

    pub(crate) fn is_unordered(&self) -> bool {
        self.unordered
    }

    pub(crate) fn held(&self) -> u64 {
        self.assembler.held()
    }

    /// Disjoint pieces that must be remembered: runs held, and islands that an unordered reader left, beyond the one
    /// piece that every stream is.
    pub(crate) fn extents(&self) -> usize {
        self.assembler.extents().max(self.assembler.received().len().saturating_sub(1))
    }

    /// Returns whether placing `len` bytes at `offset` would leave more than `cap` disjoint pieces.
    pub(crate) fn would_exceed(&self, offset: u64, len: u64, cap: usize) -> bool {
        self.assembler.would_exceed(offset, len, cap)
    }

    /// The highest end of any range granted, or of any byte placed.
    pub(crate) fn claimed_end(&self) -> u64 {
        self.claimed_end
    }

    /// Ranges that are here at and beyond `from`.
    pub(crate) fn received_from(&self, from: u64) -> impl Iterator<Item = ByteRange> {
        let rest = ByteRange::between(from, OFFSET_MAX);
        rest.into_iter().flat_map(|rest| self.assembler.received().present(rest))
    }

    pub(crate) fn final_size(&self) -> Option<u64> {
        self.final_size
    }

    /// Notes that somebody may fill up to `end`; fails if the stream is known to end before.
    pub(crate) fn claim(&mut self, end: u64) -> Result<(), FinalSizeError> {
        if self.final_size.is_some_and(|size| end > size) {
            return Err(FinalSizeError);
        }
        self.claimed_end = self.claimed_end.max(end);
        Ok(())
    }

    /// Takes the size of the whole stream. Spec: PROTOCOL §10.
    pub(crate) fn set_final(&mut self, size: u64) -> Result<(), FinalSizeError> {
        if self.final_size.is_some_and(|known| known != size) || size < self.claimed_end {
            return Err(FinalSizeError);
        }
        self.final_size = Some(size);
        Ok(())
    }

    /// Number of the `len` bytes at `offset` that need credit by amount.
    pub(crate) fn above(&self, offset: u64, len: u64) -> u64 {
        offset.saturating_add(len).saturating_sub(self.max_offset.max(offset))
    }

    /// Returns whether the primary's own runs may bring `len` bytes at `offset`.
    pub(crate) fn run_has_credit(&self, offset: u64, len: u64) -> bool {
        self.run_above.saturating_add(self.above(offset, len)) <= self.run_credit
    }

    /// Places bytes of a lease or a run, whose credit the caller has checked.
    pub(crate) fn place(&mut self, source: PathId, offset: u64, mut bytes: Bytes, by: By) -> Inserted {
        let above = self.above(offset, bytes.len() as u64);
        let below = usize::try_from(bytes.len() as u64 - above).unwrap_or(usize::MAX);
        if above > 0 && below > 0 && below < bytes.len() {
            // One insert on each side of the line keeps the count of new bytes beyond it exact.
            let head = bytes.split_to(below);
            let tail_offset = offset.saturating_add(head.len() as u64);
            return self.place(source, offset, head, by).plus(self.place(source, tail_offset, bytes, by));
        }
        if by == By::Run {
            self.run_above = self.run_above.saturating_add(above);
        }
        self.claimed_end = self.claimed_end.max(offset.saturating_add(bytes.len() as u64));
        let inserted = match by {
            By::Verified => self.assembler.insert_right(source, offset, bytes),
            By::Lease | By::Run => self.assembler.insert(source, offset, bytes),
        };
        self.tally.on_placed(source, inserted);
        if above > 0 {
            self.received_above = self.received_above.saturating_add(inserted.new);
        }
        inserted
    }

    /// Number of bytes at `offset` that can be placed as one by [`Self::place_plain`]: nothing of them is here, nothing that is
    /// touches them, and the same credit covers all.
    pub(crate) fn plain_at(&self, offset: u64) -> u64 {
        let below = self.max_offset.saturating_sub(offset);
        let covered = if below > 0 { below } else { u64::MAX };
        self.assembler.apart_from(offset).min(covered)
    }

    /// Places bytes of a lease as [`Self::place`] would piece by piece; no more than [`Self::plain_at`] says.
    pub(crate) fn place_plain(&mut self, source: PathId, offset: u64, pieces: Pieces) -> Inserted {
        let inserted = self.assembler.insert_apart(source, offset, pieces);
        self.claimed_end = self.claimed_end.max(offset.saturating_add(inserted.new));
        self.tally.on_placed(source, inserted);
        if offset >= self.max_offset {
            self.received_above = self.received_above.saturating_add(inserted.new);
        }
        inserted
    }

    /// Takes the next bytes for the application, and when nothing is there says so with `None`. With a `max_len` of 0
    /// it takes nothing and says where they are.
    pub(crate) fn read(&mut self, max_len: usize, ordered: bool) -> Option<Chunk> {
        if max_len == 0 {
            let offset = self.assembler.readable_at(ordered)?;
            return Some(Chunk { offset, bytes: Bytes::new(), source: None });
        }
        let source = self.assembler.next_source();
        let (offset, bytes) = self.assembler.read(max_len, ordered)?;
        let len = bytes.len() as u64;
        self.round_consumed = self.round_consumed.saturating_add(len);
        self.unshared = self.unshared.saturating_add(len);
        Some(Chunk { offset, bytes, source })
    }

    /// Switches to unordered reading for good: credit by offset stays where it is, the rest goes by amount.
    pub(crate) fn set_unordered(&mut self) {
        self.unordered = true;
    }

    /// Returns whether `read` has something.
    pub(crate) fn is_readable(&self) -> bool {
        self.assembler.is_readable(!self.unordered)
    }

    /// Returns whether every byte up to the final size is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.final_size.is_some_and(|size| {
            size == self.base || self.assembler.received().end_of_prefix(self.base) >= size
        })
    }

    /// Returns `true` once, as soon as every byte is here: nothing more will come, so nothing more is promised.
    pub(crate) fn complete(&mut self) -> bool {
        let before = self.complete;
        self.complete = before || self.is_complete();
        self.complete != before
    }

    /// Returns whether bytes may still come.
    pub(crate) fn is_open(&self) -> bool {
        !self.complete
    }

    /// Bytes that it takes of the session window beyond the part that every open stream is guaranteed: the rest of its
    /// window, or once it is complete, what is unread.
    pub(crate) fn extra(&self) -> u64 {
        if self.complete { self.held() } else { self.window.saturating_sub(GUARANTEED_CREDIT) }
    }

    /// Returns whether the application has every byte up to the final size.
    pub(crate) fn is_consumed(&self) -> bool {
        self.is_complete() && self.assembler.held() == 0
    }

    /// Returns whether anything of `range` is here, or was.
    pub(crate) fn has_any(&self, range: ByteRange) -> bool {
        self.assembler.received().present(range).next().is_some()
    }

    /// The parts of `range` that are not here, at most `cap` of them; the last may then cover more than is missing.
    pub(crate) fn missing(&self, range: ByteRange, cap: usize) -> impl Iterator<Item = ByteRange> {
        let mut all = self.assembler.received().missing(range);
        let mut left = cap;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let next = all.next()?;
            if left > 0 {
                return Some(next);
            }
            let end = all.by_ref().last().map_or_else(|| next.end(), ByteRange::end);
            ByteRange::between(next.start(), end)
        })
    }

    /// Offset of the first byte of `range` that is not here.
    pub(crate) fn first_missing_of(&self, range: ByteRange) -> Option<u64> {
        self.assembler.received().missing(range).next().map(ByteRange::start)
    }

    /// Number of bytes of `range` that are not here.
    pub(crate) fn count_missing(&self, range: ByteRange) -> u64 {
        self.assembler.received().missing(range).map(ByteRange::len).sum()
    }

    /// The first hole the reader waits for; `None` if the stream is complete. While nobody has said where the stream ends, it
    /// reaches to the last byte that anybody was given, and is one byte long behind that.
    pub(crate) fn first_missing(&self) -> Option<ByteRange> {
        if let Some(size) = self.final_size {
            return self.first_missing_before(size);
        }
        let hole = self.first_missing_before(OFFSET_MAX)?;
        let known = self.claimed_end.max(hole.start().saturating_add(1));
        ByteRange::between(hole.start(), hole.end().min(known))
    }

    /// The first hole below `end`.
    pub(crate) fn first_missing_before(&self, end: u64) -> Option<ByteRange> {
        self.missing(ByteRange::between(self.base, end)?, usize::MAX).next()
    }

    /// Bytes that may still come under credit by offset, from whoever is to bring them.
    pub(crate) fn missing_below(&self) -> u64 {
        let received = self.assembler.received().total();
        (self.max_offset - self.base).saturating_sub(received.saturating_sub(self.received_above))
    }

    /// Bytes of the window that are taken: held, or promised. `leased` is what live leases may still bring at or beyond
    /// `max_offset`.
    fn committed(&self, leased: u64) -> u64 {
        let below = self.missing_below();
        let run = self.run_credit - self.run_above.min(self.run_credit);
        self.assembler.held().saturating_add(below).saturating_add(run).saturating_add(leased)
    }

    /// Bytes of the window that could be promised now.
    pub(crate) fn room(&self, leased: u64) -> u64 {
        self.window.saturating_sub(self.committed(leased))
    }

    /// Raises credit by offset as far as the reader allows; returns it if that is worth telling. Ordered reading.
    pub(crate) fn raise_offset(&mut self) -> Option<u64> {
        let target = self.assembler.read_position().saturating_add(self.window).min(OFFSET_MAX);
        let worth = (self.window / 8).max(CREDIT_STEP_MIN).min(self.window / 2).max(1);
        if self.unordered || target < self.max_offset.saturating_add(worth) {
            return None;
        }
        self.max_offset = target;
        Some(target)
    }

    /// Bytes that the primary's runs may still bring beyond `max_offset`.
    pub(crate) fn run_outstanding(&self) -> u64 {
        self.run_credit.saturating_sub(self.run_above)
    }

    /// Promises the primary's runs `bytes` more; returns their credit since the split.
    pub(crate) fn raise_run_credit(&mut self, bytes: u64) -> u64 {
        self.run_credit = self.run_credit.saturating_add(bytes);
        self.run_credit
    }

    /// Returns whether the reader took a whole window within four round trips: then the window, not the reader, is
    /// what holds the servers back.
    pub(crate) fn wants_growth(&mut self, now: Instant, rtt: Duration) -> bool {
        let start = *self.round_start.get_or_insert(now);
        if self.round_consumed < self.window {
            return false;
        }
        self.round_consumed = 0;
        self.round_start = Some(now);
        now.saturating_duration_since(start) < rtt * 4
    }

    /// Returns whether the unordered reader has taken enough since this last said so for credit to be shared again.
    pub(crate) fn take_quantum(&mut self, part: u64) -> bool {
        let enough = self.unshared >= (self.window / part).max(1);
        if enough {
            self.unshared = 0;
        }
        enough
    }

    /// Position of the reader, and credit that it leaves to servers beyond.
    pub(crate) fn reader(&self) -> ReaderStatus {
        ReaderStatus { position: self.assembler.read_position().max(self.base), window: self.window }
    }

    /// Counters of the stream.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// A batch has settled: counts for how long bytes were held behind a hole.
    pub(crate) fn look(&mut self, now: Instant) {
        let received = self.assembler.received();
        let prefix = received.end_of_prefix(self.base);
        // What an ordered reader could get lies between its position and the first hole.
        let readable = prefix - self.assembler.read_position();
        let depth = if self.unordered { 0 } else { self.held().saturating_sub(readable) };
        let behind = ByteRange::between(prefix, self.highest()).filter(|_| depth > 0);
        let hole_end = behind.and_then(|behind| received.missing(behind).next()).map(ByteRange::end);
        let look = Look { depth, prefix, hole_end, readable: self.is_readable() };
        self.tally.look(now, look);
    }

    /// One past the highest offset placed.
    pub(crate) fn highest(&self) -> u64 {
        self.assembler.received().max_end().unwrap_or(self.base)
    }

    /// Widens the window.
    pub(crate) fn grow(&mut self, bytes: u64) {
        self.window = self.window.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn stream(window: u64) -> SplitRecv {
        SplitRecv::new(0, window, ConflictPolicy::default())
    }

    fn placed(stream: &mut SplitRecv, by: By, at: u64, len: usize) -> u64 {
        stream.place(PathId::new(1), at, vec![7; len].into(), by).new
    }

    #[test]
    fn a_stream_ends_once_and_behind_what_was_given_out() {
        let mut stream = stream(1000);
        stream.claim(50).unwrap();
        assert_eq!(stream.set_final(49), Err(FinalSizeError));
        assert_eq!((stream.set_final(50), stream.set_final(50)), (Ok(()), Ok(())));
        assert_eq!((stream.set_final(51), stream.claim(51)), (Err(FinalSizeError), Err(FinalSizeError)));
        assert_eq!((stream.claim(50), stream.final_size()), (Ok(()), Some(50)));
    }

    /// Beyond credit by offset each new byte counts, on that side of the line only.
    #[test]
    fn bytes_on_both_sides_of_the_credit_count_on_each() {
        for by in [By::Lease, By::Run] {
            let mut stream = stream(100);
            stream.raise_run_credit(20);
            assert_eq!(placed(&mut stream, by, 95, 5), 5);
            assert_eq!(placed(&mut stream, by, 90, 20), 15, "five were here, five lie below, ten above");
            assert_eq!((stream.missing_below(), stream.held()), (90, 20));
            assert_eq!(stream.run_outstanding(), if by == By::Run { 10 } else { 20 });
            assert_eq!(placed(&mut stream, by, 100, 10), 0);
            assert_eq!((stream.missing_below(), stream.held()), (90, 20), "again");
        }
    }

    #[test]
    fn runs_of_the_primary_keep_to_their_credit() {
        let mut stream = stream(100);
        assert!(stream.run_has_credit(0, 100) && !stream.run_has_credit(0, 101));
        assert!(!stream.run_has_credit(200, 1));
        assert_eq!(stream.raise_run_credit(10), 10);
        assert!(stream.run_has_credit(95, 15) && !stream.run_has_credit(95, 16));
        assert!(stream.run_has_credit(200, 10) && !stream.run_has_credit(200, 11));
        placed(&mut stream, By::Run, 200, 4);
        assert!(stream.run_has_credit(300, 6) && !stream.run_has_credit(300, 7));
        assert_eq!((stream.run_outstanding(), stream.raise_run_credit(5)), (6, 15));
    }

    /// What is held and what may still come fill the window together.
    #[test]
    fn there_is_room_for_what_was_not_promised() {
        let mut stream = stream(100);
        assert_eq!(stream.room(0), 0, "all of it went with the split");
        placed(&mut stream, By::Lease, 0, 60);
        assert_eq!(stream.room(0), 0, "held");
        stream.read(60, true).unwrap();
        assert_eq!((stream.room(0), stream.room(25), stream.room(61)), (60, 35, 0));
        stream.raise_run_credit(10);
        assert_eq!(stream.room(25), 25);
        placed(&mut stream, By::Run, 150, 4);
        assert_eq!(stream.room(25), 25, "held instead of promised");
    }

    #[test]
    fn holes_beyond_the_cap_are_told_as_one() {
        let mut stream = stream(1000);
        for at in [10, 30, 50] {
            placed(&mut stream, By::Lease, at, 10);
        }
        let told = |cap| stream.missing(range(0, 55), cap).collect::<Vec<_>>();
        assert_eq!(told(9), [range(0, 10), range(20, 30), range(40, 50)]);
        assert_eq!(told(3), told(9));
        assert_eq!(told(2), [range(0, 10), range(20, 50)]);
        assert_eq!((told(1), told(0)), (vec![range(0, 50)], vec![]));
        assert_eq!(stream.count_missing(range(0, 55)), 30);
    }

    /// In steps of an eighth of the window, of 16 KiB at least and of half a window at most.
    #[test]
    fn credit_by_offset_rises_in_steps() {
        for (window, step) in [(1 << 20, 1 << 17), (1 << 16, 1 << 14), (1 << 12, 1 << 11), (1, 1)] {
            let mut stream = stream(window);
            let mut read = |len| {
                let at = stream.reader().position;
                placed(&mut stream, By::Lease, at, len);
                while stream.read(usize::MAX, true).is_some() {}
                stream.raise_offset()
            };
            assert_eq!(read(step - 1), None, "{window}");
            assert_eq!(read(1), Some(window + step as u64), "{window}");
            assert_eq!(read(step - 1), None, "{window}");
            stream.set_unordered();
            placed(&mut stream, By::Lease, 2 * step as u64 - 1, step);
            while stream.read(usize::MAX, true).is_some() {}
            assert_eq!(stream.raise_offset(), None, "{window}: goes by amount");
        }
    }

    #[test]
    fn a_window_grows_that_is_read_within_four_round_trips() {
        let (start, rtt) = (epoch(), Duration::from_millis(10));
        for (within, grows) in [(Duration::from_micros(39_999), true), (rtt * 4, false)] {
            let mut stream = stream(100);
            assert!(!stream.wants_growth(start, rtt), "nothing was read");
            placed(&mut stream, By::Lease, 0, 100);
            stream.read(99, true).unwrap();
            assert!(!stream.wants_growth(start + within / 2, rtt), "not all of it");
            stream.read(1, true).unwrap();
            assert_eq!(stream.wants_growth(start + within, rtt), grows);
            // The next round begins there.
            assert!(!stream.wants_growth(start + within, rtt));
            placed(&mut stream, By::Lease, 100, 100);
            stream.read(100, true).unwrap();
            assert_eq!(stream.wants_growth(start + within * 2, rtt), grows);
            stream.grow(50);
            assert_eq!(stream.window(), 150);
        }
    }

    #[test]
    fn credit_is_shared_again_after_a_part_of_the_window_was_read() {
        let mut stream = stream(100);
        stream.set_unordered();
        assert!(!stream.take_quantum(4), "nothing was read");
        placed(&mut stream, By::Lease, 10, 50);
        stream.read(24, false).unwrap();
        assert!(!stream.take_quantum(4));
        stream.read(1, false).unwrap();
        assert!(stream.take_quantum(4) && !stream.take_quantum(4), "once");
    }

    /// Whoever reads in any order does not wait for a hole.
    #[test]
    fn only_an_ordered_reader_is_held_up_by_a_hole() {
        let start = epoch();
        for unordered in [false, true] {
            let mut stream = stream(1000);
            placed(&mut stream, By::Lease, 0, 10);
            placed(&mut stream, By::Lease, 20, 30);
            if unordered {
                stream.set_unordered();
            }
            stream.look(start);
            let held_up = |stream: &SplitRecv| {
                let stats = stream.tally().totals(start + Duration::from_millis(5)).stats();
                (stats.reorder_depth, stats.hole_time_max.as_millis())
            };
            assert_eq!(held_up(&stream), if unordered { (0, 0) } else { (30, 5) });
        }
    }

    #[test]
    fn what_is_missing_of_a_stream_without_an_end_reaches_to_what_was_given_out() {
        let mut stream = SplitRecv::new(10, 1000, ConflictPolicy::default());
        assert_eq!(stream.first_missing(), Some(range(10, 11)), "nobody was given anything");
        stream.claim(50).unwrap();
        assert_eq!(stream.first_missing(), Some(range(10, 50)));
        stream.place(PathId::PRIMARY, 10, Bytes::from_static(&[0; 40]), By::Run);
        assert_eq!(stream.first_missing(), Some(range(50, 51)));
        stream.set_final(90).unwrap();
        assert_eq!(stream.first_missing(), Some(range(50, 90)));
    }
}
