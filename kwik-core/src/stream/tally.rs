//! Counters of a split stream: bytes by source, and the cost of waiting. Decides nothing. Spec: RATIONALE §12.
//!
//! Bytes are counted as they are placed. Times are not looked at then but once per batch, when all facts that came
//! together have been worked off: nothing is held up within a batch.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::assemble::Inserted;
use crate::{id::PathId, stats::ReassemblyStats};

/// Figures that can be added up over streams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    stats: ReassemblyStats,
    /// Nanoseconds that bytes were held behind holes, summed over the bytes: what the mean is made of.
    byte_nanos: u128,
}

impl Totals {
    /// Adds another stream's.
    pub(crate) fn add(&mut self, other: &Self) {
        let (all, one) = (&mut self.stats, &other.stats);
        all.bytes += one.bytes;
        all.overlap_bytes += one.overlap_bytes;
        all.conflicts += one.conflicts;
        all.reorder_depth += one.reorder_depth;
        all.reorder_depth_max = all.reorder_depth_max.max(one.reorder_depth_max);
        all.hole_time += one.hole_time;
        all.hole_time_max = all.hole_time_max.max(one.hole_time_max);
        all.reader_waits += one.reader_waits;
        all.reader_wait += one.reader_wait;
        all.credit_wait += one.credit_wait;
        all.gaps_asked += one.gaps_asked;
        all.gaps_told += one.gaps_told;
        self.byte_nanos += other.byte_nanos;
    }

    /// Returns the figures, the mean among them.
    pub(crate) fn stats(&self) -> ReassemblyStats {
        let mean = self.byte_nanos / u128::from(self.stats.bytes.max(1));
        ReassemblyStats {
            delay_mean: Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)),
            ..self.stats
        }
    }
}

/// The first hole of a stream that has bytes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    /// Offset at which the bytes behind it begin.
    end: u64,
    since: Instant,
}

/// State of a stream once a batch has settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Bytes held behind the first hole.
    pub(crate) depth: u64,
    /// Offset of the first hole, and that of its end if something is held behind it.
    pub(crate) prefix: u64,
    pub(crate) hole_end: Option<u64>,
    /// The reader can get something.
    pub(crate) readable: bool,
}

/// The figures of one stream.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes by who brought them first. Few, and mostly the last one again.
    sources: SmallVec<[(PathId, u64); 4]>,
    totals: Totals,
    /// Instant at which the depth was last looked at.
    looked: Option<Instant>,
    hole: Option<Hole>,
    /// Instant since which the reader has found nothing.
    reader_since: Option<Instant>,
    /// Instant since which a server has had no credit.
    starved_since: Option<Instant>,
}

impl Tally {
    /// Bytes of a server were placed.
    pub(crate) fn on_placed(&mut self, source: PathId, inserted: Inserted) {
        let stats = &mut self.totals.stats;
        stats.bytes += inserted.new;
        stats.overlap_bytes += inserted.overlap;
        stats.conflicts += u64::from(inserted.differed);
        match self.sources.iter_mut().find(|(known, _)| *known == source) {
            Some((_, bytes)) => *bytes += inserted.new,
            None => self.sources.push((source, inserted.new)),
        }
    }

    /// A batch has settled: what was held behind a hole until now was so since the last look.
    pub(crate) fn look(&mut self, now: Instant, look: Look) {
        self.pass(now);
        if self.hole.is_some_and(|hole| look.depth == 0 || look.prefix >= hole.end) {
            self.hole = None;
        }
        if let (None, Some(end)) = (self.hole, look.hole_end) {
            self.hole = Some(Hole { end, since: now });
        }
        let stats = &mut self.totals.stats;
        stats.reorder_depth = look.depth;
        stats.reorder_depth_max = stats.reorder_depth_max.max(look.depth);
        if look.readable {
            self.reader_since = None;
        }
    }

    /// The reader found nothing.
    pub(crate) fn on_reader_blocked(&mut self, now: Instant) {
        if self.reader_since.is_none() {
            self.pass(now);
            self.reader_since = Some(now);
            self.totals.stats.reader_waits += 1;
        }
    }

    /// Says whether a server waits for credit.
    pub(crate) fn set_starved(&mut self, now: Instant, starved: bool) {
        if starved != self.starved_since.is_some() {
            self.pass(now);
            self.starved_since = starved.then_some(now);
        }
    }

    /// The primary was asked about a hole.
    pub(crate) fn on_gap_asked(&mut self) {
        self.totals.stats.gaps_asked += 1;
    }

    /// The reader is told of a hole that nobody fills.
    pub(crate) fn on_gap_told(&mut self) {
        self.totals.stats.gaps_told += 1;
    }

    /// Nothing more comes, or nobody waits any more: what went on until now is over.
    pub(crate) fn end(&mut self, now: Instant) {
        self.pass(now);
        self.totals.stats.reorder_depth = 0;
        (self.hole, self.reader_since, self.starved_since) = (None, None, None);
    }

    /// Returns the figures, with what still goes on counted up to `now`.
    pub(crate) fn totals(&self, now: Instant) -> Totals {
        let mut until = Self {
            sources: SmallVec::new(),
            totals: self.totals,
            looked: self.looked,
            hole: self.hole,
            reader_since: self.reader_since,
            starved_since: self.starved_since,
        };
        until.pass(now);
        until.totals
    }

    /// Bytes by who brought them first.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (PathId, u64)> {
        self.sources.iter().copied()
    }

    /// Adds the time since this was last called to whatever goes on.
    fn pass(&mut self, now: Instant) {
        let last = self.looked.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(last);
        let stats = &mut self.totals.stats;
        if stats.reorder_depth > 0 {
            stats.hole_time += passed;
            self.totals.byte_nanos += u128::from(stats.reorder_depth) * passed.as_nanos();
        }
        if let Some(hole) = self.hole {
            stats.hole_time_max = stats.hole_time_max.max(now.saturating_duration_since(hole.since));
        }
        if self.reader_since.is_some() {
            stats.reader_wait += passed;
        }
        if self.starved_since.is_some() {
            stats.credit_wait += passed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PathId = PathId::new(1);
    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn placed(new: u64) -> Inserted {
        Inserted { new, ..Inserted::default() }
    }

    fn open(prefix: u64) -> Look {
        Look { depth: 0, prefix, hole_end: None, readable: true }
    }

    fn behind(prefix: u64, hole_end: u64, depth: u64) -> Look {
        Look { depth, prefix, hole_end: Some(hole_end), readable: false }
    }

    #[test]
    fn a_byte_is_late_by_how_long_it_was_held_behind_a_hole() {
        let start = epoch();
        let mut tally = Tally::default();
        tally.on_placed(A, placed(300));
        tally.look(start, behind(0, 100, 300));
        // Another hole behind the first one, and bytes behind that.
        tally.on_placed(A, placed(100));
        tally.look(start + MS * 10, behind(0, 100, 400));
        // The first is filled: 300 bytes are readable after 20 ms, 100 wait on.
        tally.on_placed(A, placed(100));
        tally.look(start + MS * 20, behind(400, 500, 100));
        tally.on_placed(A, placed(100));
        tally.look(start + MS * 50, open(600));
        let stats = tally.totals(start + MS * 90).stats();
        assert_eq!((stats.bytes, stats.reorder_depth, stats.reorder_depth_max), (600, 0, 400));
        assert_eq!((stats.hole_time, stats.hole_time_max), (MS * 50, MS * 30));
        // 300 bytes by 20 ms and 100 bytes by 40 ms, of 600.
        assert_eq!(stats.delay_mean, (MS * 20 * 300 + MS * 40 * 100) / 600);
    }

    #[test]
    fn a_hole_that_is_filled_from_behind_is_the_same_hole() {
        let start = epoch();
        let mut tally = Tally::default();
        tally.look(start, behind(0, 100, 10));
        tally.look(start + MS * 10, behind(0, 50, 20));
        tally.look(start + MS * 20, behind(20, 50, 20));
        tally.look(start + MS * 30, open(110));
        assert_eq!(tally.totals(start + MS * 40).stats().hole_time_max, MS * 30);
    }

    #[test]
    fn waits_count_while_they_last() {
        let start = epoch();
        let mut tally = Tally::default();
        tally.on_reader_blocked(start);
        tally.set_starved(start + MS * 5, true);
        tally.on_reader_blocked(start + MS * 10);
        let stats = tally.totals(start + MS * 20).stats();
        assert_eq!((stats.reader_waits, stats.reader_wait, stats.credit_wait), (1, MS * 20, MS * 15));
        tally.look(start + MS * 30, open(10));
        tally.set_starved(start + MS * 40, false);
        tally.on_reader_blocked(start + MS * 50);
        tally.end(start + MS * 60);
        let stats = tally.totals(start + MS * 99).stats();
        assert_eq!((stats.reader_waits, stats.reader_wait, stats.credit_wait), (2, MS * 40, MS * 35));
    }

    #[test]
    fn every_counter_adds_up() {
        let start = epoch();
        let mut sum = Totals::default();
        for n in [1, 2] {
            let mut tally = Tally::default();
            let inserted = Inserted { new: 10 * n, overlap: 3 * n, differed: true };
            (0..n).for_each(|_| tally.on_placed(A, inserted));
            tally.look(start, behind(0, 50, n));
            (0..n).for_each(|_| tally.on_gap_asked());
            (0..=n).for_each(|_| tally.on_gap_told());
            tally.on_reader_blocked(start);
            tally.set_starved(start, n == 2);
            assert_eq!(tally.sources().collect::<Vec<_>>(), [(A, 10 * n * n)]);
            sum.add(&tally.totals(start + MS * 5));
        }
        let stats = sum.stats();
        assert_eq!((stats.bytes, stats.overlap_bytes, stats.conflicts), (50, 15, 3));
        assert_eq!((stats.reorder_depth, stats.reorder_depth_max), (3, 2));
        assert_eq!((stats.hole_time, stats.hole_time_max), (MS * 10, MS * 5));
        assert_eq!((stats.reader_waits, stats.reader_wait, stats.credit_wait), (2, MS * 10, MS * 5));
        assert_eq!((stats.gaps_asked, stats.gaps_told), (3, 5));
    }

    #[test]
    fn streams_add_up() {
        let start = epoch();
        let mut sum = Totals::default();
        for depth in [10, 30] {
            let mut tally = Tally::default();
            tally.on_placed(A, placed(100));
            tally.look(start, behind(0, 50, depth));
            tally.end(start + MS * 10);
            sum.add(&tally.totals(start + MS * 20));
        }
        let stats = sum.stats();
        assert_eq!((stats.bytes, stats.reorder_depth, stats.reorder_depth_max), (200, 0, 30));
        assert_eq!((stats.hole_time, stats.hole_time_max), (MS * 20, MS * 10));
        assert_eq!(stats.delay_mean, MS * 10 * 40 / 200);
    }
}
