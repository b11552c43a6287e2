//! A decision of the scheduler, beside all pieces that live.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Body, shuffled};
use crate::{
    id::{ByteRange, PathId},
    schedule::{Decision, Options, PieceId, Scheduler},
};

/// Paths that are given work.
const PATHS: u32 = 8;
/// Live pieces: two per path, and as many as a stream may have leases.
const COUNTS: [u64; 2] = [16, 512];
/// Decisions per run.
const DECISIONS: u64 = 1024;
/// Bytes of a piece.
const LEN: u64 = 64 * 1024;

struct World {
    scheduler: Scheduler,
    now: Instant,
    live: VecDeque<(PieceId, ByteRange)>,
}

pub(super) fn bodies() -> Vec<Body> {
    COUNTS.into_iter().map(end_and_give).collect()
}

/// Ends a piece and gives its range out again, beside all that live: news of bytes, an end, a hole, and a decision.
fn end_and_give(count: u64) -> Body {
    let mut world = World::new(count);
    Body::new("schedule", format!("one of {count} pieces over and given again"), DECISIONS, move || {
        (0..DECISIONS).map(|_| world.turn()).sum()
    })
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "time counts from some instant")]
    fn new(count: u64) -> Self {
        let now = Instant::now();
        let pieces: Vec<_> =
            shuffled(count).into_iter().filter_map(|at| ByteRange::new(at * LEN, LEN)).collect();
        let mut scheduler = Scheduler::new(now, pieces.iter().copied(), Options::default());
        for path in (0..PATHS).map(PathId::new) {
            scheduler.add_path(now, path, 0);
            scheduler.handle_rtt(now, path, Duration::from_millis(20));
        }
        let mut world = Self { scheduler, now, live: VecDeque::new() };
        // A hole goes out at once, over what paths have otherwise.
        for piece in pieces {
            world.give(piece);
        }
        world
    }

    /// Has a range given out that is nobody's. Returns how many decisions that took.
    fn give(&mut self, range: ByteRange) -> u64 {
        self.scheduler.handle_gap(self.now, &[range]);
        let mut decisions = 0;
        while let Some(decision) = self.scheduler.poll(self.now) {
            decisions += 1;
            if let Decision::Lease { piece, range, .. } | Decision::Write { piece, range, .. } = decision {
                self.live.push_back((piece, range));
            }
        }
        decisions
    }

    fn turn(&mut self) -> u64 {
        let Some((piece, range)) = self.live.pop_front() else {
            return 0;
        };
        self.now += Duration::from_millis(1);
        self.scheduler.handle_progress(self.now, piece, range.len() / 2);
        self.scheduler.handle_done(self.now, piece);
        self.give(range)
    }
}
