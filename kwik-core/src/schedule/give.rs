//! Ranges that nobody has: those that came back, at once; those that nobody had yet, as the policy says.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Decision, Digests, PathView, PieceId, Scheduler, WorkView,
    limits::{
        DEADLINE_FACTOR, DEADLINE_MIN, FOREVER, PIECE_MIN, PIECES_MAX, RATE_GUESS, READ_STALE, bytes_in,
        scale, time_for,
    },
    path::Path,
};
use crate::id::{ByteRange, PathId};

/// All paths that may be given something.
pub(super) type Views = SmallVec<[PathView; 9]>;

impl Scheduler {
    /// Gives what was lost or taken back to whoever brings it first, whatever else that has to do.
    pub(super) fn give_returned(&mut self) -> Option<Decision> {
        if !self.ledger.has_returned() {
            return None;
        }
        let views = self.views();
        let first = self.ledger.next_returned(PIECE_MIN)?;
        let wanted =
            |view: &&PathView| self.paths.get(&view.path).is_some_and(|path| path.queue.len() < PIECES_MAX);
        let best = views.iter().filter(wanted).min_by_key(|view| {
            let path = self.paths.get(&view.path);
            // It is worked on before what lies behind it.
            let ahead =
                path.and_then(|path| path.queue.first()).is_some_and(|(start, _)| *start < first.start());
            let view = PathView { owed: if ahead { view.owed } else { 0 }, ..**view };
            (path.is_some_and(Path::is_suspect), view.finish(first.len()))
        })?;
        let len = self.share(&views, best, 1);
        let range = self.ledger.next_returned(len)?;
        Some(self.give(best, range, None))
    }

    /// Gives the next range that nobody had to the path that the policy wants it to have.
    pub(super) fn give_fresh(&mut self) -> Option<Decision> {
        let views = self.views();
        let best = views
            .iter()
            .filter(|view| view.has_room)
            .filter_map(|view| {
                let work = self.work(&views, self.share(&views, view, 2));
                let rank = self.options.policy.rank(&work, view);
                // With nobody at work no fact would come that changes its mind.
                let rank = rank.or_else(|| self.ledger.is_idle().then_some(u64::MAX))?;
                Some((rank, view.path, view, work))
            })
            .min_by_key(|(rank, path, ..)| (*rank, *path));
        let (_, _, view, work) = best?;
        let from = self.options.policy.place(&work, view);
        // With nobody at work the limit would not rise, and a sliver below it is better than nothing.
        let least = if self.ledger.is_idle() { 0 } else { self.least() };
        let range = self.ledger.next_fresh(from, self.limit(view.latency), work.len, least)?;
        Some(self.give(view, range, None))
    }

    /// Enters that a path has a range from now on, and says so.
    pub(super) fn give(&mut self, view: &PathView, range: ByteRange, hedge_of: Option<PieceId>) -> Decision {
        let (now, path) = (self.now, view.path);
        let suspect = self.paths.get(&path).is_some_and(Path::is_suspect);
        let own = path == PathId::PRIMARY;
        let verified = !own
            && match self.options.digests {
                Digests::Never => false,
                Digests::Suspects => suspect,
                Digests::Always => true,
            };
        let piece = self.ledger.give(path, range, now, verified, hedge_of);
        if let Some(of) = self.paths.get_mut(&path) {
            if let Some(known) = self.ledger.get_mut(piece) {
                known.opener = of.queue.is_empty();
            }
            of.on_given(now, range.start(), piece, range.len());
        }
        if own {
            return Decision::Write { piece, range, hedge_of };
        }
        let deadline = suspect.then(|| DEADLINE_MIN.max(view.finish(range.len()) * DEADLINE_FACTOR));
        Decision::Lease { piece, path, range, verified, deadline, hedge_of }
    }

    pub(super) fn views(&self) -> Views {
        let now = self.now;
        let usable: SmallVec<[(&Path, u64); 9]> = self
            .paths
            .values()
            .filter(|path| path.is_usable(now))
            .map(|path| (path, self.rate_of(path)))
            .collect();
        let rates = usable.iter().fold(0_u64, |sum, (_, rate)| sum.saturating_add(*rate));
        let count = u64::try_from(usable.len()).unwrap_or(u64::MAX).max(1);
        // Half of an equal part, of what is left and of what there is credit for: the rest is for who turns out to be faster.
        let start = self.ledger.unowned().min(self.window.unwrap_or(u64::MAX)) / count / 2;
        // Where bytes may be wrong, little of a path is asked for before it has shown itself.
        let start = if self.options.digests == Digests::Always { 0 } else { start };
        let view = |(path, rate): (&Path, u64)| PathView {
            path: path.id,
            rate,
            latency: path.latency(),
            owed: path.owed.saturating_sub(path.leaving),
            price: path.price,
            measured: path.meter.measured().is_some(),
            has_room: path.stalled == 0
                && path.has_room(now, scale(self.ledger.unowned(), rate, rates) / 2, start),
        };
        usable.into_iter().map(view).collect()
    }

    /// Returns the rate that a path is taken to have now, in bytes per second. That nothing comes without credit is not
    /// its fault.
    pub(super) fn rate_of(&self, path: &Path) -> u64 {
        if path.stalled > 0 {
            return 0;
        }
        let first = path.queue.first().and_then(|(_, id)| self.ledger.get(*id));
        if first.is_some_and(|piece| piece.next() >= self.credit()) {
            return path.meter.measured().unwrap_or(RATE_GUESS);
        }
        path.meter.rate(self.now)
    }

    /// Bytes that a path has to bring and has credit for.
    fn workable(&self, path: &Path) -> u64 {
        let credit = self.credit();
        if credit == u64::MAX {
            return path.owed.saturating_sub(path.leaving);
        }
        // Few pieces have room in a window.
        let pieces =
            path.queue.iter().map_while(|(_, id)| self.ledger.get(*id).filter(|piece| piece.next() < credit));
        pieces.map(|piece| piece.range.end().min(credit) - piece.next()).sum()
    }

    /// Those that may be given more now, or have no credit for what they were given: with what they can work on.
    pub(super) fn dry(&self) -> Views {
        let mut views = self.views();
        for view in &mut views {
            let can = self.paths.get(&view.path).map_or(0, |path| self.workable(path));
            view.has_room |= can == 0;
            view.owed = can;
        }
        views.retain(|view| view.has_room);
        views
    }

    /// Returns the offset up to which servers have credit, as far as is known.
    pub(super) fn credit(&self) -> u64 {
        self.window.map_or(u64::MAX, |window| self.needed().saturating_add(window))
    }

    /// Returns the offset up to which fresh ranges are given to a path from which bytes take so long: to what there
    /// will be credit for by then, if the reader goes on as before.
    pub(super) fn limit(&self, latency: Duration) -> u64 {
        let mut credit = self.credit();
        let (Some((_, told)), Some(window)) = (self.read, self.window) else {
            return credit;
        };
        // The reader's position is told with bytes that come. While nothing is told, it is taken to have what came: to
        // wait for it would be to wait for ever, if nobody has work.
        if self.ledger.is_idle() || self.now.saturating_duration_since(told) > READ_STALE {
            credit = credit.max(self.ledger.first_missing().saturating_add(window));
        }
        credit.saturating_add(bytes_in(latency, self.reader.rate(self.now)).min(window))
    }

    /// The shortest range worth giving out before the limit rises.
    pub(super) fn least(&self) -> u64 {
        self.window.map_or(PIECE_MIN, |window| PIECE_MIN.min(window / 4))
    }

    /// Returns the offset that the reader needs next, as far as is known: where it was told to be, and as far beyond as it
    /// goes in the time since and that the news took, up to what is not there.
    pub(super) fn needed(&self) -> u64 {
        let missing = self.ledger.first_missing();
        let Some((read, told)) = self.read else {
            return missing;
        };
        let since = self.now.saturating_duration_since(told) + self.control_trip() / 2;
        let reached = read.saturating_add(bytes_in(since, self.reader.rate(self.now)));
        read.max(missing.min(reached))
    }

    /// Returns the length that a piece of a path should have: what it brings in a while, and no more than a `part` of
    /// its share of what is left, so that the last pieces are short.
    fn share(&self, views: &[PathView], view: &PathView, part: u64) -> u64 {
        let len = self.paths.get(&view.path).map_or(PIECE_MIN, |path| path.piece_len(self.now));
        let rates = views.iter().fold(0_u64, |sum, view| sum.saturating_add(view.rate));
        let share = scale(self.ledger.unowned(), view.rate, rates) / part;
        let paths = u64::try_from(views.len()).unwrap_or(u64::MAX);
        let most = self.window.map_or(u64::MAX, |window| window / paths.max(1) / 2);
        len.min(share).min(most).max(PIECE_MIN)
    }

    fn work<'a>(&self, views: &'a [PathView], len: u64) -> WorkView<'a> {
        let sum =
            |of: fn(&PathView) -> u64| views.iter().fold(0_u64, |sum, view| sum.saturating_add(of(view)));
        let (owed, rates) = (sum(|view| view.owed), sum(|view| view.rate));
        let unowned = self.ledger.unowned();
        let mut work = WorkView {
            len,
            unowned,
            end: Duration::ZERO,
            first_missing: self.needed(),
            window: self.window,
            reader_rate: self.reader.measured().unwrap_or(rates),
            paths: views,
        };
        work.end = time_for(owed.saturating_add(unowned), rates).max(work.soonest()).min(FOREVER);
        work
    }
}
