//! Hands out the ranges of one object to several paths and to the primary's own writer.
//!
//! It owns numbers only: which byte is whose, and what each path has shown. It knows no session, no stream, no frame
//! and no clock; whoever drives it tells it what happened, asks what to do, and does it. The same facts at the same
//! instants give the same decisions.
//!
//! # How to drive it
//! 1. Make a [`Scheduler`] of the ranges that are to be brought, and [`add_path`](Scheduler::add_path) everyone who could:
//!    secondaries under their ids, the primary's own writer as [`PathId::PRIMARY`] if it is to write at all.
//! 2. After every fact, and when [`poll_timeout`](Scheduler::poll_timeout) is due, call [`poll`](Scheduler::poll) until it
//!    returns `None`, and carry out each [`Decision`] before the next.
//! 3. Answer every [`Decision::Lease`] and [`Decision::Write`] exactly once: [`handle_done`](Scheduler::handle_done),
//!    [`handle_lost`](Scheduler::handle_lost), or [`handle_refused`](Scheduler::handle_refused) if it could not be carried
//!    out. That holds for the pieces of dead paths, too. Every [`Decision::Cut`] is answered by
//!    [`handle_cut`](Scheduler::handle_cut) or by the end of its piece.
//!    Paths, and the primary's writer, work on the lowest offset that they have first, so that what the reader waits for
//!    never waits behind what it does not.
//! 4. Tell bytes as they come ([`handle_progress`](Scheduler::handle_progress)). It works from ends of pieces alone, but sees
//!    a stall only then.
//!
//! Facts cannot fail: one about a piece or path that is gone, or that says nothing new, changes nothing.
//!
//! # What it does
//! - *Pieces are sized by time*: about 40 ms of what their path brings, from 64 KiB to 4 MiB; each path starts small, and
//!   doubles with each piece that is done. At the end they get shorter.
//! - *No path idles*: it has a few round trips' worth of pieces, at least two, and never more than a bound.
//! - *Lost ranges go out at once*, over any bound, to whoever brings them first, so that no reader in order waits for a byte
//!   that waits for the reader.
//! - *Stealing*: a path that runs dry takes from another as much as lets both end together, and nothing if what the other
//!   still has takes less time than handing it over.
//! - *Readers in order*: what a path would bring long after the reader needs it is taken from it, whoever is idle or not.
//! - *End game*: only where everything is given out and a path idles is a range asked for twice, one at a time and within a
//!   budget of duplicates. The more of that is spent, the more must be gained by it.
//! - *Suspects*, that is paths that came back or brought wrong bytes, get one short piece, then two, then four; with digests
//!   where these are on, and with a deadline.
//!
//! # Example
//! ```
//! use std::time::{Duration, Instant};
//! use kwik_core::{ByteRange, PathId, schedule::{Decision, Options, Scheduler}};
//!
//! let mut now = Instant::now();
//! let object = ByteRange::new(0, 1_000_000).expect("not empty");
//! let mut scheduler = Scheduler::new(now, [object], Options::default());
//! let mirror = PathId::new(1);
//! scheduler.add_path(now, PathId::PRIMARY, 0);
//! scheduler.add_path(now, mirror, 0);
//!
//! let mut under_way = Vec::new();
//! let mut brought = 0;
//! 'transfer: loop {
//!     while let Some(decision) = scheduler.poll(now) {
//!         match decision {
//!             // Here a session would lease the range, or write it.
//!             Decision::Lease { piece, range, .. } | Decision::Write { piece, range, .. } => {
//!                 under_way.push((piece, range));
//!             }
//!             Decision::Cut { piece, .. } => scheduler.handle_cut(now, piece, &[]), // too late
//!             Decision::Done => break 'transfer,
//!             Decision::Failed(why) => panic!("{why:?}"),
//!             _ => {}
//!         }
//!     }
//!     // And here it would wait for what comes first: an outcome, or `scheduler.poll_timeout()`.
//!     now += Duration::from_millis(10);
//!     if let Some((piece, range)) = under_way.pop() {
//!         scheduler.handle_done(now, piece);
//!         brought += range.len();
//!     }
//! }
//! assert_eq!((brought, scheduler.report().arrived), (1_000_000, 1_000_000));
//! ```

mod decision;
mod endgame;
mod facts;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod give;
mod ledger;
mod limits;
mod path;
mod policy;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

#[cfg(any(test, fuzzing))]
pub use self::fuzzing::schedule_ops;
pub use self::{
    decision::{Decision, DuplicateReason, Failure, Loss, PathNews, PieceId, Refusal},
    policy::{CompletionTime, CostWeighted, InOrder, PathView, Policy, WorkView},
    report::{PathReport, Report},
};
use self::{
    ledger::Ledger,
    limits::LOSSES_MAX,
    path::{Meter, Path, Standing},
};
use crate::{
    id::{ByteRange, PathId},
    limits::DEAD_PATHS_LISTED,
    timer::earliest,
};

/// The pieces that are leased with a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Digests {
    /// None: digests are not to be had.
    #[default]
    Never,
    /// Those of paths that are under suspicion.
    Suspects,
    /// All.
    Always,
}

/// Settings of an object. The job of its path that a lease is of, and its digest, are for whoever gives it.
#[derive(Debug)]
#[must_use]
pub struct Options {
    policy: Box<dyn Policy>,
    digests: Digests,
    duplicates_permille: u64,
}

impl Default for Options {
    /// By completion time, without digests, and with 2 % of duplicates at most.
    fn default() -> Self {
        Self { policy: Box::new(CompletionTime), digests: Digests::Never, duplicates_permille: 20 }
    }
}

impl Options {
    /// Sets who decides which path gets what.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// Sets which pieces are leased with a digest; none by default. What the primary writes itself never is.
    pub fn digests(mut self, which: Digests) -> Self {
        self.digests = which;
        self
    }

    /// Sets how many bytes may be asked for twice on purpose, in thousandths of the object; 20 by default.
    pub fn duplicates_permille(mut self, value: u64) -> Self {
        self.duplicates_permille = value;
        self
    }
}

/// Hands out one object. See the [module](self) for how to drive it.
#[derive(Debug)]
pub struct Scheduler {
    options: Options,
    ledger: Ledger,
    paths: BTreeMap<PathId, Path>,
    reader: Meter,
    /// The offset up to which the reader has taken the object, if that was told, and the instant of it.
    read: Option<(u64, Instant)>,
    /// Bytes that a reader in order lets come beyond that.
    window: Option<u64>,
    /// Bytes that came twice because of hedging, and those that may still.
    doubled: u64,
    reserved: BTreeMap<PieceId, u64>,
    /// Losses since a byte came.
    losses: u32,
    now: Instant,
    /// Something happened since nothing was left to decide.
    news: bool,
    over: bool,
}

impl Scheduler {
    /// Takes on an object: the ranges that are to be brought, in any order. None of them has arrived.
    #[must_use]
    pub fn new(now: Instant, ranges: impl IntoIterator<Item = ByteRange>, options: Options) -> Self {
        Self {
            options,
            ledger: Ledger::new(ranges),
            paths: BTreeMap::new(),
            reader: Meter::default(),
            read: None,
            window: None,
            doubled: 0,
            reserved: BTreeMap::new(),
            losses: 0,
            now,
            news: true,
            over: false,
        }
    }

    /// Adds somebody who can bring any range, and may have work at once; [`PathId::PRIMARY`] is the primary's own
    /// writer. A gibibyte over it costs `price`, in any unit. A path that is known already stays as it is.
    pub fn add_path(&mut self, now: Instant, path: PathId, price: u64) {
        self.on_fact(now);
        self.paths.entry(path).or_insert_with(|| Path::new(path, price));
        let gone = |path: &&Path| path.standing == Standing::Gone && path.queue.is_empty();
        if self.paths.values().filter(gone).count() > DEAD_PATHS_LISTED {
            if let Some(oldest) = self.paths.values().find(gone).map(|path| path.id) {
                self.paths.remove(&oldest);
            }
        }
    }

    /// Returns what is to be done next, if there is anything. Costs O(p² + log n) for p paths and n live pieces.
    pub fn poll(&mut self, now: Instant) -> Option<Decision> {
        self.now = self.now.max(now);
        if self.over {
            return None;
        }
        let end = if self.ledger.is_complete() {
            Some(Decision::Done)
        } else {
            self.failure().map(Decision::Failed)
        };
        if end.is_some() {
            self.over = true;
            return end;
        }
        let decision = self.give_returned();
        let decision = decision.or_else(|| self.rescue()).or_else(|| self.give_fresh());
        let decision = decision.or_else(|| self.end_game());
        self.news = decision.is_some();
        decision
    }

    /// Returns when [`Self::poll`] should be called even if nothing happens; at once if something has.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        if self.news {
            return Some(self.now);
        }
        let usable = self.paths.values().filter(|path| path.standing == Standing::Usable);
        let rested = usable.filter_map(|path| path.resting_until.filter(|until| *until > self.now)).min();
        let idle = !self.ledger.is_idle() && !self.dry().is_empty();
        earliest(rested, idle.then(|| self.now + limits::LOOK_AGAIN))
    }

    /// Returns what became of the object so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let of = |path: &Path| PathReport {
            rate: path.meter.measured().unwrap_or_default(),
            ..path.report.clone()
        };
        Report {
            total: self.ledger.total(),
            arrived: self.ledger.arrived(),
            paths: self.paths.iter().map(|(&id, path)| (id, of(path))).collect(),
        }
    }

    /// Returns the range of a live piece, as it is now, and who has it.
    #[must_use]
    pub fn piece(&self, piece: PieceId) -> Option<(PathId, ByteRange)> {
        self.ledger.get(piece).map(|piece| (piece.path, piece.range))
    }

    /// Returns the reason that it cannot go on, if it cannot.
    fn failure(&self) -> Option<Failure> {
        let hole = self.ledger.first_hole()?;
        if self.losses >= LOSSES_MAX {
            return Some(Failure::NothingArrives(hole));
        }
        let hopeless =
            !self.paths.is_empty() && self.paths.values().all(|path| path.standing == Standing::Gone);
        (hopeless && self.ledger.is_idle()).then_some(Failure::NobodyLeft(hole))
    }

    /// Returns the time that the client takes to answer the primary.
    fn control_trip(&self) -> Duration {
        let known = self.paths.get(&PathId::PRIMARY).and_then(Path::rtt);
        let any = || self.paths.values().filter_map(Path::rtt).min();
        known.or_else(any).unwrap_or(limits::LATENCY_GUESS / 2)
    }

    fn on_fact(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.news = true;
    }

    /// Panics if the books contradict each other.
    #[cfg(any(test, fuzzing))]
    fn check(&self) {
        self.ledger.check();
        for path in self.paths.values() {
            let pieces =
                || path.queue.iter().map(|(_, id)| self.ledger.get(*id).expect("what is queued lives"));
            assert_eq!(path.owed, pieces().map(ledger::Piece::left).sum::<u64>(), "{}", path.id);
            let leaving =
                pieces().filter_map(|piece| piece.cutting).map(|cutting| cutting.bytes).sum::<u64>();
            assert_eq!(path.leaving, leaving, "{}", path.id);
            let incoming = self
                .ledger
                .cuttings()
                .filter(|cutting| cutting.thief == path.id)
                .map(|cutting| cutting.bytes);
            assert_eq!(path.incoming, incoming.sum::<u64>(), "{}", path.id);
            assert_eq!(path.stalled, pieces().filter(|piece| piece.stalled).count(), "{}", path.id);
        }
    }
}
