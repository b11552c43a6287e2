//! The scheduler in the hands of a driver that does anything a driver may, and now and then what it may not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    CompletionTime, CostWeighted, Decision, Digests, DuplicateReason, InOrder, Loss, Options, PathNews,
    PieceId, Refusal, Scheduler, limits::PIECES_MAX,
};
use crate::{
    fuzzing::source::{Source, ops},
    id::{ByteRange, PathId},
    stream::ranges::RangeSet,
};

/// Paths, the primary's own writer being the first.
const PATHS: u32 = 4;
/// Rounds in which all that is left must come to an end once nothing is lost any more.
const ROUNDS: u32 = 5_000;

/// A piece as whoever carries decisions out has it.
#[derive(Clone, Copy, Debug)]
struct Live {
    path: PathId,
    range: ByteRange,
    hedge_of: Option<PieceId>,
    cut: Option<u64>,
}

struct Driver {
    scheduler: Scheduler,
    size: u64,
    live: BTreeMap<PieceId, Live>,
    here: RangeSet,
    now: Instant,
    over: Option<Decision>,
}

/// Hands out an object as `data` says what happens, and sees it to its end.
///
/// # Panics
/// If a byte gets an owner too many, the books contradict each other, or it does not come to an end.
pub fn schedule_ops(data: &[u8]) {
    let mut ops = ops(data);
    let Some(mut first) = ops.next() else {
        return;
    };
    let mut driver = Driver::new(&mut first);
    for mut op in ops {
        driver.step(&mut op);
        driver.work();
    }
    driver.finish();
}

impl Driver {
    fn new(op: &mut Source<'_>) -> Self {
        let size = op.below(6 << 20);
        let options = match op.below(4) {
            0 => Options::default().policy(CompletionTime),
            1 => Options::default().policy(CostWeighted::new(op.below(100))),
            _ => Options::default().policy(InOrder),
        };
        let digests = op.pick(&[Digests::Never, Digests::Suspects, Digests::Always]);
        let options = options.digests(digests).duplicates_permille(op.below(1000));
        let now = epoch();
        let mut scheduler = Scheduler::new(now, ByteRange::new(0, size), options);
        if op.rarely(2) {
            scheduler.handle_window(now, op.below(1 << 20));
        }
        scheduler.add_path(now, PathId::PRIMARY, 0);
        let (live, here) = (BTreeMap::new(), RangeSet::default());
        let mut driver = Self { scheduler, size, live, here, now, over: None };
        driver.work();
        driver
    }

    fn step(&mut self, op: &mut Source<'_>) {
        let path = PathId::new(u32::try_from(op.below(u64::from(PATHS))).expect("few"));
        let kind = op.below(16);
        let chosen = op.below(64);
        let chosen =
            self.live.keys().copied().nth(usize::try_from(chosen).expect("few") % self.live.len().max(1));
        // Now and then one that is over, or never was.
        let piece = if op.rarely(16) { Some(PieceId(op.below(100))) } else { chosen };
        self.now += Duration::from_micros(op.below(60_000));
        match (kind, piece) {
            (0, _) => self.scheduler.add_path(self.now, path, op.below(50)),
            (1, _) => {
                let news = [
                    PathNews::Silent,
                    PathNews::Answers,
                    PathNews::Answers,
                    PathNews::Removed,
                    PathNews::Dead,
                ];
                let news = if path == PathId::PRIMARY { PathNews::Answers } else { op.pick(&news) };
                self.scheduler.handle_path(self.now, path, news);
            }
            (2, _) => self.scheduler.handle_rtt(self.now, path, Duration::from_micros(op.below(1 << 20))),
            (3, _) => self.scheduler.handle_rate(self.now, path, op.number(1 << 30, u64::MAX)),
            (4, _) => self.gap(op),
            (5, _) => {
                let read = self.here.end_of_prefix(0);
                self.scheduler
                    .handle_read(self.now, if op.rarely(8) { op.below(self.size + 2) } else { read });
            }
            (6, _) => {
                let reason = op.pick(&[DuplicateReason::Late, DuplicateReason::Cut, DuplicateReason::Hedge]);
                self.scheduler.handle_duplicate(path, reason, op.number(1 << 16, u64::MAX));
            }
            (7 | 8, Some(piece)) => self.progress(piece, op.number(1 << 18, u64::MAX)),
            (9, Some(piece)) => self.lose(piece, op),
            (10, Some(piece)) => {
                let why = op.pick(&[Refusal::Busy, Refusal::Silent, Refusal::Gone, Refusal::Taken]);
                // The primary's own writer is what is left at the end.
                let own = self.live.get(&piece).is_some_and(|live| live.path == PathId::PRIMARY);
                let why = if own { Refusal::Busy } else { why };
                self.live.remove(&piece);
                self.scheduler.handle_refused(self.now, piece, why);
            }
            (11, Some(piece)) => self.cut(piece, op),
            (12, Some(piece)) => self.scheduler.handle_stalled(self.now, piece, op.rarely(2)),
            (_, Some(piece)) => self.done(piece),
            (_, None) => {}
        }
        self.check();
    }

    /// Carries out what is decided.
    fn work(&mut self) {
        let mut decisions = 0;
        while let Some(decision) = self.scheduler.poll(self.now) {
            decisions += 1;
            assert!(decisions < 10_000, "it never stops deciding");
            assert!(self.over.is_none(), "{decision:?} after the end");
            match decision {
                Decision::Lease { piece, path, range, hedge_of, .. } => {
                    self.give(piece, path, range, hedge_of)
                }
                Decision::Write { piece, range, hedge_of } => {
                    self.give(piece, PathId::PRIMARY, range, hedge_of)
                }
                Decision::Cut { piece, keep } => {
                    let live = self.live.get_mut(&piece).expect("only what lives is cut");
                    assert!(keep < live.range.len() && live.cut.is_none());
                    live.cut = Some(keep);
                }
                Decision::Done | Decision::Failed(_) => self.over = Some(decision),
            }
            self.check();
        }
        assert!(self.over.is_some() || self.scheduler.poll_timeout().is_none_or(|at| at > self.now));
    }

    fn give(&mut self, piece: PieceId, path: PathId, range: ByteRange, hedge_of: Option<PieceId>) {
        assert!(range.end() <= self.size);
        // A hedge outlives its owner for a moment, which has brought its bytes.
        let over = |live: &Live| live.hedge_of.is_some() && self.here.contains(live.range);
        let owners = self.live.iter().filter(|(_, live)| live.range.overlaps(range) && !over(live));
        let owners: Vec<_> = owners.collect();
        match hedge_of {
            None => assert!(owners.is_empty(), "{range} is given, but is {owners:?}'s"),
            Some(of) => {
                assert!(owners.iter().all(|(id, _)| **id == of), "{range} is given, but is {owners:?}'s");
                let owner = self.live.get(&of).expect("what is hedged lives");
                assert!(owner.path != path && owner.range.contains(range) && owner.path != PathId::PRIMARY);
            }
        }
        assert!(!self.live.contains_key(&piece));
        self.live.insert(piece, Live { path, range, hedge_of, cut: None });
        let count = self.live.values().filter(|live| live.path == path).count();
        assert!(count <= PIECES_MAX, "{count} pieces of {path}");
    }

    fn progress(&mut self, piece: PieceId, bytes: u64) {
        if let Some(live) = self.live.get(&piece) {
            let bytes = bytes.min(live.range.len());
            ByteRange::new(live.range.start(), bytes).map(|part| self.here.insert(part));
        }
        self.scheduler.handle_progress(self.now, piece, bytes);
    }

    fn done(&mut self, piece: PieceId) {
        if let Some(live) = self.live.remove(&piece) {
            self.here.insert(live.range);
        }
        self.scheduler.handle_done(self.now, piece);
        self.end_covered();
    }

    /// The client ends what has nothing missing any more.
    fn end_covered(&mut self) {
        let covered = |live: &Live| live.hedge_of.is_some() && self.here.contains(live.range);
        let covered: Vec<PieceId> =
            self.live.iter().filter(|(_, live)| covered(live)).map(|(&id, _)| id).collect();
        for id in covered {
            self.live.remove(&id);
            self.scheduler.handle_lost(self.now, id, Loss::Covered, &[]);
        }
    }

    fn lose(&mut self, piece: PieceId, op: &mut Source<'_>) {
        let whys =
            [Loss::Path, Loss::TakenBack, Loss::GivenUp, Loss::TooLate, Loss::WrongDigest, Loss::Other];
        let own = self.live.get(&piece).is_some_and(|live| live.path == PathId::PRIMARY);
        let why = if own { Loss::Other } else { op.pick(&whys) };
        let all = op.rarely(4);
        let missing = match self.live.remove(&piece) {
            Some(live) => self.missing(live.range, all),
            None => ByteRange::new(op.below(self.size + 1), 1 << 20).into_iter().collect(),
        };
        self.scheduler.handle_lost(self.now, piece, why, &missing);
    }

    /// Returns the parts of a range that nobody is to bring any more; with bytes that are here if `all`.
    fn missing(&self, range: ByteRange, all: bool) -> Vec<ByteRange> {
        let mut taken = RangeSet::default();
        for live in self.live.values() {
            taken.insert(live.range);
        }
        if !all {
            for part in self.here.present(range) {
                taken.insert(part);
            }
        }
        taken.missing(range).collect()
    }

    fn cut(&mut self, piece: PieceId, op: &mut Source<'_>) {
        let Some(live) = self.live.get_mut(&piece) else {
            return self.scheduler.handle_cut(self.now, piece, ByteRange::new(0, 5).as_slice());
        };
        let Some(keep) = live.cut.take() else {
            return;
        };
        let range = live.range;
        let came = self.here.end_of_prefix(range.start()).clamp(range.start(), range.end());
        let end = came.max(range.start() + keep);
        let back = ByteRange::between(end, range.end());
        if op.rarely(4) {
            // It could not be cut.
            self.scheduler.handle_cut(self.now, piece, &[]);
        } else if let Some(kept) = ByteRange::between(range.start(), end) {
            live.range = kept;
            self.scheduler.handle_cut(self.now, piece, back.as_slice());
            let (_, range) = self.scheduler.piece(piece).expect("it lives");
            live.range = range;
        } else {
            self.live.remove(&piece);
            self.scheduler.handle_lost(self.now, piece, Loss::TakenBack, back.as_slice());
        }
    }

    fn gap(&mut self, op: &mut Source<'_>) {
        let probe = ByteRange::new(op.below(self.size + 1), 1 + op.below(1 << 18));
        let holes = probe.map(|probe| self.missing(probe, op.rarely(4))).unwrap_or_default();
        let within: Vec<_> = holes.iter().filter(|hole| hole.end() <= self.size).copied().collect();
        self.scheduler.handle_gap(self.now, &within);
    }

    /// From now on nothing is lost.
    fn finish(mut self) {
        for _ in 0..ROUNDS {
            if self.over.is_some() {
                break;
            }
            for path in 0..PATHS {
                self.scheduler.handle_path(self.now, PathId::new(path), PathNews::Answers);
            }
            self.scheduler.handle_read(self.now, self.here.end_of_prefix(0));
            self.work();
            if let Some(&piece) = self.live.keys().next() {
                self.done(piece);
            }
            self.now = self.scheduler.poll_timeout().unwrap_or(self.now).max(self.now);
            self.work();
            self.check();
        }
        let whole = self.here.total() == self.size;
        let ended = match self.over {
            Some(Decision::Done) => whole,
            Some(Decision::Failed(_)) => !whole,
            Some(Decision::Lease { .. } | Decision::Write { .. } | Decision::Cut { .. }) | None => false,
        };
        assert!(ended, "{:?} with {:?} of {}", self.over, self.scheduler.report(), self.size);
    }

    fn check(&self) {
        self.scheduler.check();
        for (id, live) in &self.live {
            assert_eq!(self.scheduler.piece(*id), Some((live.path, live.range)), "{id}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "time counts from some instant")]
fn epoch() -> Instant {
    Instant::now()
}
