//! The owner of each byte. Every byte is in one place: fresh, returned, with an owner or, while it is hedged, with two,
//! or here.
//!
//! Knows no path's state and no rate. Costs O(log n) per call in the live pieces and the extents of the object.

use std::{collections::BTreeMap, time::Instant};

use super::decision::PieceId;
use crate::{
    id::{ByteRange, OFFSET_MAX, PathId},
    stream::ranges::RangeSet,
};

/// A range that somebody was asked to bring.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) path: PathId,
    pub(super) range: ByteRange,
    /// Bytes that came, from its start on.
    pub(super) arrived: u64,
    pub(super) given: Instant,
    /// It ends whole or not at all.
    pub(super) verified: bool,
    /// The other of two that bring the same bytes.
    pub(super) pair: Option<PieceId>,
    /// It lies in the range of another piece, which owned it first.
    pub(super) hedge: bool,
    pub(super) cutting: Option<Cutting>,
    /// Its owner was said to bring nothing at the moment.
    pub(super) stalled: bool,
    /// It was hedged before, or cannot be.
    pub(super) settled: bool,
    /// A cut of it came to nothing.
    pub(super) uncut: bool,
    /// Its path had nothing else to do when it was given.
    pub(super) opener: bool,
    /// The part that somebody else has brought already.
    twice: Option<ByteRange>,
}

/// A cut that was asked for and not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutting {
    /// The path that is to have it.
    pub(super) thief: PathId,
    /// Bytes asked for.
    pub(super) bytes: u64,
}

impl Piece {
    /// Bytes that are still to come.
    pub(super) const fn left(&self) -> u64 {
        self.range.len().saturating_sub(self.arrived)
    }

    /// Tells whether one owner has all of it, and nothing about it is being decided.
    pub(super) const fn is_sole(&self) -> bool {
        !self.hedge && self.pair.is_none() && self.cutting.is_none()
    }

    /// Returns the offset of its next byte.
    pub(super) const fn next(&self) -> u64 {
        self.range.start().saturating_add(self.arrived)
    }

    /// Returns the part that came.
    fn prefix(&self) -> Option<ByteRange> {
        ByteRange::new(self.range.start(), self.arrived)
    }
}

/// The end of a piece.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) piece: Piece,
    /// Bytes that came and are to come again.
    pub(super) wasted: u64,
    /// Bytes that both of two brought, as far as is known.
    pub(super) doubled: u64,
    /// The piece that brings the same bytes and goes on.
    pub(super) partner: Option<PieceId>,
}

/// The books of one object.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    fresh: RangeSet,
    /// Bytes that were lost or taken back.
    returned: RangeSet,
    arrived: RangeSet,
    pieces: BTreeMap<PieceId, Piece>,
    /// Owners by where their ranges start; hedges are found by their owners.
    owners: BTreeMap<u64, PieceId>,
    total: u64,
    next: u64,
}

impl Ledger {
    pub(super) fn new(ranges: impl IntoIterator<Item = ByteRange>) -> Self {
        let mut fresh = RangeSet::default();
        for range in ranges {
            fresh.insert(range);
        }
        Self { total: fresh.total(), fresh, ..Self::default() }
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) const fn arrived(&self) -> u64 {
        self.arrived.total()
    }

    /// Bytes that nobody is to bring.
    pub(super) const fn unowned(&self) -> u64 {
        self.fresh.total() + self.returned.total()
    }

    pub(super) const fn has_returned(&self) -> bool {
        self.returned.total() > 0
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.arrived.total() == self.total
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn get(&self, id: PieceId) -> Option<&Piece> {
        self.pieces.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PieceId) -> Option<&mut Piece> {
        self.pieces.get_mut(&id)
    }

    /// The first byte that has not arrived, as far as is known; one past the last if all have.
    pub(super) fn first_missing(&self) -> u64 {
        let first = |set: &RangeSet| set.iter().next().map(ByteRange::start);
        let owned = self.owners.values().next().and_then(|id| self.pieces.get(id)).map(|piece| {
            let start = piece.range.start();
            self.arrived.end_of_prefix(start).max(piece.next())
        });
        let first = [first(&self.fresh), first(&self.returned), owned].into_iter().flatten().min();
        first.or_else(|| self.arrived.max_end()).unwrap_or_default()
    }

    /// Live pieces but for hedges, the lowest first.
    pub(super) fn owned(&self) -> impl Iterator<Item = (PieceId, &Piece)> {
        self.owners.values().filter_map(|id| Some((*id, self.pieces.get(id)?)))
    }

    /// The owner of the lowest byte that has one.
    pub(super) fn lowest(&self) -> Option<PieceId> {
        self.owners.values().next().copied()
    }

    /// The first owner of bytes before `offset` of which fewer are known to have come than lie before it, and how many do.
    pub(super) fn first_behind(&self, offset: u64) -> Option<(PieceId, u64)> {
        let before = self.owners.range(..offset).filter_map(|(_, id)| Some((*id, self.pieces.get(id)?)));
        let behind = before.filter(|(_, piece)| piece.next() < offset.min(piece.range.end()));
        behind.map(|(id, piece)| (id, offset.min(piece.range.end()) - piece.range.start())).next()
    }

    /// The first of what was returned, at most `len` of it.
    pub(super) fn next_returned(&self, len: u64) -> Option<ByteRange> {
        first_of(self.returned.iter().next()?, len)
    }

    /// The first range at or behind `from` that nobody had, below `limit` and at most `len` long; one that begins
    /// before it if there is none. Not one of less than `least` bytes that ends at the limit.
    pub(super) fn next_fresh(&self, from: u64, limit: u64, len: u64, least: u64) -> Option<ByteRange> {
        let lowest = self.fresh.iter().next()?;
        let behind =
            ByteRange::between(from, OFFSET_MAX).and_then(|behind| self.fresh.present(behind).next());
        let fits = |range: &ByteRange| range.start() < limit;
        let extent = behind.filter(fits).or_else(|| Some(lowest).filter(fits))?;
        let below = ByteRange::between(extent.start(), extent.end().min(limit))?;
        let range = first_of(below, len)?;
        // A sliver would be followed by another as soon as the limit rises.
        let whole = range.end() < limit || range.end() == extent.end();
        (whole || range.len() >= len.min(least)).then_some(range)
    }

    /// Gives a range that nobody has, or that of `hedge_of`, to somebody.
    pub(super) fn give(
        &mut self,
        path: PathId,
        range: ByteRange,
        given: Instant,
        verified: bool,
        hedge_of: Option<PieceId>,
    ) -> PieceId {
        let id = PieceId(self.next);
        self.next = self.next.saturating_add(1);
        match hedge_of.and_then(|owner| self.pieces.get_mut(&owner)) {
            Some(owner) => (owner.pair, owner.settled) = (Some(id), true),
            None => {
                self.fresh.remove(range);
                self.returned.remove(range);
                self.owners.insert(range.start(), id);
            }
        }
        let piece = Piece {
            path,
            range,
            arrived: 0,
            given,
            verified,
            pair: hedge_of,
            hedge: hedge_of.is_some(),
            cutting: None,
            stalled: false,
            settled: false,
            uncut: false,
            opener: false,
            twice: None,
        };
        self.pieces.insert(id, piece);
        id
    }

    /// Notes that the first `arrived` bytes of a piece came. Returns how many of them are news.
    pub(super) fn advance(&mut self, id: PieceId, arrived: u64) -> u64 {
        let Some(piece) = self.pieces.get_mut(&id) else {
            return 0;
        };
        let before = piece.arrived;
        piece.arrived = arrived.clamp(before, piece.range.len());
        piece.arrived - before
    }

    /// Ends a piece of which `missing` did not come. What nobody else is to bring of that is returned.
    pub(super) fn end(&mut self, id: PieceId, missing: &[ByteRange]) -> Option<Ended> {
        let piece = self.pieces.remove(&id)?;
        if !piece.hedge {
            self.owners.remove(&piece.range.start());
        }
        let mut gone = RangeSet::default();
        for part in missing.iter().filter_map(|part| part.intersection(piece.range)) {
            gone.insert(part);
        }
        let whole = gone.total() == 0;
        let partner = piece.pair.filter(|partner| self.pieces.contains_key(partner));
        let mut elsewhere = RangeSet::default();
        let overlap = |one: Option<ByteRange>, two: Option<ByteRange>| {
            one.zip(two).and_then(|(one, two)| one.intersection(two)).map_or(0, ByteRange::len)
        };
        let mut doubled = overlap(piece.prefix(), piece.twice);
        if piece.hedge && partner.is_none() {
            // Its owner was done first: nothing depends on it any more.
            return Some(Ended { piece, wasted: 0, doubled, partner });
        }
        let done = whole && piece.arrived == piece.range.len();
        let other = match partner {
            Some(name) => self.pieces.get_mut(&name).map(|other| (name, other)),
            None => None,
        };
        if let Some((name, other)) = other {
            other.pair = None;
            let range = other.range;
            if done {
                (other.twice, other.uncut) = (Some(piece.range), true);
            } else {
                doubled += overlap(other.prefix(), piece.prefix());
            }
            if piece.hedge {
                elsewhere.insert(range);
            } else if !done {
                // The hedge owns what it was to bring first; all else is for others.
                elsewhere.insert(range);
                other.hedge = false;
                self.owners.insert(range.start(), name);
            }
        }
        let mut wasted = 0;
        for part in gone.iter() {
            wasted += piece.prefix().and_then(|prefix| prefix.intersection(part)).map_or(0, ByteRange::len);
            for hole in self.arrived.missing(part) {
                for free in elsewhere.missing(hole) {
                    self.returned.insert(free);
                }
            }
        }
        for part in gone.missing(piece.range) {
            let sure = if done { vec![part] } else { elsewhere.missing(part).collect() };
            for part in sure {
                self.arrived.insert(part);
            }
        }
        Some(Ended { piece, wasted, doubled, partner })
    }

    /// Shortens a piece by what was given back of it. Returns how many bytes less it owes.
    pub(super) fn cut(&mut self, id: PieceId, given_back: &[ByteRange]) -> u64 {
        let Some(piece) = self.pieces.get_mut(&id) else {
            return 0;
        };
        let back = given_back.iter().filter_map(|part| part.intersection(piece.range));
        let first = back.map(ByteRange::start).min();
        // What came is not given back, and a piece of which nothing is left ends by its outcome.
        let first = first.map(|first| first.max(piece.next().max(piece.range.start().saturating_add(1))));
        let Some(back) = first.and_then(|first| ByteRange::between(first, piece.range.end())) else {
            return 0;
        };
        let Some(kept) =
            ByteRange::between(piece.range.start(), back.start()).filter(|_| piece.pair.is_none())
        else {
            return 0;
        };
        let before = piece.left();
        piece.range = kept;
        let owes = before - piece.left();
        // A hedge may have brought some of it.
        for part in self.arrived.missing(back) {
            self.returned.insert(part);
        }
        owes
    }

    /// Takes a hole back among what is to be brought, if it is nobody's to bring. Returns whether there was any.
    pub(super) fn reopen(&mut self, hole: ByteRange) -> bool {
        let mut free = RangeSet::default();
        for part in self.arrived.present(hole).chain(self.fresh.present(hole)) {
            free.insert(part);
        }
        for (_, id) in self.owners.range(..hole.end()).rev() {
            match self.pieces.get(id).map(|piece| piece.range) {
                Some(range) if range.overlaps(hole) => free.remove(range),
                Some(_) | None => break,
            }
        }
        for part in free.iter() {
            self.arrived.remove(part);
            self.fresh.remove(part);
            self.returned.insert(part);
        }
        free.total() > 0
    }

    /// The lowest range that has not arrived.
    pub(super) fn first_hole(&self) -> Option<ByteRange> {
        let owned = self.owners.values().next().and_then(|id| self.pieces.get(id)).map(|piece| piece.range);
        [self.fresh.iter().next(), self.returned.iter().next(), owned].into_iter().flatten().min()
    }

    /// All cuts that are under way.
    #[cfg(any(test, fuzzing))]
    pub(super) fn cuttings(&self) -> impl Iterator<Item = Cutting> {
        self.pieces.values().filter_map(|piece| piece.cutting)
    }

    /// Panics if a byte is in no place, or in two that exclude each other.
    #[cfg(any(test, fuzzing))]
    pub(super) fn check(&self) {
        let mut all = RangeSet::default();
        let mut sum = 0;
        let mut add = |range: ByteRange| {
            sum += range.len();
            all.insert(range);
        };
        self.fresh.iter().chain(self.returned.iter()).for_each(&mut add);
        for (start, id) in &self.owners {
            let piece = self.pieces.get(id).expect("an owner lives");
            assert!(piece.range.start() == *start && !piece.hedge, "{id}");
            assert!(piece.arrived <= piece.range.len(), "{id}");
            // What a hedge brought before its owner ended is here already.
            self.arrived.missing(piece.range).for_each(&mut add);
        }
        self.arrived.iter().for_each(&mut add);
        assert_eq!((sum, all.total()), (self.total, self.total), "every byte is in one place");
        for (id, piece) in &self.pieces {
            if let Some(pair) = piece.pair {
                let other = self.pieces.get(&pair).expect("both of a pair live");
                assert_eq!(other.pair, Some(*id));
                assert_ne!((other.path, other.hedge), (piece.path, piece.hedge));
                assert!(other.hedge != piece.hedge, "one of two owned it first");
                let (owner, hedge) = if piece.hedge { (other, piece) } else { (piece, other) };
                assert!(owner.range.contains(hedge.range));
            } else if !piece.hedge {
                assert_eq!(self.owners.get(&piece.range.start()), Some(id));
            }
        }
    }
}

/// The first `len` bytes of a range, or all of it if hardly more is left.
fn first_of(range: ByteRange, len: u64) -> Option<ByteRange> {
    let rest = range.len().saturating_sub(len);
    let all = rest <= (len / 4).min(super::limits::PIECE_MIN / 2);
    ByteRange::new(range.start(), if all { range.len() } else { len })
}
